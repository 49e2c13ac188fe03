"""Small models that ask for much memory or time: refused with an error that names the node and the option."""

from __future__ import annotations

import tracemalloc
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import streamrt
from convert.support import NEWEST, check, integers, make_model, onnx, random
from streamrt.convert.limits import Limits
from streamrt.convert.onnx.evaluate import can_evaluate, check_cost, evaluate
from streamrt.convert.onnx.infer import Fact, InferenceError, infer_shapes

node = onnx.helper.make_node
helper = onnx.helper


def int64(value: int) -> Any:
    return np.array(value, np.int64)


def uses(name: str = "c") -> list[Any]:
    """Nodes that add one number, made of constant ``name``, to the input."""
    return [
        node("Cast", [name], ["as_float"], to=1),
        node("ReduceSum", ["as_float"], ["sum"], keepdims=0),
        node("Add", ["x", "sum"], ["y"]),
    ]


def functions(depth: int, calls: int) -> Any:
    """Functions that each call the next ``calls`` times."""
    model = make_model([node("f0", ["x"], ["y"], name="call", domain="local")], opset=21)
    model.opset_import.append(helper.make_opsetid("local", 1))
    imports = list(model.opset_import)
    for level in range(depth):
        last = level == depth - 1
        op, domain = ("Relu", "") if last else (f"f{level + 1}", "local")
        names = ["x", *(f"t{i}" for i in range(calls - 1)), "y"]
        nodes = [node(op, [names[i]], [names[i + 1]], domain=domain) for i in range(calls)]
        model.functions.append(helper.make_function("local", f"f{level}", ["x"], ["y"], nodes, imports))
    return model


def chain(op: str, count: int) -> Any:
    """Constants of 2 MiB, each computed from the two before it."""
    nodes = [node("Expand", ["one", "shape"], ["k0"]), node("Exp", ["k0"], ["k1"])]
    nodes += [node(op, [f"k{i}", f"k{i + 1}"], [f"k{i + 2}"], name=f"n{i}") for i in range(count)]
    nodes += uses(f"k{count + 1}")
    return make_model(nodes, {"one": random(1), "shape": integers(1 << 19)})


