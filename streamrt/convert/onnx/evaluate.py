"""Computing a node from constants, by the reference implementation of the ``onnx`` package.

The reference implementation is NumPy, or loops in Python, and cannot be interrupted. So an operator is computed only if
its memory and time are known from the shapes of its inputs and outputs. Both are compared with the limits first.
"""

from __future__ import annotations

import contextlib
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import onnx
from onnx import NodeProto, TypeProto
from onnx.reference import ReferenceEvaluator

from streamrt.convert import limits
from streamrt.convert.onnx.infer import first_line, schema_of
from streamrt.convert.weights import AnyArray
from streamrt.errors import FormatError
from streamrt.ops import Shape

_BOOL = np.dtype(np.bool_)


class _Sizes(NamedTuple):
    """Shapes, types and elements of the inputs, and the elements of all outputs together."""

    shapes: tuple[Shape, ...]
    dtypes: tuple[np.dtype[Any], ...]
    inputs: tuple[int, ...]
    outputs: int

    @classmethod
    def of(cls, inputs: Sequence[tuple[Shape, np.dtype[Any]]], outputs: int) -> _Sizes:
        """The sizes of inputs with these shapes and types."""
        shapes, dtypes = tuple(shape for shape, _ in inputs), tuple(dtype for _, dtype in inputs)
        return cls(shapes, dtypes, tuple(math.prod(shape) for shape in shapes), outputs)

    @property
    def total(self) -> int:
        return sum(self.inputs) + self.outputs


@dataclass(frozen=True, slots=True)
class _Cost:
    """Memory and time that computing an operator takes.

    Attributes:
        outputs: bytes of outputs and temporaries for each byte of the outputs, at most.
        inputs: bytes of temporaries for each byte of the inputs, at most.
        seconds: estimates the time; None if it is a few passes over memory.
        more: gives the elements of further temporaries.
    """

    outputs: int = 2
    inputs: int = 0
    seconds: Callable[[NodeProto, _Sizes], float] | None = None
    more: Callable[[NodeProto, _Sizes], int] | None = None


#: Seconds of a multiply-add by type; `_product_seconds` has the seconds for all other types.
_PRODUCT_SECONDS = {"float32": 1e-9, "float64": 1.5e-9, "float16": 8e-9}


def _of_loops(node: NodeProto, sizes: _Sizes) -> float:
    """Seconds of a loop in Python over all elements. An axis without elements counts as one element."""
    return 2e-6 * (sizes.outputs + sum(math.prod(max(extent, 1) for extent in shape) for shape in sizes.shapes))


def _of_gathering(node: NodeProto, sizes: _Sizes) -> float:
    """Seconds of a loop in Python that makes a tuple of each index."""
    return 3 * _of_loops(node, sizes)


def _of_product(node: NodeProto, sizes: _Sizes) -> float:
    """Seconds of a product: each element of the result is a sum over an axis of the first input."""
    return sizes.outputs * (1e-8 + _product_seconds(sizes) * max(sizes.shapes[0], default=1))


def _product_seconds(sizes: _Sizes) -> float:
    """Seconds of a multiply-add. Only float32 and float64 have a BLAS function; float16 is converted."""
    return max((_PRODUCT_SECONDS.get(dtype.name, 4e-9) for dtype in sizes.dtypes), default=0.0)


def _of_padding(node: NodeProto, sizes: _Sizes) -> float:
    """Seconds of a Pad. Modes that repeat values repeat them one by one."""
    return 2e-5 * sizes.outputs if any(a.name == "mode" and a.s != b"constant" for a in node.attribute) else 0.0


def _of_windows(node: NodeProto, sizes: _Sizes) -> float:
    """Seconds of a loop in Python over the elements of the result, with an inner loop over the window."""
    return sizes.outputs * (2.5e-5 + 2.5e-6 * _window(node, sizes))


def _of_patches(node: NodeProto, sizes: _Sizes) -> float:
    """Seconds of a product with every window of the input, which Python gathers."""
    return 1e-6 * _patches(node, sizes)


def _of_interpolation(node: NodeProto, sizes: _Sizes) -> float:
    """Seconds of a loop in Python over the input for each element of the result."""
    return 1e-5 * sizes.outputs * sizes.inputs[0]


#: Seconds of evaluating a Resize beyond which it stays in the graph, as of a table of positions: a pass takes far less.
_STAYS = 1.0


def _coordinates(node: NodeProto, sizes: _Sizes) -> int:
    """Elements of temporaries: the coordinates of all elements of the result, in at most four arrays."""
    return 4 * len(sizes.shapes[0]) * sizes.outputs


