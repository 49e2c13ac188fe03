"""Histories of a pool in the simulated world of tests/pool/world.py: the accounts of bytes always stay right.

A case is JSON: models, a budget, and tasks. Each task does one thing after another. At every lock the case's own random
numbers choose the task that goes on, so that a case runs the same each time.
"""

from __future__ import annotations

import json
import math
import random
import threading
from collections import Counter, deque

from fuzz.hunt import PASSED, Finding, Hunt
from pool.world import KIB, FakeFiles, FakeModel, World, WorldCondition, needs
from streamrt.errors import PoolBusyError, StreamrtError, WeightsIOError
from streamrt.format import FileIdentity
from streamrt.pool import ModelPool
from streamrt.pool.adaptive import POLICIES, Adaptive

#: Seconds of the world that `close` may take: models are shut one by one, and calls end first.
_CLOSING = 300.0
#: Seconds of the world that a thread may compute without the lock: less than a timeout, or more.
_THINKING = (0.001, 0.3, 3.0)


class _Task(SystemExit):
    """Raised in the thread of a task to end it when its case is over."""


class _AnyOrder(deque):
    """A queue that gives its items in any order."""

    def __init__(self, rng):
        super().__init__()
        self._rng = rng

    def popleft(self):
        self.rotate(-self._rng.randrange(len(self)))
        return super().popleft()


class _AnyWorld(World):
    """A world in which threads run in any order, switch at every lock, and can be scarce."""

    def __init__(self, rng, switching):
        super().__init__()
        self._ready = _AnyOrder(rng)
        self._rng, self._switching = rng, switching
        self.accounts = lambda: None  # checked whenever the lock is free
        self.refused = 0  # how many threads cannot be started
        self.interrupts = set()  # tasks that get a KeyboardInterrupt at their next wait
        self.over = False
        self.thought = Counter()  # seconds of computing without the lock, by task

    def condition(self):
        self.changed = _AnyCondition(self)
        return self.changed

    def lock(self):
        return _AnyLock(self)

    def spawn(self, work):
        if self.refused:
            self.refused -= 1
            raise RuntimeError("can't start new thread")
        super().spawn(work)

    def block(self, condition, timeout):
        task = self._current
        notified = super().block(condition, timeout)
        self._go_on()
        if condition is not None and task.work in self.interrupts:
            self.interrupts.discard(task.work)
            raise KeyboardInterrupt
        return notified

    def step_aside(self):
        """Sometimes let other threads run."""
        task = self._current
        if task and self._rng.random() < self._switching:
            self._ready.append(task)
            self._idle.release()
            task.turn.acquire()
            self._go_on()

    def think(self):
        """Sometimes let other threads run, and time pass, in which a thread would compute without the lock."""
        task = self._current
        self.step_aside()
        if self._rng.random() < self._switching / 4:
            seconds = self._rng.choice(_THINKING)
            self.sleep(seconds)
            self.thought[task] += seconds
        if task.work in self.interrupts:
            self.interrupts.discard(task.work)
            raise KeyboardInterrupt

    def _go_on(self):
        if self.over:
            raise _Task

    def end(self):
        """End the threads of tasks that are left when a case has failed."""
        self.over = True
        for task in [*self._ready, *self._waiting]:
            self._current = task
            task.turn.release()


class _AnyCondition(WorldCondition):
    def __enter__(self):
        if self.depth == 0:
            self._world.step_aside()
        return super().__enter__()

    def __exit__(self, *error):
        super().__exit__(*error)
        if self.depth == 0 and not self._world.over:
            self._world.accounts()

    def wait(self, timeout=None):
        if not self._world.over:
            self._world.accounts()
        return super().wait(timeout)


class _AnyLock:
    """The lock of a policy. Before a thread takes it without the pool's lock, others run, time passes, or it ends."""

    def __init__(self, world):
        self._world, self._taken = world, False

    def __enter__(self):
        if not self._world.changed.depth and not self._world.over:
            self._world.think()
        assert not self._taken, "the policy is used by two threads"
        self._taken = True

    def __exit__(self, *error):
        self._taken = False


class _Model(FakeModel):
    """A model whose reads can fail."""

    def preload(self):
        self.files.stumble(self.path)
        super().preload()

    def rest(self, most=None, window=0):
        if self.files.clumsy.get(self.path, 0):
            self.files.clumsy[self.path] -= 1
            kinds = (WeightsIOError, MemoryError, RuntimeError)  # expected and unexpected errors
            raise kinds[self.files.clumsy[self.path] % 3](f"{self.path}: cannot be remapped")
        return super().rest(most, window)

    def shut(self):
        if self.files.pool._keeper.changed.depth:  # no thread could be started for it
            self.closed = True
            self.files.open_models.remove(self)
        else:
            super().shut()