HOSTILE: dict[str, tuple[Any, str]] = {
    "functions": (functions(30, 8), "node 'call' .*max_memory="),
    "range": (
        make_model(
            [node("Range", ["a", "b", "d"], ["c"], name="big"), *uses()],
            {"a": int64(0), "b": int64(300_000_000), "d": int64(1)},
        ),
        "'big'.*max_memory=",
    ),
    "non-zero": (
        make_model(
            [
                node("ConstantOfShape", ["s"], ["o"], value=onnx.numpy_helper.from_array(np.ones(1, np.float32))),
                node("NonZero", ["o"], ["c"], name="big"),
                *uses(),
            ],
            {"s": integers(1 << 28)},
        ),
        "'big'.*max_memory=",
    ),
    "transposed convolution": (
        make_model(
            [node("ConvTranspose", ["x", "w"], ["y"], name="big", strides=[6000, 6000])], {"w": random(3, 4, 1, 1)}
        ),
        "'big'.*max_memory=",
    ),
    "bias of a transposed convolution": (
        make_model(
            [node("ConvTranspose", ["x", "w", "b"], ["y"], name="big", strides=[1000, 1000])],
            {"w": random(3, 40, 1, 1), "b": random(40)},
        ),
        "'big'.*max_memory=",
    ),
    "constant that is written": (
        make_model(
            [node("ConstantOfShape", ["s"], ["c"]), node("Add", ["x", "c"], ["y"], name="big")],
            {"s": integers(1, 2**33)},
            inputs={"x": ("N", 2**33)},
        ),
        "'big'.*max_memory=",
    ),
    "factors": (
        make_model(
            [
                node("ConstantOfShape", ["s"], ["c"]),
                node("Gemm", ["x", "c"], ["g"], transB=1),
                node("Mul", ["g", "two"], ["y"], name="big"),
            ],
            {"s": integers(1 << 28, 1), "two": random(1)},
            inputs={"x": ("N", 1)},
        ),
        "'big'.*max_memory=",
    ),
    "factors of rows": (
        make_model(
            [node("ConstantOfShape", ["s"], ["c"]), node("Gemm", ["x", "c"], ["y"], transB=1, alpha=2.0, name="big")],
            {"s": integers(1 << 28, 1)},
            inputs={"x": ("N", 1)},
        ),
        "'big'.*max_memory=",
    ),
    "values known in part": (
        make_model(
            [
                node("Shape", ["x"], ["shape"]),
                node("Concat", ["shape", "many"], ["v0"], axis=0),
                *(node("Identity", [f"v{i}"], [f"v{i + 1}"], name="big") for i in range(1700)),
                *uses("v1700"),
            ],
            {"many": np.arange(4094)},
            inputs={"x": ("N", 4)},
        ),
        "'big'.*max_memory=",
    ),
    "indices that grow along the batch": (
        make_model(
            [
                node("Shape", ["x"], ["shape"]),
                node("Gather", ["shape", "zero"], ["count"]),
                node("Range", ["zero", "count", "one"], ["r0"]),
                *(
                    step
                    for i in range(3)
                    for step in (
                        node("Unsqueeze", [f"r{i}", f"axis{i}"], [f"u{i}"]),
                        node("Add", [f"u{i}", "many"], [f"r{i + 1}"], name="big"),
                    )
                ),
                *uses("r3"),
            ],
            {"zero": int64(0), "one": int64(1), "many": np.arange(4096)}
            | {f"axis{i}": integers(i + 1) for i in range(3)},
            inputs={"x": ("N", 4)},
        ),
        "'big'.*max_memory=",
    ),
    "list of pads": (
        make_model(
            [node("ConstantOfShape", ["s"], ["c"]), node("Pad", ["x", "c"], ["y"], name="big")], {"s": integers(2**33)}
        ),
        "'big'",
    ),
    "truth values": (
        make_model(
            [
                node("ConstantOfShape", ["s"], ["c"], value=onnx.numpy_helper.from_array(np.ones(1, np.bool_))),
                node("Where", ["c", "x", "x"], ["y"], name="big"),
            ],
            {"s": integers(1, 2**33)},
            inputs={"x": ("N", 2**33)},
        ),
        "'big'.*max_memory=",
    ),
    "expand": (
        make_model(
            [node("Expand", ["k", "s"], ["e"], name="big"), *uses("e")],
            {"k": random(1), "s": integers(1 << 15, 1 << 15)},
        ),
        "'big'.*max_memory=",
    ),
    "erf": (
        make_model(
            [node("Expand", ["k", "s"], ["e"]), node("Erf", ["e"], ["c"], name="big"), *uses()],
            {"k": random(1), "s": integers(1 << 23)},
        ),
        "'big'.*max_memory=",
    ),
    "one array twice": (
        make_model([node("Conv", ["k", "k"], ["c"], name="big"), *uses()], {"k": random(1)}),
        "'big'",
    ),
    "dilations": (
        make_model(
            [node("Conv", ["k", "w"], ["c"], name="big", dilations=[9000, 9000], pads=[9000] * 4), *uses()],
            {"k": random(1, 1, 4, 4), "w": random(1, 1, 3, 3)},
        ),
        "'big' .*must be computed",
    ),
    "indices without elements": (
        make_model(
            [
                node("ConstantOfShape", ["s"], ["i"], value=onnx.numpy_helper.from_array(integers(0))),
                node("ScatterND", ["k", "i", "u"], ["c"], name="big"),
                *uses(),
            ],
            {"s": integers(10**9, 0), "k": np.zeros((0, 2), np.float32), "u": np.zeros((0, 2), np.float32)},
        ),
        "'big'.*max_seconds=",
    ),
    "pooling": (
        make_model(
            [
                node("MaxPool", ["k"], ["c"], name="big", kernel_shape=[60000, 60000], pads=[59999, 59999, 0, 0]),
                *uses(),
            ],
            {"k": random(1, 1, 4, 4)},
        ),
        "'big'.*max_memory=",
    ),
}


@pytest.mark.parametrize("case", HOSTILE)
def test_small_models_that_ask_for_much(case: str, tmp_path: Path) -> None:
    model, message = HOSTILE[case]
    tracemalloc.start()
    try:
        with pytest.raises(streamrt.StreamrtError, match=message) as caught:
            streamrt.pack(model, tmp_path / "out")
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert peak < 300 << 20
    assert isinstance(caught.value, streamrt.FormatError | streamrt.UnsupportedModelError)
    assert list(tmp_path.iterdir()) == []


