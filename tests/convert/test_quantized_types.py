"""Quantised tensors, which are float32 inside, next to integers of other operators, which are int64 inside."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import streamrt
from convert.support import expected, make_model, onnx, ops, random, run_packed
from streamrt.format import read_header

node = onnx.helper.make_node
T = onnx.TensorProto
Array = np.ndarray[Any, Any]
ZEROS = {"uint8": 117, "int8": -9, "uint16": 30000, "int16": -5000}


def drawn(dtype: str, *shape: int, seed: int = 0) -> Array:
    limits = np.iinfo(dtype)
    return np.random.default_rng([seed, *shape]).integers(limits.min, limits.max, shape, dtype, endpoint=True)


def steps(dtype: str = "uint8") -> dict[str, Array]:
    """A scale and a zero point that give numbers from about -4 to 4."""
    scale = np.float32(8 / (int(np.iinfo(dtype).max) - int(np.iinfo(dtype).min)))
    return {"s": np.asarray(scale), "z": np.asarray(ZEROS[dtype], dtype)}


def q(x: str, y: str, **attributes: Any) -> Any:
    return node("QuantizeLinear", [x, "s", "z"], [y], **attributes)


def dq(x: str, y: str, **attributes: Any) -> Any:
    return node("DequantizeLinear", [x, "s", "z"], [y], **attributes)


def check(model: Any, folder: Path, feeds: Mapping[str, Array], tolerance: float = 0.0) -> list[str]:
    """Pack and run a model; its outputs must have the types and the values of the reference. Returns the operators."""
    path = streamrt.pack(model, folder / "packed")
    for found, wanted in zip(run_packed(path, feeds), expected(model, feeds), strict=True):
        assert (found.dtype, found.shape) == (wanted.dtype, wanted.shape)
        assert wanted.size < 2 or len(np.unique(wanted)) > 1
        np.testing.assert_allclose(found, wanted, rtol=tolerance, atol=tolerance)
    return ops(read_header(path).graph)


@pytest.mark.parametrize("dtype", ZEROS)
def test_integers_of_an_input_are_dequantised(dtype: str, tmp_path: Path) -> None:
    """Each of two nodes that dequantise the input reads the same float32 numbers."""
    nodes = [dq("x", "a"), node("DequantizeLinear", ["x", "t"], ["b"]), node("Sub", ["a", "b"], ["y"])]
    constants = steps(dtype) | {"t": np.asarray(0.25, np.float32)}
    model = make_model(nodes, constants, inputs={"x": (2, 3, 8, 8)}, types={"x": dtype})
    found = check(model, tmp_path, {"x": drawn(dtype, 2, 3, 8, 8)}, tolerance=1e-6)
    assert found == ["Cast", "DequantizeLinear", "DequantizeLinear", "Sub"]


@pytest.mark.parametrize("dtype", ZEROS)
def test_quantised_results(dtype: str, tmp_path: Path) -> None:
    """Results that are integers have their type, also behind operators that move them."""
    nodes = [q("x", "y"), node("Transpose", ["y"], ["z1"]), node("Slice", ["z1", "one", "three"], ["z2"])]
    constants = steps(dtype) | {"one": np.array([1], np.int64), "three": np.array([3], np.int64)}
    model = make_model(nodes, constants, outputs=["y", "z1", "z2"])
    assert check(model, tmp_path, {"x": 3 * random(2, 3, 8, 8)}) == ["QuantizeLinear", "Transpose", "Slice"]


def test_a_number_that_is_none_is_quantised_without_a_warning(tmp_path: Path) -> None:
    x = np.array([np.nan, 1, 2], np.float32)
    path = streamrt.pack(make_model([q("x", "y")], steps(), inputs={"x": (3,)}), tmp_path / "packed")
    (y,) = run_packed(path, {"x": x})
    np.testing.assert_array_equal(y[1:], [149, 181])


def test_all_results_of_a_dynamic_quantisation(tmp_path: Path) -> None:
    model = make_model([node("DynamicQuantizeLinear", ["x"], ["y", "s", "z"])], outputs=["y", "s", "z"])
    assert check(model, tmp_path, {"x": random(2, 3, 8, 8) + 0.5}, tolerance=1e-7) == ["DynamicQuantizeLinear"]


#: Nodes between quantised integers ``i`` and a result ``y``, and the operators that a graph has for them, if they are
#: always the same.
READERS: dict[str, tuple[list[Any], list[str] | None]] = {
    "a sum": ([node("Add", ["i", "i"], ["y"])], ["Cast", "Add", "Cast"]),
    "a negative": ([node("Sub", ["i", "k"], ["y"])], ["Cast", "Sub", "Cast"]),
    "a comparison": (
        [node("Less", ["i", "k"], ["c"]), node("Where", ["c", "i", "k"], ["y"])],
        ["Cast", "Less", "Where"],
    ),
    "indices": ([node("ArgMax", ["i"], ["y"], axis=1)], ["Cast", "ArgMax"]),
    "the largest": ([node("ReduceMax", ["i", "axis"], ["y"])], ["Cast", "ReduceMax", "Cast"]),
    "to float32": ([node("Cast", ["i"], ["y"], to=T.FLOAT)], []),
    "to int64": ([node("Cast", ["i"], ["y"], to=T.INT64)], ["Cast"]),
    "to int8": ([node("Cast", ["i"], ["y"], to=T.INT8)], ["Cast", "Cast"]),
    "to bool": ([node("Cast", ["i"], ["b"], to=T.BOOL), node("Cast", ["b"], ["y"], to=T.INT64)], None),
    "to the type of a tensor": ([node("CastLike", ["i", "x"], ["y"])], []),
    "with constants": ([node("Concat", ["k", "i", "k"], ["y"], axis=0)], ["Concat"]),
    "values elsewhere": ([node("ScatterElements", ["i", "at", "u"], ["y"])], ["ScatterElements"]),
    "added elsewhere": (
        [node("ScatterElements", ["i", "at", "v"], ["y"], reduction="max")],
        ["Cast", "ScatterElements"],
    ),
    "tiles": ([node("Tile", ["i", "repeats"], ["y"])], ["Tile"]),
    "a triangle": ([node("Trilu", ["i"], ["y"])], ["Trilu"]),
    "parts": (
        [node("Split", ["i"], ["a", "b"], axis=1, num_outputs=2), node("Concat", ["b", "a"], ["y"], axis=0)],
        None,
    ),
    "rows": ([node("Gather", ["i", "ids"], ["y"])], ["Gather"]),
    "padded": ([node("Pad", ["i", "pads", "seven"], ["y"])], ["Pad"]),
}
CONSTANTS = {
    "k": drawn("uint8", 6, 6, seed=4),
    "axis": np.array([1], np.int64),
    "at": np.array([[3, 1, 2, 0, 5, 4]], np.int64),
    "u": drawn("uint8", 1, 6, seed=5),
    "v": drawn("uint8", 1, 6, seed=6),
    "repeats": np.array([2, 1], np.int64),
    "pads": np.array([1, 0, 0, 2], np.int64),
    "seven": np.asarray(7, np.uint8),
}


@pytest.mark.parametrize("case", READERS)
def test_operators_on_quantised_integers(case: str, tmp_path: Path) -> None:
    """They see integers that wrap as the type does. Operators that only move values keep them as float32."""
    nodes, made = READERS[case]
    feeds: dict[str, Array] = {"x": 3 * random(6, 6)}
    if case == "rows":
        feeds["ids"] = np.array([5, 0, 0], np.int64)
    shapes = {name: value.shape for name, value in feeds.items()}
    model = make_model(
        [q("x", "i"), *nodes], steps() | CONSTANTS, inputs=shapes, types={n: a.dtype.name for n, a in feeds.items()}
    )
    found = check(model, tmp_path, feeds)
    assert found[0] == "QuantizeLinear"
    if made is not None:
        assert found[1:] == made


@pytest.mark.parametrize("case", ["a sum", "with constants", "tiles", "rows", "padded", "to int8"])
def test_integers_are_dequantised_behind_operators(case: str, tmp_path: Path) -> None:
    """The same integers, as an input of the model and as quantised numbers, give the same real numbers."""
    nodes, _ = READERS[case]
    more = {"ids": np.array([5, 0, 0], np.int64)} if case == "rows" else {}
    constants = steps() | CONSTANTS | more
    if case == "to int8":
        constants["z"] = np.asarray(-3, np.int8)
        nodes = [node("Cast", ["i"], ["y"], to=T.INT8)]
    x = 3 * random(6, 6)
    last = dq("y", "r")
    codes = np.clip(np.rint(x / constants["s"]) + 117, 0, 255).astype(np.uint8)
    first = node("QuantizeLinear", ["x", "s", "first"], ["i"])
    constants["first"] = np.asarray(117, np.uint8)
    given = make_model([*nodes, last], constants, inputs={"i": (6, 6)}, types={"i": "uint8"}, outputs=["r"])
    check(given, tmp_path, {"i": codes})
    check(make_model([first, *nodes, last], constants, inputs={"x": (6, 6)}, outputs=["r"]), tmp_path, {"x": x})


def test_windows_over_integers_of_an_input(tmp_path: Path) -> None:
    nodes = [node("MaxPool", ["x"], ["y"], kernel_shape=[3, 3], strides=[2, 2])]
    model = make_model(nodes, inputs={"x": (2, 3, 9, 9)}, types={"x": "uint8"})
    assert check(model, tmp_path, {"x": drawn("uint8", 2, 3, 9, 9)}) == ["Cast", "MaxPool"]


def test_a_convolution_of_a_picture_of_integers(tmp_path: Path) -> None:
    """A model whose input a quantizer has made uint8."""
    nodes = [dq("x", "r"), node("DequantizeLinear", ["w", "ws"], ["wr"]), node("Conv", ["r", "wr"], ["c"]), q("c", "y")]
    constants = steps() | {"w": drawn("int8", 4, 3, 3, 3), "ws": np.asarray(2.0**-9, np.float32)}
    model = make_model(nodes, constants, inputs={"x": ("N", 3, 12, 12)}, types={"x": "uint8"})
    x = drawn("uint8", 3, 3, 12, 12)
    path = streamrt.pack(model, tmp_path / "packed")
    (wanted,) = expected(model, {"x": x})
    with streamrt.Model(path, budget=None) as whole:
        y, least = whole(x), whole.min_budget()
    with streamrt.Model(path, budget=least) as streamed:
        again = np.concatenate([streamed(x[index : index + 1]) for index in range(3)])
    for found in (y, again):
        assert found.dtype == np.uint8
        assert np.abs(found.astype(int) - wanted).max() <= 1
        assert np.mean(found != wanted) < 0.01


def test_a_shape_of_quantised_integers_keeps_no_node(tmp_path: Path) -> None:
    """It is that of the real numbers."""
    nodes = [
        q("x", "i"),
        node("Shape", ["i"], ["shape"]),
        node("Gather", ["shape", "second"], ["columns"]),
        node("Concat", ["columns", "rest"], ["target"], axis=0),
        node("Reshape", ["i", "target"], ["j"]),
        dq("j", "y"),
    ]
    constants = steps() | {"second": np.array([1], np.int64), "rest": np.array([-1], np.int64)}
    model = make_model(nodes, constants, inputs={"x": ("N", "M")})
    assert check(model, tmp_path, {"x": 3 * random(4, 6)}) == ["QuantizeDequantizeLinear", "Reshape"]


def test_padding_of_integers_by_an_extent(tmp_path: Path) -> None:
    """The padding value is computed for integers, so that it stays between the two steps."""
    nodes = [
        q("x", "i"),
        node("Shape", ["x"], ["shape"]),
        node("Gather", ["shape", "second"], ["columns"]),
        node("Cast", ["columns"], ["value"], to=T.UINT8),
        node("Pad", ["i", "pads", "value"], ["j"]),
        dq("j", "y"),
    ]
    constants = steps() | {"second": np.asarray(1), "pads": np.array([1, 0, 0, 1])}
    model = make_model(nodes, constants, inputs={"x": ("N", "M")})
    assert check(model, tmp_path, {"x": 3 * random(4, 6)}) == ["QuantizeLinear", "Pad", "DequantizeLinear"]


# ------------------------------------------------------------------------------------------- products of integers


@pytest.mark.parametrize("kinds", [("uint8", "int8"), ("int8", "int8"), ("uint8", "uint8")], ids=str)
@pytest.mark.parametrize("computed", [False, True])
@pytest.mark.parametrize("to", [None, T.FLOAT, T.INT64, T.INT8])
def test_products_of_integers_of_inputs(kinds: tuple[str, str], computed: bool, to: int | None, tmp_path: Path) -> None:
    zeros = {"xz": np.asarray(7, kinds[0]), "wz": np.asarray(5, kinds[1])}
    nodes = [node("MatMulInteger", ["x", "w", "xz", "wz"], ["y" if to is None else "p"])]
    nodes += [] if to is None else [node("Cast", ["p"], ["y"], to=to)]
    feeds = {"x": drawn(kinds[0], 5, 40), "w": drawn(kinds[1], 40, 6)}
    given = feeds if computed else {"x": feeds["x"]}
    model = make_model(
        nodes,
        zeros | ({} if computed else {"w": feeds["w"]}),
        inputs={name: value.shape for name, value in given.items()},
        types=dict(zip(feeds, kinds, strict=True)),
    )
    found = check(model, tmp_path, given)
    assert found.count("Cast") == 1 + computed + {None: 0, T.FLOAT: 0, T.INT64: 1, T.INT8: 2}[to]


def test_what_follows_a_product_of_integers(tmp_path: Path) -> None:
    """A bias of int32 is added to integers, which wrap; views of the product do not change it."""
    nodes = [
        node("ConvInteger", ["x", "w"], ["p"]),
        node("Reshape", ["p", "shape"], ["r"]),
        node("Add", ["r", "b"], ["y"]),
        node("DequantizeLinear", ["y", "bs"], ["z"]),
    ]
    constants = {
        "w": drawn("uint8", 4, 3, 3, 3),
        "shape": np.array([2, 4, -1], np.int64),
        "b": np.array([2**31 - 1, 0, 5, -7], np.int32).reshape(4, 1),
        "bs": np.asarray(0.5, np.float32),
    }
    model = make_model(nodes, constants, inputs={"x": (2, 3, 6, 6)}, outputs=["p", "r", "y", "z"], types={"x": "uint8"})
    x = drawn("uint8", 2, 3, 6, 6)
    path = streamrt.pack(model, tmp_path / "packed")
    windows = np.lib.stride_tricks.sliding_window_view(x, (3, 3), (2, 3)).astype(np.int64)
    p = np.einsum("nchwij,ocij->nohw", windows, constants["w"].astype(np.int64)).astype(np.int32)
    total = p.reshape(2, 4, 16) + constants["b"]
    assert (total < 0).any()
    wanted = [p, p.reshape(2, 4, 16), total, (total * 0.5).astype(np.float32)]
    for one, other in zip(run_packed(path, {"x": x}), wanted, strict=True):
        assert one.dtype == other.dtype
        np.testing.assert_allclose(one, other, rtol=1e-6)


# ---------------------------------------------------------------------------------------------------- whole networks


def encoder(scales: tuple[int, ...]) -> Any:
    """An embedding with rows of integers, a dense layer that is dynamically quantised, and a classifier in steps."""
    constants = steps() | {
        "table": drawn("uint8", 3000, 64),
        "ts": np.full(scales, 2.0**-6, np.float32),
        "tz": np.full(scales, 120, np.uint8),
        "w": drawn("int8", 64, 256),
        "ws": np.asarray(2.0**-9, np.float32),
        "v": drawn("int8", 7, 256),
        "vs": np.asarray(2.0**-9, np.float32),
        "b": np.arange(-300, 400, 100, dtype=np.int32),
    }
    nodes = [
        node("Gather", ["table", "ids"], ["rows"]),
        node("DequantizeLinear", ["rows", "ts", "tz"], ["e"], axis=-1),
        node("DynamicQuantizeLinear", ["e"], ["i", "is", "iz"]),
        node("MatMulInteger", ["i", "w", "iz"], ["p"]),
        node("Cast", ["p"], ["f"], to=T.FLOAT),
        node("Mul", ["is", "ws"], ["scale"]),
        node("Mul", ["f", "scale"], ["h"]),
        node("Tanh", ["h"], ["t"]),
        node("ReduceMean", ["t", "axis"], ["m"], keepdims=0),
        q("m", "mi"),
        dq("mi", "mr"),
        node("DequantizeLinear", ["v", "vs"], ["vr"]),
        node("DequantizeLinear", ["b", "vs"], ["br"]),
        node("Gemm", ["mr", "vr", "br"], ["y"], transB=1),
    ]
    constants["axis"] = np.array([1], np.int64)
    return make_model(nodes, constants, inputs={"ids": ("N", "L")}, types={"ids": "int64"})


@pytest.mark.parametrize("scales", [(), (64,)], ids=["one scale", "a scale for each column"])
def test_an_encoder_of_ids(scales: tuple[int, ...], tmp_path: Path) -> None:
    """Its results are those of the reference with all memory and with the least."""
    model = encoder(scales)
    ids = np.random.default_rng(3).integers(0, 3000, (2, 9))
    (wanted,) = expected(model, {"ids": ids})
    path = streamrt.pack(model, tmp_path / "packed")
    tensors = read_header(path).tensors.values()
    if not scales:
        assert {(tensor.dtype, tensor.shape) for tensor in tensors if len(tensor.shape) > 1} == {
            ("int8", (3000, 64)),
            ("int8", (256, 64)),
            ("int8", (7, 256)),
        }
    with streamrt.Model(path, budget=None) as whole:
        y, least = whole(ids), whole.min_budget({"ids": ids.shape})
    with streamrt.Model(path, budget=least) as streamed:
        again = streamed(ids)
    step = 8 / 255
    for found in (y, again):
        # A mean may lie at the border between two steps.
        assert np.abs(found - wanted).max() <= 1.001 * step * 0.25
        assert np.mean(np.abs(found - wanted) > 1e-4) < 0.2
    assert np.ptp(wanted) > 10 * step
