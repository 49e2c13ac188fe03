"""The queues of requests, and the threads that serve them. Requests that wait together share a pass.

Each model has a queue, and at most one thread at a time: requests that arrive while a pass runs share the next pass.
Half of the threads, rounded up, take the model whose oldest request has waited the longest, so that no request waits
for ever. The others do so only if no model with requests has its weights in memory. So requests for models in memory
wait less often for the disk, and requests for others gather until their weights are read once for all of them. A thread
leases its model from the pool, and takes as many of its requests as `max_batch` samples allow. `Lease.call_together`
joins the requests whose shapes agree. A request whose future is cancelled before its pass begins leaves its queue, or
the batch that waits for a lease.
"""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import Future
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from time import monotonic

from streamrt.engine.inputs import Given, Result
from streamrt.errors import PoolBusyError, StreamrtError, WeightsIOError
from streamrt.pool import ModelPool
from streamrt.pool.failure import anew, strip
from streamrt.pool.lease import Lease
from streamrt.pool.runtime import LONGEST_WAIT

Results = Mapping[str, Result]


class QueueFullError(StreamrtError):
    """The limit of requests that wait is reached: try again later."""


class ReplacedError(StreamrtError):
    """The file of the model was replaced while the request waited: send it again."""


class ShuttingDownError(StreamrtError):
    """The server is shutting down, and accepts no more requests."""


@dataclass(eq=False, slots=True)
class Job:
    """A request that waits.

    Attributes:
        inputs: arrays by name.
        outputs: names of the outputs that are wanted.
        samples: how many samples the request has.
        version: of the model against which the request was checked; None allows any.
        due: time until which the request is held back, in monotonic seconds.
        deadline: time after which it is too late to begin, in monotonic seconds.
        arrived: time at which it was queued, in monotonic seconds.
        future: gets the results by name, or an error.
        begun: whether its pass has begun, or it has an error. Only the thread that took it uses this.
    """

    inputs: Mapping[str, Given]
    outputs: tuple[str, ...]
    samples: int
    version: str | None
    due: float
    deadline: float
    arrived: float
    future: Future[Results] = field(default_factory=Future)
    begun: bool = False

    def begin(self) -> bool:
        """Note that its pass begins; False if it was cancelled before."""
        self.begun = self.begun or (not self.future.cancelled() and self.future.set_running_or_notify_cancel())
        return self.begun

    def fail(self, error: BaseException) -> None:
        """Give it an error, unless it was cancelled. Its arrays are dropped before anybody learns that it has ended."""
        if self.begin():
            self.inputs = {}
            self.future.set_exception(error)

    def succeed(self, results: Results) -> None:
        """Give it its results; its pass has begun."""
        self.inputs = {}
        self.future.set_result(results)


@dataclass(frozen=True, slots=True)
class Pass:
    """What was measured of a pass; times in seconds.

    Attributes:
        model: name of the model.
        samples: of all its requests.
        queued: for each request, from its arrival until a thread took it.
        load: until the model could run: its lease, with opening and memory that others give up, and its plan.
        read: computing waited for weights.
        compute: it computed; 0 if the pass failed.
    """

    model: str
    samples: int
    queued: Sequence[float]
    load: float
    read: float
    compute: float