class _Files(FakeFiles):
    """Several models may have one file, and a header may be unreadable."""

    def __init__(self, *args, **options):
        super().__init__(*args, **options, kind=_Model)
        #: How many times measuring, reading and resting still fail, by path.
        self.unread, self.slipping, self.clumsy = {}, {}, {}
        self.versions = Counter()  # path -> how many times it was replaced

    def stumble(self, path):
        if self.slipping.get(path, 0):
            self.slipping[path] -= 1
            raise WeightsIOError(f"{path}: unreadable")

    def measure(self, path, most):
        self.world.sleep(self.load_seconds / 8)
        if self.unread.get(path, 0):
            self.unread[path] -= 1
            raise WeightsIOError(f"{path}: no header")
        return super().measure(path, most)[0], FileIdentity(1, self.versions[path], 1, 1)

    def is_another(self, path, identity):
        return super().is_another(path, identity) or identity.inode != self.versions[path]

    def check(self):
        keeper = self.pool._keeper
        used, held = Counter(), Counter()
        for model in self.open_models:
            used[model.path] += model.used
        for name, entry in keeper.entries.items():
            held[entry.path] += keeper.ledger.held(name)
        if any(used[path] > held[path] for path in used):
            raise Finding("a model uses more than it holds", f"{used} of {held}")
        if sum(used.values()) > self.budget:
            raise Finding("models use more than the budget", f"{used} of {self.budget}")


