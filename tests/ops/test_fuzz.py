"""Random nodes: each is refused with `FormatError`, or runs within the memory that it asked for."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from ops.harness import lowered_for, random, run
from streamrt.errors import FormatError
from streamrt.ops import supported
from streamrt.ops.epilogue import ACTIVATIONS

_SMALL = 1 << 14  # the most elements of a tensor for a quick run

_odd = st.sampled_from(
    [0, -1, 7, 2**31 - 1, 2**31, -(2**31), 2**40, 2**62, -(2**62), 0.5, math.nan, "VALID", (), (0, 0), (1, 1, 1, 1)]
)
_few = st.integers(1, 3)
#: Operators whose result may be NaN though no input is.
_NAN = ("Div", "BatchNormalization", "Log", "Sqrt", "Pow", "Acos", "Acosh", "Asin", "Atanh")


@st.composite
def _likely(draw: st.DrawFn, op: str) -> tuple[list[tuple[int, ...]], list[int], dict[str, Any]]:
    """Shapes of inputs, parameters and attributes that mostly fit the operator."""

    def ints(count: int, low: int, high: int) -> tuple[int, ...]:
        return tuple(draw(st.integers(low, high)) for _ in range(count))

    x = ints(draw(st.integers(3, 5) if op in ("Conv", "MaxPool", "AveragePool", "LpPool") else st.integers(1, 5)), 1, 6)
    rank, last = len(x), x[-1]
    axis = draw(st.integers(-rank, rank - 1))
    broadcast = tuple(draw(st.sampled_from([1, extent])) for extent in x[draw(st.integers(0, rank)) :])
    if op in ("Conv", "MaxPool", "AveragePool", "LpPool"):
        spatial = rank - 2
        kernel = ints(spatial, 1, 4)
        attrs: dict[str, Any] = {
            "strides": ints(spatial, 1, 3),
            "dilations": ints(spatial, 1, 2),
            "pads": ints(2 * spatial, 0, 3),
            "auto_pad": draw(st.sampled_from(["NOTSET", "NOTSET", "SAME_UPPER", "SAME_LOWER", "VALID"])),
        }
        if op != "Conv":
            return [x], [], attrs | {"kernel_shape": kernel, "ceil_mode": draw(st.integers(0, 1))}
        group = draw(st.sampled_from([d for d in range(1, 7) if x[1] % d == 0]))
        rows = group * draw(_few)
        return [x, (rows, x[1] // group, *kernel), (rows,)], [1, 2], attrs | {"group": group}
    match op:
        case "Gemm":
            return [x[:2], (7, x[:2][-1]), (7,)], [1, 2], {}
        case "MatMul" if draw(st.booleans()):
            return [x, (7, last), (7,)], [1, 2], {"transB": 1}
        case "MatMul":
            return [x, (*x[:-2], last, draw(_few))], [draw(st.integers(0, 2))], {}
        case "BatchNormalization":
            return [x, *[x[1:2]] * 4], [1, 2, 3, 4], {}
        case "PRelu" | "Add" | "Sub" | "Mul" | "Div" | "Mod" | "Pow" | "And" | "Or" | "Xor" | "Equal":
            return [x, broadcast], [draw(st.integers(0, 2))], {}
        case "Greater" | "GreaterOrEqual" | "Less" | "LessOrEqual":
            return [x, broadcast], [draw(st.integers(0, 2))], {}
        case "Sum" | "Max" | "Min":
            return [x, broadcast, x], [], {}
        case "Where":
            return [broadcast, x, broadcast], draw(st.sampled_from([[], [0]])), {}
        case "ArgMax" | "ArgMin":
            flags = {"keepdims": draw(st.integers(0, 1)), "select_last_index": draw(st.integers(0, 1))}
            return [x], [], flags | {"axis": axis}
        case "InstanceNormalization":
            return [x, x[1:2], x[1:2]], [1, 2], {}
        case "LayerNormalization":
            return [x, x[axis:]], [1], {"axis": axis}
        case "GroupNormalization":
            return [x, x[1:2], x[1:2]], [1, 2], {"num_groups": draw(_few)}
        case "CumSum" | "CumProd":
            return [x], [], {"axis": axis, "exclusive": draw(st.integers(0, 1)), "reverse": draw(st.integers(0, 1))}
        case "TopK":
            return [x], [], {"axis": axis, "k": draw(_few), "largest": draw(st.integers(0, 1))}
        case "ReverseSequence":
            return [(4, *x)], [], {"sequence_lens": ints(x[0], 0, 4)}
        case "Tile":
            return [x], [], {"repeats": ints(rank, 1, 3)}
        case "Trilu":
            return [x], [], {"k": draw(st.integers(-6, 6)), "upper": draw(st.integers(0, 1))}
        case "OneHot":
            return [x], [], {"axis": axis, "depth": draw(_few)}
        case "GatherElements" | "ScatterElements":
            shape = (*x[:axis], 2, *x[axis:][1:]) if axis >= 0 else (*x[: axis + rank], 2, *x[axis + rank + 1 :])
            updates = [shape] if op == "ScatterElements" else []
            attrs = {"axis": axis, "indices_shape": shape, "indices": ints(math.prod(shape), -1, 0)}
            return [x, *updates], [], attrs
        case "GatherND" | "ScatterND":
            count = draw(st.integers(1, rank))
            updates = [(2, *x[count:])] if op == "ScatterND" else []
            return [x, *updates], [], {"indices_shape": (2, count), "indices": ints(2 * count, -1, 0)}
        case "QuantizeLinear" | "DequantizeLinear":
            scale = draw(st.sampled_from([(), (1,), (x[axis],)]))
            return [x, *[scale] * draw(st.integers(1, 2))], [1, 2], {"axis": axis}
        case "Gather":
            return [x], [], {"axis": axis, "indices": ints(draw(_few), -1, 0)}
        case "Expand":
            lent = {"extents": (*range(-1, rank - 1),)} if draw(st.booleans()) else {}
            return [broadcast, *([x] if lent else [])], [], lent | {"shape": x}
        case "GridSample":
            space = draw(st.integers(2, 3))
            modes = {"mode": draw(st.sampled_from(["linear", "nearest", "cubic"]))}
            modes |= {"padding_mode": draw(st.sampled_from(["zeros", "border", "reflection"]))}
            return [(2, 3, *ints(space, 1, 4)), (2, *ints(space, 1, 4), space)], [], modes
        case "Resize":
            sized = draw(st.booleans())
            modes: dict[str, Any] = {"mode": draw(st.sampled_from(["linear", "nearest", "cubic"]))}
            modes |= {"antialias": draw(st.integers(0, 1))}
            if sized and draw(st.booleans()):
                lent = {"sizes": (0,) * rank, "extents": (*range(-1, rank - 1),)}
                return [x, ints(rank, 1, 9)], [], modes | lent
            return [x], [], modes | ({"sizes": ints(rank, 0, 9)} if sized else {"scales": (1.5,) * rank})
        case "DepthToSpace" | "SpaceToDepth":
            return [(*x[:1], 12, *x[-2:])], [], {"blocksize": ints(2, 1, 2)}
        case "Concat":
            return [x, x], [], {"axis": axis}
        case "Softmax" | "LogSoftmax" | "Hardmax":
            return [x], [], {"axis": axis, "coerce": draw(st.integers(0, 1))}
        case "Flatten":
            return [x], [], {"axis": axis}
        case "LRN":
            return [x], [], {"size": draw(st.integers(1, 9))}
        case "Reshape":
            if draw(st.booleans()):
                lent = {"shape": (0,) * (rank - 1) + (-1,), "extents": (*draw(st.permutations(range(rank - 1))), -1)}
                return [x, *([x] if draw(st.booleans()) else [])], [], lent
            return [x], [], {"shape": draw(st.sampled_from([(-1,), (0, -1), (-1, last), (*reversed(x),)]))}
        case "Transpose":
            return [x], [], {"perm": tuple(draw(st.permutations(range(rank))))}
        case "Squeeze":
            return [(*x, 1)], [], {"axes": (draw(st.sampled_from([-1, rank])),)}
        case "Unsqueeze":
            return [x], [], {"axes": (axis,)}
        case "ReduceMean" | "ReduceSum" | "ReduceMax" | "ReduceMin" | "ReduceProd":
            return [x], [], {"axes": (axis,), "keepdims": draw(st.integers(0, 1))}
        case "Split":
            return [x], [], {"axis": axis, "split": (x[axis],)}
        case "Slice":
            attrs = {name: ints(1, -7, 7) for name in ("starts", "ends", "steps")}
            return [x], [], attrs | {"axes": (axis,)}
        case "GRU" | "LSTM" | "RNN":
            gates, hidden = {"GRU": 3, "LSTM": 4, "RNN": 1}[op], draw(_few)
            steps, samples, layout = draw(_few), draw(_few), draw(st.integers(0, 1))
            attrs = {"layout": layout, "direction": draw(st.sampled_from(["forward", "reverse"]))}
            if op == "GRU":
                attrs["linear_before_reset"] = draw(st.integers(0, 1))
            rows, sequence = gates * hidden, (samples, steps) if layout else (steps, samples)
            state = (samples, 1, hidden) if layout else (1, samples, hidden)
            shapes = [(*sequence, rows), (rows, hidden), (rows,), *[state] * draw(st.integers(0, 1 + (op == "LSTM")))]
            return shapes, [1, 2], attrs
        case "Pad":
            mode = draw(st.sampled_from(["constant", "edge", "reflect", "wrap"]))
            return [x], [], {"pads": ints(2 * rank, -2, 3), "mode": mode}
    return [x], [], {}


@st.composite
def _node(draw: st.DrawFn) -> tuple[str, list[Any], list[int], dict[str, Any]]:
    """A likely node; half of the nodes have one change."""
    op = draw(st.sampled_from(sorted(supported())))
    shapes, params, attrs = draw(_likely(op))
    params = [index for index in params if index < len(shapes)]
    change = draw(st.sampled_from(["nothing"] * 4 + ["attribute", "extent", "rank", "inputs"]))
    index = draw(st.integers(0, len(shapes) - 1))
    if change == "attribute":
        names = [*attrs, "axis", "axes", "alpha"]
        attrs[draw(st.sampled_from(names))] = draw(_odd)
    elif change == "extent" and shapes[index]:
        shapes[index] = (draw(st.sampled_from([0, 1, 2, 2**20, 2**39])), *shapes[index][1:])
    elif change == "rank":
        shapes[index] = draw(st.sampled_from([(), shapes[index][1:], (1, *shapes[index])]))
    elif change == "inputs":
        params = draw(st.sampled_from([[], list(range(len(shapes)))]))
    return op, shapes, params, attrs


_activation = st.one_of(st.none(), st.sampled_from(ACTIVATIONS).map(lambda name: (name, {})))


@settings(max_examples=1000, deadline=None)
@given(_node(), _activation, st.data())
def test_refused_or_within_bounds(node: Any, activation: Any, data: st.DataObject) -> None:
    op, shapes, params, attrs = node
    try:
        lowered = lowered_for(op, shapes, params, attrs=attrs, activation=activation)
    except FormatError:
        return
    (out,) = lowered.outputs
    assert min(out, default=1) >= 1
    sizes = [math.prod(shape) for shape in (*shapes, out)]
    assert max(sizes) < 2**40
    assert all(shapes[i] == out and i not in params for i in lowered.inplace)
    assert all(shapes[i][0] * lowered.passes == lowered.rows for i in lowered.tiled)
    if lowered.batchwise and not lowered.fixed:
        assert all(shape[0] == out[lowered.batch] for i, shape in enumerate(shapes) if i not in params)
    if max(*sizes, lowered.scratch // 4) <= _SMALL:
        inputs = [random(*shape, seed=i) for i, shape in enumerate(shapes)]
        cuts = sorted(data.draw(st.sets(st.integers(1, lowered.rows - 1)))) if lowered.rows > 1 else []
        y = run(op, inputs, params, cuts=cuts, attrs=attrs, activation=activation)[0]
        assert y.shape == out
        assert y.dtype == np.float32
        negative = op == "LRN" and attrs.get("alpha", 0) < 0  # a power of a number that may be negative
        assert not np.isnan(y).all() or op in _NAN or negative  # the harness writes NaN beforehand
