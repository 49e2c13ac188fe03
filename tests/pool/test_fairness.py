"""The order and the length of waits: a pool in a simulated world, where every run is the same."""

from collections import Counter
from dataclasses import replace
from itertools import pairwise

import pytest

import streamrt
from pool.world import KIB, make, needs, whole
from streamrt.pool import State
from streamrt.pool.adaptive import POLICIES
from streamrt.pool.policy import Lru


def user(world, pool, name, log, hold=1.0, timeout=None, at=0.0):
    """Spawn a task that leases a model. ``log`` gets the name, the time, and the error if there is one."""

    def work():
        world.sleep(at)
        try:
            with pool.lease(name, timeout) as model:
                log.append((name, world.now()))
                model.call(hold)
        except streamrt.StreamrtError as error:
            log.append((name, world.now(), error))

    world.spawn(work)


def status(pool, name):
    return next(line for line in pool.index() if line.name == name)


def test_one_load_serves_all_requests_for_a_model():
    world, files, pool = make(100, {"a": needs(40)})
    log = []
    for _ in range(20):
        user(world, pool, "a", log)
    world.run()
    assert log == [("a", 1.0)] * 20
    assert files.opened == [(0.0, "a.file")]
    assert pool.stats().requests == 20
    assert pool.stats().loads == 1
    assert pool.stats().leases == 0


def test_different_models_load_at_the_same_time():
    world, files, pool = make(1000, {name: needs(40) for name in "abcd"})
    log = []
    for name in "abcd":
        user(world, pool, name, log)
    world.run()
    assert sorted(log) == [(name, 1.0) for name in "abcd"]
    assert files.most_loading == 4


def test_each_request_has_its_own_deadline_and_the_load_goes_on():
    world, files, pool = make(100, {"a": needs(40)})
    log = []
    for timeout in (0.25, 0.5, 2.0):  # the first request begins the load
        user(world, pool, "a", log, timeout=timeout)
    world.run()
    assert [entry[:2] for entry in log] == [("a", 0.25), ("a", 0.5), ("a", 1.0)]
    assert isinstance(log[0][2], streamrt.PoolBusyError)
    assert isinstance(log[1][2], streamrt.PoolBusyError)
    assert len(files.opened) == 1
    assert pool.stats().busy == 2


def test_a_load_that_no_request_waits_for_serves_the_next_request():
    world, files, pool = make(100, {"a": needs(40)})
    log = []
    user(world, pool, "a", log, timeout=0.5)
    user(world, pool, "a", log, at=3.0)
    world.run()
    assert isinstance(log[0][2], streamrt.PoolBusyError)
    assert log[1] == ("a", 3.0)
    assert len(files.opened) == 1


def test_the_wait_for_leased_memory_is_bounded():
    world, _, pool = make(50, {"a": needs(48), "b": needs(48, workspace=4)})
    log = []
    user(world, pool, "a", log, hold=10.0)
    user(world, pool, "b", log, timeout=4.0, at=2.0)
    user(world, pool, "b", log, timeout=12.0, at=2.0)
    world.run()
    assert log[0] == ("a", 1.0)
    assert log[1][:2] == ("b", 6.0)
    assert isinstance(log[1][2], streamrt.PoolBusyError)
    assert isinstance(log[1][2], TimeoutError)
    name, time = log[2]  # a's lease ended at 11, its memory was released, b was opened
    assert (name, time) == ("b", pytest.approx(12.1))


def test_the_earliest_request_gets_memory_first():
    world, _, pool = make(50, {"a": needs(48), **{f"b{i}": needs(48, workspace=20) for i in range(5)}})
    log = []
    user(world, pool, "a", log, hold=10.0)
    for i in range(5):
        user(world, pool, f"b{i}", log, at=2.0 + 0.01 * i, hold=0.5)
    world.run()
    order = [entry[0] for entry in log[1:]]
    assert order == sorted(order)


