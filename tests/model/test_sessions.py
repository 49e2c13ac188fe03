"""Calls of changing sizes share one workspace. It is never larger than a budget allows, nor much larger than needed."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from model import zoo
from model.zoo import Array, Packed
from streamrt import Layer, Model, WeightsIOError, pack
from streamrt.engine import sessions
from streamrt.engine.session import Session
from streamrt.format import read_header, write
from streamrt.graph import Graph, Node, TensorSpec

WIDTH, MIB = 2048, 1 << 20
X = zoo.random_input(400, WIDTH)


@pytest.fixture(scope="module")
def packed(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Packed]:
    """Three layers of 16 MiB. A sample takes up to 16 KiB of workspace."""
    found = zoo.mlp(tmp_path_factory.mktemp("sessions"), *[WIDTH] * 4)
    yield found
    found.path.unlink()


@pytest.fixture(scope="module")
def answer(packed: Packed) -> Array:
    return packed.answer(X)


def session(model: Model) -> Session:
    found = model._engine.session
    assert found is not None
    return found


@settings(max_examples=15, deadline=None)
@given(sizes=st.lists(st.sampled_from([1, 2, 3, 4, 5, 8, 31, 40, 400]), min_size=1, max_size=14))
@pytest.mark.parametrize("budget", [None, "60MiB", "16MiB"])
@pytest.mark.parametrize("verify", [None, "read"])
def test_answers_in_any_order_of_sizes(
    packed: Packed, answer: Array, budget: str | None, verify: str | None, sizes: list[int]
) -> None:
    with Model(packed.path, budget, verify=verify) as model:
        for size in sizes:
            zoo.assert_close(model(X[:size]), answer[:size])
            used = model.memory()
            needed = session(model).prepared.plan.workspace
            assert needed <= used.workspace <= max(MIB, 4 * needed)
            assert used.budget is None or used.weights + used.workspace <= used.budget
            assert len(model._engine._sessions._kept) <= 10


def test_a_size_that_comes_again_is_bound_once(packed: Packed, monkeypatch: pytest.MonkeyPatch) -> None:
    bound = []

    def made(*args: Any) -> Session:
        bound.append(args)
        return Session(*args)

    monkeypatch.setattr("streamrt.engine.engine.Session", made)
    with Model(packed.path) as model:
        model(X[:8])
        first = session(model)
        for size in (3, 8, 6, 3, 4, 8):
            model(X[:size])
        assert session(model) is first
        assert len(bound) == 4
        assert model.memory().workspace == first.prepared.plan.workspace
        assert model.stats is not None
        assert model.stats.bytes_read == 0  # the weights stayed where they are


def test_the_sessions_longest_out_of_use_are_dropped(packed: Packed) -> None:
    with Model(packed.path) as model:
        model(X[:40])
        first = session(model)
        for size in range(20, 20 + sessions._KEPT):
            model(X[:size])
        model(X[:40])
        assert session(model) is not first


def test_a_workspace_that_is_much_too_large_is_given_back(packed: Packed) -> None:
    with Model(packed.path) as model:
        model(X)
        large = model.memory().workspace
        assert large > 4 * MIB
        model(X[:200])
        assert model.memory().workspace == large
        model(X[:1])
        assert model.memory().workspace == session(model).prepared.plan.workspace < MIB


def test_a_smaller_budget_ends_the_sharing(packed: Packed, answer: Array) -> None:
    with Model(packed.path, "80MiB") as model:
        model(X[:200])
        model(X[:100])
        pinned, needed = model.plan.pinned_bytes, model.plan.workspace
        assert model.memory().workspace > needed
        model.set_budget(pinned + needed)
        zoo.assert_close(model(X[:100]), answer[:100])
        assert model.memory().workspace == needed
        zoo.assert_close(model(X[:200]), answer[:200])
        assert model.memory().workspace + model.memory().weights <= pinned + needed


def test_sessions_that_stream_are_not_kept(packed: Packed) -> None:
    with Model(packed.path, "24MiB") as model:
        for size in (1, 2, 1):
            model(X[:size])
            assert len(model._engine._sessions._kept) == 1


@pytest.mark.parametrize("io", ["mmap", "pread"])
def test_weights_are_checked_once_for_all_sizes(packed: Packed, answer: Array, io: str) -> None:
    with Model(packed.path, io=io, verify="read") as model:
        model(X[:2])
        verifier = session(model).verifier
        assert verifier is not None
        assert verifier.blocks == len(read_header(packed.path).block_crcs)
        zoo.assert_close(model(X[:3]), answer[:3])
        assert session(model).verifier is verifier
        assert verifier.blocks == len(read_header(packed.path).block_crcs)


def test_a_failed_call_leaves_sessions_that_work(packed: Packed, answer: Array, tmp_path: Path) -> None:
    path = tmp_path / "damaged.safetensors"
    path.write_bytes(packed.path.read_bytes())
    tensor = max(read_header(path).tensors.values(), key=lambda tensor: tensor.offset)
    with path.open("r+b") as file:
        file.seek(tensor.offset + tensor.nbytes - 1)
        before = file.read(1)
        file.seek(-1, 1)
        file.write(bytes([before[0] ^ 1]))
    with Model(path, verify="read") as model:
        for size in (2, 3, 2):
            with pytest.raises(WeightsIOError, match="damaged"):
                model(X[:size])


def test_an_error_while_binding_leaves_the_model_usable(
    packed: Packed, answer: Array, monkeypatch: pytest.MonkeyPatch
) -> None:
    with Model(packed.path) as model:
        zoo.assert_close(model(X[:8]), answer[:8])
        with monkeypatch.context() as patch:
            patch.setattr("streamrt.engine.engine.Session", _no_memory)
            for size in (40, 4):
                with pytest.raises(MemoryError):
                    model(X[:size])
        assert model.memory().workspace in (0, session_bytes(model))
        for size in (8, 40, 4):
            zoo.assert_close(model(X[:size]), answer[:size])


def session_bytes(model: Model) -> int:
    found = model._engine.session
    return found.prepared.plan.workspace if found else 0


def _no_memory(*args: object) -> Session:
    raise MemoryError


@pytest.mark.parametrize("sizes", [(5, 1, 5, 1), (1, 5, 1, 5), (3, 2, 3, 1, 2)])
def test_constants_of_a_size_are_there_again(tmp_path: Path, sizes: tuple[int, ...]) -> None:
    """A term that is 0.5 in each row, made for the batch, lies in the workspace as long as the program is bound."""
    packed = packed_with_rows(tmp_path)
    x = zoo.random_input(5, 4)
    with Model(packed) as model:
        for size in sizes:
            program = session_after(model, x[:size]).prepared.program
            assert program.constants
            zoo.assert_close(model(x[:size]), np.maximum(x[:size], 0) + np.float32(0.5))
        assert len(model._engine._sessions._kept) == 1


def session_after(model: Model, x: Array) -> Session:
    model(x)
    return session(model)


def packed_with_rows(folder: Path) -> Path:
    """Relu(x) + ConstantOfShape(shape of x, 0.5)."""
    nodes = (
        Node("shape", "Shape", ("x",), ("shape",)),
        Node("half", "ConstantOfShape", ("shape",), ("half",), {"value": 0.5}),
        Node("relu", "Relu", ("x",), ("relu",)),
        Node("add", "Add", ("relu", "half"), ("y",)),
    )
    path = folder / "rows.safetensors"
    write(path, Graph((TensorSpec("x", ("N", 4)),), (TensorSpec("y", ("N", 4)),), nodes), [])
    return path


def test_kernels_rely_on_nothing_in_the_workspace(tmp_path: Path) -> None:
    """Padded windows, Winograd's tiles and pools of several sizes, in any order, as in a workspace of their own."""
    layers = [
        Layer("Conv", zoo.random_input(24, 3, 3, 3), pads=(1, 1, 1, 1), activation="Relu"),
        Layer("Conv", zoo.random_input(24, 24, 3, 3), zoo.random_input(24), pads=(1, 1, 1, 1), activation="Relu"),
        Layer("Conv", zoo.random_input(24, 1, 5, 5), pads=(2, 2, 2, 2), group=24),
        Layer("MaxPool", kernel_shape=(3, 3), strides=(2, 2), pads=(1, 1, 1, 1)),
        Layer("Conv", zoo.random_input(8, 24, 1, 1)),
    ]
    path = pack(layers, tmp_path / "cnn.safetensors", inputs=("N", 3, "H", "W"))
    shapes = [(1, 20, 20), (3, 20, 20), (2, 31, 17), (4, 20, 20), (1, 33, 40)]
    inputs = [zoo.random_input(samples, 3, rows, columns) for samples, rows, columns in shapes]
    wanted = []
    for x in inputs:
        with Model(path) as model:
            wanted.append(model(x))
    random = np.random.default_rng(3)
    with Model(path) as model:
        for index in random.integers(0, len(shapes), 40):
            assert np.array_equal(model(inputs[index]), wanted[index])
        assert len(model._engine._sessions._kept) > 2


def test_bound_programs_have_a_limit(packed: Packed, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sessions, "_STEPS", 13)
    with Model(packed.path) as model:
        model(X[:2])
        steps = len(session(model).steps)
        assert steps > 2
        for size in (3, 4, 5, 6):
            model(X[:size])
            assert len(model._engine._sessions._kept) <= max(1, 13 // steps)
        assert model(X[:400]).shape == (400, WIDTH)


def test_another_budget_drops_the_sessions_of_the_last_one(packed: Packed) -> None:
    with Model(packed.path, "80MiB") as model:
        for size in (4, 3, 2):
            model(X[:size])
        model.set_budget("80MiB")
        assert len(model._engine._sessions._kept) == 1


def test_results_of_a_call_do_not_change_with_the_next(packed: Packed) -> None:
    with Model(packed.path) as model:
        found = model(X[:8])
        before = found.copy()
        model(X[8:11])
        assert np.array_equal(found, before)
