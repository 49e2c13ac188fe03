"""Many callers of one model, and many batches: fewer passes over the weights, the same answers."""

import threading
from contextlib import suppress
from dataclasses import replace

import numpy as np
import pytest

import streamrt
from model import zoo
from model.zoo import eventually
from streamrt import Layer, Model, pack
from streamrt.format import write
from streamrt.graph import Graph, Node, TensorSpec


def count_passes(model):
    """A list to which every pass adds the samples that it served."""
    passes, run = [], model._engine._run_together

    def counting(requests):
        run(requests)
        passes.append(model.stats.samples)

    model._engine._run_together = counting
    return passes


class Gate:
    """Holds up the passes of a model until it is opened."""

    def __init__(self, model):
        self._run, model._engine._run_together = model._engine._run_together, self._gated
        self.entered, self._open = threading.Event(), threading.Event()

    def _gated(self, requests):
        self.entered.set()
        assert self._open.wait(60)
        self._run(requests)

    def open(self):
        self._open.set()


def call_from_threads(model, inputs):
    """The results, or errors, of many threads that all call while the first of them is in its pass."""
    results, gate = [None] * len(inputs), Gate(model)

    def work(i):
        try:
            results[i] = model(inputs[i])
        except Exception as error:
            results[i] = error

    threads = [threading.Thread(target=work, args=(i,)) for i in range(len(inputs))]
    threads[0].start()
    assert gate.entered.wait(60)
    for i, thread in enumerate(threads[1:]):
        thread.start()
        eventually(lambda i=i: len(model._engine.turns._waiting) > i)
    gate.open()
    for thread in threads:
        thread.join(60)
    return results


@pytest.mark.parametrize("samples", [[1] * 8, [1, 3, 1, 40, 2]])
def test_callers_of_a_streaming_model_share_a_pass(large, samples):
    inputs = [zoo.random_input(n, 2048, seed=i) for i, n in enumerate(samples)]
    with Model(large.path, "40MiB") as model:
        passes = count_passes(model)
        results = call_from_threads(model, inputs)
        assert passes == [samples[0], sum(samples[1:])]
        for x, y in zip(inputs, results, strict=True):
            zoo.assert_close(y, large.answer(x))
            assert y.base is None  # no result keeps the results of others alive


def test_callers_with_too_many_samples_for_one_pass_do_not_wait_for_each_other(small):
    samples = [20, 300, 7, 500, 1]
    inputs = [zoo.random_input(n, 64, seed=i) for i, n in enumerate(samples)]
    with Model(small.path, "1MiB") as model:
        passes = count_passes(model)
        results = call_from_threads(model, inputs)
        assert passes == [20, 300, 8, 500]
        for x, y in zip(inputs, results, strict=True):
            zoo.assert_close(y, small.answer(x))


def test_groups_of_about_the_same_size_run_as_one_size(large):
    with Model(large.path, "40MiB") as model:
        passes, workspaces = count_passes(model), set()
        for others in (5, 6, 5):
            call_from_threads(model, [zoo.random_input(1, 2048, seed=i) for i in range(1 + others)])
            workspaces.add(model.plan.workspace)
    assert passes == [1, 5, 1, 6, 1, 5]
    assert len(workspaces) == 1


def test_callers_of_a_resident_model_get_the_bits_that_they_would_get_alone(small):
    inputs = [zoo.random_input(1, 64, seed=i) for i in range(5)]
    with Model(small.path, None) as model:
        alone = [model(x) for x in inputs]
        passes = count_passes(model)
        results = call_from_threads(model, inputs)
        assert passes == [1] * 5
        for found, wanted in zip(results, alone, strict=True):
            np.testing.assert_array_equal(found, wanted)


def test_samples_that_depend_on_each_other_are_not_put_together(tmp_path):
    layers = [Layer("Gemm", zoo.random_input(512, 512)), Layer("Softmax", axis=0)]
    path = pack(layers, tmp_path / "m.safetensors")
    inputs = [zoo.random_input(3, 512, seed=i) for i in range(4)]
    with Model(path, "700KiB") as model:
        for y in call_from_threads(model, inputs):
            zoo.assert_close(y.sum(axis=0), np.ones(512, np.float32))