def _window(node: NodeProto, sizes: _Sizes) -> int:
    """Elements of a window, without channels."""
    for attribute in node.attribute:
        if attribute.name == "kernel_shape":
            return math.prod(int(extent) for extent in attribute.ints)
    return math.prod(sizes.shapes[1][2:]) if len(sizes.shapes) > 1 else 1


def _padded(node: NodeProto, sizes: _Sizes) -> int:
    """Elements of temporaries: the input with the largest padding, in at most four arrays."""
    around = sum(abs(int(value)) for a in node.attribute if a.name in ("pads", "kernel_shape") for value in a.ints)
    around += sum(sizes.shapes[1]) if len(sizes.shapes) > 1 else 0
    extents = sizes.shapes[0]
    return 4 * math.prod(extents[:2]) * math.prod(extent + around for extent in extents[2:])


def _patches(node: NodeProto, sizes: _Sizes) -> int:
    """Elements of temporaries: all windows of the input, in at most three arrays, and the padded input."""
    positions = sizes.outputs // max(1, math.prod(sizes.shapes[1][:1])) * math.prod(sizes.shapes[0][1:2])
    return 3 * positions * _window(node, sizes) + _padded(node, sizes)


def _sorted(node: NodeProto, sizes: _Sizes) -> int:
    """Elements of temporaries: indices along each axis, and the indices by which values are sorted."""
    return 2 * (len(sizes.shapes[0]) + 3) * sizes.inputs[0]


_MOVED = _Cost(2)
_VALUES = _Cost(2)
_REDUCED = _Cost(3, 3)
_COSTS: dict[str, _Cost] = {
    # operators that move values
    **dict.fromkeys(
        (
            *("Cast", "CastLike", "Concat", "ConstantOfShape", "DepthToSpace", "Expand", "EyeLike"),
            *("Flatten", "Gather", "Identity", "NonZero", "Range", "Reshape", "Shape", "Size", "Slice"),
            *("SpaceToDepth", "Split", "Squeeze", "Tile", "Transpose", "Trilu", "Unsqueeze", "Where"),
        ),
        _MOVED,
    ),
    # operators that work value by value
    **dict.fromkeys(
        (
            *("Acos", "Acosh", "Asin", "Asinh", "Atan", "Atanh", "Cosh", "Sinh"),
            *("Abs", "Add", "And", "BitShift", "BitwiseAnd", "BitwiseNot", "BitwiseOr", "BitwiseXor", "Ceil", "Clip"),
            *("Cos", "Div", "Equal", "Exp", "Floor", "Greater", "GreaterOrEqual", "IsInf", "IsNaN", "Less"),
            *("LessOrEqual", "Log", "Max", "Min", "Mod", "Mul", "Neg", "Not", "Or", "Pow", "Reciprocal"),
            *("Relu", "Round", "Sign", "Sin", "Sqrt", "Sub", "Sum", "Tan", "Tanh", "Xor"),
        ),
        _VALUES,
    ),
    # operators with temporaries
    **dict.fromkeys(
        (
            *("BatchNormalization", "Compress", "CumSum", "Elu", "HardSigmoid", "HardSwish"),
            *("InstanceNormalization", "LayerNormalization", "LeakyRelu", "LogSoftmax", "Mean", "OneHot", "PRelu"),
            *("QuantizeLinear", "Selu", "Sigmoid", "Softmax", "Softplus", "Swish"),
            *("Celu", "Shrink", "Softsign", "ThresholdedRelu"),
        ),
        _Cost(4, 2),
    ),
    **dict.fromkeys(
        (
            *("ArgMax", "ArgMin", "GlobalAveragePool", "GlobalMaxPool", "ReduceL1", "ReduceL2", "ReduceLogSum"),
            *("ReduceLogSumExp", "ReduceMax", "ReduceMean", "ReduceMin", "ReduceProd", "ReduceSum", "ReduceSumSquare"),
        ),
        _REDUCED,
    ),
    "DequantizeLinear": _Cost(3),
    # operators that take longer than a few passes over memory
    **dict.fromkeys(("Erf", "Gelu", "LRN"), _Cost(40, 8, _of_loops)),
    **dict.fromkeys(("GatherElements", "ScatterElements", "ScatterND"), _Cost(40, 20, _of_loops)),
    "GatherND": _Cost(40, 20, _of_gathering),
    **dict.fromkeys(("Gemm", "MatMul"), _Cost(4, 2, _of_product)),
    **dict.fromkeys(("AveragePool", "LpPool", "MaxPool"), _Cost(8, 8, _of_windows, _padded)),
    "Conv": _Cost(8, 8, _of_patches, _patches),
    "Pad": _Cost(2, 1, _of_padding),
    "Resize": _Cost(8, 8, _of_interpolation, _coordinates),
    "TopK": _Cost(4, 4, more=_sorted),
}