def test_many_constants(tmp_path: Path) -> None:
    """Small results are computed at once, and kept."""
    nodes = [node("Expand", ["k", "s"], [f"e{i}"], name=f"big{i}") for i in range(40)]
    nodes += [node("Sum", [f"e{i}" for i in range(40)], ["c"]), *uses()]
    model = make_model(nodes, {"k": random(1), "s": integers(1000, 250)})
    with pytest.raises(streamrt.FormatError, match=r"node 'big1\d' .*max_memory="):
        streamrt.pack(model, tmp_path / "out", max_memory="16MiB")


def test_parts_of_large_constants_do_not_keep_them(tmp_path: Path) -> None:
    nodes = [node("Range", ["a", "b", "d"], ["r"])]
    nodes += [node("Slice", ["r", "zero", "four"], [f"s{i}"]) for i in range(8)]
    nodes += [node("Concat", [f"s{i}" for i in range(8)], ["c"], axis=0), *uses()]
    constants = {"a": int64(0), "b": int64(1 << 20), "d": int64(1), "zero": integers(0), "four": integers(4)}
    tracemalloc.start()
    try:
        streamrt.pack(make_model(nodes, constants), tmp_path / "out")
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert peak < 40 << 20  # if each of the eight parts kept 8 MiB, it would be more than 64 MiB


def test_constants_that_are_computed_again_and_again(tmp_path: Path) -> None:
    """Large constants are computed when they are written. Each reads two others, so the time grows exponentially."""
    with pytest.raises(streamrt.FormatError, match=r"node '\w+' .*max_seconds="):
        streamrt.pack(chain("Add", 50), tmp_path / "out", max_seconds=0.2)
    assert list(tmp_path.iterdir()) == []


def test_products_take_time(tmp_path: Path) -> None:
    nodes = [node("Expand", ["k", "s"], ["e"]), node("MatMul", ["e", "e"], ["c"], name="big"), *uses()]
    model = make_model(nodes, {"k": random(1), "s": integers(2300, 2300)})
    with pytest.raises(streamrt.FormatError, match=r"'big' \(MatMul\).*max_seconds="):
        streamrt.pack(model, tmp_path / "out")


def test_the_options_raise_the_limits(tmp_path: Path) -> None:
    nodes = [node("Range", ["a", "b", "d"], ["c"], name="big"), *uses()]
    model = make_model(nodes, {"a": int64(0), "b": int64(1000), "d": int64(1)})
    with pytest.raises(streamrt.LimitError, match=r"'big' \(Range\).*more than 2.00 KiB.*max_memory="):
        streamrt.pack(model, tmp_path / "out", max_memory=2048)
    with pytest.raises(streamrt.LimitError, match=r"more than 1e-09 s .*max_seconds="):
        streamrt.pack(model, tmp_path / "out", max_seconds=1e-9)
    streamrt.pack(model, tmp_path / "out", max_memory="1MiB", max_seconds=1e6)


@pytest.mark.parametrize(
    "options",
    [{"max_memory": value} for value in (0, -1, True, 1.5, "much", "50%", None, -(10**5000))]
    + [{"max_seconds": value} for value in (0, -1.0, float("nan"), True, "10", None, float("inf"), 10**400, 10**5000)],
)
def test_options_that_are_no_limits(options: dict[str, Any], tmp_path: Path) -> None:
    with pytest.raises(streamrt.InputError, match=f"^{next(iter(options))}"):
        streamrt.pack(make_model([node("Relu", ["x"], ["y"])]), tmp_path / "out", **options)


def test_own_weights_do_not_count(tmp_path: Path) -> None:
    """Decoding weights may take more than the limit allows for anything else."""
    quantised = np.random.default_rng(0).integers(-8, 8, (600, 500)).astype(np.int8)
    nodes = [node("DequantizeLinear", ["q", "scale"], ["w"]), node("Gemm", ["x", "w"], ["y"])]
    model = make_model(nodes, {"q": quantised, "scale": np.array(0.5, np.float32)}, inputs={"x": (2, 600)})
    streamrt.pack(model, tmp_path / "out", max_memory=1 << 10)