def test_a_wrong_call_does_not_harm_other_calls(large):
    good, wrong = zoo.random_input(1, 2048), zoo.random_input(1, 2047)
    with Model(large.path, "40MiB") as model:
        results = call_from_threads(model, [good, good, good])
        with pytest.raises(streamrt.InputError):
            model(wrong)
    for y in results:
        zoo.assert_close(y, large.answer(good))


def test_closing_while_others_wait_tells_them(large):
    x = zoo.random_input(1, 2048)
    model = Model(large.path, "40MiB")
    gate, errors = Gate(model), []

    def work():
        try:
            model(x)
        except streamrt.ModelClosedError as error:
            errors.append(error)

    first = threading.Thread(target=work)
    first.start()
    assert gate.entered.wait(60)
    closing = threading.Thread(target=model.close)
    closing.start()
    eventually(lambda: len(model._engine.turns._line) == 2)  # these two come before the others
    others = [threading.Thread(target=work) for _ in range(4)]
    for i, thread in enumerate(others):
        thread.start()
        eventually(lambda i=i: len(model._engine.turns._waiting) > i)
    gate.open()
    for thread in (first, closing, *others):
        thread.join(60)
        assert not thread.is_alive()
    assert len(errors) == 4
    with pytest.raises(streamrt.ModelClosedError):
        model(x)


def test_a_close_that_waits_is_not_overtaken_for_ever(small):
    x = zoo.random_input(1, 64)
    model = Model(small.path, "800KiB")
    calls = []

    def work():
        with suppress(streamrt.ModelClosedError):
            while True:
                model(x)
                calls.append(1)

    threads = [threading.Thread(target=work, daemon=True) for _ in range(3)]
    for thread in threads:
        thread.start()
    eventually(lambda: len(calls) > 10)
    model.close()
    for thread in threads:
        thread.join(60)
        assert not thread.is_alive()


def test_calls_that_cannot_be_put_together_run_alone(large):
    """An operator may be batchwise up to some batch, and not beyond."""
    inputs = [zoo.random_input(4, 2048, seed=i) for i in range(5)]
    with Model(large.path, "12MiB") as model:
        prepare = model._engine.planner.prepare

        def dependent(graph, shapes):
            prepared = prepare(graph, shapes)
            if shapes["input"][0] == 4:
                return prepared
            return replace(prepared, program=replace(prepared.program, batchwise=False))

        model._engine.planner.prepare = dependent
        passes = count_passes(model)
        for x, y in zip(inputs, call_from_threads(model, inputs), strict=True):
            zoo.assert_close(y, large.answer(x))
        assert passes == [4] * 5


# ---------------------------------------------------------------- predict


def batches_of(*sizes, width=2048):
    return [zoo.random_input(n, width, seed=i) for i, n in enumerate(sizes)]


@pytest.mark.parametrize("budget", [None, "40MiB", "12MiB"])
@pytest.mark.parametrize("sizes", [(), (3,), (1,) * 9, (4, 4, 4, 1), (5, 1, 70, 2)])
def test_predict_gives_the_results_of_calls_in_order(large, budget, sizes):
    batches = batches_of(*sizes)
    with Model(large.path, budget) as model:
        found = list(model.predict(iter(batches)))
    assert len(found) == len(batches)
    for x, y in zip(batches, found, strict=True):
        zoo.assert_close(y, large.answer(x))


def test_one_reading_serves_many_batches(large):
    batches = batches_of(*[4] * 40)
    with Model(large.path, "12MiB") as model:
        passes = count_passes(model)
        for x, y in zip(batches, model.predict(batches), strict=True):
            zoo.assert_close(y, large.answer(x))
        assert len(passes) <= 10
        assert sum(passes) == 160
        assert model.plan.total <= model.budget
    with Model(large.path, None) as model:
        passes = count_passes(model)
        list(model.predict(batches))
        assert passes == [4] * 40  # sharing would gain nothing


