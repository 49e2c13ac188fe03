"""Makes ONNX models from recipes as an exporter does, with idioms that only ONNX has."""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray
from onnx import GraphProto, ModelProto, NodeProto, TensorProto, helper, numpy_helper

from fuzz.zoo import Recipe

#: Attributes of a recipe's node that are inputs in ONNX, in order; "" is a missing input.
_INPUTS = {
    "Clip": ("min", "max"),
    "Expand": ("shape",),
    "Gather": ("indices",),
    "Pad": ("pads", "value"),
    "ReduceMax": ("axes",),
    "ReduceMean": ("axes",),
    "ReduceMin": ("axes",),
    "ReduceSum": ("axes",),
    "Reshape": ("shape",),
    "Resize": ("", "scales", "sizes"),
    "Slice": ("starts", "ends", "axes", "steps"),
    "Split": ("split",),
    "Squeeze": ("axes",),
    "Unsqueeze": ("axes",),
}
#: Attributes that only weights files have.
_OURS = {"coerce", "extents", "transB", "indices_shape"}
_TRUTH = ("And", "Equal", "Greater", "GreaterOrEqual", "Less", "LessOrEqual", "Not", "Or", "Xor")
_TAKE_TRUTH = ("And", "Not", "Or", "Xor")
#: The operator set with the newest operator of a recipe (Swish).
OPSET = 24
_OPSETS = (OPSET, OPSET, OPSET, 22, 21, 18, 17, 13, 11, 9, 7)


class Writer:
    """A model under construction."""

    def __init__(self, rng: random.Random, recipe: Recipe) -> None:
        self.rng = rng
        self.model = ModelProto(ir_version=10)
        self.graph = self.model.graph
        self.graph.name = "fuzz"
        self.model.opset_import.add(version=rng.choice(_OPSETS))
        self.params = dict(recipe.params)
        for spec in recipe.graph["inputs"]:
            value = self.graph.input.add(name=spec["name"])
            value.type.tensor_type.elem_type = TensorProto.FLOAT
            for dim in spec["dims"]:
                entry = value.type.tensor_type.shape.dim.add()
                if isinstance(dim, str):
                    entry.dim_param = dim
                else:
                    entry.dim_value = dim

    def node(self, op: str, inputs: Sequence[str], outputs: Sequence[str], **attrs: Any) -> NodeProto:
        attrs = {key: value for key, value in attrs.items() if value not in ([], ())}
        node = helper.make_node(op, inputs, outputs, name=f"n{len(self.graph.node)}", **attrs)
        self.graph.node.append(node)
        return node

    def fresh(self) -> str:
        return f"v{len(self.graph.node)}"

    def constant(self, value: NDArray[Any]) -> str:
        """Write a constant as an initializer, or sometimes as a node."""
        name = f"c{len(self.graph.initializer) + len(self.graph.node)}"
        tensor = numpy_helper.from_array(value, name)
        if self.rng.random() < 0.2:
            self.node("Constant", [], [name], value=tensor)
        else:
            self.graph.initializer.append(tensor)
        return name

    def ints(self, *values: int) -> str:
        return self.constant(np.array(values, np.int64))

    def weight(self, *shape: int) -> str:
        count = int(np.prod(shape))
        return self.constant((np.arange(count, dtype=np.float32) % 17 / 4 - 2).reshape(shape))

    def add(self, data: dict[str, Any]) -> None:
        """Write a node of a recipe."""
        op, inputs, attrs = data["op"], list(data["inputs"]), dict(data.get("attrs", {}))
        outputs = list(data["outputs"])
        if "activation" in data:
            self.node(data["activation"]["op"], [outputs[0] + "_"], [outputs[0]], **data["activation"].get("attrs", {}))
            activation = self.graph.node.pop()
            outputs[0] += "_"
        if op in ("Gemm", "MatMul") and (op == "Gemm" or attrs.get("transB")):
            if op == "MatMul":
                self.node("Transpose", [inputs[1]], [inputs[1] + "t"], perm=[1, 0])
                self.node("MatMul", [inputs[0], inputs[1] + "t"], [outputs[0] if len(inputs) < 3 else outputs[0] + "m"])
                if len(inputs) == 3:
                    self.node("Add", [outputs[0] + "m", inputs[2]], [outputs[0]])
            else:
                self.node("Gemm", inputs, outputs, transB=1)
        elif op in ("GRU", "LSTM", "RNN"):
            rows, hidden = self.params[inputs[1]]
            matrix = self.fresh()
            self.node("Reshape", [inputs[1], self.ints(1, rows, hidden)], [matrix])
            given = [inputs[0], self.weight(1, rows, rows), matrix]
            given += [self.weight(1, 2 * rows)] * (len(inputs) > 2)
            self.node(op, given, outputs, hidden_size=hidden, **attrs)
        else:
            for at, name in enumerate(inputs):
                if op in _TAKE_TRUTH or (op == "Where" and at == 0):
                    inputs[at] = self.fresh()
                    self.node("Cast", [name], [inputs[at]], to=TensorProto.BOOL)
            for name in _INPUTS.get(op, ()):
                value = attrs.pop(name, None)
                whole = name not in ("scales", "min", "max", "value")
                array = None if value is None else np.array(value, np.int64 if whole else np.float32)
                inputs.append("" if array is None else self.constant(array))
            while inputs and not inputs[-1]:
                inputs.pop()
            if op in ("DepthToSpace", "SpaceToDepth"):
                attrs["blocksize"] = attrs["blocksize"][0]
            attrs = {key: value for key, value in attrs.items() if key not in _OURS}
            numbers = op in _TRUTH or op in ("ArgMax", "ArgMin")
            self.node(op, inputs, [name + "_raw" for name in outputs] if numbers else outputs, **attrs)
            for name in outputs if numbers else ():
                self.node("Cast", [name + "_raw"], [name], to=TensorProto.FLOAT)
        if "activation" in data:
            self.graph.node.append(activation)

    def finish(self, outputs: Sequence[str]) -> ModelProto:
        for name, shape in self.params.items():
            values = (np.arange(int(np.prod(shape)), dtype=np.float32) % 17 / 4 - 2).reshape(shape)
            self.graph.initializer.append(numpy_helper.from_array(values, name))
        for name in outputs:
            self.graph.output.add(name=name).type.tensor_type.elem_type = TensorProto.FLOAT
        return self.model


