"""`Model`: right answers under any budget, and clear errors after which it still works."""

import threading
import types
import warnings

import numpy as np
import pytest

import streamrt
from model import zoo
from streamrt import Layer, Model, pack
from streamrt.format import read_header

BUDGETS = [None, "auto", 0.5, 1 << 20, "800KiB", 600_000, "least"]


@pytest.mark.parametrize("budget", BUDGETS)
@pytest.mark.parametrize("batch", [1, 3, 16])
@pytest.mark.parametrize("io", ["mmap", "pread"])
def test_the_answer_does_not_depend_on_the_budget_or_on_the_way_of_reading(small, budget, batch, io):
    if budget == "least":
        with Model(small.path) as model:
            budget = model.min_budget((batch, 64))
    x = zoo.random_input(batch, 64)
    with Model(small.path, budget, io=io) as model:
        for _ in range(3):
            zoo.assert_close(model(x), small.answer(x))
        assert model.stats.io == io
        assert model.budget is None or model.plan.total <= model.budget
        assert model.stats.samples == batch


@pytest.mark.parametrize("budget", [None, "40MiB", "8MiB"])
@pytest.mark.parametrize("batch", [1, 5, 40])
def test_both_ways_of_reading_give_the_same_bits(large, budget, batch):
    x = zoo.random_input(batch, 2048)
    found = {}
    for io in ("mmap", "pread"):
        with Model(large.path, budget, io=io) as model:
            found[io] = [model(x), model(x)]
            assert model.stats.io == io
            assert (model.stats.bytes_streamed > 0) == (budget is not None)
    for y in (*found["mmap"], *found["pread"]):
        assert np.array_equal(y, found["mmap"][0])
    zoo.assert_close(found["pread"][1], large.answer(x))


def test_a_layer_larger_than_the_window_streams_in_tiles(large):
    x = zoo.random_input(2, 2048)
    with Model(large.path, "8MiB") as model:
        zoo.assert_close(model(x), large.answer(x))
        assert model.plan.window < 16 << 20
        assert len([t for t in model.plan.tiles if t.node == 0]) > 1


def test_weights_that_fit_stay_and_a_pass_reads_the_rest(large):
    zoo.evict(large.path)
    x = zoo.random_input(1, 2048)
    with Model(large.path, "40MiB") as model:
        model(x)
        assert model.stats.bytes_pinned + model.stats.bytes_streamed >= large.weights
        model(x)
        stats = model.stats
        assert stats.bytes_pinned == 0
        assert stats.bytes_streamed == model.plan.streamed_bytes <= large.weights - (40 << 20) + (24 << 20)
        assert stats.peak_weights + stats.workspace <= 40 << 20


def test_layers_add_up_to_the_pass(large):
    zoo.evict(large.path)
    x = zoo.random_input(2, 2048)
    with Model(large.path, "40MiB") as model:
        model(x)
        stats = model.stats
    assert sum(layer.bytes_read for layer in stats.layers) == stats.bytes_read > 0
    assert sum(layer.read_seconds for layer in stats.layers) == pytest.approx(stats.read_seconds)
    assert sum(layer.stall for layer in stats.layers) == pytest.approx(stats.stall)
    assert 0 < sum(layer.compute for layer in stats.layers) <= stats.compute
    assert sum(layer.weights for layer in stats.layers) == stats.bytes_streamed + stats.bytes_pinned
    gemms = [layer for layer in stats.layers if layer.op == "Gemm"]
    assert all(layer.weights >= 2048 * 2048 * 4 for layer in gemms)


def test_nothing_is_read_once_everything_is_resident(large):
    x = zoo.random_input(1, 2048)
    with Model(large.path, None) as model:
        model(x)
        model(x)
        assert model.stats.bytes_streamed == model.stats.bytes_pinned == model.stats.bytes_read == 0