def test_a_long_chain_of_constants_is_refused(tmp_path: Path) -> None:
    """Large constants are computed when they are written, each from the one before it."""
    nodes = [node("Exp" if i % 2 else "Neg", [f"k{i}"], [f"k{i + 1}"], name=f"n{i}") for i in range(200)]
    model = make_model([*nodes, node("Gemm", ["x", "k200"], ["y"])], {"k0": random(600, 500)}, inputs={"x": (2, 600)})
    with pytest.raises(streamrt.FormatError, match=r"node 'n\d+' .*steps"):
        streamrt.pack(model, tmp_path / "out")


@pytest.mark.parametrize("calls", [1, 2])
def test_functions_that_call_functions(calls: int, tmp_path: Path) -> None:
    same = make_model([node("Relu", ["x"], ["y"])])
    check(functions(6, calls), tmp_path, same_as=same)


def test_functions_that_are_too_deep(tmp_path: Path) -> None:
    with pytest.raises(streamrt.FormatError, match="deep"):
        streamrt.pack(functions(500, 1), tmp_path / "out")


def test_functions_that_call_themselves(tmp_path: Path) -> None:
    model = functions(3, 2)
    model.functions[2].node[0].op_type = "f1"
    model.functions[2].node[0].domain = "local"
    with pytest.raises(streamrt.FormatError, match=r"function 'f1' .* calls itself"):
        streamrt.pack(model, tmp_path / "out")


def test_names_that_calls_multiply(tmp_path: Path) -> None:
    """The name of an argument replaces each use of the parameter."""
    model = functions(1, 1)
    del model.functions[0].node[:]
    model.functions[0].node.append(node("Sum", ["x"] * 2000, ["y"]))
    long = "n" * 100_000
    model.graph.input[0].name = model.graph.node[0].input[0] = long
    with pytest.raises(streamrt.FormatError, match="max_memory="):
        streamrt.pack(model, tmp_path / "out")


F, INDEX = np.dtype(np.float32), np.dtype(np.int64)
#: Nodes that make the compiled inference abort the process, take all its memory, or never end.
DEADLY: dict[str, tuple[Any, dict[str, Fact]]] = {
    "slice of a negative extent": (
        node("Slice", ["x", "s", "e", "a"], ["y"]),
        {
            "x": Fact(F, (1, 3, -1, -1)),
            "s": Fact(INDEX, (1,), integers(0)),
            "e": Fact(INDEX, (1,), integers(2**63 - 1)),
            "a": Fact(INDEX, (1,), integers(3)),
        },
    ),
    "expand to any rank": (node("Expand", ["x", "s"], ["y"]), {"x": Fact(F, (1,)), "s": Fact(INDEX, (2**40,))}),
    "reshape to any rank": (node("Reshape", ["x", "s"], ["y"]), {"x": Fact(F, (1,)), "s": Fact(INDEX, (2**40,))}),
    "batch_dims": (
        node("GatherND", ["x", "i"], ["y"], batch_dims=-5),
        {"x": Fact(F, (2, 2)), "i": Fact(INDEX, (2, 1))},
    ),
    "axis of a normalisation": (
        node("LayerNormalization", ["x", "s"], ["y", "m"], axis=2**40),
        {"x": Fact(F, (2, 2)), "s": Fact(F, (2,))},
    ),
    "num_outputs": (node("Split", ["x"], ["y"], num_outputs=2**40), {"x": Fact(F, (8, 8))}),
    "missing inputs": (node("Conv", ["x"], ["y"]), {"x": Fact(F, (1, 3, 8, 8))}),
    "type of an attribute": (node("Softmax", ["x"], ["y"], axis="one"), {"x": Fact(F, (8, 8))}),
    "required attribute": (node("MaxPool", ["x"], ["y"]), {"x": Fact(F, (1, 3, 8, 8))}),
    "attribute twice": (
        onnx.NodeProto(
            op_type="Softmax",
            input=["x"],
            output=["y"],
            attribute=[helper.make_attribute("axis", 0), helper.make_attribute("axis", 1)],
        ),
        {"x": Fact(F, (8, 8))},
    ),
    "no operator": (node("Nothing", ["x"], ["y"]), {"x": Fact(F, (8, 8))}),
    "a result of a negative extent": (
        node("MaxPool", ["x"], ["y"], kernel_shape=[3, 3]),
        {"x": Fact(F, (1, 3, 1, 1))},
    ),
    "a graph inside": (
        node("If", ["x"], ["y"], then_branch=onnx.GraphProto(name="a"), else_branch=onnx.GraphProto(name="b")),
        {"x": Fact(np.dtype(np.bool_), ())},
    ),
}


