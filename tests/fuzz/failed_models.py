"""ONNX models that packing once failed on. Functions make them, which are smaller or easier to read than files."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
from onnx import FunctionProto, ModelProto, NodeProto, TensorProto, helper, numpy_helper

Build = Callable[[], ModelProto]
#: The functions by name, each with the failure of its model.
FAILED: dict[str, tuple[Build, str]] = {}
node = helper.make_node


def failed(reason: str) -> Callable[[Build], Build]:
    """Register a model and its reason."""

    def register(function: Build) -> Build:
        FAILED[function.__name__] = function, reason
        return function

    return register


def model(
    nodes: Sequence[NodeProto],
    constants: dict[str, object] | None = None,
    *,
    dims: Sequence[int | str] = ("N", 3),
    opset: int = 20,
    functions: Sequence[FunctionProto] = (),
) -> ModelProto:
    """A model with the input ``x`` of extents ``dims`` and the output ``y``; numbers become constants of int64."""
    graph = helper.make_graph(
        list(nodes),
        "failed",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, list(dims))],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, None)],
        [
            numpy_helper.from_array(value if isinstance(value, np.ndarray) else np.array(value, np.int64), name)
            for name, value in (constants or {}).items()
        ],
    )
    opsets = [helper.make_opsetid("", opset), *([helper.make_opsetid("local", 1)] if functions else [])]
    return helper.make_model(graph, opset_imports=opsets, functions=list(functions))


def function(name: str, *calls: NodeProto, opset: int = 20) -> FunctionProto:
    opsets = [helper.make_opsetid("", opset), helper.make_opsetid("local", 1)]
    return helper.make_function("local", name, ["a"], ["b"], list(calls), opsets)


@failed("SIGABRT in ONNX's shape inference: sizes down to 1 were tried, and gave it negative extents")
def negative_extents() -> ModelProto:
    nodes = [
        node("MaxPool", ["x"], ["p"], kernel_shape=[3, 3]),
        node("Slice", ["p", "starts", "ends", "axes"], ["s"]),
        node("Det", ["s"], ["y"]),
    ]
    return model(nodes, {"starts": [0], "ends": [2**40], "axes": [3]}, dims=("N", 3, "H", "W"))


@failed("2.1 GiB and 90 s: each function calls the previous function twice")
def nested_functions() -> ModelProto:
    functions = [function("f0", node("Relu", ["a"], ["b"]))]
    for level in range(1, 24):
        calls = [node(f"f{level - 1}", [a], [b], domain="local") for a, b in (("a", "m"), ("m", "b"))]
        functions.append(function(f"f{level}", *calls))
    return model([node("f23", ["x"], ["y"], domain="local")], functions=functions)


@failed("RuntimeError or ValidationError of the inliner: a function that calls itself")
def recursive_function() -> ModelProto:
    functions = [function("f", node("f", ["a"], ["b"], domain="local"))]
    return model([node("f", ["x"], ["y"], domain="local")], functions=functions)


@failed("RuntimeError or ValidationError of the inliner: two functions that call each other")
def mutual_functions() -> ModelProto:
    functions = [
        function("f", node("g", ["a"], ["b"], domain="local")),
        function("g", node("f", ["a"], ["b"], domain="local")),
    ]
    return model([node("f", ["x"], ["y"], domain="local")], functions=functions)


@failed("3.5 GiB: a constant of 300 million numbers that is summed")
def long_range() -> ModelProto:
    nodes = [
        node("Range", ["zero", "count", "one"], ["numbers"]),
        node("ReduceMax", ["numbers"], ["last"], keepdims=0),
        node("Cast", ["last"], ["number"], to=TensorProto.FLOAT),
        node("Add", ["x", "number"], ["y"]),
    ]
    return model(nodes, {"zero": 0, "count": 300_000_000, "one": 1})


@failed("0.6 GiB: the positions of the nonzero numbers of a large constant")
def places_in_a_large_constant() -> ModelProto:
    nodes = [
        node("ConstantOfShape", ["shape"], ["ones"], value=helper.make_tensor("v", TensorProto.FLOAT, [1], [1.0])),
        node("NonZero", ["ones"], ["places"]),
        node("ReduceMax", ["places"], ["last"], keepdims=0),
        node("Cast", ["last"], ["number"], to=TensorProto.FLOAT),
        node("Add", ["x", "number"], ["y"]),
    ]
    return model(nodes, {"shape": [50_000_000]})


@failed("2.3 GiB: strides of 6,000 x 6,000 have 36 million phases, and each phase becomes channels")
def strides_of_thousands() -> ModelProto:
    nodes = [node("ConvTranspose", ["x", "w"], ["y"], strides=[6000, 6000])]
    return model(nodes, {"w": np.ones((1, 4, 1, 1), np.float32)}, dims=("N", 1, 2, 2))


@failed("MemoryError: a constant of 32 GiB")
def constant_of_gigabytes() -> ModelProto:
    nodes = [node("ConstantOfShape", ["shape"], ["zeros"]), node("Add", ["x", "zeros"], ["y"])]
    return model(nodes, {"shape": [1, 2**33]}, dims=("N", 1))


@failed("SchemaError: the operator is newer than the opset, as an exporter wrote it")
def layer_normalization_at_13() -> ModelProto:
    nodes = [node("LayerNormalization", ["x", "scale"], ["y"])]
    return model(nodes, {"scale": np.ones(3, np.float32)}, opset=13)


@failed("SchemaError: the operator is newer than the opset")
def gelu_at_13() -> ModelProto:
    return model([node("Gelu", ["x"], ["y"])], opset=13)


@failed("SchemaError: the operator is newer than the opset")
def hard_swish_at_13() -> ModelProto:
    return model([node("HardSwish", ["x"], ["y"])], opset=13)


@failed("SchemaError: the operator is newer than the opset")
def erf_at_7() -> ModelProto:
    return model([node("Erf", ["x"], ["y"])], opset=7)


@failed("an untyped error: an initializer with a negative extent")
def negative_extent_of_an_initializer() -> ModelProto:
    made = model([node("Add", ["x", "w"], ["y"])], {"w": np.ones(3, np.float32)})
    made.graph.initializer[0].dims[:] = [-3]
    return made


@failed("an untyped error: two functions of one name")
def functions_of_one_name() -> ModelProto:
    functions = [function("f", node("Relu", ["a"], ["b"]))] * 2
    return model([node("f", ["x"], ["y"], domain="local")], functions=functions)


@failed("packed, and did not open: an extent was 4 for the batches that packing tried, and is less for smaller ones")
def batch_cut_short() -> ModelProto:
    nodes = [node("Slice", ["x", "starts", "ends"], ["y"])]
    return model(nodes, {"starts": [0], "ends": [4]})


@failed("names reached terminals with their escape sequences")
def names_with_escapes() -> ModelProto:
    nodes = [node("Sin\x7fh", ["x"], ["\x1b]0;owned\x07"], name="\x1b[2J"), node("Relu", ["\x1b]0;owned\x07"], ["y"])]
    return model(nodes)


@failed("read a file of the current folder: the tensor of an attribute said that its values lie there")
def external_data_of_an_attribute() -> ModelProto:
    value = TensorProto(name="v", data_type=TensorProto.FLOAT, dims=[1], data_location=TensorProto.EXTERNAL)
    value.external_data.add(key="location", value="pyproject.toml")
    value.external_data.add(key="length", value="4")
    nodes = [node("ConstantOfShape", ["shape"], ["c"], value=value), node("Add", ["x", "c"], ["y"])]
    return model(nodes, {"shape": [3]})


@failed("the error repeated the escape sequences of a location at which there is no file")
def external_data_at_a_place_with_escapes() -> ModelProto:
    made = model([node("Add", ["x", "w"], ["y"])])
    made.graph.initializer.add(name="w", data_type=TensorProto.FLOAT, dims=[3], data_location=TensorProto.EXTERNAL)
    made.graph.initializer[0].external_data.add(key="location", value="\x1b[2J")
    return made


@failed("339 MiB for a file of 1 MiB, and SIGSEGV for one of 4 MiB: empty nodes")
def nodes_without_content() -> ModelProto:
    return model([node("Relu", ["x"], ["y"]), *[NodeProto()] * 400_000])


@failed("271 MiB: a list of two million numbers in an attribute")
def long_list() -> ModelProto:
    return model([node("Transpose", ["x"], ["y"], perm=[300] * 2_000_000)])


@failed("12 s: the product of 100,000 extents of 2**40")
def extents_of_an_initializer() -> ModelProto:
    made = model([node("Relu", ["x"], ["y"])])
    made.graph.initializer.add(name="w", data_type=TensorProto.FLOAT, dims=[2**40] * 100_000)
    return made


@failed("625 MiB for a file of 205 KiB: 100,000 axes without names were named after their input, whose name is long")
def axes_of_an_input() -> ModelProto:
    made = model([node("Relu", ["x" * 5000], ["y"])], dims=[None] * 100_000)
    made.graph.input[0].name = "x" * 5000
    return made


@failed("128 bytes for each element: a constant that becomes text, and then numbers again")
def numbers_as_text() -> ModelProto:
    nodes = [
        node("ConstantOfShape", ["shape"], ["zeros"]),
        node("Cast", ["zeros"], ["text"], to=TensorProto.STRING),
        node("Cast", ["text"], ["numbers"], to=TensorProto.FLOAT),
        node("ReduceMax", ["numbers"], ["last"], keepdims=0),
        node("Add", ["x", "last"], ["y"]),
    ]
    return model(nodes, {"shape": [9 << 10, 1 << 10]})


@failed("more elements than inferred: both pads and auto_pad give the padding")
def padding_given_twice() -> ModelProto:
    nodes = [
        node("MaxPool", ["k"], ["p"], kernel_shape=[5, 5], pads=[2, 2, 2, 2], auto_pad="SAME_UPPER"),
        node("ReduceMax", ["p"], ["last"], keepdims=0),
        node("Add", ["x", "last"], ["y"]),
    ]
    return model(nodes, {"k": np.ones((1, 4, 32, 32), np.float32)})
