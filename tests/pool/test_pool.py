"""Pools of real models."""

import os
import random
import signal
import threading
from contextlib import ExitStack, suppress
from pathlib import Path

import numpy as np
import pytest

import streamrt
from markers import thorough
from model import zoo
from model.zoo import eventually
from pool.real import call, filled, status
from streamrt import Layer, ModelPool, pack
from streamrt.pool import State

MIB = 1 << 20


def test_a_pool_tells_whether_it_holds_a_model(files):
    with filled(files, "64MiB") as pool:
        assert not pool.holds("nobody")
        assert not pool.holds("m64")
        call(pool, files, "m64")
        assert pool.holds("m64")
        pool.unload("m64")
        assert not pool.holds("m64")
    with filled(files, "6MiB") as pool:
        call(pool, files, "m512")
        assert status(pool, "m512").held > 0
        assert not pool.holds("m512")  # 12 MiB of weights stream


def test_a_lease_describes_its_model(files):
    with filled(files, "64MiB") as pool:
        assert [line.state for line in pool.index()] == [State.UNAVAILABLE] * 6
        assert [line.weights for line in pool.index()] == [None] * 6
        with pool.lease("m64") as model:
            assert isinstance(model, streamrt.Lease)
            assert [spec.dims[1] for spec in model.inputs] == [64]
            assert [spec.dims[1] for spec in model.outputs] == [64]
            with pool.lease("m64") as other:
                assert status(pool, "m64").leases == 2
            assert status(pool, "m64").leases == 1
            with pytest.raises(streamrt.ModelClosedError, match="lease"):
                other(zoo.random_input(1, 64))
            assert repr(other).endswith("ended>")
            assert repr(model).endswith("open>")
            model(zoo.random_input(1, 64))
        call(pool, files, "m64")
        line = status(pool, "m64")
        assert line.state is State.READY
        assert line.leases == 0
        assert line.held >= line.weights >= files["m64"].weights
        assert "64 MiB" in repr(pool) or "67108864" in repr(pool)
    assert repr(pool).endswith("closed>")


@pytest.mark.parametrize("io", ["mmap", "pread"])
@pytest.mark.parametrize("policy", ["adaptive", thorough("gdsf"), thorough("lru")])
@pytest.mark.parametrize("budget", ["600KiB", "6MiB", "64MiB"])
def test_every_model_is_served_whatever_the_budget(files, budget, policy, io):
    r = random.Random(budget)
    with filled(files, budget, policy=policy, io=io) as pool:
        for seed in range(60):
            call(pool, files, r.choice(list(files)), r.choice([1, 1, 5]), seed)
            assert sum(line.held for line in pool.index()) <= pool.budget
        stats = pool.stats()
        assert stats.peak <= pool.budget
        assert stats.requests == 60
        assert stats.leases == 0
        if budget == "64MiB":
            assert stats.loads == len({line.name for line in pool.index() if line.requests})
            assert stats.evictions == 0
            assert stats.hit_ratio > 0.5
    assert pool._keeper.ledger.total == 0