Idiom = Callable[[Writer, str, list[Any]], str]


def _flatten(w: Writer, x: str, dims: list[Any]) -> str:
    """Write ``x.view(x.size(0), -1)`` as exporters do."""
    shape, batch, first, both, y = (w.fresh() + suffix for suffix in "abcde")
    w.node("Shape", [x], [shape])
    w.node("Gather", [shape, w.ints(0)], [batch], axis=0)
    w.node("Identity", [batch], [first])
    w.node("Concat", [first, w.ints(-1)], [both], axis=0)
    w.node("Reshape", [x, both], [y])
    return y


def _arithmetic(w: Writer, x: str, dims: list[Any]) -> str:
    """Write a Slice by a size that is computed from another size."""
    shape, one, size, y = (w.fresh() + suffix for suffix in "abcd")
    w.node("Shape", [x], [shape])
    axis = w.rng.randrange(len(dims))
    w.node("Gather", [shape, w.ints(axis)], [one], axis=0)
    w.node(w.rng.choice(["Add", "Sub", "Mul", "Div"]), [one, w.ints(w.rng.choice([1, 2]))], [size])
    w.node("Slice", [x, w.ints(0), size, w.ints(axis)], [y])
    return y


def _zeros(w: Writer, x: str, dims: list[Any]) -> str:
    shape, zeros, y = (w.fresh() + suffix for suffix in "abc")
    w.node("Shape", [x], [shape])
    value = helper.make_tensor("value", TensorProto.FLOAT, [1], [0.5])
    w.node("ConstantOfShape", [shape], [zeros], value=value)
    w.node("Add", [x, zeros], [y])
    return y


def _range(w: Writer, x: str, dims: list[Any]) -> str:
    last = dims[-1] if isinstance(dims[-1], int) else 1
    numbers, y = (w.fresh() + suffix for suffix in "ab")
    bounds = [w.constant(np.array(v, np.int64)) for v in (0, last, 1)]
    w.node("Range", bounds, [numbers])
    w.node("Gather", [x, numbers], [y], axis=len(dims) - 1)
    return y


