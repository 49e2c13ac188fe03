"""Results in arrays of the caller."""

from __future__ import annotations

import threading
from pathlib import Path

import numpy as np
import pytest

import streamrt
from model import zoo
from streamrt.errors import BudgetError, InputError
from streamrt.format import write
from streamrt.format.writer import Segment
from streamrt.graph import Graph, Node, TensorSpec

WIDTHS = 64, 256, 32
X = zoo.random_input(24, 64)


@pytest.fixture
def packed(tmp_path: Path) -> zoo.Packed:
    return zoo.mlp(tmp_path, *WIDTHS)


def several(folder: Path) -> Path:
    """A file with two outputs: the first half of x, and its indices of the largest values."""
    x, y, z = TensorSpec("x", ("N", 8)), TensorSpec("y", ("N", 8)), TensorSpec("z", ("N",), "int64")
    nodes = (Node("r", "Relu", ("x",), ("y",)), Node("a", "ArgMax", ("x",), ("z",), {"axis": 1, "keepdims": 0}))
    path = folder / "several.safetensors"
    write(path, Graph((x,), (y, z), nodes), [Segment([])])
    return path


@pytest.mark.parametrize("budget", [None, "least", "divided"])
def test_results_are_written_to_the_array(packed: zoo.Packed, budget: str | None, tmp_path: Path) -> None:
    with streamrt.Model(packed.path) as model:
        sizes = {None: None, "least": model.min_budget((24, 64)), "divided": model.min_budget((1, 64)) + 9000}
    mapped = np.memmap(tmp_path / "y", np.float32, "w+", shape=(24, 32))
    wide = np.zeros((24, 40), np.float32)
    with streamrt.Model(packed.path, budget=sizes[budget]) as model:
        for out in (np.empty((24, 32), np.float32), np.empty((24, 32), np.float32, "F"), wide[:, 4:36], mapped):
            assert model(X, out=out) is out
            zoo.assert_close(out, packed.answer(X))
        zoo.assert_close(model(np.asarray(mapped)[:, :1] * 0 + X), packed.answer(X))
    assert not wide[:, :4].any()
    assert not wide[:, 36:].any()


def test_several_outputs_by_name(tmp_path: Path) -> None:
    x = zoo.random_input(5, 8)
    with streamrt.Model(several(tmp_path)) as model:
        out = {"y": np.empty((5, 8), np.float32), "z": np.empty(5, np.int64)}
        found = model(x, out=out)
        assert found["y"] is out["y"]
        assert found["z"] is out["z"]
        np.testing.assert_array_equal(out["y"], np.maximum(x, 0))
        np.testing.assert_array_equal(out["z"], x.argmax(1))
        only = np.empty(5, np.int64)
        assert model(x, ["z"], out=only) is only
        assert model(x, ["z"], out={"z": only}) is only
        for wrong in ({"y": out["y"]}, {**out, "more": only}, out["y"]):
            with pytest.raises(InputError, match=r"out: expected arrays for \['y', 'z'\]"):
                model(x, out=wrong)


def test_arrays_that_do_not_fit(packed: zoo.Packed) -> None:
    def mistake(out: object, text: str) -> None:
        with pytest.raises(InputError, match=text):
            model(X, out=out)
        zoo.assert_close(model(X), packed.answer(X))

    fixed = np.empty((24, 32), np.float32)
    fixed.flags.writeable = False
    both = np.empty((24, 100), np.float32)
    both[:, :64] = X
    with streamrt.Model(packed.path) as model:
        mistake(np.empty((24, 31), np.float32), r"shape \(24, 32\) and type float32, found \(24, 31\)")
        mistake(np.empty((24, 32)), "found .* and float64")
        mistake(np.empty((24, 32), ">f4"), "found .* and >f4")
        mistake(fixed, "found an array that cannot be written")
        mistake([[0.0] * 32] * 24, "found a list")
        mistake(X.reshape(48, 32)[:24], "its memory lies within that of 'input'")
        with pytest.raises(InputError, match="its memory lies within"):
            model(both[:, :64], out=both[:, 64:96])


def test_a_call_that_fails_leaves_the_model_usable(packed: zoo.Packed) -> None:
    out = np.empty((24, 32), np.float32)
    with streamrt.Model(packed.path, budget="4KiB") as model:
        with pytest.raises(BudgetError):
            model(X, out=out)
        model.set_budget(None)
        zoo.assert_close(model(X, out=out), packed.answer(X))


def test_callers_that_share_a_pass_have_arrays_of_their_own(packed: zoo.Packed) -> None:
    with streamrt.Model(packed.path) as model:
        least = model.min_budget((8, 64))
    outs = [np.zeros((3, 32), np.float32) if index % 2 else None for index in range(8)]
    found: dict[int, np.ndarray] = {}
    with streamrt.Model(packed.path, budget=least) as model:

        def call(index: int) -> None:
            for _ in range(20):
                found[index] = model(X[index : index + 3], out=outs[index])

        threads = [threading.Thread(target=call, args=(index,)) for index in range(8)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    for index, out in enumerate(outs):
        assert out is None or found[index] is out
        zoo.assert_close(found[index], packed.answer(X[index : index + 3]))


def test_a_lease_of_a_pool(packed: zoo.Packed) -> None:
    out = np.empty((24, 32), np.float32)
    with streamrt.ModelPool("1MiB") as pool:
        pool.register("a", packed.path)
        with pool.lease("a") as model:
            assert model(X, out=out) is out
    zoo.assert_close(out, packed.answer(X))
