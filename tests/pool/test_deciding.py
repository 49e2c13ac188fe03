"""A grant is decided without the pool's lock. If memory changes hands meanwhile, it is decided again."""

import gc
import sys
import threading
import weakref

import pytest

import streamrt
from model import zoo
from pool.world import KIB, FakeModel, make, needs, whole
from streamrt.pool import memory
from streamrt.pool.policy import Lru
from streamrt.pool.runtime import Runtime
from streamrt.pool.shared import SharedPolicy


def slow(world, pool, owner, name, monkeypatch):
    """Let other tasks run for one second before each call of a method, if it is called without the lock.

    Returns a list, which gets whether the lock was held, for each call.
    """
    at_once, calls = getattr(owner, name), []

    def later(*arguments):
        calls.append(pool._keeper.changed.depth > 0)
        if not calls[-1]:
            world.sleep(1.0)
        return at_once(*arguments)

    monkeypatch.setattr(owner, name, later)
    return calls


def test_a_model_that_gave_its_memory_to_another_meanwhile_does_not_give_it_twice(monkeypatch):
    world, _, pool = make(72, {"a": needs(60), "b": needs(60), "c": needs(10)})  # `a` and `c` take all
    log = []

    def first():
        with pool.lease("a") as model:
            model.call()
        world.sleep(5.0)
        calls = slow(world, pool, pool._keeper.memory, "decided", monkeypatch)
        with pool.lease("b") as model:
            model.call()
            log.append((calls, model.budget))

    def second():
        with pool.lease("c") as model:
            model.call()
            world.sleep(6.0)
            model.model.budget = model.grow(40 * KIB)
            model.call(5.0)
            log.append("grown")

    world.spawn(second)
    world.spawn(first)
    world.run()
    (calls, budget), grown = log
    assert calls[:2] == [False, True]
    assert budget <= 32 * KIB
    assert grown == "grown"


def test_nothing_is_decided_while_everything_has_room(monkeypatch):
    world, _, pool = make(100, {"a": needs(60), "b": needs(30), "c": needs(30)})
    decisions, decide = [], memory.decide

    def watched(*arguments):
        decisions.append(arguments[3])
        return decide(*arguments)

    def task():
        for name in ("a", "b", "a", "c"):
            with pool.lease(name) as model:
                model.call()
                if name != "c":
                    assert model.complete

    monkeypatch.setattr(memory, "decide", watched)
    world.spawn(task)
    world.run()
    assert decisions == ["c"]


def test_memory_that_is_taken_meanwhile_is_not_free(monkeypatch):
    world, _, pool = make(100, {"a": needs(20, 10), "b": needs(20, 10)})
    budgets = []

    def first():
        with pool.lease("a") as model:
            model.call()
        with pool.lease("b") as model:
            model.call()
            model.model.budget = model.grow(80 * KIB)  # `a` gives its workspace
        pool.unload("b")
        assert pool._keeper.ledger.held("a") < pool._keeper.entries["a"].budget
        with pool.lease("b") as model:
            model.call()
            model.model.budget = model.grow(75 * KIB)  # too little is free for `a` to have it without a decision
            world.spawn(second)
            world.sleep(1.5)
            model.model.budget = model.grow(80 * KIB)
            model.call(10.0)

    def second():
        slow(world, pool, pool._keeper.memory, "decided", monkeypatch)
        world.sleep(1.0)
        with pool.lease("a") as model:
            model.call()
            budgets.append(model.budget)

    world.spawn(first)
    world.run()
    assert budgets == [20 * KIB]


def test_memory_that_is_given_back_meanwhile_is_not_missed(monkeypatch):
    world, _, pool = make(100, {"a": needs(90, 5), "b": needs(90, 5)}, timeout=1000.0)
    times = []

    def first():
        with pool.lease("b") as model:
            model.call()
        with pool.lease("a") as model:
            model.model.budget = model.grow(100 * KIB)
            slow(world, pool, pool._keeper.memory, "decided", monkeypatch)
            world.spawn(second)
            model.call(0.5)
            times.append(world.time)

    def second():
        with pool.lease("b") as model:
            times.append(world.time)
            model.call()

    world.spawn(first)
    world.run()
    assert times[1] - times[0] < 10.0


def test_the_policy_forgets_a_model_that_is_unregistered_before_it_is_told_of_its_request(monkeypatch):
    policy = Lru()
    world, _, pool = make(100, {"a": needs(60)}, policy=lambda budget: policy)

    def first():
        with pool.lease("a") as model:
            model.call()
        pool.unload("a")
        slow(world, pool, pool._keeper.memory.policy, "requested", monkeypatch)
        world.spawn(lambda: (world.sleep(0.5), pool.unregister("a")))
        with pytest.raises(streamrt.UnknownModelError), pool.lease("a"):
            pass

    world.spawn(first)
    world.run()
    assert policy._last == {}


def test_a_lease_ends_if_the_policy_fails(monkeypatch):
    class Failing(Lru):
        def requested(self, name, size, cost):
            super().requested(name, size, cost)
            if len(self._last) == 1 and self._now > 1:
                raise ZeroDivisionError

    world, _, pool = make(100, {"a": needs(60)}, policy=lambda budget: Failing())

    def work():
        with pool.lease("a") as model:
            model.call()
        with pytest.raises(ZeroDivisionError), pool.lease("a"):
            pass
        assert pool.stats().leases == 0

    world.spawn(work)
    world.run()


