"""Pinned models keep all weights in memory, whatever others need: a pool in a simulated world."""

import pytest
from hypothesis import given

import streamrt
from pool.test_accounts import after, decided, situations
from pool.test_fairness import status, user
from pool.world import KIB, make, needs
from streamrt.errors import PinError
from streamrt.pool import State
from streamrt.pool.adaptive import POLICIES
from streamrt.pool.admission import decide, needed_to_pin


def loaded(pool, name):
    """KiB of weights that an idle model holds."""
    return min(pool._keeper.entries[name].pinned, pool._keeper.ledger.held(name)) // KIB


def call(pool, name, seconds=0.1):
    with pool.lease(name) as model:
        model.call(seconds)


def run(world, work):
    """Run ``work`` as a task to its end."""
    done = []

    def task():
        work()
        done.append(True)

    world.spawn(task)
    world.run()
    assert done


def pinned(pool, name):
    """Pin a model and wait until it is loaded."""
    future = pool.pin(name)
    while not future.done():
        pool._runtime.sleep(0.25)
    return future.exception(0)


@given(situations())
def test_a_grant_of_the_whole_model_has_all_weights_or_waits(situation):
    budget, holdings, name, worths = situation
    grant = decide(budget, 0, holdings, name, worths.__getitem__, lambda other: True, whole=True)
    needed = holdings[name].needs
    others = [holding for other, holding in holdings.items() if other != name]
    room = budget - sum(h.total if h.fixed else h.pinned if h.kept else 0 for h in others)
    if needed.full > room:
        assert grant is None
    elif holdings[name].kept:
        assert grant.pinned == needed.weights
        assert grant.total >= needed.full
        assert sum(after(situation, grant).values()) <= budget
    assert decided(situation) is not None or grant is None  # whoever waits for less does not wait longer


def test_a_model_needs_its_weights_and_the_largest_workspace():
    assert needed_to_pin(needs(40, workspace=5), []) == 45 * KIB
    assert needed_to_pin(needs(40, workspace=5), [needs(10, workspace=3), needs(1, workspace=9)]) == 49 * KIB
    assert needed_to_pin(needs(40, workspace=9), [needs(10, workspace=3)]) == 49 * KIB


@pytest.mark.parametrize("policy", POLICIES)
def test_a_pinned_model_is_loaded_and_keeps_its_weights_until_it_is_unpinned(policy):
    world, files, pool = make(100, {"p": needs(60)} | {f"m{i}": needs(60) for i in range(3)}, policy=policy)

    def use_others():
        for i in range(60):
            call(pool, f"m{i % 3}")

    def work():
        use_others()
        assert loaded(pool, "p") == 0
        assert pinned(pool, "p") is None
        assert (loaded(pool, "p"), status(pool, "p").pin, status(pool, "p").kept) == (60, True, True)
        assert (pool.stats().pins, pool.stats().pinned) == (1, 60 * KIB)
        for _ in range(2):
            use_others()
            assert loaded(pool, "p") == 60
            call(pool, "p")
        assert pinned(pool, "p") is None  # again
        assert sum(path == "p.file" for _, path in files.opened) == 1
        pool.unpin("p")
        assert loaded(pool, "p") == 60  # until others need it
        assert (status(pool, "p").pin, pool.stats().pins, pool.stats().pinned) == (False, 0, 0)
        use_others()
        if policy != "gdsf":  # here it thinks that p is slow to load, and so worth its memory
            assert loaded(pool, "p") < 60
        pool.unpin("p")

    run(world, work)
    assert files.peak <= 100 * KIB


def test_pins_that_do_not_fit_together_are_refused_and_change_nothing():
    sizes = {"a": needs(50, workspace=8), "b": needs(38, workspace=1), "c": needs(5), "d": needs(4)}
    world, files, pool = make(100, sizes)

    def work():
        assert pinned(pool, "a") is None
        assert pinned(pool, "b") is None
        before = [(line.held, line.pin, line.kept) for line in pool.index()]
        with pytest.raises(PinError, match="needs 13312 bytes, and 12288 are there") as caught:
            pool.pin("c")  # 5 of weights, and 8 of workspace for a
        assert (caught.value.needed, caught.value.there, caught.value.minimum) == (13 * KIB, 12 * KIB, 101 * KIB)
        assert isinstance(caught.value, streamrt.ModelTooLargeError)
        assert [(line.held, line.pin, line.kept) for line in pool.index()] == before
        files.needs["more.file"] = needs(5)
        with pytest.raises(PinError):
            pool.register("more", "more.file", pin=True)
        assert len(pool.index()) == 4
        assert pinned(pool, "d") is None
        for name in "abcdabcd":  # each can run, and c streams
            call(pool, name)
        assert [loaded(pool, name) for name in "abd"] == [50, 38, 4]
        pool.unpin("b")
        assert pinned(pool, "c") is None
        with pytest.raises(streamrt.UnknownModelError):
            pool.pin("nobody")
        with pytest.raises(streamrt.UnknownModelError):
            pool.unpin("nobody")

    run(world, work)
    assert files.peak <= 100 * KIB


def test_a_pin_waits_for_leased_memory_and_requests_of_the_model_do_not():
    world, _, pool = make(100, {"p": needs(60), "m": needs(70)})
    log = []
    user(world, pool, "m", log, hold=20.0)
    user(world, pool, "p", log, hold=1.0, at=4.0)

    def work():
        world.sleep(2.0)
        assert status(pool, "m").held > 40 * KIB
        with pool.lease("p", 5.0) as model:  # beside m it streams
            model.call(0.1)
        assert loaded(pool, "p") < 60
        assert pinned(pool, "p") is None
        assert world.now() > 20.0
        assert loaded(pool, "p") == 60

    run(world, work)
    assert [entry[0] for entry in log] == ["m", "p"]