@pytest.mark.parametrize("case", DEADLY)
def test_deadly_nodes_are_kept_from_the_compiled_inference(case: str) -> None:
    broken, known = DEADLY[case]
    with pytest.raises(InferenceError):
        infer_shapes(broken, NEWEST, known)


def test_trial_sizes_that_are_too_small(tmp_path: Path) -> None:
    """If a model fits no size, sizes down to 1 are tried. A window of 3 does not fit into the smallest sizes."""
    nodes = [
        node("MaxPool", ["x"], ["p"], kernel_shape=[3, 3]),
        node("Slice", ["p", "start", "end", "axis"], ["s"]),
        node("Det", ["s"], ["y"], name="det"),
    ]
    constants = {"start": integers(0), "end": integers(2**63 - 1), "axis": integers(3)}
    with pytest.raises(streamrt.UnsupportedModelError, match="'det'"):
        streamrt.pack(make_model(nodes, constants, inputs={"x": ("N", 3, "H", "W")}), tmp_path / "out")


X, V, ONE = random(1, 8, 64, 64), random(1 << 15), np.array(0.5, np.float32)
C8 = random(8, seed=3) ** 2
COSTS: dict[str, tuple[Any, list[Any]]] = {
    **{
        op: (node(op, ["a"], ["y"]), [np.abs(V)])
        for op in (
            *(
                "Abs",
                "Ceil",
                "Cos",
                "Elu",
                "Exp",
                "Floor",
                "HardSigmoid",
                "HardSwish",
                "Identity",
                "IsNaN",
                "LeakyRelu",
            ),
            *("Log", "Neg", "NonZero", "Reciprocal", "Relu", "Round", "Selu", "Sigmoid", "Sign", "Sin", "Softplus"),
            *("Sqrt", "Tan", "Tanh", "Erf", "Gelu", "Acos", "Acosh", "Asin", "Asinh", "Atan", "Atanh", "Cosh", "Sinh"),
            *("Celu", "Shrink", "Softsign", "ThresholdedRelu"),
        )
    },
    **{
        op: (node(op, ["a", "b"], ["y"]), [V, V])
        for op in ("Add", "Div", "Equal", "Less", "Max", "Mean", "Min", "Mul", "Pow", "Sub", "Sum", "PRelu")
    },
    **{
        op: (node(op, ["a"], ["y"]), [X])
        for op in (
            *("ArgMax", "ReduceL1", "ReduceL2", "ReduceLogSum", "ReduceLogSumExp", "ReduceMax", "ReduceMean"),
            *("ReduceProd", "ReduceSum", "ReduceSumSquare", "GlobalAveragePool", "GlobalMaxPool", "Softmax"),
            *("LogSoftmax", "Trilu"),
        )
    },
    "Cast": (node("Cast", ["a"], ["y"], to=11), [V]),
    "CastLike": (node("CastLike", ["a", "b"], ["y"]), [V, integers(1)]),
    "Clip": (node("Clip", ["a", "b"], ["y"]), [V, ONE]),
    "Compress": (node("Compress", ["a", "b"], ["y"]), [V, V > 0]),
    "Concat": (node("Concat", ["a", "b"], ["y"], axis=0), [V, V]),
    "CumSum": (node("CumSum", ["a", "b"], ["y"], reverse=1, exclusive=1), [V, int64(0)]),
    "BatchNormalization": (node("BatchNormalization", list("abcde"), ["y"]), [X, C8, C8, C8, C8]),
    "InstanceNormalization": (node("InstanceNormalization", list("abc"), ["y"]), [X, C8, C8]),
    "LayerNormalization": (node("LayerNormalization", list("ab"), ["y"]), [X, random(64)]),
    "LRN": (node("LRN", ["a"], ["y"], size=3), [X]),
    "DequantizeLinear": (
        node("DequantizeLinear", list("abc"), ["y"]),
        [(V * 9).astype(np.int8), ONE, np.array(1, np.int8)],
    ),
    "QuantizeLinear": (node("QuantizeLinear", list("abc"), ["y"]), [V, ONE, np.array(1, np.int8)]),
    "DepthToSpace": (node("DepthToSpace", ["a"], ["y"], blocksize=2), [X]),
    "SpaceToDepth": (node("SpaceToDepth", ["a"], ["y"], blocksize=2), [X]),
    "Expand": (node("Expand", ["a", "b"], ["y"]), [random(64), integers(512, 64)]),
    "Tile": (node("Tile", ["a", "b"], ["y"]), [random(64), integers(512)]),
    "Gather": (node("Gather", ["a", "b"], ["y"]), [random(256, 128), np.arange(256)[::-1]]),
    "GatherElements": (node("GatherElements", ["a", "b"], ["y"]), [random(8, 4096), np.zeros((4, 4096), np.int64)]),
    "GatherND": (node("GatherND", ["a", "b"], ["y"]), [V, np.arange(4096).reshape(-1, 1)]),
    "ScatterND": (node("ScatterND", list("abc"), ["y"]), [V, np.arange(4096).reshape(-1, 1), V[:4096]]),
    "ScatterElements": (node("ScatterElements", list("abc"), ["y"]), [V, np.arange(4096), V[:4096]]),
    "MatMul": (node("MatMul", ["a", "b"], ["y"]), [random(256, 256), random(256, 256)]),
    "Gemm": (
        node("Gemm", list("abc"), ["y"], alpha=2.0, beta=3.0),
        [random(256, 256), random(256, 256), random(256, 256)],
    ),
    "Conv": (node("Conv", ["a", "b"], ["y"], pads=[1, 1, 1, 1]), [X, random(8, 8, 3, 3)]),
    "Conv with groups": (node("Conv", ["a", "b"], ["y"], group=8), [X, random(8, 1, 5, 5)]),
    "Conv with pads": (node("Conv", ["a", "b"], ["y"], strides=[9, 9], pads=[199] * 4), [X, random(8, 8, 3, 3)]),
    "MaxPool": (node("MaxPool", ["a"], ["y"], kernel_shape=[2, 2], strides=[8, 8]), [X]),
    "AveragePool": (node("AveragePool", ["a"], ["y"], kernel_shape=[2, 2], strides=[8, 8]), [X]),
    "AveragePool with pads": (
        node("AveragePool", ["a"], ["y"], kernel_shape=[200, 200], strides=[50, 50], pads=[199, 199, 0, 0]),
        [random(1, 1, 8, 8)],
    ),
    "Resize": (
        node("Resize", ["a", "", "b"], ["y"], mode="cubic"),
        [random(1, 2, 16, 16), np.array([1, 1, 2, 2], np.float32)],
    ),
    "Pad by reflection": (node("Pad", ["a", "b"], ["y"], mode="reflect"), [X, integers(0, 0, 60, 1, 0, 0, 1, 1)]),
    "OneHot": (node("OneHot", list("abc"), ["y"]), [np.arange(256), int64(256), np.array([0, 1], np.float32)]),
    "Pad": (node("Pad", ["a", "b"], ["y"]), [X, integers(0, 0, 1, 1, 0, 0, 1, 1)]),
    "Range": (node("Range", list("abc"), ["y"]), [int64(0), int64(1 << 15), int64(1)]),
    "Slice": (node("Slice", list("abc"), ["y"]), [V, integers(0), integers(1 << 14)]),
    "TopK": (node("TopK", ["a", "b"], ["y", "z"]), [X, integers(60)]),
    "Where": (node("Where", list("abc"), ["y"]), [V > 0, V, V]),
}


