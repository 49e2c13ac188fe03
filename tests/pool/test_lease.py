"""A lease as an object: its end, the objects that it keeps alive, and the options that a pool checks."""

import gc
import threading
import weakref

import pytest

import streamrt
from model import zoo
from model.zoo import eventually
from streamrt import ModelPool
from streamrt.host import rates


@pytest.fixture
def pool(tmp_path):
    packed = zoo.mlp(tmp_path, 64, 512, 64)
    with ModelPool("64MiB") as pool:
        pool.register("m", packed.path)
        yield pool


def test_a_call_that_still_waits_when_the_last_lease_ends_is_refused(pool):
    x, errors = zoo.random_input(1, 64), []

    def call(lease):
        try:
            lease(x)
        except streamrt.ModelClosedError as error:
            errors.append(error)

    with pool.lease("m") as lease:
        lease(x)
        resident = pool._keeper.entries["m"].resident
        waiting = threading.Thread(target=call, args=(lease,))
        hold = resident.engine.turns.hold()
        hold.__enter__()
        waiting.start()
        eventually(lambda: len(resident.engine.turns._waiting) == 1)
    hold.__exit__(None, None, None)
    waiting.join()
    assert len(errors) == 1
    assert "lease" in str(errors[0])


def test_a_lease_and_a_model_are_freed_without_the_collector(pool):
    gc.collect()
    gc.disable()
    try:
        with pool.lease("m") as lease:
            lease(zoo.random_input(1, 64))
        gone = weakref.ref(lease)
        del lease
        assert gone() is None
        resident = weakref.ref(pool._keeper.entries["m"].resident)
        engine = weakref.ref(resident().engine)
        pool.unload("m")
        assert resident() is None
        assert engine() is None
    finally:
        gc.enable()


def test_a_lease_whose_end_is_interrupted_is_given_back(pool, monkeypatch):
    def interrupted(term):
        raise KeyboardInterrupt

    monkeypatch.setattr("streamrt.pool.lease.Term.end", interrupted)
    with pytest.raises(KeyboardInterrupt), pool.lease("m"):
        pass
    assert pool.stats().leases == 0


def test_predict_refuses_only_the_rest_when_a_lease_ends(pool):
    x = zoo.random_input(1, 64)
    with pool.lease("m") as lease:
        whole, half = lease.predict([x]), lease.predict([x, x])
        next(whole)
        next(half)
    assert list(whole) == []
    with pytest.raises(streamrt.ModelClosedError, match="lease"):
        list(half)


@pytest.mark.parametrize(
    "options", [{"verify": "opne"}, {"io": "foo"}, {"threads": 0}, {"threads": True}, {"threads": "2"}], ids=str
)
def test_options_are_checked_when_a_pool_is_made(options):
    with pytest.raises(streamrt.InputError, match=next(iter(options))):
        ModelPool("1MiB", **options)


def test_a_disk_that_was_measured_is_known_to_models_that_are_opened_later(pool, tmp_path, monkeypatch):
    path = pool._keeper.entries["m"].path
    known = rates.rates_of(tmp_path.stat().st_dev, 1).disk
    monkeypatch.setattr(rates, "_disks", {})
    with pool.lease("m"), streamrt.Model(path, "1MiB") as model:
        rates.remember_disk(tmp_path.stat().st_dev, 2 * known)
        model.set_budget("2MiB")
        assert model._engine.planner.rates.disk == 2 * known
    pool.unload("m")
    with streamrt.Model(path, "1MiB") as model:
        assert model._engine.planner.rates.disk == 2 * known
    pool.unregister("m")
    with ModelPool("32MiB") as other:
        other.register("m", path)
        with other.lease("m") as lease:
            assert lease._engine.planner.rates.disk == 2 * known


def test_a_lease_tells_the_seconds_that_its_calls_took(tmp_path):
    """Of all passes of a call, unlike ``stats``: requests of other shapes run in passes of their own."""
    packed = zoo.mlp(tmp_path, 256, 1024, 1024, 64)
    with ModelPool(packed.weights // 3) as pool:
        pool.register("m", packed.path)
        with pool.lease("m") as lease:
            assert lease.spent == (0, 0, 0)
            lease(zoo.random_input(2, 256))
            first, stats = lease.spent, lease.stats
            assert stats.bytes_streamed > 0
            assert first.stall == pytest.approx(stats.stall)
            assert first.compute == pytest.approx(stats.compute)
            assert first.prepare > 0
            engine, calls = pool._keeper.entries["m"].resident.engine, []
            run = engine._run_together

            def noted(requests):
                run(requests)
                calls.append(lease.stats)

            engine._run_together = noted
            found = lease.call_together([{"x": zoo.random_input(1, 256)}] * 2 + [zoo.random_input(1, 256)] * 3)
            assert [isinstance(y, Exception) for y in found] == [True] * 2 + [False] * 3
            lease.call_together([zoo.random_input(1, 256)], outputs=[lease.outputs[0].name])
            spent = lease.spent.since(first)
            assert len(calls) >= 2
            assert spent.stall == pytest.approx(sum(call.stall for call in calls))
            assert spent.compute == pytest.approx(sum(call.compute for call in calls))
        with pool.lease("m") as again:
            assert again.spent.compute > first.compute