def can_evaluate(node: NodeProto) -> bool:
    """Whether a node with this operator is computed from constants.

    A window with dilations is not computed, because it takes too much memory. Neither are pads that are given twice,
    because they add up to more elements than were inferred.
    """
    holes = any(a.name == "dilations" and any(value != 1 for value in a.ints) for a in node.attribute)
    padded = any(a.name == "pads" and any(a.ints) for a in node.attribute)
    twice = padded and any(a.name == "auto_pad" and a.s not in (b"", b"NOTSET") for a in node.attribute)
    return node.op_type in _COSTS and not holes and not twice


def stays(node: NodeProto, inputs: Sequence[tuple[Shape, np.dtype[Any]]], outputs: int) -> bool:
    """Whether a node of constants stays in the graph, because evaluating it would take long and running it does not.

    The arguments are those of `check_cost`.
    """
    if node.op_type != "Resize":
        return False
    return _of_interpolation(node, _Sizes.of(inputs, outputs)) > _STAYS


def most_elements(node: NodeProto, values: Sequence[AnyArray | None], shapes: Sequence[Shape]) -> int | None:
    """The most elements of an output whose shape cannot be inferred; None if that is not known.

    ``values`` has the values of small inputs, ``shapes`` the shapes of all inputs.
    """
    match node.op_type:
        case "Range" if len(values) == 3 and all(v is not None and v.size == 1 for v in values):
            start, limit, delta = (v.reshape(-1)[0].item() for v in values if v is not None)
            count = abs((limit - start) / delta) + 1 if delta else math.inf
            return int(count) if math.isfinite(count) else None
        case "NonZero":
            return max(1, len(shapes[0])) * math.prod(shapes[0])
        case "Compress":
            return math.prod(shapes[0])
        case "GreaterOrEqual" | "LessOrEqual":  # in some opsets these are functions, which inference does not know
            with contextlib.suppress(ValueError):
                return math.prod(np.broadcast_shapes(*shapes))
    return None


def check_cost(node: NodeProto, inputs: Sequence[tuple[Shape, np.dtype[Any]]], outputs: int, itemsize: int) -> None:
    """Raise `LimitError` if computing a node takes more memory or time than the limits in force allow.

    Args:
        node: an operator that can be evaluated.
        inputs: shape and type of each input that is not left out.
        outputs: the most elements of all outputs together.
        itemsize: bytes of an element of an output.
    """
    cost, sizes = _COSTS[node.op_type], _Sizes.of(inputs, outputs)
    taken = cost.outputs * outputs * max(itemsize, 4)
    read = zip(sizes.inputs, sizes.dtypes, strict=True)
    taken += cost.inputs * sum(size * max(dtype.itemsize, 4) for size, dtype in read)
    if cost.more is not None:
        taken += 8 * cost.more(node, sizes)
    limits.current().check_memory(taken)
    limits.current().check_time(cost.seconds(node, sizes) if cost.seconds is not None else 0.0)


def evaluate(node: NodeProto, opset: int, feeds: Mapping[str, AnyArray], name: str) -> AnyArray:
    """Output ``name`` of a node whose cost has been checked.

    Raises:
        FormatError: the node is malformed, or does not fit its inputs.
    """
    schema = schema_of(node.op_type, opset)
    version = opset if schema is None else max(opset, schema.since_version)
    plain = NodeProto()
    plain.CopyFrom(node)
    plain.domain = ""
    # The evaluator reads the names of inputs and outputs, and not their types.
    graph = onnx.helper.make_graph(
        [plain],
        "fold",
        [onnx.helper.make_value_info(n, TypeProto()) for n in feeds],
        [onnx.helper.make_value_info(name, TypeProto())],
    )
    try:
        with np.errstate(all="ignore"):
            (value,) = ReferenceEvaluator(graph, opsets={"": version}).run(None, dict(feeds))
    except Exception as error:  # a malformed node can make it raise anything
        raise FormatError(
            f"node {node.name or name!r} ({node.op_type}) cannot be evaluated: {first_line(error)}"
        ) from error
    return np.asarray(value)