def test_a_pin_waits_for_all_weights_although_a_load_of_fewer_has_begun():
    world, _, pool = make(100, {"p": needs(60), "m": needs(70)})
    log = []
    user(world, pool, "m", log, hold=20.0)
    user(world, pool, "p", log, hold=0.5, at=2.0)  # beside m it streams

    def work():
        world.sleep(2.5)
        assert status(pool, "p").state is State.LOADING
        assert pinned(pool, "p") is None
        assert world.now() > 20.0
        assert loaded(pool, "p") == 60

    run(world, work)
    assert [entry[0] for entry in log] == ["m", "p"]
    assert pool.stats().leases == 0


def test_a_pin_that_cannot_be_loaded_in_time_stays_and_the_next_request_loads_it():
    world, _, pool = make(100, {"p": needs(60), "m": needs(70)}, timeout=5.0)
    log = []
    user(world, pool, "m", log, hold=20.0)

    def work():
        world.sleep(2.0)
        assert isinstance(pinned(pool, "p"), streamrt.PoolBusyError)
        assert status(pool, "p").kept
        world.sleep(20.0)
        call(pool, "p")
        assert loaded(pool, "p") == 60

    run(world, work)


def test_a_pinned_model_that_is_unloaded_comes_back_with_the_next_lease():
    world, _, pool = make(100, {"p": needs(60), "q": needs(50), "m": needs(90)})

    def work():
        assert pinned(pool, "p") is None
        pool.unload("p")
        assert (status(pool, "p").held, status(pool, "p").kept) == (0, True)
        with pytest.raises(PinError):  # its memory stays reserved
            pool.pin("q")
        for _ in range(5):
            call(pool, "m")
        assert loaded(pool, "m") > 40
        call(pool, "p")
        assert loaded(pool, "p") == 60
        for _ in range(20):
            call(pool, "m")
        assert loaded(pool, "p") == 60
        pool.unregister("p")
        assert pinned(pool, "q") is None

    run(world, work)


def test_a_pinned_model_whose_new_file_does_not_fit_is_ordinary_until_it_fits():
    world, files, pool = make(100, {"p": needs(30), "q": needs(50), "m": needs(60)})

    def replace(name, size):
        files.needs[f"{name}.file"] = needs(size)
        pool.unload(name)

    def work():
        assert pinned(pool, "p") is None
        assert pinned(pool, "q") is None
        replace("p", 55)
        call(pool, "p")  # it streams
        assert (status(pool, "p").pin, status(pool, "p").kept, loaded(pool, "q")) == (True, False, 50)
        with pytest.raises(PinError):
            pool.pin("p")
        for _ in range(30):
            call(pool, "m")
            call(pool, "p")
            assert loaded(pool, "q") == 50
        replace("p", 40)  # fits again
        call(pool, "p")
        assert (status(pool, "p").kept, loaded(pool, "p")) == (True, 40)
        replace("p", 55)
        call(pool, "p")
        assert not status(pool, "p").kept
        pool.unpin("q")
        assert status(pool, "p").kept  # it fits now, and is loaded without a request
        world.sleep(10.0)
        assert loaded(pool, "p") == 55
        replace("p", 200)
        assert status(pool, "p").state is State.UNAVAILABLE
        call(pool, "p")
        assert not status(pool, "p").kept

    run(world, work)
    assert files.peak <= 100 * KIB


def test_pinning_a_model_whose_file_cannot_be_read(tmp_path):
    (tmp_path / "broken.safetensors").write_bytes(b"no model")
    with streamrt.ModelPool("4MiB") as pool:
        pool.register("broken", tmp_path / "broken.safetensors")
        pool.register("none", tmp_path / "none.safetensors")
        with pytest.raises(streamrt.FormatError):
            pool.pin("broken")
        with pytest.raises(streamrt.WeightsIOError):
            pool.pin("none")
        assert [line.pin for line in pool.index()] == [False, False]
    with pytest.raises(streamrt.ModelClosedError):
        pool.pin("none")
    with pytest.raises(streamrt.ModelClosedError):
        pool.unpin("none")


def test_a_lease_that_is_not_wanted_any_more_ends_and_leaves_the_line():
    world, _, pool = make(100, {"a": needs(90), "b": needs(90, workspace=30), "c": needs(8, workspace=2)})
    log = []
    wanted = []
    user(world, pool, "a", log, hold=20.0)
    user(world, pool, "c", log, at=3.0)  # behind b in the line

    def work():
        world.sleep(2.0)
        with (
            pytest.raises(streamrt.PoolBusyError, match="not wanted"),
            pool.lease("b", wanted=lambda: wanted.append(world.now()) or world.now() < 5.0),
        ):
            pass
        log.append(("b", world.now()))

    run(world, work)
    assert [name for name, *_ in log] == ["a", "b", "c"]
    assert 5.0 <= log[1][1] < 5.2
    assert log[2][1] < 7.0  # it had to wait for b only
    assert pool.stats().busy == 0
    assert len(wanted) > 10


def test_the_load_of_an_unwanted_lease_goes_on_without_it():
    world, files, pool = make(100, {"a": needs(40)})
    files.load_seconds = 3.0

    def work():
        with pytest.raises(streamrt.PoolBusyError), pool.lease("a", wanted=lambda: world.now() < 1.0):
            pass
        world.sleep(5.0)
        assert status(pool, "a").leases == 0
        call(pool, "a")

    run(world, work)
    assert pool.stats().loads == 1