def test_predict_takes_batches_only_as_it_needs_them(large):
    taken = []

    def source():
        for i, x in enumerate(batches_of(*[4] * 400)):
            taken.append(i)
            yield x

    with Model(large.path, "12MiB") as model:
        together, decide = [], model._engine.samples_together

        def deciding(request):
            together.append(decide(request))
            return together[-1]

        model._engine.samples_together = deciding
        results = model.predict(source())
        assert taken == []
        for given in range(150):
            next(results)
            # The batches of one pass at most are taken, and only after all results of the last pass were yielded.
            assert len(taken) - given <= together[-1] // 4
            if given == 0:
                assert len(taken) == together[0] // 4
        # Two activations of so many samples must fit in the budget.
        assert 1 < max(together) // 4 <= (12 << 20) // (2 * 4 * 2048 * 4)
        assert len(together) > 1
        held = len(taken)
        assert held < 400
        results.close()
        assert len(taken) == held
        zoo.assert_close(model(zoo.random_input(2, 2048)), large.answer(zoo.random_input(2, 2048)))


@pytest.mark.parametrize("budget", [None, "12MiB"])
def test_predict_yields_the_results_that_it_has_before_it_raises(large, budget):
    good = batches_of(2, 2)

    def failing():
        yield from good
        raise ZeroDivisionError

    for batches, error in (([*good, zoo.random_input(2, 7)], streamrt.InputError), (failing(), ZeroDivisionError)):
        with Model(large.path, budget) as model:
            results = model.predict(batches)
            for x in good:
                zoo.assert_close(next(results), large.answer(x))
            with pytest.raises(error):
                next(results)


def test_predict_of_named_outputs_and_of_other_shapes(tmp_path):
    layers = [Layer("Conv", zoo.random_input(64, 32, 3)), Layer("Conv", zoo.random_input(64, 64, 3))]
    path = pack(layers, tmp_path / "m.safetensors", inputs=("n", 32, "length"))
    batches = [zoo.random_input(2, 32, length, seed=length) for length in (9, 9, 12, 9)]
    with Model(path, None) as model:
        wanted = [model(x, ["layer0", "output"]) for x in batches]
    with Model(path, "80KiB") as model:  # the weights have 72 KiB
        found = list(model.predict(batches, ["layer0", "output"]))
    for a, b in zip(found, wanted, strict=True):
        assert list(a) == ["layer0", "output"]
        for name in a:
            zoo.assert_close(a[name], b[name])


def test_progress_is_shown_on_request_only(small, capsys):
    batches = batches_of(1, 1, 1, width=64)
    with Model(small.path, "800KiB") as model:
        list(model.predict(batches))
        assert capsys.readouterr() == ("", "")
        list(model.predict(batches, progress=True))
        assert "3/3" in capsys.readouterr().err


# ---------------------------------------------------------------- set_budget


def test_a_budget_can_be_changed_between_calls(large):
    x = zoo.random_input(2, 2048)
    with Model(large.path, "40MiB") as model:
        for budget in ("40MiB", "12MiB", "56MiB", None, "8MiB"):
            model.set_budget(budget)
            assert model.budget == streamrt.host.budget.parse_budget(budget)
            zoo.assert_close(model(x), large.answer(x))
            if model.budget is not None:
                assert model.plan.total <= model.budget
                assert model.memory().weights + model.memory().workspace <= model.budget


def test_a_smaller_budget_gives_memory_back_at_once_and_a_larger_one_keeps_its_weights(large):
    zoo.evict(large.path)
    x = zoo.random_input(1, 2048)
    with Model(large.path, None) as model:
        model(x)
        model.set_budget("16MiB")
        assert model.memory().weights <= 16 << 20
        assert model.memory().file_resident <= 16 << 20
        model(x)
        model.set_budget("32MiB")
        model(x)
        pinned = model.plan.pinned_bytes
        model.set_budget("48MiB")
        model(x)
        brought = model.stats.bytes_read - model.stats.bytes_streamed
        assert brought < model.plan.pinned_bytes
        assert model.plan.pinned_bytes > pinned


