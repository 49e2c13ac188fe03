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
from functools import partial
from time import monotonic

from streamrt.engine.inputs import Result, batch_of
from streamrt.errors import StreamrtError
from streamrt.graph import Graph
from streamrt.ops import Array

#: When requests shared the last pass, the next one waits for as many again: those who were served need a moment to
#: come back, and who is too late waits a pass. At most this share of the last pass, and this many seconds.
_PATIENCE_SHARE = 0.02
_PATIENCE = 0.02
#: Of that, how long it waits for more once as many have come: left behind, one would need a pass of its own, and then
#: it and the others would take turns for ever.
_QUIET_SHARE = 0.25


class Request:
    """A call that waits to be served: inputs in, results or an error out."""

    def __init__(self, graph: Graph, arrays: Mapping[str, Array]) -> None:
        self.graph = graph
        self.arrays = arrays
        self.results: dict[str, Result] | None = None
        self.error: Exception | None = None
        self.alone = False  # it shared a pass that failed, and is tried by itself
        self.abandoned = False  # nobody waits for it any more
        self.shapes = {name: array.shape for name, array in arrays.items()}
        self.samples = batch_of(self.shapes, graph.inputs)  # the batch; 0 where the graph has no axis for it

    @property
    def served(self) -> bool:
        """Whether it is over, one way or the other."""
        return self.results is not None or self.error is not None

    def is_like(self, other: Request) -> bool:
        """Whether both ask for the same, but for the number of samples."""
        outputs, others = (tuple(spec.name for spec in request.graph.outputs) for request in (self, other))
        return (
            outputs == others
            and self.arrays.keys() == other.arrays.keys()
            and all(array.shape[1:] == other.arrays[name].shape[1:] for name, array in self.arrays.items())
        )


class Turns:
    """The turns of one model. Any thread may call anything; a signal handler too, unless it interrupted a turn."""

    def __init__(self) -> None:
        self._lock = threading.RLock()  # over everything below; reentrant, for signal handlers
        self._changed = threading.Condition(self._lock)
        self._asleep = 0  # threads that wait for a change, or were interrupted when they did
        self._owner: int | None = None  # the thread whose turn it is
        self._line: list[int] = []  # the threads that wait for it, in the order in which they get it
        self._waiting: deque[Request] = deque()
        self._shared = 1  # requests that the last pass served
        self._seconds = 0.0  # that it took

    @property
    def is_mine(self) -> bool:
        """Whether it is this thread's turn."""
        return self._owner == threading.get_ident()

    @contextmanager
    def hold(self) -> Iterator[None]:
        """Wait for the turn, and have it for the length of the context.

        Raises:
            StreamrtError: it is this thread's turn already.
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
            requests: what this thread wants.
            most: how many samples a pass for a request and others like it may serve.
            run: serves all of some requests that are alike, by setting their results, or raises.

        Raises:
            Exception: the first error of ``requests``, in their order.
            StreamrtError: it is this thread's turn already.
            KeyboardInterrupt: requests of others that were being served are served by someone else.
        """
        errors = [error for error in self.serve_each(requests, most, run) if error is not None]
        if errors:
            try:
                raise errors[0]
            finally:  # the traceback leads here: what refers back to it would keep all of it alive
                errors.clear()

    def serve_each(
        self,
        requests: Sequence[Request],
        most: Callable[[Request], int],
        run: Callable[[Sequence[Request]], None],
    ) -> list[Exception | None]:
        """`serve`, but the error of each of ``requests``, or None, is returned."""

        def enough() -> bool:
            return all(request.served for request in requests)

        self._refuse_nesting()
        try:
            with self._lock:
                self._waiting.extend(requests)
                self._tell()
            while not enough():
                try:
                    if self._enter(enough):
                        self._serve_oldest(most, run)
                finally:
                    self._leave()
        finally:
            for request in requests:
                request.abandoned = not request.served
        errors = [request.error for request in requests]
        for request in requests:  # tracebacks lead to the requests
            request.error = None
        return errors

    # ---- the turn

    def _refuse_nesting(self) -> None:
        if self.is_mine:  # a signal handler, which would compute in the workspace of the call that it interrupted
            raise StreamrtError("this thread is in the middle of a call of this model")

    def _enter(self, enough: Callable[[], bool]) -> bool:
        """Stand in line until it is this thread's turn, or until it is ``enough``: then False."""
        me = threading.get_ident()
        with self._lock:
            while not enough():
                # A signal handler takes the place of the call that it interrupted, which then stands in line anew.
                if me not in self._line:
                    self._line.append(me)
                if self._owner is None and self._line[0] == me:
                    self._owner = me
                    return True
                self._sleep(self._changed.wait)
            return False

    def _leave(self) -> None:
        """The opposite of `_enter`, however far that came. An interrupt waits until this is done."""
        me, interrupt = threading.get_ident(), None
        while True:
            try:
                with self._lock:
                    if me in self._line:
                        self._line.remove(me)
                    if self._owner == me:
                        self._owner = None
                    self._tell()
                break
            except KeyboardInterrupt as error:
                interrupt = error
        if interrupt:
            raise interrupt

    def _sleep(self, wait: Callable[[], bool]) -> bool:
        """Wait for a change as ``wait`` does."""
        self._asleep += 1  # an interrupt before the next line leaves it too high, never too low: needless calls only
        try:
            return wait()
        finally:
            self._asleep -= 1

    def _tell(self) -> None:
        """Wake those who wait for a change. Who calls alone has no time to look for them."""
        if self._asleep:
            self._changed.notify_all()

    # ---- the requests

    def _serve_oldest(self, most: Callable[[Request], int], run: Callable[[Sequence[Request]], None]) -> None:
        """One pass. What others asked for is put back if it fails."""
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
        """Give those who shared the last pass a moment to come back."""
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
        """Move what is wanted from those that wait to ``group``: there first, so that an interrupt loses none."""
        with self._lock:
            for request in list(self._waiting):
                if request.abandoned:
                    self._waiting.remove(request)
                elif wanted(request):
                    group.append(request)
                    self._waiting.remove(request)

    def _take_alike(self, group: list[Request], most: int) -> None:
        """Also what is like the first of ``group``, as long as all of it has no more than ``most`` samples."""
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