def test_a_large_request_is_not_overtaken_for_ever_by_small_ones():
    small = {f"s{i}": needs(8, workspace=20) for i in range(6)}
    world, _, pool = make(100, {"large": needs(10, workspace=85), **small})
    log = []

    def busy(name):
        def work():
            for _ in range(50):
                with pool.lease(name, 1000) as model:
                    model.call(1.0)
                    log.append(name)

        return work

    for name in small:
        world.spawn(busy(name))
    user(world, pool, "large", log, at=5.0, timeout=20.0)
    world.run()
    (found,) = [entry for entry in log if entry[0] == "large"]
    assert len(found) == 2
    assert Counter(entry for entry in log if isinstance(entry, str)) == dict.fromkeys(small, 50)


def test_a_request_that_gives_up_lets_later_requests_through():
    world, _, pool = make(100, {"a": needs(50), "huge": needs(10, workspace=80), "small": needs(10)})
    log = []
    user(world, pool, "a", log, hold=20.0)
    user(world, pool, "huge", log, at=2.0, timeout=3.0)
    user(world, pool, "small", log, at=2.5, timeout=10.0)
    world.run()
    assert log[1][:2] == ("huge", 5.0)
    assert log[2] == ("small", 6.0)


def test_a_leased_model_is_shared_though_others_wait_for_memory():
    world, _, pool = make(50, {"a": needs(48), "b": needs(48, workspace=40)})
    log = []
    user(world, pool, "a", log, hold=10.0)
    user(world, pool, "b", log, at=2.0)
    user(world, pool, "a", log, at=3.0)
    world.run()
    assert log[1] == ("a", 3.0)


@pytest.mark.parametrize("policy", sorted(POLICIES))
def test_the_first_request_for_a_model_streams_and_evicts_no_model(policy):
    models = {name: needs(40) for name in "ab"}
    world, files, pool = make(96, models | {"c": needs(400)}, policy=policy)
    log = []
    for at in range(4):
        for name in "ab":
            user(world, pool, name, log, at=3.0 * at, hold=0.5)
    world.run()
    held = {name: status(pool, name).held for name in "ab"}
    if policy == "lru":  # the model of the last request is worth the most
        return
    user(world, pool, "c", log, at=1.0)
    world.run()
    assert len(log[-1]) == 2
    for name in "ab":
        assert status(pool, name).held >= 40 * KIB
        assert status(pool, name).held <= held[name]
    assert pool.stats().bytes_given_up == 0
    assert files.peak <= 96 * KIB


def test_a_small_model_beside_better_models_is_read_once_and_makes_room_first():
    """Its window has all weights, which stay until the memory is needed. It stays for good once it is worth more."""
    world, files, pool = make(100, {"a": whole(74), "b": whole(20), "c": whole(20), "d": needs(500)}, policy="gdsf")
    log = []
    for at in range(5):
        user(world, pool, "a", log, at=3.0 * at, hold=0.5)
    user(world, pool, "d", log, at=20.0)  # from now on not all models fit in the budget
    for at, name in enumerate("bbcb"):
        user(world, pool, name, log, at=30.0 + 3 * at, hold=0.5)
    world.run()
    assert [status(pool, name).hits for name in "abc"] == [4, 1, 0]
    assert [status(pool, name).loads for name in "abc"] == [1, 2, 1]  # c took the memory of b, and b that of c
    assert status(pool, "a").held == 75 * KIB
    assert files.peak <= 100 * KIB


def test_a_model_that_is_requested_often_is_admitted():
    world, _, pool = make(100, {"a": needs(80), "b": needs(80)})
    log = []
    user(world, pool, "a", log)
    for at in range(10):
        user(world, pool, "b", log, at=5.0 + 3 * at)
    world.run()
    assert status(pool, "b").held >= 80 * KIB
    assert status(pool, "b").hits >= 5


def test_a_model_that_cannot_fit_tells_the_smallest_budget():
    world, files, pool = make(100, {"a": needs(500, workspace=90, least=20)})
    log = []
    user(world, pool, "a", log)
    world.run()
    error = log[0][2]
    assert isinstance(error, streamrt.ModelTooLargeError)
    assert error.minimum == 110 * KIB
    assert files.opened == []
    again, _, pool = make(110, {"a": needs(500, workspace=90, least=20)})
    user(again, pool, "a", log)
    again.run()
    assert len(log[1]) == 2