def test_a_request_whose_model_loads_is_not_woken_by_leases_that_end(monkeypatch):
    world, _, pool = make(100, {"a": needs(40), "b": needs(10)})
    asked, lease_now = [], pool._keeper._lease_now

    def noted(entry, asker):
        asked.append(entry.name)
        return lease_now(entry, asker)

    def loads():
        with pool.lease("a") as model:
            model.call()

    def hits():
        for _ in range(50):
            with pool.lease("b") as model:
                model.call(0.01)

    def work():
        with pool.lease("b"):
            pass
        monkeypatch.setattr(pool._keeper, "_lease_now", noted)
        world.spawn(loads)
        world.spawn(hits)

    world.spawn(work)
    world.run()
    assert asked.count("b") >= 50
    assert asked.count("a") < 10


class Watched(Runtime):
    """Tells when a thread waits for the policy."""

    def __init__(self):
        super().__init__()
        self.waits = threading.Event()

    def lock(self):
        lock, waits = super().lock(), self.waits

        class Lock:
            def __enter__(self):
                if not lock.acquire(blocking=False):
                    waits.set()
                    lock.acquire()

            def __exit__(self, *error):
                lock.release()

        return Lock()


def test_the_end_of_an_abandoned_lease_does_not_wait_for_a_thread_that_waits_for_the_policy(files):
    runtime, decides, steps = Watched(), threading.Event(), []

    class Collecting(Lru):
        def requested(self, name, size, cost):
            super().requested(name, size, cost)
            for step in [*steps]:
                step()

    pool = streamrt.ModelPool("64MiB", policy=lambda budget: Collecting(), _runtime=runtime)
    for name in ("m64", "m96", "m128"):
        pool.register(name, files[name].path)
        with pool.lease(name) as model:
            model(zoo.random_input(1, int(name[1:])))

    def abandon():
        context = pool.lease("m96")
        context.__enter__()
        cycle = [context]
        cycle.append(cycle)

    def unload():
        decides.wait()
        pool.unload("m128")  # the policy is told of the eviction under the pool's lock

    def lease():
        steps[:] = decides.set, runtime.waits.wait, steps.clear, gc.collect
        with pool.lease("m64"):
            pass

    gc.disable()
    try:
        abandon()
        threads = [threading.Thread(target=work, daemon=True) for work in (unload, lease)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(60)
            assert not thread.is_alive(), "two threads wait for each other"
    finally:
        gc.enable()
    pool.close()  # waits until the abandoned lease has ended


def test_other_requests_have_the_policy_while_a_grant_is_decided(monkeypatch):
    world, _, pool = make(100, {"a": needs(60), "b": needs(60)})
    decide, policy, free = memory.decide, pool._keeper.memory.policy, []

    def watched(*arguments):
        free.append(not policy._lock.locked())
        return decide(*arguments)

    def task():
        for name in ("a", "b"):
            with pool.lease(name) as model:
                model.call()

    monkeypatch.setattr(memory, "decide", watched)
    world.spawn(task)
    world.run()
    assert free
    assert all(free)


def test_a_model_that_gives_all_of_its_memory_is_freed_without_the_lock():
    world, files, pool = make(100, {"a": whole(60), "b": whole(60)})
    freed = []

    class Model(FakeModel):
        def __post_init__(self):
            super().__post_init__()
            weakref.finalize(self, lambda: freed.append(pool._keeper.changed.depth))

    files.kind = Model

    def task():
        for name in ("a", "b", "a"):
            with pool.lease(name) as model:
                model.call()
            del model
        assert len(freed) == 2
        pool.unload("a")
        assert freed == [0, 0, 0]

    world.spawn(task)
    world.run()
    assert pool.stats().evictions == 2


@pytest.mark.parametrize("decides", ["decide", "make_room"])
def test_a_lease_that_the_collector_ends_within_a_decision_is_not_missed(decides, monkeypatch):
    """It runs in the thread that decides with the lock and then waits, so nobody else wakes that thread."""
    world, _, pool = make(100, {"a": needs(88), "b": needs(60), "c": needs(10)})
    usual, abandoned, budgets = getattr(memory, decides), [], []

    def task():
        with pool.lease("c") as grows:
            grows.call()
            context = pool.lease("a")
            context.__enter__()
            abandoned.append(context)
            monkeypatch.setattr(memory, decides, deciding)
            if decides == "make_room":
                budgets.append(grows.grow(90 * KIB))
            else:
                with pool.lease("b") as model:
                    budgets.append(model.budget)
            assert world.time < 10.0  # the pool's timeout is 30 s

    def deciding(*arguments):
        answer = usual(*arguments)
        if abandoned and pool._keeper.changed.depth and answer is None:
            abandoned.pop().__exit__(None, None, None)
        return answer

    world.spawn(task)
    world.run()
    assert len(budgets) == 1
    assert not abandoned


def test_an_interrupt_does_not_keep_the_policy():
    def interrupts(frame, event, argument):
        nonlocal left
        left -= event == "call"
        if left == 0:
            raise KeyboardInterrupt

    lock, interrupted = threading.Lock(), 0
    policy = SharedPolicy(Lru(), lock)
    for calls in range(1, 20):
        left = calls
        sys.setprofile(interrupts)
        try:
            policy.requested("a", 1, 1.0)
            policy.worths(["a"])
        except KeyboardInterrupt:
            interrupted += 1
        finally:
            sys.setprofile(None)
        assert not lock.locked()
    assert 4 < interrupted < 19