def test_many_threads_on_many_models(files):
    errors = []

    def work(seed):
        r = random.Random(seed)
        try:
            for i in range(30):
                name = r.choice(list(files))
                if r.random() < 0.05:
                    pool.unload(name, wait=False)
                elif r.random() < 0.05:
                    pool.prefetch(name)
                else:
                    call(pool, files, name, r.choice([1, 3]), i, 60.0)
        except BaseException as error:
            errors.append(error)

    with filled(files, "8MiB") as pool:
        threads = [threading.Thread(target=work, args=(seed,)) for seed in range(8)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(240)
            assert not thread.is_alive()
        assert errors == []
        assert pool.stats().peak <= pool.budget
        assert pool.stats().leases == 0


def test_a_model_keeps_memory_that_no_other_model_needs(files):
    names = ["m512", "m160"]
    with filled(files, "15MiB", policy="lru") as pool:
        call(pool, files, "m512")
        whole = status(pool, "m512").held
        call(pool, files, "m160")
        kept = status(pool, "m512").held
        assert 0 < kept < whole
        before = status(pool, "m512").bytes_loaded
        call(pool, files, "m512")
        missing = status(pool, "m512").bytes_loaded - before
        assert missing <= files["m512"].weights - kept + MIB
        assert pool.stats().bytes_given_up >= whole - kept - MIB
        for name in names:
            call(pool, files, name)


def test_a_model_at_rest_has_its_weights_and_nothing_else(files):
    with filled(files, "15MiB") as pool:
        call(pool, files, "m512")
        model = pool._keeper.entries["m512"].resident
        weights = model.pinned
        assert model.rest() == weights
        assert model.engine.prefetcher.held() == weights
        assert model.workspace == 0
        before = model.loaded
        call(pool, files, "m512")
        assert model.loaded == before


def test_a_pass_within_a_lease_streams_missing_weights(files):
    with filled(files, "2MiB") as pool:
        for _ in range(3):
            call(pool, files, "m512")
            model = pool._keeper.entries["m512"].resident
            eventually(lambda model=model: model.engine.prefetcher.held() == model.pinned)  # no reading ahead
        line = status(pool, "m512")
        assert line.held <= 2 * MIB
        assert line.bytes_loaded >= 3 * (files["m512"].weights - 2 * MIB)


def all_read(model, weights):
    """Wait until all weights that a lease began to read are in memory, and noted as read."""

    eventually(lambda: model._engine.mapping.resident() >= weights and readers_rest())


def readers_rest():
    """Whether all prefetch threads of this process sleep. They note what they have read before they do."""
    for task in Path("/proc/self/task").iterdir():
        with suppress(OSError):  # the thread has ended
            line = (task / "stat").read_text()
            if "(streamrt-fetch)" in line and ") S " not in line:
                return False
    return True


def test_weights_are_read_before_the_call_that_needs_them(files):
    """They are counted as the call's, if its plan is the one with which they are read, and else before it."""
    weights = files["m512"].weights
    for batch in (1, 3):
        zoo.evict(files["m512"].path)
        with filled(files, "64MiB") as pool:
            with pool.lease("m512") as model:
                all_read(model, weights)
                model(zoo.random_input(batch, 512))
                own = model.stats.bytes_pinned
            assert own == weights or batch == 3
            assert status(pool, "m512").bytes_loaded == (weights if batch == 1 else weights + own)


def test_a_lease_without_a_call_counts_the_weights_that_were_read(files):
    weights = files["m512"].weights
    with filled(files, "64MiB") as pool:
        with pool.lease("m512") as model:
            all_read(model, weights)
        pool.unload("m512")
        assert status(pool, "m512").bytes_loaded == weights


def test_a_model_that_was_leased_and_not_called_reads_nothing_at_rest(files):
    weights = files["m512"].weights
    with filled(files, "64MiB") as pool:
        with pool.lease("m512") as model:
            all_read(model, weights)
            engine = model._engine
        resident = pool._keeper.entries["m512"].resident
        assert resident.rest() == resident.pinned
        assert engine.prefetcher.held() >= weights
        assert resident.loaded == weights
        call(pool, files, "m512")
        assert status(pool, "m512").bytes_loaded == weights


def test_a_prefetched_model_reads_nothing_when_it_is_called(files):
    zoo.evict(files["m512"].path)
    with filled(files, "64MiB") as pool:
        assert pool.prefetch("m512").result(60) is None
        loaded = pool.stats().bytes_loaded
        assert loaded == files["m512"].weights
        with pool.lease("m512") as model:
            model(zoo.random_input(1, 512))
            assert model.stats.bytes_read == 0
            assert model.stats.bytes_streamed == model.stats.bytes_pinned == 0
        assert pool.stats().bytes_loaded == loaded
        assert pool.stats().hits == 1


def test_a_workspace_that_was_needed_is_set_aside_for_the_next_time(files):
    with filled(files, "64MiB") as pool:
        for samples in (1, 200, 200):
            call(pool, files, "m512", samples)
        assert status(pool, "m512").held >= status(pool, "m512").weights + 200 * 1024 * 4
        with pool.lease("m512") as model:
            model(zoo.random_input(200, 512))
            assert model.stats.bytes_streamed == 0
            assert not model.plan.micro_batch


def test_extents_that_the_header_leaves_free_get_memory_in_the_call(tmp_path):
    layers = [Layer("Conv", zoo.random_input(16, 8, 3)), Layer("Conv", zoo.random_input(8, 16, 3))]
    path = pack(layers, tmp_path / "m.safetensors", inputs=("n", 8, "length"))
    x = zoo.random_input(1, 8, 5000)
    with streamrt.Model(path, None) as model:
        wanted = model(x)
        minimum = model.min_budget(x.shape)
    with ModelPool(minimum) as pool:
        pool.register("m", path)
        for _ in range(2):
            with pool.lease("m") as model:
                zoo.assert_close(model(x), wanted)
        assert pool.stats().peak <= minimum
    with ModelPool(minimum - 5000) as pool:
        pool.register("m", path)
        with pool.lease("m") as model:
            with pytest.raises(streamrt.ModelTooLargeError) as caught:
                model(x)
            assert caught.value.minimum == minimum
            model(zoo.random_input(1, 8, 50))


def test_a_lease_has_no_methods_that_belong_to_the_pool(files):
    x = zoo.random_input(1, 64)
    with filled(files, "64MiB") as pool:
        with pool.lease("m64") as model:
            assert not hasattr(model, "close")
            assert not hasattr(model, "set_budget")
            y = model(x)
        with pytest.raises(streamrt.ModelClosedError, match="lease"):
            model(x)
        with pytest.raises(streamrt.ModelClosedError, match="lease"):
            model.memory()
        with pool.lease("m64") as again:
            np.testing.assert_array_equal(again(x), y)
        pool.unload("m64")
        with pytest.raises(streamrt.ModelClosedError):
            again(x)


def test_names_and_arguments(files):
    with pytest.raises(streamrt.InputError, match="policy"):
        ModelPool(1000, policy="fifo")
    with pytest.raises(streamrt.InputError, match="budget"):
        ModelPool(None)
    with pytest.raises(streamrt.InputError, match="timeout"):
        ModelPool(1000, timeout=-1.0)
    with ModelPool("1MiB") as pool:
        with pytest.raises(streamrt.InputError):
            pool.register("", files["m64"].path)
        pool.register("a", files["m64"].path)
        with pytest.raises(streamrt.InputError, match="already"):
            pool.register("a", files["m64"].path)
        for action in (pool.unload, pool.unregister, pool.prefetch, lambda name: pool.lease(name).__enter__()):
            with pytest.raises(streamrt.UnknownModelError, match="'b'"):
                action("b")
        pool.unload("a")
        pool.unregister("a")
        assert pool.index() == []
    for action in (pool.unload, pool.prefetch, lambda name: pool.lease(name).__enter__()):
        with pytest.raises(streamrt.ModelClosedError):
            action("a")
    assert issubclass(streamrt.PoolBusyError, streamrt.StreamrtError)
    assert issubclass(streamrt.ModelTooLargeError, streamrt.StreamrtError)


@pytest.fixture(scope="module")
def images(tmp_path_factory):
    """A convolution that Winograd's algorithm would compute, given the workspace: see tests/model/test_exact.py."""
    layer = Layer("Conv", zoo.random_input(64, 64, 3, 3) / 24, pads=(1, 1, 1, 1))
    return pack([layer], tmp_path_factory.mktemp("images") / "m.safetensors", inputs=("n", 64, 40, 40))


@pytest.mark.parametrize("kind", ["m64", "images"])
def test_a_pool_that_is_too_small_tells_the_smallest_budget(kind, request, files):
    images = kind == "images"
    path = request.getfixturevalue("images") if images else files[kind].path
    x = zoo.random_input(1, 64, 40, 40) if images else zoo.random_input(1, 64)
    with ModelPool(1000) as pool:
        pool.register("m", path)
        with pytest.raises(streamrt.ModelTooLargeError) as caught, pool.lease("m"):
            pass
        minimum = caught.value.minimum
    with streamrt.Model(path, None) as model:
        assert minimum == model.min_budget()
        assert not images or minimum < model.plan.workspace
        wanted = model(x)
    with ModelPool(minimum) as pool:
        pool.register("m", path)
        for _ in range(2):
            with pool.lease("m") as model:
                zoo.assert_close(model(x), wanted, 2e-5)
    with ModelPool(minimum - 1) as pool:
        pool.register("m", path)
        with pytest.raises(streamrt.ModelTooLargeError), pool.lease("m"):
            pass


def test_a_large_batch_gets_more_next_time_and_needs_no_more(files):
    with ModelPool("16MiB") as pool:
        pool.register("m64", files["m64"].path)
        call(pool, files, "m64")
        before = pool._keeper.entries["m64"].needs
        call(pool, files, "m64", samples=500)
        after = pool._keeper.entries["m64"].needs
    assert after.workspace > before.workspace
    assert after.minimum == before.minimum


def test_pinned_weights_stay(files):
    with ModelPool("16MiB", policy="lru") as pool:
        pool.register("m512", files["m512"].path, pin=True)
        eventually(lambda: status(pool, "m512").state is State.READY)
        for name in ("m64", "m256", "m160"):
            pool.register(name, files[name].path)
        for seed in range(12):
            call(pool, files, ("m64", "m256", "m160")[seed % 3], seed=seed)
        assert status(pool, "m512").loads == 1
        assert status(pool, "m512").held >= files["m512"].weights
        with pool.lease("m512") as model:
            model(zoo.random_input(1, 512))
            assert model.stats.bytes_pinned == 0
        with pytest.raises(streamrt.ModelTooLargeError):
            pool.register("more", files["m160"].path, pin=True)
        with pytest.raises(streamrt.WeightsIOError):
            pool.register("none", "/no/such/file", pin=True)
        assert "more" not in [line.name for line in pool.index()]


def test_a_wait_for_leased_memory_ends(files):
    with filled(files, "250KiB") as pool, ExitStack() as leases:
        leases.enter_context(pool.lease("m64"))
        with pytest.raises(streamrt.PoolBusyError, match="m96"), pool.lease("m96", 0.05):
            pass
        assert pool.stats().busy == 1
        got = threading.Event()

        def work():
            call(pool, files, "m96", timeout=60.0)
            got.set()

        thread = threading.Thread(target=work)
        thread.start()
        eventually(lambda: bool(pool._keeper._line))
        assert not got.is_set()
        leases.close()
        assert got.wait(60)
        thread.join(60)


def test_an_interrupt_while_waiting_leaves_nothing_behind(files, run_python):
    code = """
        import os, signal, sys, threading, time, streamrt
        first, second = sys.argv[1:]
        pool = streamrt.ModelPool("250KiB")
        pool.register("a", first)
        pool.register("b", second)
        with pool.lease("a"):
            def interrupt():
                while not pool._keeper._line:  # b does not wait yet
                    time.sleep(0.001)
                os.kill(os.getpid(), signal.SIGINT)
            threading.Thread(target=interrupt).start()
            try:
                with pool.lease("b", 100):
                    print("leased?")
            except KeyboardInterrupt:
                print("interrupted", pool._keeper._line, pool.stats().leases)
        with pool.lease("b", 100):
            print("leased")
        pool.close()
        print(pool._keeper.ledger.total)
    """
    done = run_python(code, files["m64"].path, files["m96"].path)
    assert done.returncode == 0, done.stderr
    assert done.stdout.split("\n") == ["interrupted [] 1", "leased", "0", ""]


def test_a_child_of_a_fork_is_refused(files):
    with filled(files, "16MiB") as pool, pool.lease("m64"):
        pid = os.fork()
        if pid == 0:
            code = 1
            try:
                with suppress(streamrt.ModelClosedError), pool.lease("m64"):
                    os._exit(2)
                with suppress(streamrt.ModelClosedError):
                    pool.unload("m64")
                    os._exit(3)
                pool.close()
                code = 0
            finally:
                os._exit(code)
        signal.alarm(60)  # ends a child that hangs
        try:
            assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0
        finally:
            signal.alarm(0)


def test_closing_while_others_wait_and_hold(files):
    pool = filled(files, "250KiB")
    entered, leave, errors = threading.Event(), threading.Event(), []

    def holds():
        with pool.lease("m64"):
            entered.set()
            leave.wait(60)

    def waits():
        try:
            call(pool, files, "m96", timeout=60.0)
        except streamrt.ModelClosedError as error:
            errors.append(error)

    threads = [threading.Thread(target=work) for work in (holds, waits)]
    threads[0].start()
    assert entered.wait(60)
    threads[1].start()
    eventually(lambda: bool(pool._keeper._line))
    closing = threading.Thread(target=pool.close)
    closing.start()
    eventually(lambda: len(errors) == 1)
    assert closing.is_alive()
    leave.set()
    for thread in (*threads, closing):
        thread.join(60)
        assert not thread.is_alive()
    assert pool._keeper.ledger.total == 0


def test_a_users_own_policy(files):
    told = []

    class Never:
        """Keeps the models that were requested first."""

        def requested(self, name, size, cost):
            told.append((name, size))
            assert cost > 0

        def worth(self, name):
            return 1.0

        def admits(self, newcomer, resident):
            return False

        def evicted(self, name):
            told.append(("evicted", name))

        def forget(self, name):
            told.append(("forgotten", name))

    budgets = []
    with filled(files, "14MiB", policy=lambda budget: budgets.append(budget) or Never()) as pool:
        for name in ("m512", "m160", "m256", "m160"):
            call(pool, files, name)
        assert status(pool, "m512").held >= files["m512"].weights
        names = [name for name, _ in told]
        assert names[0] == "m512"
        pool.unregister("m512")
        assert ("forgotten", "m512") in told
    assert budgets == [14 * MIB]