@pytest.mark.parametrize("case", COSTS)
def test_memory_of_computing_is_known_before(case: str) -> None:
    """An operator takes no more memory than is compared with the limit."""
    costly, arrays = COSTS[case]
    feeds = dict(zip((name for name in costly.input if name), arrays, strict=True))
    evaluate(costly, NEWEST, feeds, "y")  # imports and caches
    tracemalloc.start()
    try:
        value = evaluate(costly, NEWEST, feeds, "y")
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    sizes = [(array.shape, array.dtype) for array in arrays]
    allowed = Limits(max(1, peak - (64 << 10)))
    with allowed.in_force(), pytest.raises(streamrt.FormatError, match="max_memory"):
        check_cost(costly, sizes, value.size, value.itemsize)


def seconds(model_node: Any, inputs: list[tuple[tuple[int, ...], str]], outputs: int) -> float:
    """The estimated seconds of computing a node, to 0.1 %."""
    low, high = 0.0, 1e6
    while high - low > 1e-3 * high:
        middle = (low + high) / 2
        with Limits(2**62, middle).in_force():
            try:
                check_cost(model_node, [(shape, np.dtype(dtype)) for shape, dtype in inputs], outputs, 4)
            except streamrt.FormatError:
                low = middle
            else:
                high = middle
    return high


