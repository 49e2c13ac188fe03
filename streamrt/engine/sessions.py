"""The sessions of an engine: programs for several batch sizes, bound to one workspace."""

from __future__ import annotations

from collections import OrderedDict

import numpy as np
from numpy.typing import NDArray

from streamrt.engine.prepared import Prepared
from streamrt.engine.session import Session
from streamrt.engine.workspace import new_workspace
from streamrt.plan import Plan

#: Sessions that are kept: all sizes of a shared pass (`streamrt.engine.pass_size.rounded`) up to 32 samples.
_KEPT = 10
#: The most steps of all of them: 8 MiB, as a bound step takes up to 4 KiB.
_STEPS = 1 << 11
#: A workspace stays for a smaller call if it is at most 4 times as large as the call needs, or has at most 1 MiB.
_TIMES, _SMALL = 4, 1 << 20
_NONE: NDArray[np.uint8] = np.empty(0, np.uint8)


class Sessions:
    """The session of the last call, and earlier sessions that share its workspace.

    Callers that share passes make batches of another size almost every time. To bind kernels, clear a workspace and
    give the prefetcher its schedule takes up to a third of such a pass. So sessions stay where nothing streams: their
    plans have one schedule, and the largest workspace has room for each of them. A program with constants in its
    workspace shares it with no other, which would overwrite them. Not thread-safe: callers have the turn.

    Attributes:
        current: the session of the last call; None before the first call and after `drop`.
    """

    def __init__(self) -> None:
        self.current: Session | None = None
        self._memory: NDArray[np.uint8] = _NONE  # the workspace of all sessions
        self._kept: OrderedDict[int, Session] = OrderedDict()  # by identity of `Prepared`; the latest at the end

    @property
    def workspace(self) -> int:
        """Bytes of the workspace; 0 without a session."""
        return self._memory.nbytes

    def find(self, prepared: Prepared) -> Session | None:
        """The session of ``prepared`` if it is kept. It becomes the current one."""
        if self.current is not None and self.current.prepared is prepared:
            return self.current
        found = self._kept.get(id(prepared))
        if found is not None and self._has_room_for(prepared):
            self._kept.move_to_end(id(prepared))
            self.current = found
            return found
        return None

    def has_schedule(self, plan: Plan) -> bool:
        """Whether the prefetcher has the schedule of ``plan`` from the current session, and all of it stays in memory.

        The verifier of that session then serves ``plan``, too. What the plans stream and pin follows from their ranges.
        """
        if self.current is None:
            return False
        last = self.current.prepared.plan
        alike = (last.budget, last.granule, last.ranges) == (plan.budget, plan.granule, plan.ranges)
        return alike and not last.streamed_bytes

    def memory_for(self, prepared: Prepared) -> NDArray[np.uint8]:
        """The workspace for a new session of ``prepared``. Sessions that cannot share it are dropped first.

        Raises:
            MemoryError: there is no memory for the workspace. No session is left.
        """
        if not (self._may_share(prepared) and self._has_room_for(prepared)):
            self.drop()
            self._memory = new_workspace(prepared.program.workspace)
        return self._memory

    def add(self, session: Session) -> None:
        """Keep a new session, which becomes the current one."""
        self.current = self._kept[id(session.prepared)] = session
        while len(self._kept) > 1 and (len(self._kept) > _KEPT or self._steps() > _STEPS):
            self._kept.popitem(last=False)

    def drop(self) -> None:
        """Drop all sessions, and give the workspace back."""
        self.current, self._memory = None, _NONE
        self._kept.clear()

    def _steps(self) -> int:
        return sum(len(session.steps) for session in self._kept.values())

    def _may_share(self, prepared: Prepared) -> bool:
        """Whether a session of ``prepared`` may use the workspace of the current one, whatever their sizes."""
        if self.current is None or self.current.prepared.program.constants or prepared.program.constants:
            return False
        return self.has_schedule(prepared.plan)

    def _has_room_for(self, prepared: Prepared) -> bool:
        """Whether the workspace is large enough for ``prepared``, and not much too large.

        The budget allows it: beside the same weights it was planned for another session under the same budget.
        """
        needed = prepared.program.workspace
        return needed <= self.workspace <= max(_SMALL, _TIMES * needed)