def _nonzero(w: Writer, x: str, dims: list[Any]) -> str:
    found, flat, y = (w.fresh() + suffix for suffix in "abc")
    last = dims[-1] if isinstance(dims[-1], int) else 1
    w.node("NonZero", [w.constant(np.ones(last, np.float32))], [found])
    w.node("Reshape", [found, w.ints(-1)], [flat])
    w.node("Gather", [x, flat], [y], axis=len(dims) - 1)
    return y


def _transposed(w: Writer, x: str, dims: list[Any]) -> str:
    """Write a transposed convolution."""
    y, spatial = w.fresh() + "a", max(len(dims) - 2, 0)
    channels = dims[1] if len(dims) > 1 and isinstance(dims[1], int) else 1
    attrs: dict[str, Any] = {"strides": [w.rng.choice([1, 2, 3]) for _ in range(spatial)]}
    if w.rng.random() < 0.5:
        attrs["pads"] = [w.rng.choice([0, 1]) for _ in range(2 * spatial)]
    if w.rng.random() < 0.3:
        attrs["output_padding"] = [0] * spatial
    kernel = [w.rng.choice([1, 2, 3]) for _ in range(spatial)]
    w.node("ConvTranspose", [x, w.weight(channels, w.rng.choice([1, 2, 4]), *kernel)], [y], **attrs)
    return y


def _spelled(op: str, **attrs: Any) -> Idiom:
    def write(w: Writer, x: str, dims: list[Any]) -> str:
        y = w.fresh() + "a"
        w.node(op, [x], [y], **attrs)
        return y

    return write


def _branch(w: Writer, x: str, dims: list[Any]) -> str:
    y = w.fresh() + "a"

    def body(op: str) -> GraphProto:
        out = helper.make_tensor_value_info("inner", TensorProto.FLOAT, None)
        return helper.make_graph([helper.make_node(op, [x], ["inner"])], "body", [], [out])

    w.node("If", [w.constant(np.array(True))], [y], then_branch=body("Relu"), else_branch=body("Tanh"))
    return y


def _function(w: Writer, x: str, dims: list[Any]) -> str:
    """Write a call of a function of the model, which may call another."""
    y, depth = w.fresh() + "a", w.rng.choice([1, 1, 2, 3])
    opset = [helper.make_opsetid("", w.model.opset_import[0].version), helper.make_opsetid("local", 1)]
    names = [f"f{len(w.model.functions) + level}" for level in range(depth)]
    for level, name in enumerate(names):
        nodes = [helper.make_node("Relu", ["a"], ["m"])]
        if level:
            nodes = [helper.make_node(names[level - 1], [a], [b], domain="local") for a, b in (("a", "n"), ("n", "m"))]
        nodes.append(helper.make_node("Tanh", ["m"], ["b"]))
        w.model.functions.append(helper.make_function("local", name, ["a"], ["b"], nodes, opset))
    if len(w.model.opset_import) == 1:
        w.model.opset_import.add(domain="local", version=1)
    w.node(names[-1], [x], [y], domain="local")
    return y


_IDIOMS: tuple[Idiom, ...] = (
    _flatten,
    _arithmetic,
    _arithmetic,
    _zeros,
    _range,
    _nonzero,
    _transposed,
    _transposed,
    _branch,
    _function,
    _function,
    _spelled("Neg"),
    _spelled("Selu"),
    _spelled("Dropout"),
    _spelled("Cast", to=TensorProto.FLOAT),
    _spelled("ReduceL2", keepdims=1),
    _spelled("ReduceSumSquare"),
    _spelled("ReduceLogSum"),
    _spelled("Einsum", equation="...->..."),
)


def spell(rng: random.Random, recipe: Recipe) -> ModelProto:
    """The model of a valid recipe, with up to two idioms."""
    writer = Writer(rng, recipe)
    renamed: dict[str, str] = {}
    first = recipe.graph["inputs"][0]
    for _ in range(rng.choice([0, 0, 1, 1, 2])):
        source = renamed.get(first["name"], first["name"])
        renamed[first["name"]] = rng.choice(_IDIOMS)(writer, source, first["dims"]) if first["dims"] else source
    for data in recipe.graph["nodes"]:
        writer.add(data | {"inputs": [renamed.get(name, name) for name in data["inputs"]]})
    return writer.finish([spec["name"] for spec in recipe.graph["outputs"]])
