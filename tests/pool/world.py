"""A simulated world for a pool. Its time passes only when no task can run, and its models are numbers.

Threads of the world run one at a time, in the order in which they became ready. So every run is the same.
"""

from __future__ import annotations

import threading
from collections import deque
from dataclasses import dataclass, field

from streamrt.errors import WeightsIOError
from streamrt.format import FileIdentity
from streamrt.pool import ModelPool
from streamrt.pool.admission import Needs
from streamrt.pool.resident import StaleHeaderError
from streamrt.pool.runtime import Runtime

KIB = 1 << 10


class Task:
    """A thread of the world."""

    def __init__(self, work):
        self.work = work
        self.turn = threading.Semaphore(0)
        self.wakes_at = None  # while it waits: the time at which it goes on at the latest
        self.waits_for = None  # a condition
        self.notified = False
        self.error = None


class World(Runtime):
    """Time and threads."""

    def __init__(self):
        self.time = 0.0
        self._ready = deque()
        self._waiting = []
        self._current = None
        self._idle = threading.Semaphore(0)
        self._alive = 0
        self._failed = []

    # the runtime of a pool

    def now(self):
        return self.time

    def condition(self):
        return WorldCondition(self)

    def spawn(self, work):
        task = Task(work)
        self._alive += 1
        threading.Thread(target=self._run_task, args=(task,), daemon=True).start()
        self._ready.append(task)

    # for tasks

    def sleep(self, seconds):
        self.block(None, seconds)

    def block(self, condition, timeout):
        """Let other tasks run until this task is notified or its time has come; returns whether it was notified."""
        task = self._current
        task.waits_for, task.notified = condition, False
        task.wakes_at = None if timeout is None else self.time + timeout
        self._waiting.append(task)
        self._idle.release()
        task.turn.acquire()
        return task.notified

    def notify(self, condition):
        for task in [task for task in self._waiting if task.waits_for is condition]:
            task.notified = True
            self._waiting.remove(task)
            self._ready.append(task)

    # for tests

    def run(self):
        """Run until all tasks have ended. Raises the first error of a task, and fails if all tasks wait for ever."""
        while self._alive:
            if not self._ready:
                due = [task for task in self._waiting if task.wakes_at is not None]
                assert due, f"{self._alive} tasks wait for ever"
                task = min(due, key=lambda task: task.wakes_at)
                self.time = max(self.time, task.wakes_at)
                self._waiting.remove(task)
                self._ready.append(task)
            self._current = self._ready.popleft()
            self._current.turn.release()
            assert self._idle.acquire(timeout=60), "a task blocks outside the world"
        if self._failed:
            raise self._failed[0]

    def _run_task(self, task):
        task.turn.acquire()
        try:
            task.work()
        except BaseException as error:
            self._failed.append(error)
        self._alive -= 1
        self._idle.release()


class WorldCondition:
    """A condition whose lock only checks its owner, because one task runs at a time and none is interrupted."""

    def __init__(self, world):
        self._world = world
        self.depth = 0

    def __enter__(self):
        assert self.depth == 0 or self.owner is self._world._current
        self.owner = self._world._current
        self.depth += 1
        return self

    def __exit__(self, *error):
        self.depth -= 1

    def wait(self, timeout=None):
        depth, self.depth = self.depth, 0
        try:
            return self._world.block(self, timeout)
        finally:
            self.depth, self.owner = depth, self._world._current

    def notify_all(self):
        self._world.notify(self)


@dataclass(eq=False)
class FakeModel:
    """Keeps the rules of `streamrt.pool.resident.Resident`, and checks that the pool keeps them."""

    files: FakeFiles = field(repr=False)
    path: str
    needs: Needs
    budget: int
    lent: bool = False
    leases: int = 0
    most: object = None
    grow: object = None
    loaded: int = 0
    reading: float = 0.0
    closed: bool = False
    resting: int | None = None  # bytes that it keeps at rest; None if it is not at rest
    calls: int = 0

    def __post_init__(self):
        self.files.open_models.append(self)

    @property
    def used(self):
        """Bytes that it has in memory."""
        return 0 if self.closed else self.budget if self.resting is None else self.resting

    @property
    def pinned(self):
        room = self.budget - self.needs.workspace
        pinned = self.needs.weights if room >= self.needs.weights else max(0, room - self.needs.least)
        return pinned if self.resting is None else self.resting

    @property
    def complete(self):
        return self.pinned == self.needs.weights

    @property
    def workspace(self):
        return 0 if self.resting is not None else self.needs.workspace

    def call(self, seconds=0.0):
        """A call by the user of a lease."""
        assert self.lent
        assert self.leases > 0
        assert not self.closed
        self.resting = None
        self.calls += 1
        self.files.check()
        self.files.world.sleep(seconds)
        assert self.lent
        assert self.leases > 0
        assert not self.closed

    def lend(self):
        assert not self.closed
        assert self.lent
        self.leases += 1
        lease = FakeLease(self)
        return lease, lease.end

    def enlarge(self, budget):
        assert self.calls == 0 or not self.closed
        self.files.unlocked()
        self.budget = budget

    def rest(self, most=None, window=0):
        self.files.unlocked()
        assert self.leases == 0
        self.files.world.sleep(self.files.release_seconds)
        pinned = self.pinned
        if most is not None and self.needs.whole:
            return 0
        if most is not None:
            assert window == self.needs.least
            self.budget = most + window + self.needs.workspace
            pinned = max(0, min(pinned, most - self.files.rounding))
        self.resting = pinned
        return self.resting

    def preload(self):
        self.files.unlocked()
        self.files.world.sleep(self.files.load_seconds)
        self.resting = self.pinned
        self.loaded += self.resting
        self.reading += self.files.load_seconds

    def shut(self):
        self.files.unlocked()
        assert self.leases == 0
        self.files.world.sleep(self.files.release_seconds)
        self.closed = True
        self.files.open_models.remove(self)


