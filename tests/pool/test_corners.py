"""Edge cases of a pool's history: names registered again, endless failures, faults during other work."""

import math

import pytest

import streamrt
from pool.world import KIB, FakeModel, WorldCondition, make, needs
from streamrt.errors import WeightsIOError
from streamrt.pool import State
from streamrt.pool.entry import LONGEST_PAUSE


def emptied(world, pool, names):
    """Unregister these models and close the pool; fails if the pool waits for ever."""

    def work():
        for name in names:
            pool.unregister(name)
        pool.close()

    world.spawn(work)
    world.run()
    assert pool._keeper.ledger.total == 0


def test_a_prefetch_beside_another_model_of_the_same_name():
    world, _, pool = make(100, {"a": needs(40)})
    future = pool.prefetch("a")  # its thread has not run when the name is registered again
    pool.unregister("a")
    pool.register("a", "a.file")
    world.run()
    assert future.result(0) is None
    assert [line.leases for line in pool.index()] == [0]
    emptied(world, pool, ["a"])


def test_a_prefetch_of_a_model_that_is_gone():
    world, _, pool = make(100, {"a": needs(40)})
    future = pool.prefetch("a")
    pool.unregister("a")
    world.run()
    assert isinstance(future.exception(0), streamrt.UnknownModelError)
    emptied(world, pool, [])


def test_pauses_stay_at_the_longest_however_often_a_model_fails():
    world, files, pool = make(100, {"a": needs(40)})
    files.failing["a.file"] = 2
    pool._keeper.entries["a"].failures = 5000
    met = []

    def work():
        for _ in range(3):
            began = world.now()
            with pytest.raises(WeightsIOError), pool.lease("a"):
                pass
            met.append(world.now() - began)
        world.sleep(LONGEST_PAUSE)
        with pytest.raises(WeightsIOError), pool.lease("a"):
            pass
        world.sleep(LONGEST_PAUSE)
        with pool.lease("a") as model:
            model.call()

    world.spawn(work)
    world.run()
    assert met == [files.load_seconds, 0.0, 0.0]
    assert pool.stats().failures == 2
    emptied(world, pool, ["a"])


@pytest.mark.parametrize("seconds", [1e12, math.inf])
def test_a_timeout_without_an_end(files, seconds):
    with streamrt.ModelPool("1MiB", timeout=seconds) as pool:
        pool.register("m64", files["m64"].path)
        with pool.lease("m64"):
            pass
        pool.unload("m64")
        with pool.lease("m64", seconds):
            pass


def test_a_timeout_that_is_not_a_number(files):
    with streamrt.ModelPool("1MiB") as pool:
        pool.register("m64", files["m64"].path)
        with (
            pytest.raises(streamrt.InputError, match="timeout: expected seconds, found nan"),
            pool.lease("m64", math.nan),
        ):
            pass


def leased_in_turn(world, pool, names, met):
    """Spawn a task that calls these models one after the other, and notes the end of each call."""

    def work():
        for name in names:
            try:
                with pool.lease(name, 10.0) as model:
                    model.call()
                met.append(name)
            except BaseException as error:
                met.append(type(error))

    world.spawn(work)


@pytest.mark.parametrize("fault", [ValueError, OSError, ZeroDivisionError, MemoryError, streamrt.BudgetError])
def test_a_model_that_cannot_rest_is_closed_and_its_memory_is_free(fault, monkeypatch):
    world, _, pool = make(100, {"a": needs(60), "b": needs(60), "c": needs(20)}, policy="lru")

    def rest(model, most=None, window=0):
        raise fault("unforeseen") if fault is not streamrt.BudgetError else fault("unforeseen", 1)

    monkeypatch.setattr(FakeModel, "rest", rest)
    met = []
    leased_in_turn(world, pool, ["a", "b", "c", "a", "b", "c"], met)
    world.run()
    assert met == ["a", "b", "c", "a", "b", "c"]
    assert [line.state for line in pool.index()].count(State.FAILED) == 0
    emptied(world, pool, ["a", "b", "c"])