class History:
    """One case."""

    def __init__(self, story):
        self.rng = random.Random(story["seed"])
        self.world = world = _AnyWorld(self.rng, story["switching"])
        self.files = _Files(
            world, story["budget"] * KIB, story["load"], story["release"], rounding=story["rounding"] * KIB
        )
        self.pool = self.files.pool = ModelPool(
            story["budget"] * KIB,
            policy=story["policy"],
            timeout=story["timeout"],
            _files=self.files,
            _runtime=world,
        )
        self.timeout = story["timeout"]
        self.leases = Counter()  # leases that tasks hold, by model
        self.calls = 0
        for file, sizes in story["files"].items():
            self.files.needs[file] = needs(*sizes)
        world.accounts = self.accounts
        self.works = [lambda steps=steps: self.task(steps) for steps in story["tasks"]]
        for work in self.works:
            world.spawn(work)

    def run(self):
        try:
            self.world.run()
            self.world.refused = 0
            self.world.spawn(self.end)
            self.world.run()
        except AssertionError as error:
            if "for ever" in str(error):
                doing = sorted({f"{entry.state.name}" for entry in self.pool._keeper.entries.values()})
                raise Finding("tasks wait for ever", f"{error}; models are {doing}") from error
            raise
        finally:
            self.world.end()
        return PASSED if self.calls else "no call"

    # ---- accounts

    def accounts(self):
        """Check what must hold whenever no thread has the lock."""
        keeper = self.pool._keeper
        ledger, entries = keeper.ledger, keeper.entries
        held = ledger._held
        if ledger.total != sum(held.values()) or ledger.total > ledger.budget or min(held.values(), default=0) < 0:
            raise Finding("the ledger is wrong", f"{held}, total {ledger.total} of {ledger.budget}")
        if unknown := held.keys() - entries.keys():
            raise Finding("bytes are held by a model that is not registered", f"{unknown}")
        reserved = [entry.reserved for entry in entries.values() if entry.reserved and not entry.removed]
        if reserved and sum(n.weights for n in reserved) + max(n.workspace for n in reserved) > ledger.budget:
            raise Finding("pins that do not fit", f"{reserved} of {ledger.budget}")
        for name, entry in entries.items():
            resident = entry.resident
            if entry.reserved and not entry.pin:
                raise Finding("memory is kept for a model that is not pinned", name)
            if entry.leases < 0 or (entry.leases and resident is None):
                raise Finding("leases of a model that is not open", f"{name}: {entry.leases}")
            if resident and resident.closed and not entry.busy:
                raise Finding("a closed model is kept", name)
            if resident and (entry.leases > 0) != resident.lent and not entry.busy:
                raise Finding("a model and the pool disagree about leases", f"{name}: {entry.leases}")
            if resident and entry.leases < resident.leases:
                raise Finding("more leases are out than are counted", f"{name}: {resident.leases} of {entry.leases}")
            if entry.leases < self.leases[resident] and resident:
                raise Finding("a lease was lost", f"{name}: {entry.leases}, tasks have {self.leases[resident]}")
            if resident is None and not entry.busy and ledger.held(name):
                raise Finding("bytes are held for a model that is closed", f"{name}: {ledger.held(name)}")
            if resident and not entry.busy and not entry.leases and ledger.held(name) > entry.budget:
                raise Finding("a model holds more than it was given", f"{name}: {ledger.held(name)} of {entry.budget}")
            if entry.flight and not entry.busy:
                raise Finding("a load that no thread works on", name)
        lost = [model for model, count in self.leases.items() if count and model.closed]
        if lost:
            raise Finding("a leased model was closed", f"{lost}")

    def end(self):
        """Close the pool, and check that nothing is left."""
        keeper = self.pool._keeper
        if any(entry.leases or entry.flight or entry.preloading for entry in keeper.entries.values()):
            self.world.sleep(_CLOSING)  # for prefetches that no task waits for
        began = self.world.now()
        for name, entry in keeper.entries.items():
            if entry.leases or entry.flight or entry.preloading or (entry.busy and entry.unloading):
                raise Finding("a lease or a flight never ends", f"{name}: {entry}")
        self.pool.close()
        if self.world.now() - began > _CLOSING:
            raise Finding("closing takes too long", f"{self.world.now() - began} s")
        if keeper.entries or keeper.ledger.total or self.files.open_models or keeper._line:
            raise Finding("something is left after the end", f"{keeper.entries} {keeper.ledger._held} {keeper._line}")
        if remembered := _names(keeper.memory.policy._policy):
            raise Finding("the policy remembers a model that is gone", f"{remembered}")

    # ---- tasks

    def task(self, steps):
        threading.current_thread().name = "task"
        for step in steps:
            try:
                getattr(self, f"_{step[0]}")(*step[1:])
            except (StreamrtError, _Planned, KeyboardInterrupt):
                self.files.check()
        self.pool.stats()
        self.pool.index()

    def _sleep(self, seconds):
        self.world.sleep(seconds)

    def _register(self, name, file, pin):
        self.pool.register(name, file, pin)

    def _unregister(self, name, wait):
        self.pool.unregister(name, wait)

    def _unload(self, name, wait):
        self.pool.unload(name, wait)

    def _pin(self, name, wait):
        self._await(name, self.pool.pin(name), wait)

    def _unpin(self, name):
        self.pool.unpin(name)

    def _prefetch(self, name, wait):
        self._await(name, self.pool.prefetch(name), wait)

    def _await(self, name, future, wait):
        until = self.world.now() + self.timeout + _CLOSING
        while wait and not future.done():
            if self.world.now() > until:
                raise Finding("a prefetch never ends", name)
            self.world.sleep(0.25)
        if wait:
            future.result()

    def _lease(self, name, timeout, seconds, grow, inside, ends, patience=None):
        began, had = self.world.now(), False
        task = self.world._current
        thought = self.world.thought[task]
        limit = self.timeout if timeout is None else timeout
        wanted = None if patience is None else lambda: self.world.now() < began + patience
        limit = min(limit, math.inf if patience is None else patience)
        slack = 1e-6 if patience is None else 0.1 + 1e-6
        try:
            with self.pool.lease(name, timeout, wanted=wanted) as lease:
                had = True
                self.leases[lease.model] += 1
                try:
                    self._use(lease, seconds, grow, inside, ends)
                finally:
                    self.leases[lease.model] -= 1
        except PoolBusyError:
            if not had and self.world.now() - began < limit - 1e-6:
                raise Finding("a lease gives up before its deadline", name) from None
            raise
        finally:
            late = self.world.now() - began - limit - (self.world.thought[task] - thought)
            if not had and late > slack and not self.world.over:
                raise Finding("a lease ends after its deadline", f"{name}: {late} s late")

    def _use(self, lease, seconds, grow, inside, ends):
        model = lease.model
        if grow and model.grow:
            model.calls += 1
            model.budget = model.grow(model.budget + grow * KIB)
        lease.call(seconds)
        self.calls += 1
        for step in inside:
            getattr(self, f"_{step[0]}")(*step[1:])
        if ends == "planned":
            raise _Planned
        if ends == "unreadable":
            raise WeightsIOError(f"{model.path}: another file")

    def _fail(self, what, file, count):
        getattr(self.files, what)[file] = count

    def _change(self, file, sizes):
        """Replace the file: models that are open from it find that it was replaced."""
        self.files.needs[file] = needs(*sizes)
        self.files.versions[file] += 1

    def _scarce(self, count):
        self.world.refused = count

    def _interrupt(self, index):
        self.world.interrupts.add(self.works[index % len(self.works)])

    def _close(self):
        self.pool.close()