@dataclass
class FakeLease:
    """A lease as the pool gives it: it refers to its model, and can be called until it ends."""

    model: FakeModel
    ended: bool = False

    def call(self, seconds=0.0):
        assert not self.ended
        self.model.call(seconds)
        assert not self.ended

    def end(self):
        assert not self.ended
        self.ended = True
        self.model.leases -= 1

    def __getattr__(self, name):
        return getattr(self.model, name)


@dataclass
class FakeFiles:
    """Files by path, with their needs and their faults."""

    world: World
    budget: int
    load_seconds: float = 1.0
    release_seconds: float = 0.1
    needs: dict = field(default_factory=dict)
    in_bands: dict = field(default_factory=dict)  # path -> the needs if the others are not within what it can have
    measured: dict = field(default_factory=dict)  # path -> what was told last
    failing: dict = field(default_factory=dict)  # path -> how often opening fails
    replaced: dict = field(default_factory=dict)  # path -> how often it is found to be another file
    open_models: list = field(default_factory=list)
    opened: list = field(default_factory=list)  # (time, path) of each `open`, when it began
    kind: type = FakeModel
    loading: int = 0
    most_loading: int = 0
    peak: int = 0
    rounding: int = 0  # bytes that a model at rest keeps below its allowance
    pool: object = None

    def unlocked(self):
        assert self.pool._keeper.changed.depth == 0, "the lock is held across work"

    def check(self):
        used = sum(model.used for model in self.open_models)
        self.peak = max(self.peak, used)
        held = {f"{name}.file": self.pool._keeper.ledger.held(name) for name in self.pool._keeper.entries}
        wrong = [(model, held.get(model.path)) for model in self.open_models if model.used > held.get(model.path, 0)]
        assert not wrong, f"uses more than it holds: {wrong}"
        assert used <= self.budget, f"{used} bytes of {self.budget}"

    def measure(self, path, most):
        self.unlocked()
        needed = self.needs[path]
        self.measured[path] = self.in_bands.get(path, needed) if needed.minimum > most else needed
        return self.measured[path], FileIdentity(1, 1, 1, 1)

    def is_another(self, path, identity):
        if self.replaced.get(path, 0):
            self.replaced[path] -= 1
            return True
        return False

    def open(self, path, identity, budget):
        self.unlocked()
        self.opened.append((self.world.time, path))
        self.loading += 1
        self.most_loading = max(self.most_loading, self.loading)
        self.world.sleep(self.load_seconds)
        self.loading -= 1
        if self.failing.get(path, 0):
            self.failing[path] -= 1
            raise WeightsIOError(f"{path}: broken")
        if self.is_another(path, identity):
            raise StaleHeaderError(path)
        assert budget >= self.measured[path].minimum
        model = self.kind(self, path, self.measured[path], budget)
        self.check()
        return model


def needs(weights, workspace=1, least=1, window=None, step=0):
    """`Needs` from numbers in KiB."""
    window = max(least, weights // 8) if window is None else window
    return Needs(weights * KIB, workspace * KIB, least * KIB, window * KIB, step=max(1, step * KIB))


def whole(weights, workspace=1, least=1):
    """The needs of a model whose window has all weights, from numbers in KiB."""
    return needs(weights, workspace, least, window=weights, step=weights)


def make(budget, models, **options):
    """A world, its files, and a pool of ``budget`` KiB with these models: needs by name."""
    world = World()
    files = FakeFiles(world, budget * KIB)
    pool = ModelPool(budget * KIB, _files=files, _runtime=world, **options)
    files.pool = pool
    for name, needed in models.items():
        files.needs[f"{name}.file"] = needed
        pool.register(name, f"{name}.file")
    return world, files, pool