def test_a_model_larger_than_the_budget_is_served():
    world, files, pool = make(100, {"a": needs(5000, least=8)})
    log = []
    for at in range(3):
        user(world, pool, "a", log, at=5.0 * at)
    world.run()
    assert [len(entry) for entry in log] == [2, 2, 2]
    assert files.peak <= 100 * KIB


def test_a_load_that_fails_is_the_same_error_for_all_and_is_tried_again_after_growing_pauses():
    world, files, pool = make(100, {"a": needs(40), "b": needs(40)})
    files.failing["a.file"] = 3
    log, errors = [], []
    for _ in range(5):
        user(world, pool, "a", log)
    for at in range(1, 60):
        user(world, pool, "a", log, at=at * 0.25)
    user(world, pool, "b", log, at=1.2)
    world.run()
    errors = [entry[2] for entry in log if len(entry) == 3]
    assert len({id(error.__cause__) for error in errors[:5]}) == 1  # one failure
    assert len({id(error) for error in errors}) == len(errors)  # an error object for each request
    starts = [time for time, path in files.opened if path == "a.file"]
    pauses = [after - before - 1.0 for before, after in pairwise(starts)]
    assert len(starts) == 4
    assert pauses == sorted(pauses)
    assert pauses[0] >= 0.5
    assert pauses[1] >= 1.0
    assert pauses[2] >= 2.0
    assert log[-1][0] == "a"
    assert len(log[-1]) == 2
    assert ("b", 2.2) in log  # other models are served
    assert pool.stats().failures == 3
    assert status(pool, "a").state is State.READY


def test_a_failed_model_is_failed_in_the_index_and_holds_nothing():
    world, files, pool = make(100, {"a": needs(40)})
    files.failing["a.file"] = 1
    log = []
    user(world, pool, "a", log)
    world.run()
    line = status(pool, "a")
    assert line.state is State.FAILED
    assert "broken" in line.reason
    assert line.held == 0
    assert pool.stats().held == 0


def test_an_error_of_a_call_closes_the_model_and_the_next_opens_it_anew():
    world, files, pool = make(100, {"a": needs(40)})

    def work():
        with pytest.raises(streamrt.WeightsIOError), pool.lease("a"):
            raise streamrt.WeightsIOError("changed")
        world.sleep(0.4)
        assert status(pool, "a").state is State.FAILED
        with pytest.raises(streamrt.WeightsIOError, match="changed"), pool.lease("a"):
            raise AssertionError
        world.sleep(0.2)
        with pool.lease("a") as model:
            model.call()
        with pytest.raises(ZeroDivisionError), pool.lease("a"):
            raise ZeroDivisionError
        assert status(pool, "a").state is State.READY

    world.spawn(work)
    world.run()
    assert len(files.opened) == 2


def test_a_file_that_was_replaced_is_measured_again():
    world, files, pool = make(100, {"a": needs(40)})
    files.replaced["a.file"] = 2
    log = []
    user(world, pool, "a", log)
    world.run()
    assert log == [("a", 3.0)]
    files.replaced["a.file"] = 100
    world.spawn(lambda: pool.unload("a"))
    world.run()
    user(world, pool, "a", log)
    world.run()
    assert isinstance(log[1][2], streamrt.WeightsIOError)


def test_unloading_waits_for_leases_and_a_later_request_loads_again():
    world, files, pool = make(100, {"a": needs(40)})
    log = []
    user(world, pool, "a", log, hold=5.0)

    def unload():
        world.sleep(2.0)
        pool.unload("a", wait=False)
        assert status(pool, "a").state is State.UNLOADING
        pool.unload("a")
        log.append(("unloaded", world.now()))
        assert pool.stats().held <= 41 * KIB  # nothing, or the model that is being loaded again

    world.spawn(unload)
    user(world, pool, "a", log, at=3.0)
    world.run()
    assert log[0] == ("a", 1.0)
    assert log[1] == ("unloaded", 6.1)
    assert log[2] == ("a", pytest.approx(7.1))
    assert len(files.opened) == 2