def test_a_batch_that_does_not_fit_runs_as_micro_batches(small):
    x = zoo.random_input(1000, 64)
    with Model(small.path, "1MiB") as model:
        zoo.assert_close(model(x), small.answer(x))
        plan = model.plan
        assert 0 < plan.micro_batch < 1000
        assert model.stats.passes == -(-1000 // plan.micro_batch)
        assert plan.total <= 1 << 20


def test_a_budget_too_small_names_the_smallest_that_works(small):
    x = zoo.random_input(4, 64)
    with Model(small.path, 10_000) as model:
        with pytest.raises(streamrt.BudgetError, match="smallest budget") as error:
            model(x)
        least = error.value.minimum
        assert least == model.min_budget((4, 64))
        with pytest.raises(MemoryError):
            model.plan_for((4, 64))
    with Model(small.path, least) as model:
        zoo.assert_close(model(x), small.answer(x))
    with Model(small.path, least - 1) as model, pytest.raises(streamrt.BudgetError):
        model(x)


BAD_INPUTS = [
    (np.zeros((1, 65), np.float32), "expected shape \\(N, 64\\), found \\(1, 65\\)"),
    (np.zeros(64, np.float32), "expected shape"),
    (np.zeros((1, 64), np.float64), "expected a NumPy array of float32, found one of float64"),
    (np.zeros((1, 64), ">f4"), "expected a NumPy array of float32, found one of >f4"),
    ([[0.0] * 64], "expected a NumPy array of float32, found a list"),
    ({"inptu": np.zeros((1, 64), np.float32)}, "'inptu'.*'input' \\(N, 64\\)"),
    ({}, "'input' is missing"),
]


@pytest.mark.parametrize(("x", "message"), BAD_INPUTS)
def test_a_wrong_input_is_refused_and_the_model_still_works(small, x, message):
    good = zoo.random_input(2, 64)
    with Model(small.path, "800KiB") as model:
        with pytest.raises(streamrt.InputError, match=message):
            model(x)
        zoo.assert_close(model(good), small.answer(good))
        zoo.assert_close(model({"input": good}), small.answer(good))


@pytest.mark.parametrize("outputs", [["nothing"], [], "output", ["output", "output"], 5, [[]]])
def test_wrong_outputs_are_refused(small, outputs):
    with Model(small.path) as model, pytest.raises(streamrt.InputError, match="outputs"):
        model(zoo.random_input(1, 64), outputs=outputs)


def test_any_tensor_can_be_asked_for_and_only_its_weights_are_read(small):
    x = zoo.random_input(3, 64)
    zoo.evict(small.path)
    with Model(small.path, None) as model:
        found = model(x, outputs=["layer0"])
        assert model.stats.bytes_pinned <= 512 * 65 * 4 + 4096
        both = model(x, outputs=["output", "layer0"])
        assert list(both) == ["output", "layer0"]
        zoo.assert_close(both["output"], small.answer(x))
        assert np.array_equal(both["layer0"], found)
        assert (found >= 0).all()


@pytest.mark.parametrize("io", ["mmap", "pread"])
def test_a_streaming_model_reads_only_what_an_early_tensor_needs(large, io):
    zoo.evict(large.path)
    x = zoo.random_input(2, 2048)
    file = read_header(large.path)
    needed = [file.tensors[name] for node in file.graph.nodes[:1] for name in node.inputs if name in file.tensors]
    blocks = {block for t in needed for block in range(t.offset >> 21, ((t.offset + t.nbytes - 1) >> 21) + 1)}
    nbytes = sum(tensor.nbytes for tensor in needed)
    with Model(large.path, "12MiB", io=io) as model:
        found = model(x, outputs=["layer0"])
        assert model.plan.streamed_bytes > 0
        # A pass brings in whole blocks. The first may be in the page cache, because the header was read.
        assert 0.8 * nbytes <= model.stats.bytes_read <= len(blocks) << 21
        assert np.array_equal(model(x, outputs=["layer0"]), found)
        early, pinned = model.stats.bytes_read, model.plan.pinned_bytes
        assert 0.8 * (nbytes - pinned) <= early <= len(blocks) << 21
        model(x)
        zoo.assert_close(model(x), large.answer(x))
        assert model.stats.bytes_read >= large.weights - (12 << 20) > 3 * early
    with Model(large.path, None) as model:
        zoo.assert_close(found, model(x, outputs=["layer0"]))


def test_inputs_need_not_be_contiguous_and_outputs_are_the_callers(small):
    x = zoo.random_input(64, 6).T[::2]
    with Model(small.path, "800KiB") as model:
        first = model(x)
        kept = first.copy()
        model(zoo.random_input(3, 64, seed=5))
        assert np.array_equal(first, kept)
        zoo.assert_close(first, small.answer(x))


def test_shapes_alternate(small):
    with Model(small.path, "800KiB") as model:
        for batch in (1, 7, 1, 2, 7, 300, 1):
            x = zoo.random_input(batch, 64, seed=batch)
            zoo.assert_close(model(x), small.answer(x))


def test_threads_share_a_model(small):
    inputs = [zoo.random_input(1 + i % 3, 64, seed=i) for i in range(16)]
    found = {}
    with Model(small.path, "800KiB") as model:

        def work(index):
            for _ in range(5):
                found[index] = model(inputs[index])

        threads = [threading.Thread(target=work, args=(i,)) for i in range(16)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    for index, x in enumerate(inputs):
        zoo.assert_close(found[index], small.answer(x))


def test_the_checksum_is_that_of_the_open_file(small, large, tmp_path):
    path = tmp_path / "m.safetensors"
    path.write_bytes(small.path.read_bytes())
    with Model(path) as model:
        other = tmp_path / "other"
        other.write_bytes(large.path.read_bytes())
        other.rename(path)
        assert model.checksum == read_header(small.path).checksum != read_header(path).checksum


def test_close_is_idempotent_and_waits_for_a_call(small):
    model = Model(small.path, "800KiB")
    results = []

    def work():
        try:
            while True:
                results.append(model(zoo.random_input(1, 64)))
        except streamrt.ModelClosedError:
            pass

    thread = threading.Thread(target=work)
    thread.start()
    while not results:
        pass
    model.close()
    thread.join()
    model.close()
    for use in (lambda: model(zoo.random_input(1, 64)), model.memory, model.min_budget, lambda: model.plan):
        with pytest.raises(streamrt.ModelClosedError):
            use()
    assert "closed" in repr(model)
    zoo.assert_close(results[-1], small.answer(zoo.random_input(1, 64)))


def test_a_model_that_is_not_closed_warns(small):
    models = [Model(small.path)]
    with pytest.warns(ResourceWarning, match="unclosed"):
        models.clear()


def test_memory_adds_up(large):
    zoo.evict(large.path)
    x = zoo.random_input(4, 2048)
    with Model(large.path, "40MiB") as model:
        assert model.memory().workspace == 0
        model(x)
        use = model.memory()
        assert model.plan.pinned_bytes <= use.weights <= model.plan.pinned_bytes + model.plan.window
        assert use.workspace == model.plan.workspace
        assert use.weights + use.workspace <= use.budget == 40 << 20
        assert use.file_resident <= model.plan.pinned_bytes + model.plan.window
        assert use.anonymous > 0


def test_threads_are_limited_and_restored(small):
    before = streamrt._core.threads()
    x = zoo.random_input(9, 64)
    with Model(small.path, threads=1) as model:
        zoo.assert_close(model(x), small.answer(x))
    assert streamrt._core.threads() == before
    for wrong in (0, -1, 1.5, True, 10**6):
        with pytest.raises(streamrt.InputError, match="threads"):
            Model(small.path, threads=wrong)
        with pytest.raises(streamrt.InputError, match="io: expected 'auto', 'mmap' or 'pread'"):
            Model(small.path, io=wrong)


def test_only_calls_that_may_use_blas_look_at_its_threads(small, tmp_path, monkeypatch):
    asked = []
    blas = types.SimpleNamespace(lib_controllers=[])
    monkeypatch.setattr(streamrt.host.threads, "_blas", lambda: asked.append("blas") or blas)
    with Model(small.path, threads=1) as model:
        model(zoo.random_input(1, 64))
        assert bool(asked) == model._engine.session.interpreted == (not streamrt._core.products_pay())
    asked.clear()
    with Model(pack([Layer("Exp")], tmp_path / "exp", inputs=("N", 64)), threads=1) as model:
        assert np.isinf(model(np.full((1, 64), 1000, np.float32))).all()
    assert asked


def test_limits_of_concurrent_calls_leave_the_process_as_it_was(small):
    before = streamrt._core.threads()
    x = zoo.random_input(9, 64)

    def work(count):
        with Model(small.path, threads=count) as model:
            for _ in range(30):
                zoo.assert_close(model(x), small.answer(x))

    workers = [threading.Thread(target=work, args=(1 + i % 3,)) for i in range(4)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    assert streamrt._core.threads() == before


def test_a_call_within_a_call_of_the_same_thread_is_refused(small):
    x = zoo.random_input(1, 64)
    with Model(small.path, "800KiB") as model:
        model(x)
        steps = model._engine.session._steps
        good = steps[1]

        def nested(first, last):
            with pytest.raises(streamrt.StreamrtError, match="middle of a call"):
                model(x)
            good.run(first, last)

        steps[1] = zoo.with_run(good, nested)
        zoo.assert_close(model(x), small.answer(x))


@pytest.mark.parametrize("shape", [(0, 64), (-5, 64), (2**40, 64), (2, 65), 5, ("a", 64), (2.0, 64)])
def test_impossible_shapes_are_refused(small, shape):
    with Model(small.path) as model:
        for ask in (model.plan_for, model.min_budget):
            with pytest.raises(streamrt.InputError):
                ask(shape)


def test_outputs_that_keep_more_alive_have_their_own_smallest_budget(tmp_path):
    path = zoo.mlp(tmp_path, *[512] * 7).path
    names = ["layer0", "layer1", "layer2", "output"]
    x = zoo.random_input(7, 512)
    with Model(path) as model:
        least = model.min_budget((7, 512), names)
        assert least > model.min_budget((7, 512))
    with Model(path, least) as model:
        assert list(model(x, names)) == names
    with Model(path, least - 1) as model, pytest.raises(streamrt.BudgetError):
        model(x, names)


def test_a_length_may_be_free_though_a_single_step_is_too_short(tmp_path):
    layers = [Layer("Conv", zoo.random_input(5, 4, 3))]
    path = pack(layers, tmp_path / "m.safetensors", inputs=(1, 4, "length"))
    with Model(path) as model:
        assert model(zoo.random_input(1, 4, 9)).shape == (1, 5, 7)
        with pytest.raises(streamrt.InputError, match="cannot run with inputs of shapes"):
            model(zoo.random_input(1, 4, 2))


def test_several_inputs_and_outputs_by_name(tmp_path):
    onnx = pytest.importorskip("onnx")
    h = onnx.helper
    graph = h.make_graph(
        [
            h.make_node("Add", ["a", "b"], ["sum"]),
            h.make_node("MatMul", ["sum", "w"], ["product"]),
            h.make_node("Relu", ["a"], ["positive"]),
        ],
        "g",
        [h.make_tensor_value_info(n, 1, ["batch", 8]) for n in "ab"],
        [h.make_tensor_value_info("product", 1, ["batch", 4]), h.make_tensor_value_info("positive", 1, ["batch", 8])],
        [onnx.numpy_helper.from_array(zoo.random_input(8, 4, seed=3), "w")],
    )
    path = pack(h.make_model(graph, opset_imports=[h.make_opsetid("", 17)]), tmp_path / "m.safetensors")
    a, b = zoo.random_input(5, 8, seed=1), zoo.random_input(5, 8, seed=2)
    with Model(path) as model:
        assert [spec.name for spec in model.inputs] == ["a", "b"]
        found = model({"a": a, "b": b})
        assert list(found) == ["product", "positive"]
        zoo.assert_close(found["product"], (a + b) @ zoo.random_input(8, 4, seed=3))
        assert np.array_equal(found["positive"], np.maximum(a, 0))
        assert np.array_equal(model({"a": a}, outputs=["positive"]), np.maximum(a, 0))
        with pytest.raises(streamrt.InputError, match="pass a dictionary"):
            model(a)
        with pytest.raises(streamrt.InputError, match="'b' is missing"):
            model({"a": a})
        with pytest.raises(streamrt.InputError, match=r"'b': expected shape \(batch, 8\) with .*5.*found \(4, 8\)"):
            model({"a": a, "b": b[:4]})


def test_a_batch_is_not_divided_where_samples_depend_on_each_other(tmp_path):
    layers = [Layer("Gemm", zoo.random_input(64, 64)), Layer("Softmax", axis=0)]
    path = pack(layers, tmp_path / "m.safetensors")
    x = zoo.random_input(100, 64)
    with Model(path, "64KiB") as model:
        with pytest.raises(streamrt.BudgetError) as error:
            model(x)
        assert error.value.minimum == model.min_budget((100, 64))
    with Model(path, error.value.minimum) as model:
        zoo.assert_close(model(x).sum(axis=0, keepdims=True), np.ones((1, 64), np.float32))


def test_a_second_call_allocates_nothing_that_grows_with_the_model(large):
    import tracemalloc

    x = zoo.random_input(8, 2048)
    with Model(large.path, "40MiB") as model:
        model(x)
        tracemalloc.start()
        model(x)
        peak = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        assert peak < x.nbytes + (256 << 10)  # the output, which belongs to the caller, and 256 KiB for small objects


def test_no_warning_reaches_the_caller(tmp_path):
    product = Layer("Gemm", np.full((4, 4), 3e38, np.float32))
    for layers in ([product], [product, Layer("Exp")]):  # compiled, and one that is NumPy's
        path = pack(layers, tmp_path / "m.safetensors")
        with warnings.catch_warnings(), Model(path) as model:
            warnings.simplefilter("error")
            assert np.isinf(model(np.full((1, 4), 3e38, np.float32))).all()
