"""The turn on a model: one thread at a time works with it, and may serve the requests of other threads with its own.

Requests wait in the order in which they came. The thread that has the turn serves the oldest request, together with
all others that can share a pass with it. It takes turns until its own requests are served. Nothing is locked while a
pass runs: at any time a request can be queued, and a thread whose request another thread served can leave.
"""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import partial
from time import monotonic

from streamrt.engine.inputs import Source, Target, batch_of
from streamrt.errors import StreamrtError
from streamrt.graph import Graph

#: After a shared pass, wait until as many requests have come again: callers need a moment to call again, and a request
#: that comes too late waits for a whole pass. Wait at most 2 % of the last pass, which costs little, and at most 20 ms.
_PATIENCE_SHARE = 0.02
_PATIENCE = 0.02
#: Once as many have come, wait for one more request for this share of the wait. A request left behind would need a pass
#: of its own. Then it and the others would alternate for ever.
_QUIET_SHARE = 0.25


class Request:
    """A call that waits to be served, and then has results or an error.

    Args:
        graph: computes the requested outputs.
        arrays: its inputs by name, checked.
        out: arrays of the caller for the results, by name; None for new arrays.
    """

    def __init__(self, graph: Graph, arrays: Mapping[str, Source], out: Mapping[str, Target] | None = None) -> None:
        self.graph = graph
        self.arrays = arrays
        self.out = out
        self.results: dict[str, Target] | None = None
        self.stepped: Callable[[int], object] | None = None  # called after each step if the request has a pass alone
        self.error: Exception | None = None
        self.alone = False  # it shared a pass that failed, and is to be run by itself
        self.abandoned = False  # its caller has left
        self.shapes = {name: array.shape for name, array in arrays.items()}
        self.samples = batch_of(self.shapes, graph.inputs)  # the batch; 0 where the graph has no axis for it

    @property
    def served(self) -> bool:
        """Whether it has results or an error."""
        return self.results is not None or self.error is not None

    def take_error(self) -> Exception | None:
        """The error, which the request forgets: tracebacks have frames that refer to requests, and no cycle may stay.

        Nor may the frame of the thread's turn keep the error, so that no local variable has it there.
        """
        error, self.error = self.error, None
        return error

    def is_like(self, other: Request) -> bool:
        """Whether both ask for the same outputs, with inputs that differ in the number of samples alone."""
        outputs, others = (tuple(spec.name for spec in request.graph.outputs) for request in (self, other))
        return (
            outputs == others
            and self.arrays.keys() == other.arrays.keys()
            and all(array.shape[1:] == other.arrays[name].shape[1:] for name, array in self.arrays.items())
        )


