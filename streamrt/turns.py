"""Whose turn it is on a model: one thread at a time works with it, and may serve the requests of others with its own.

Requests wait in the order in which they came. Whoever gets its turn serves the oldest, together with all others that
can share a pass with it, and goes on until its own are served. Nothing is locked while a pass runs, so that a request
can be queued, and a thread whose request was served by another can leave, at any time.
"""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from time import monotonic

from streamrt.errors import StreamrtError
from streamrt.graph import Graph
from streamrt.inputs import batch_of
from streamrt.ops import Array, Shape

#: When requests shared the last pass, the next one waits for as many again: those who were served need a moment to
#: come back, and who is too late waits a pass. At most this share of the last pass, and this many seconds.
_PATIENCE_SHARE = 0.02
_PATIENCE = 0.02


class Request:
    """A call that waits to be served: inputs in, results or an error out."""

    def __init__(self, graph: Graph, arrays: Mapping[str, Array]) -> None:
        self.graph = graph
        self.arrays = arrays
        self.results: dict[str, Array] | None = None
        self.error: Exception | None = None
        self.alone = False  # it shared a pass that failed, and is tried by itself

    @property
    def served(self) -> bool:
        """Whether it is over, one way or the other."""
        return self.results is not None or self.error is not None

    @property
    def shapes(self) -> dict[str, Shape]:
        """Of its inputs, by name."""
        return {name: array.shape for name, array in self.arrays.items()}

    @property
    def samples(self) -> int:
        """The batch; 0 where the graph has no axis for it."""
        return batch_of(self.shapes, self.graph.inputs)

    def is_like(self, other: Request) -> bool:
        """Whether both ask for the same, but for the number of samples."""
        outputs, others = (tuple(spec.name for spec in request.graph.outputs) for request in (self, other))
        return outputs == others and all(
            array.shape[1:] == other.arrays[name].shape[1:] for name, array in self.arrays.items()
        )


class Turns:
    """The turns of one model. Any thread may call anything; a signal handler too, unless it interrupted a turn."""

    def __init__(self) -> None:
        self._changed = threading.Condition()  # over everything below; reentrant, for signal handlers
        self._owner: int | None = None  # the thread whose turn it is
        self._waiting: deque[Request] = deque()
        self._shared = 1  # requests that the last pass served
        self._seconds = 0.0  # that it took

    @property
    def is_mine(self) -> bool:
        """Whether it is this thread's turn."""
        return self._owner == threading.get_ident()

    @contextmanager
    def hold(self, enough: Callable[[], bool] = lambda: False) -> Iterator[bool]:
        """Wait for the turn and have it for the length of the context; False if waiting ended because it is ``enough``.

        Raises:
            StreamrtError: it is this thread's turn already.
        """
        me = threading.get_ident()
        if self.is_mine:  # a signal handler, which would compute in the workspace of the call that it interrupted
            raise StreamrtError("this thread is in the middle of a call of this model")
        try:
            with self._changed:
                while not (done := enough()) and self._owner is not None:
                    self._changed.wait()
                if not done:
                    self._owner = me
            yield not done
        finally:
            with self._changed:
                if self._owner == me:
                    self._owner = None
                    self._changed.notify_all()

    def serve(
        self,
        requests: Sequence[Request],
        shares: Callable[[Request], bool],
        run: Callable[[Sequence[Request]], None],
    ) -> None:
        """Return when all of ``requests`` are served, by this thread or by others.

        Args:
            requests: what this thread wants.
            shares: whether a request gains by sharing a pass with others like it.
            run: serves all of some requests that are alike, by setting their results, or raises.

        Raises:
            Exception: the first error of ``requests``, in their order.
            KeyboardInterrupt: requests of others that were being served are served by someone else.
        """

        def enough() -> bool:
            return all(request.served for request in requests)

        try:
            with self._changed:
                self._waiting.extend(requests)
                self._changed.notify_all()
            while not enough():
                with self.hold(enough) as mine:
                    if mine:
                        self._serve_oldest(shares, run)
        finally:
            with self._changed:
                for request in requests:
                    if not request.served and request in self._waiting:
                        self._waiting.remove(request)
        errors = [request.error for request in requests if request.error is not None]
        if errors:
            try:
                raise errors[0]
            finally:  # the traceback leads here and to the requests: what refers back to it would keep all of it alive
                errors.clear()
                for request in requests:
                    request.error = None

    def _serve_oldest(self, shares: Callable[[Request], bool], run: Callable[[Sequence[Request]], None]) -> None:
        """One pass. What others asked for is put back if it fails."""
        self._gather()
        with self._changed:
            if not self._waiting:
                return
            group = [self._waiting.popleft()]
        try:
            if not group[0].alone and shares(group[0]):
                group += self._take_like(group[0])
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
        """Give those who shared the last pass a moment to come back."""
        if self._shared > 1:
            patience = min(_PATIENCE, self._seconds * _PATIENCE_SHARE)
            with self._changed:
                self._changed.wait_for(lambda: len(self._waiting) >= self._shared, patience)

    def _take_like(self, first: Request) -> list[Request]:
        with self._changed:
            found = [request for request in self._waiting if not request.alone and request.is_like(first)]
            for request in found:
                self._waiting.remove(request)
        return found

    def _put_back(self, group: Sequence[Request], *, alone: bool) -> None:
        with self._changed:
            for request in reversed(group):
                if not request.served:
                    request.alone = alone or request.alone
                    self._waiting.appendleft(request)