def test_unregistering_refuses_waiting_requests_and_frees_the_name():
    world, _, pool = make(50, {"a": needs(48), "b": needs(48, workspace=30)})
    log = []
    user(world, pool, "a", log, hold=10.0)
    user(world, pool, "b", log, at=2.0)

    def unregister():
        world.sleep(3.0)
        pool.unregister("b")
        with pytest.raises(streamrt.UnknownModelError):
            pool.unload("b")
        pool.register("b", "b.file")
        with pytest.raises(streamrt.InputError):
            pool.register("a", "a.file")

    world.spawn(unregister)
    world.run()
    assert isinstance(log[1][2], streamrt.UnknownModelError)
    assert log[1][1] == 3.0
    user(world, pool, "b", log)
    world.run()
    assert len(log[2]) == 2
    assert pool.stats().requests == 3


def test_closing_waits_for_leases_and_refuses_waiting_requests():
    world, files, pool = make(50, {"a": needs(48), "b": needs(48, workspace=30)})
    log = []
    user(world, pool, "a", log, hold=10.0)
    user(world, pool, "b", log, at=2.0)

    def close():
        world.sleep(3.0)
        pool.close()
        log.append(("closed", world.now()))
        pool.close()

    world.spawn(close)
    world.run()
    assert isinstance(log[1][2], streamrt.ModelClosedError)
    assert log[1][1] == 3.0
    assert log[2] == ("closed", 11.1)
    assert files.open_models == []
    assert pool._keeper.ledger.total == 0
    with pytest.raises(streamrt.ModelClosedError):
        pool.register("c", "c.file")


def test_a_prefetched_model_is_a_hit():
    world, _, pool = make(100, {"a": needs(40)})
    log = []
    futures = []
    world.spawn(lambda: futures.append(pool.prefetch("a")))
    user(world, pool, "a", log, at=5.0)
    world.run()
    assert futures[0].result(0) is None
    assert log == [("a", 5.0)]
    assert pool.stats().hits == 1
    assert pool.stats().bytes_loaded == 40 * KIB


def test_a_prefetch_that_fails_says_why():
    world, files, pool = make(100, {"a": needs(40)})
    files.failing["a.file"] = 1
    futures = []
    world.spawn(lambda: futures.append(pool.prefetch("a")))
    world.run()
    assert isinstance(futures[0].exception(0), streamrt.WeightsIOError)


def test_a_pinned_model_stays_and_others_are_served_beside_it():
    world, files, pool = make(100, {f"m{i}": needs(60) for i in range(4)})
    files.needs["p.file"] = needs(70)
    log = []

    def work():
        pool.register("p", "p.file", pin=True)
        world.sleep(3.0)
        assert status(pool, "p").held >= 70 * KIB
        for i in range(40):
            with pool.lease(f"m{i % 4}") as model:
                model.call(0.1)
                assert status(pool, "p").held >= 70 * KIB
        with pytest.raises(streamrt.ModelTooLargeError) as caught:
            pool.register("q", "p.file", pin=True)
        assert caught.value.minimum == 141 * KIB
        log.append("done")

    world.spawn(work)
    world.run()
    assert log == ["done"]
    assert files.peak <= 100 * KIB
    assert sum(path == "p.file" for _, path in files.opened) == 1


def test_a_call_that_needs_more_takes_it_from_idle_models_or_waits():
    world, _, pool = make(100, {"a": needs(10), "b": needs(80)})
    log = []

    def work():
        with pool.lease("b") as b:
            b.call()
        with pool.lease("a") as a:
            assert a.grow(50 * KIB) >= 50 * KIB
            assert status(pool, "a").held >= 50 * KIB
            assert a.grow(60 * KIB, wait=False) == status(pool, "a").held == 60 * KIB
            with pytest.raises(streamrt.ModelTooLargeError) as caught:
                a.grow(101 * KIB)
            assert caught.value.minimum == 101 * KIB
            log.append("grown")

    world.spawn(work)
    world.run()
    assert log == ["grown"]
    assert pool.stats().peak <= 100 * KIB

    def other():
        with pool.lease("a") as a, pool.lease("b") as b:
            b.call(1.0)
            started = world.now()
            with pytest.raises(streamrt.PoolBusyError):
                a.grow(100 * KIB)
            assert world.now() == started + 30.0
            held = status(pool, "a").held
            assert a.grow(100 * KIB, wait=False) == held
            assert world.now() == started + 30.0

    world.spawn(other)
    world.run()