@pytest.mark.parametrize(("dtype", "times"), [("float16", 5), ("int64", 3), ("int8", 3), ("bfloat16", 2)])
@pytest.mark.parametrize("op", ["MatMul", "Gemm"])
def test_products_take_longer_in_some_types(op: str, dtype: str, times: float) -> None:
    """Only float32 and float64 have a BLAS function."""
    pytest.importorskip("ml_dtypes")
    plain, slow = (
        seconds(node(op, ["a", "b"], ["y"]), [((2000, 2000), each)] * 2, 2000 * 2000) for each in ("float32", dtype)
    )
    assert slow > times * plain


@pytest.mark.parametrize(
    ("costly", "inputs", "outputs", "least"),
    [
        (node("GatherND", ["a", "b"], ["y"]), [((10**5, 1), "float32"), ((2 * 10**5, 1), "int64")], 2 * 10**5, 2.5),
        (node("MaxPool", ["a"], ["y"], kernel_shape=[3, 3]), [((1, 8, 32, 32), "float32")], 7200, 0.3),
        (node("AveragePool", ["a"], ["y"], kernel_shape=[5, 5]), [((1, 4, 32, 32), "float32")], 4096, 0.3),
        (node("LpPool", ["a"], ["y"], kernel_shape=[5, 5]), [((1, 4, 32, 32), "float32")], 3136, 0.2),
    ],
    ids=lambda value: value.op_type if hasattr(value, "op_type") else "",
)
def test_loops_take_time(costly: Any, inputs: list[Any], outputs: int, least: float) -> None:
    """The estimate is at least twice the measured time for these sizes."""
    assert seconds(costly, inputs, outputs) > least


@pytest.mark.parametrize("op", ["MaxPool", "AveragePool", "LpPool", "Conv"])
def test_padding_that_is_given_twice(op: str) -> None:
    """Both paddings would add up to more elements than are inferred."""
    window = {} if op == "Conv" else {"kernel_shape": [3, 3]}
    inputs = ["k", "w"] if op == "Conv" else ["k"]
    broken = node(op, inputs, ["c"], name="big", auto_pad="SAME_UPPER", pads=[2, 2, 2, 2], **window)
    assert not can_evaluate(broken)
    assert can_evaluate(node(op, inputs, ["c"], auto_pad="NOTSET", pads=[2, 2, 2, 2], **window))


def long_text() -> Any:
    return np.array([b"1" + b"0" * 100_000], object)


TEXTS = {
    "Cast": ([node("ConstantOfShape", ["s"], ["k"]), node("Cast", ["k"], ["t"], to=8, name="text")], {}),
    "Expand": ([node("Expand", ["w", "s"], ["t"], name="text")], {"w": long_text()}),
    "Concat": ([node("Concat", ["w"] * 2000, ["t"], axis=0, name="text")], {"w": long_text()}),
    "ConstantOfShape": (
        [node("ConstantOfShape", ["s"], ["t"], name="text", value=helper.make_tensor("v", 8, [1], [b"1" * 1000]))],
        {},
    ),
}


@pytest.mark.parametrize("case", TEXTS)
def test_nothing_is_computed_from_texts(case: str, tmp_path: Path) -> None:
    """An element of a tensor of texts may have any size."""
    nodes, constants = TEXTS[case]
    nodes = [*nodes, node("Cast", ["t"], ["c"], to=1, name="back"), *uses()]
    model = make_model(nodes, {"s": integers(2000), **constants})
    tracemalloc.start()
    try:
        with pytest.raises((streamrt.FormatError, streamrt.UnsupportedModelError), match=r"'text'|'back'"):
            streamrt.pack(model, tmp_path / "out", max_memory="8MiB")
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert peak < 4 << 20