class Batcher:
    """The queues of all models, and the threads. Any thread may call any method.

    Args:
        pool: the pool with the models.
        workers: number of threads.
        max_batch: the most samples of one pass.
        max_delay: seconds that a request is held back, so that others can share its pass.
        max_queue: the most requests that wait; at most 50 % of them may wait for one model.
        timeout: the most seconds from `submit` to the start of the computation.
        observe: called for every pass that began, when it has ended and before its requests have their results.
    """

    def __init__(
        self,
        pool: ModelPool,
        *,
        workers: int,
        max_batch: int,
        max_delay: float,
        max_queue: int,
        timeout: float,
        observe: Callable[[Pass], None] = lambda done: None,
    ) -> None:
        self._pool = pool
        self._max_batch, self._max_delay, self._max_queue = max_batch, max_delay, max_queue
        self._timeout = timeout
        self._observe = observe
        self._lock = threading.Lock()  # guards everything below
        self._work_came = threading.Condition(self._lock)  # free threads wait for it
        self._work_ended = threading.Condition(self._lock)  # `drain` waits for it
        self._queues: dict[str, deque[Job]] = {}  # by name of the model; none is empty
        self._waiting = 0
        self._busy: set[str] = set()  # names of models that a thread serves now
        self._closed = False
        self._threads = [
            threading.Thread(
                target=self._work, args=(2 * index < workers,), name=f"streamrt-serve-{index}", daemon=True
            )
            for index in range(workers)
        ]
        for thread in self._threads:
            thread.start()

    @property
    def waiting(self) -> int:
        """How many requests wait."""
        return self._waiting

    def submit(
        self,
        name: str,
        inputs: Mapping[str, Given],
        outputs: Sequence[str],
        samples: int,
        version: str | None = None,
    ) -> Future[Results]:
        """Queue a request.

        Args:
            name: of the model.
            inputs: arrays by name. They must not change before the future is done.
            outputs: names of the outputs that are wanted.
            samples: how many samples the request has.
            version: version that the model must have (`Model.checksum`); None allows any.

        Returns:
            The results by name, or the error of a lease or a call. A future that is cancelled before its pass begins
            is not served, and leaves the queue at once.

        Raises:
            QueueFullError, ShuttingDownError: the request is not queued.
        """
        now = monotonic()
        job = Job(inputs, tuple(outputs), samples, version, now + self._max_delay, now + self._timeout, now)
        with self._lock:
            if self._closed:
                raise ShuttingDownError("the server is shutting down")
            queue = self._queues.get(name, ())
            if self._waiting >= self._max_queue or 2 * len(queue) >= max(2, self._max_queue):
                raise QueueFullError(
                    f"{len(queue)} requests wait for {name!r:.140}, and {self._waiting} in all: "
                    f"expected at most {self._max_queue // 2 or 1} and {self._max_queue} (--max-queue): try again later"
                )
            self._queues.setdefault(name, deque()).append(job)
            self._waiting += 1
            if name not in self._busy:  # else its thread looks for more when it ends
                self._work_came.notify()
        job.future.add_done_callback(partial(self._withdraw, name))  # a reference to the job would make a cycle
        return job.future

    def _withdraw(self, name: str, future: Future[Results]) -> None:
        """Take a request whose future was cancelled out of its queue. A thread that took it drops it itself."""
        if not future.cancelled():
            return
        with self._lock:
            queue = self._queues.get(name, deque())
            found = next((job for job in queue if job.future is future), None)
            if found is None:
                return
            queue.remove(found)
            self._waiting -= 1
            if not queue:
                del self._queues[name]
                self._notify_end()

    def drain(self, name: str) -> None:
        """Return when no request waits for the model of this name, and none is computed."""
        with self._lock:
            while name in self._queues or name in self._busy:
                self._work_ended.wait()

    def close(self) -> None:
        """Refuse new requests, serve the requests that wait, and end the threads. Idempotent."""
        with self._lock:
            self._closed = True
            self._work_came.notify_all()
        for thread in self._threads:
            thread.join()

    # ---- the threads

    def _work(self, by_age: bool) -> None:
        while taken := self._take(by_age):
            name, jobs = taken
            try:
                self._serve(name, jobs)
            finally:
                with self._lock:
                    self._busy.discard(name)
                    self._notify_end()
                del jobs, taken  # arrays

    def _take(self, by_age: bool) -> tuple[str, list[Job]] | None:
        """Wait for requests, and take those that share the next pass; None after `close`.

        Models are taken ``by_age``, or those first whose weights need not be read.
        """
        with self._lock:
            while True:
                now = monotonic()
                idle = {name: queue for name, queue in self._queues.items() if name not in self._busy}
                due = [name for name, queue in idle.items() if self._is_due(queue, now)]
                if due:
                    due.sort(key=lambda name: idle[name][0].due)
                    name = due[0] if by_age else next(filter(self._pool.holds, due), due[0])
                    self._busy.add(name)
                    if len(idle) > 1:  # another thread takes the next model, or waits until it is due
                        self._work_came.notify()
                    return name, self._pop(name)
                if self._closed and not self._queues:
                    return None
                soonest = min((queue[0].due for queue in idle.values()), default=None)
                self._work_came.wait(None if soonest is None else min(max(0.0, soonest - now), LONGEST_WAIT))

    def _notify_end(self) -> None:
        """Notify those who wait for requests to end: `drain`, and after `close` the free threads. Needs the lock."""
        self._work_ended.notify_all()
        if self._closed:
            self._work_came.notify_all()

    def _is_due(self, queue: deque[Job], now: float) -> bool:
        return self._closed or queue[0].due <= now or sum(job.samples for job in queue) >= self._max_batch

    def _pop(self, name: str) -> list[Job]:
        """The oldest request of a model, and later requests of its version and outputs, up to `max_batch` samples."""
        queue = self._queues[name]
        jobs, left, room = [queue.popleft()], deque[Job](), self._max_batch
        room -= jobs[0].samples
        while queue and room > 0:
            job = queue.popleft()
            if (job.version, job.outputs) == (jobs[0].version, jobs[0].outputs) and job.samples <= room:
                jobs.append(job)
                room -= job.samples
            else:
                left.append(job)
        queue.extendleft(reversed(left))
        if not queue:
            del self._queues[name]
        self._waiting -= len(jobs)
        return jobs

    def _serve(self, name: str, jobs: Sequence[Job]) -> None:
        """Give each of ``jobs`` its results or its error."""
        try:
            while jobs := self._in_time(jobs):
                try:
                    self._call(name, jobs)
                except PoolBusyError:  # the earliest deadline has passed; other jobs have time left
                    continue
                return
        except BaseException as error:
            strip(error)  # its frames hold the arrays of all jobs
            for job in jobs:
                if not job.future.done():
                    job.fail(anew(error))

    def _call(self, name: str, jobs: Sequence[Job]) -> None:
        outputs, taken = jobs[0].outputs, monotonic()
        with self._lease(name, jobs) as model:
            leased, before = monotonic() - taken, model.spent
            jobs = [job for job in jobs if job.begin()]
            if not jobs:
                return
            everything = outputs == tuple(spec.name for spec in model.outputs)
            try:
                found = model.call_together([job.inputs for job in jobs], None if everything else outputs)
            finally:
                spent = model.spent.since(before)
                queued = [taken - job.arrived for job in jobs]
                samples = sum(job.samples for job in jobs)
                self._observe(Pass(name, samples, queued, leased + spent.prepare, spent.stall, spent.compute))
            for job, result in zip(jobs, found, strict=True):
                if isinstance(result, Exception):
                    job.fail(strip(result))
                else:
                    job.succeed(result if isinstance(result, dict) else {outputs[0]: result})
            for result in found:
                if isinstance(result, WeightsIOError):
                    raise anew(result)  # so that the pool closes a model whose file has changed

    def _in_time(self, jobs: Sequence[Job]) -> list[Job]:
        """The jobs that may still begin; the others end with an error, unless they were cancelled."""
        now = monotonic()
        for job in jobs:
            if job.deadline <= now:
                job.fail(PoolBusyError(too_late(self._timeout)))
        return [job for job in jobs if job.deadline > now and not job.future.cancelled()]

    @contextmanager
    def _lease(self, name: str, jobs: Sequence[Job]) -> Iterator[Lease]:
        """A lease of the version that ``jobs`` were checked against. A model of another version is closed first.

        It is given up when all of ``jobs`` are cancelled.
        """
        version, deadline = jobs[0].version, min(job.deadline for job in jobs)
        wanted = partial(_wanted, jobs)
        for _ in range(2):
            with self._pool.lease(name, max(0.0, deadline - monotonic()), wanted=wanted) as model:
                if version is None or model.checksum == version:
                    yield model
                    return
            self._pool.unload(name, wait=False)
        raise ReplacedError(f"the file of the model {name!r:.140} was replaced while the request waited: send it again")


def _wanted(jobs: Sequence[Job]) -> bool:
    """Whether a job is left. The arrays of cancelled ones are dropped, since their memory counts as free."""
    left = False
    for job in jobs:
        if job.future.cancelled():
            job.inputs = {}
        else:
            left = True
    return left


def too_late(seconds: float) -> str:
    """The text of the error for a request that did not begin within ``seconds``."""
    return f"expected to begin within {seconds:g} s (--timeout), but other requests held all memory or all workers"