def _names(policy):
    """The names that a policy remembers."""
    inner = [shadow.policy for shadow in policy._shadows] if isinstance(policy, Adaptive) else [policy]
    return {name for each in inner for value in vars(each).values() if isinstance(value, dict) for name in value}


class _Planned(Exception):  # noqa: N818
    """The error that the user of a lease raises."""


class Histories(Hunt):
    """Random tasks over a few models. Most budgets do not hold all of them."""

    name = "histories"
    cases = 500

    def make(self, rng: random.Random) -> bytes:
        files = {f"f{index}": _sizes(rng) for index in range(rng.randint(1, 5))}
        names = "abcdef"[: rng.randint(1, 6)]
        full = sum(sizes[0] + sizes[1] for sizes in files.values())
        tasks = [[_step(rng, names, files, 0) for _ in range(rng.randint(1, 8))] for _ in range(rng.randint(1, 9))]
        tasks[0][:0] = [["register", name, rng.choice([*files]), rng.random() < 0.1] for name in names]
        story = {
            "seed": rng.randrange(1 << 30),
            "switching": rng.choice([0, 0.1, 0.5]),
            "budget": max(20, int(full * rng.choice([0.1, 0.3, 0.5, 0.8, 1.2]))),
            "load": rng.choice([0.01, 1.0, 5.0]),
            "release": rng.choice([0.0, 0.1, 1.0]),
            "rounding": rng.choice([0, 0, 1, 5]),
            "policy": rng.choice(sorted(POLICIES)),
            "timeout": rng.choice([0.5, 5.0, 30.0]),
            "files": files,
            "tasks": tasks,
        }
        return json.dumps(story).encode()

    def check(self, data: bytes) -> str:
        return History(json.loads(data)).run()


def _sizes(rng: random.Random) -> list[int]:
    weights = rng.choice([rng.randint(1, 40), rng.randint(40, 400)])
    return [weights, rng.randint(1, 10), rng.randint(1, min(10, weights))]


def _step(rng: random.Random, names: str, files: dict[str, list[int]], depth: int) -> list[object]:
    name, file = rng.choice(names), rng.choice([*files])
    kinds = ["lease"] * 40 + ["prefetch"] * 10 + ["sleep"] * 10 + ["unload"] * 6 + ["unregister"] * 5
    kinds += ["register"] * 8 + ["fail"] * 8 + ["change"] * 5 + ["scarce"] + ["interrupt"] * 2
    kinds += ["pin"] * 6 + ["unpin"] * 3
    if depth:
        kinds = ["lease"] * 4 + ["prefetch", "sleep", "unload", "unregister", "register"]
    wait = not depth and rng.random() < 0.5  # a task that holds a lease would wait for itself
    match rng.choice(kinds):
        case "lease":
            inside = [_step(rng, names, files, 1)] if not depth and rng.random() < 0.15 else []
            grow = rng.choice([0] * 8 + [1, 20, 200])
            ends = rng.choice(["well"] * 8 + ["planned", "unreadable"])
            patience = rng.choice([None] * 9 + [0, 0.3, 2])
            timeout, seconds = rng.choice([None, 0, 0.1, 2, 10]), rng.choice([0, 0.1, 1, 3])
            return ["lease", name, timeout, seconds, grow, inside, ends, patience]
        case "prefetch":
            return ["prefetch", name, wait]
        case "pin":
            return ["pin", name, wait]
        case "unpin":
            return ["unpin", name]
        case "sleep":
            return ["sleep", rng.choice([0, 0.1, 1, 10, 100])]
        case "unload":
            return ["unload", name, wait]
        case "unregister":
            return ["unregister", name, wait]
        case "register":
            return ["register", name, file, rng.random() < 0.1]
        case "fail":
            what = rng.choice(["failing", "failing", "unread", "slipping", "clumsy", "replaced"])
            return ["fail", what, file, rng.choice([1, 2, 4, 2000])]
        case "change":
            return ["change", file, _sizes(rng)]
        case "scarce":
            return ["scarce", rng.randint(1, 3)]
    return ["interrupt", rng.randrange(9)]


HUNT = Histories()
