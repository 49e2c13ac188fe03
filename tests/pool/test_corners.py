"""What happens at the edges of a history of the pool: names that change owners, endless failures, faults in between."""

import math

import pytest

import streamrt
from pool.world import make, needs
from streamrt.errors import WeightsIOError
from streamrt.pool.entry import LONGEST_PAUSE


def emptied(world, pool, names):
    """Unregister these and close the pool, which must not wait for anything that never comes."""

    def work():
        for name in names:
            pool.unregister(name)
        pool.close()

    world.spawn(work)
    world.run()
    assert pool._keeper.ledger.total == 0


def test_a_prefetch_beside_another_model_of_the_same_name():
    world, _, pool = make(100, {"a": needs(40)})
    future = pool.prefetch("a")  # whose thread has not run when the name gets another owner
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
def test_somebody_who_waits_for_ever(files, seconds):
    with streamrt.ModelPool("1MiB", timeout=seconds) as pool:
        pool.register("m64", files["m64"].path)
        with pool.lease("m64"):
            pass
        pool.unload("m64")
        with pool.lease("m64", seconds):
            pass


def test_a_time_that_is_none(files):
    with streamrt.ModelPool("1MiB") as pool:
        pool.register("m64", files["m64"].path)
        with (
            pytest.raises(streamrt.InputError, match="timeout: expected seconds, found nan"),
            pool.lease("m64", math.nan),
        ):
            pass