def test_a_call_that_is_interrupted_while_others_make_room_for_it_leaves_nothing_busy(monkeypatch):
    world, _, pool = make(100, {"a": needs(30), "b": needs(30), "c": needs(20)})
    met = []
    leased_in_turn(world, pool, ["b", "c"], met)
    world.run()
    original = FakeModel.shut

    def shut(model):
        if not met[2:]:
            met.append("interrupted")
            raise KeyboardInterrupt
        original(model)

    monkeypatch.setattr(FakeModel, "shut", shut)

    def work():
        with pool.lease("a") as model:
            held = pool.stats().held
            with pytest.raises(KeyboardInterrupt):
                model.grow(98 * KIB)
            assert pool.stats().held == held < 98 * KIB

    world.spawn(work)
    world.run()
    leased_in_turn(world, pool, ["b", "c", "a"], met)
    world.run()
    assert met == ["b", "c", "interrupted", "b", "c", "a"]
    emptied(world, pool, ["a", "b", "c"])


@pytest.mark.parametrize("entry", [1, 2])
def test_a_call_that_is_interrupted_after_another_model_was_closed_leaves_no_memory_held(entry, monkeypatch):
    """At each time that it takes the lock to note what it has."""
    world, _, pool = make(100, {"a": needs(30), "b": needs(30), "c": needs(20)})
    met, entries = [], []
    leased_in_turn(world, pool, ["b", "c"], met)
    world.run()
    original, take = FakeModel.shut, WorldCondition.__enter__

    def shut(model):
        original(model)
        entries.append(0)

    def interrupted(condition):
        if entries and entries[0] < entry:
            entries[0] += 1
            if entries[0] == entry:
                raise KeyboardInterrupt
        return take(condition)

    monkeypatch.setattr(FakeModel, "shut", shut)

    def work():
        with pool.lease("a") as model:
            monkeypatch.setattr(WorldCondition, "__enter__", interrupted)
            with pytest.raises(KeyboardInterrupt):
                model.grow(98 * KIB)

    world.spawn(work)
    world.run()
    keeper = pool._keeper
    assert not [name for name, each in keeper.entries.items() if not each.resident and keeper.ledger.held(name)]
    leased_in_turn(world, pool, ["b", "c", "a"], met)
    world.run()
    emptied(world, pool, ["a", "b", "c"])


def test_a_thread_that_cannot_start_is_an_error_of_this_package(monkeypatch):
    world, _, pool = make(100, {"a": needs(40)})
    met = []

    def spawn(work):
        raise RuntimeError("can't start new thread")

    def work():
        monkeypatch.setattr(world, "spawn", spawn)
        met.append(pool.prefetch("a").exception(0))
        with pytest.raises(streamrt.StreamrtError, match="no thread") as caught, pool.lease("a"):
            pass
        met.append(caught.value)
        monkeypatch.undo()
        world.sleep(1.0)
        with pool.lease("a") as model:
            model.call()

    world.spawn(work)
    world.run()
    assert [type(error) for error in met] == [streamrt.StreamrtError] * 2
    assert pool.stats().failures == 1
    emptied(world, pool, ["a"])


def test_a_thread_that_cannot_start_while_a_model_is_open(monkeypatch):
    world, files, pool = make(100, {"a": needs(60), "b": needs(60)}, policy="lru")
    met = []
    leased_in_turn(world, pool, ["a", "b"], met)
    world.run()

    def spawn(work):
        raise RuntimeError("can't start new thread")

    def work():
        monkeypatch.setattr(files, "unlocked", lambda: None)  # the thread that meets the error closes the model at once
        monkeypatch.setattr(world, "spawn", spawn)
        with pytest.raises(streamrt.StreamrtError, match="no thread"), pool.lease("a"):
            pass
        monkeypatch.undo()
        assert pool.index()[0].held == 0

    world.spawn(work)
    world.run()
    world.time += 1.0
    leased_in_turn(world, pool, ["a", "b"], met)
    world.run()
    assert met == ["a", "b", "a", "b"]
    emptied(world, pool, ["a", "b"])