class Turns:
    """The turns of one model. Any thread may call any method; a signal handler too, unless it interrupted a turn."""

    def __init__(self) -> None:
        self._lock = threading.RLock()  # over everything below; reentrant, for signal handlers
        self._changed = threading.Condition(self._lock)
        self._asleep = 0  # threads that wait for a change, or were interrupted while they did
        self._owner: int | None = None  # the thread that has the turn
        self._line: list[int] = []  # the threads that wait for the turn, in the order in which they get it
        self._waiting: deque[Request] = deque()
        self._shared = 1  # requests that the last pass served
        self._seconds = 0.0  # duration of the last pass

    @property
    def is_mine(self) -> bool:
        """Whether this thread has the turn."""
        return self._owner == threading.get_ident()

    @contextmanager
    def hold(self) -> Iterator[None]:
        """A context in which this thread has the turn.

        Raises:
            StreamrtError: this thread has the turn already.
        """
        self._refuse_nesting()
        try:
            self._enter(lambda: False)
            yield
        finally:
            self._leave()

    def serve(
        self,
        requests: Sequence[Request],
        most: Callable[[Request], int],
        run: Callable[[Sequence[Request]], None],
    ) -> None:
        """Return when all of ``requests`` are served, by this thread or by others.

        Args:
            requests: those of this thread.
            most: tells how many samples a pass may have in which a request is the first.
            run: serves requests that are alike: sets the results of all, or raises.

        Raises:
            Exception: the first error of ``requests``, in their order.
            StreamrtError: this thread has the turn already.
            KeyboardInterrupt: this thread was interrupted. Other threads then serve their own requests of its pass.
        """
        errors = [error for error in self.serve_each(requests, most, run) if error is not None]
        if errors:
            try:
                raise errors[0]
            finally:  # the traceback has this frame, so a list with the error would be a cycle that keeps both alive
                errors.clear()

    def serve_each(
        self,
        requests: Sequence[Request],
        most: Callable[[Request], int],
        run: Callable[[Sequence[Request]], None],
    ) -> list[Exception | None]:
        """Like `serve`, but returns the error of each of ``requests``, or None, instead of raising."""

        def enough() -> bool:
            return all(request.served for request in requests)

        self._refuse_nesting()
        try:
            with self._lock:
                self._waiting.extend(requests)
                self._tell()
            while not enough():
                self._serve_in_turn(enough, most, run)
        finally:
            for request in requests:
                request.abandoned = not request.served
        return [request.take_error() for request in requests]

    def _serve_in_turn(
        self, enough: Callable[[], bool], most: Callable[[Request], int], run: Callable[[Sequence[Request]], None]
    ) -> None:
        """Wait for the turn and run one pass. Return without a pass as soon as ``enough`` is true."""
        try:
            if self._enter(enough):
                self._serve_oldest(most, run)
        finally:
            self._leave()

    # ---- the turn

    def _refuse_nesting(self) -> None:
        if self.is_mine:  # a signal handler would compute in the workspace of the call that it interrupted
            raise StreamrtError("this thread is in the middle of a call of this model: call again after it returns")

    def _enter(self, enough: Callable[[], bool]) -> bool:
        """Stand in line for the turn. True when this thread has it; False as soon as ``enough`` is true."""
        me = threading.get_ident()
        with self._lock:
            while not enough():
                # A signal handler removes the call that it interrupted from the line, so that call joins it again.
                if me not in self._line:
                    self._line.append(me)
                if self._owner is None and self._line[0] == me:
                    self._owner = me
                    return True
                self._sleep(self._changed.wait)
            return False

    def _leave(self) -> None:
        """Undo `_enter`, even one that was interrupted. A KeyboardInterrupt is raised after that is done."""
        me, interrupt = threading.get_ident(), None
        while True:
            try:
                self._let_go(me)
                break
            except KeyboardInterrupt as error:
                interrupt = error
        if interrupt:
            raise interrupt

    def _let_go(self, me: int) -> None:
        with self._lock:
            if me in self._line:
                self._line.remove(me)
            if self._owner == me:
                self._owner = None
            self._tell()

    def _sleep(self, wait: Callable[[], bool]) -> bool:
        """Call ``wait``, which waits for a change."""
        self._asleep += 1  # an interrupt before the next line leaves the count too high: notifying nobody is harmless
        try:
            return wait()
        finally:
            self._asleep -= 1

    def _tell(self) -> None:
        """Wake threads that wait for a change. The count spares a single caller the cost of notifying nobody."""
        if self._asleep:
            self._changed.notify_all()

    # ---- the requests

    def _serve_oldest(self, most: Callable[[Request], int], run: Callable[[Sequence[Request]], None]) -> None:
        """Run one pass. Requests of other threads are put back if it fails."""
        self._gather()
        group: list[Request] = []
        try:
            self._take(group, lambda request: not group)
            if not group:
                return
            first = group[0]
            if self._waiting and not first.alone:
                self._take_alike(group, most(first))
            began = monotonic()
            run(group)
            self._shared, self._seconds = len(group), monotonic() - began
        except Exception as error:
            self._shared = 1
            if len(group) == 1:
                group[0].error = error
            else:
                self._put_back(group, alone=True)
        except BaseException:
            self._put_back(group, alone=False)
            raise

    def _gather(self) -> None:
        """Give the callers that shared the last pass a moment to call again."""
        if self._shared > 1:
            patience = min(_PATIENCE, self._seconds * _PATIENCE_SHARE)
            with self._lock:
                count, came = self._shared, True
                while came:
                    came = self._sleep(partial(self._changed.wait_for, partial(self._have_come, count), patience))
                    count, patience = len(self._waiting) + 1, patience * _QUIET_SHARE

    def _have_come(self, count: int) -> bool:
        return len(self._waiting) >= count

    def _take(self, group: list[Request], wanted: Callable[[Request], bool]) -> None:
        """Move wanted requests to ``group``. They are appended before they are removed, so an interrupt loses none."""
        with self._lock:
            for request in list(self._waiting):
                if request.abandoned:
                    self._waiting.remove(request)
                elif wanted(request):
                    group.append(request)
                    self._waiting.remove(request)

    def _take_alike(self, group: list[Request], most: int) -> None:
        """Add requests that are like the first of ``group``, up to ``most`` samples in all."""
        first = group[0]
        room = most - first.samples

        def fits(request: Request) -> bool:
            nonlocal room
            if request.alone or max(1, request.samples) > room or not request.is_like(first):
                return False
            room -= request.samples
            return True

        self._take(group, fits)

    def _put_back(self, group: Sequence[Request], *, alone: bool) -> None:
        with self._lock:
            for request in reversed(group):
                request.alone = alone or request.alone
                if not (request.served or request.abandoned or request in self._waiting):
                    self._waiting.appendleft(request)