def test_a_budget_that_is_too_small_changes_nothing(large):
    x = zoo.random_input(1, 2048)
    with Model(large.path, "16MiB") as model:
        model(x)
        with pytest.raises(streamrt.BudgetError):
            model.set_budget(1000)
        with pytest.raises(streamrt.InputError):
            model.set_budget("much")
        assert model.budget == 16 << 20
        zoo.assert_close(model(x), large.answer(x))
    with Model(large.path, "16MiB") as model:
        model.set_budget(1000)  # before the first call no shapes are known, so any budget may be enough
        with pytest.raises(streamrt.BudgetError):
            model(x)
    with pytest.raises(streamrt.ModelClosedError):
        model.set_budget("16MiB")


def test_auto_is_read_anew_and_counts_the_workspace_as_free(small, monkeypatch):
    room = [1 << 30]
    monkeypatch.setattr(streamrt.host.memory, "available", lambda proc: room[0])
    with Model(small.path, "auto") as model:
        before = model.budget
        assert before < 1 << 30
        model(zoo.random_input(1000, 64))
        held = model.plan.workspace
        room[0] -= held
        model.set_budget("auto")
        assert model.budget == before
        room[0] = 100 << 20
        model.set_budget("auto")
        assert model.budget == (68 << 20) + held


@pytest.mark.parametrize("budget", [None, "40MiB"])
def test_calls_together_share_a_pass_resident_or_not(large, budget):
    samples = [1, 3, 1]
    inputs = [zoo.random_input(n, 2048, seed=i) for i, n in enumerate(samples)]
    with Model(large.path, budget) as model:
        passes = count_passes(model)
        for x, y in zip(inputs, model.call_together(inputs), strict=True):
            zoo.assert_close(y, large.answer(x))
            assert y.base is None
        assert passes == [5]
        assert model.call_together([]) == []


def test_each_of_the_calls_together_has_its_own_error(small, monkeypatch):
    good, other = zoo.random_input(2, 64), zoo.random_input(2, 63)
    with Model(small.path, None) as model:
        run = model._engine._run_together

        def failing(requests):
            if any(request.arrays["input"][0, 0] == 7 for request in requests):
                raise streamrt.WeightsIOError("that one")
            run(requests)

        monkeypatch.setattr(model._engine, "_run_together", failing)
        bad = good.copy()
        bad[0, 0] = 7
        found = model.call_together([good, other, bad, {"nothing": good}, {"input": good}])
        zoo.assert_close(found[0], small.answer(good))
        zoo.assert_close(found[4], small.answer(good))
        assert [type(error) for error in found[1:4]] == [
            streamrt.InputError,
            streamrt.WeightsIOError,
            streamrt.InputError,
        ]
        with pytest.raises(streamrt.InputError, match="computes no tensor"):
            model.call_together([good], ["nothing"])


def test_calls_together_of_samples_that_depend_on_each_other_run_alone(tmp_path):
    layers = [Layer("Gemm", zoo.random_input(8, 8)), Layer("Softmax", axis=0)]
    with Model(pack(layers, tmp_path / "m.safetensors"), None) as model:
        passes = count_passes(model)
        for y in model.call_together([zoo.random_input(3, 8, seed=i) for i in range(3)]):
            zoo.assert_close(y.sum(axis=0), np.ones(8, np.float32))
        assert passes == [3, 3, 3]


def test_calls_together_of_shapes_that_differ_run_in_passes_of_one_shape(tmp_path):
    graph = Graph((TensorSpec("x", ("n", "w")),), (TensorSpec("y", ("n", "w")),), (Node("r", "Relu", ("x",), ("y",)),))
    write(tmp_path / "m.safetensors", graph, [])
    inputs = [zoo.random_input(1, width, seed=i) for i, width in enumerate([3, 5, 3, 5, 3])]
    with Model(tmp_path / "m.safetensors", None) as model:
        passes = count_passes(model)
        for x, y in zip(inputs, model.call_together(inputs), strict=True):
            np.testing.assert_array_equal(y, np.maximum(x, 0))
        assert passes == [3, 2]