def test_a_model_in_bands_that_holds_all_weights_is_opened_anew_when_it_can_have_more():
    fits = needs(10, 80)
    world, files, pool = make(100, {"a": fits, "p": needs(30, 4)})
    files.in_bands["a.file"] = replace(fits, workspace=20 * KIB, whole=80 * KIB)
    in_bands = []

    def call():
        with pool.lease("a") as model:
            in_bands.append(model.needs.whole > 0)
            model.call()

    def work():
        pool.pin("p")
        call()
        call()
        assert pool._keeper.entries["a"].pinned == fits.weights
        pool.unpin("p")
        call()

    world.spawn(work)
    world.run()
    assert in_bands == [True, True, False]
    assert [path for _, path in files.opened if path == "a.file"] == ["a.file", "a.file"]


@pytest.mark.parametrize("wait", [False, True])
def test_a_call_that_gets_a_part_of_what_it_needs_gives_it_back(monkeypatch, wait):
    """Models that give way may give less than they should. By then the rest may be leased."""
    world, _, pool = make(100, {"a": needs(10), "b": needs(30)})
    memory, log = pool._keeper.memory, []
    room_for = memory.room_for

    def first_too_little(entry, total):
        log.append(pool.stats().held)
        return () if len(log) == 1 else room_for(entry, total)

    def work():
        with pool.lease("b") as b, pool.lease("a") as a:
            b.call()
            a.call()
            before, held = pool.stats().held, status(pool, "a").held
            monkeypatch.setattr(memory, "room_for", first_too_little)
            if wait:
                with pytest.raises(streamrt.PoolBusyError):
                    a.grow(90 * KIB)
            else:
                assert a.grow(90 * KIB, wait=False) == held
            assert log[:2] == [before, 100 * KIB]
            assert status(pool, "a").held == held
            monkeypatch.undo()
            with pool.lease("b"):
                assert a.grow(held + KIB, wait=False) == held + KIB == status(pool, "a").held

    world.spawn(work)
    world.run()
    assert len(log) >= 2


def test_a_lease_knows_that_it_has_ended():
    world, _, pool = make(100, {"a": needs(10)})

    def work():
        with pool.lease("a") as model:
            assert not model.ended
            assert model.model.leases == 1
        assert model.ended
        assert model.model.leases == 0

    world.spawn(work)
    world.run()


@pytest.mark.parametrize("rounding", [-1, 1, 3 * KIB])
def test_a_model_that_keeps_more_or_less_than_agreed_delays_no_request(rounding):
    world, files, pool = make(100, {"a": needs(80), "b": needs(40)}, policy="lru")
    files.rounding = rounding
    log = []
    user(world, pool, "a", log)
    user(world, pool, "b", log, at=5.0)
    world.run()
    assert [len(entry) for entry in log] == [2, 2]
    assert log[1][1] < 7.0
    assert (status(pool, "a").state is State.READY) == (rounding > 0)
    assert files.peak <= 100 * KIB


def test_a_policy_is_told_the_time_of_loading():
    told = []

    class Listening(Lru):
        def requested(self, name, size, cost):
            told.append(cost)
            super().requested(name, size, cost)

    world, files, pool = make(100, {"a": needs(40)}, policy=lambda budget: Listening())
    files.load_seconds = 0.5

    def work():
        pool.prefetch("a")
        world.sleep(5.0)
        with pool.lease("a"):
            pass

    world.spawn(work)
    world.run()
    assert told[0] < 0.001  # before the first load: by the speed of a usual disk
    assert 0.25 < told[1] < 1.0
