"""Lowering, binding and running allocate nothing that grows with the model. Such memory must be scratch memory.

The harness measures operators on int64 (`test_integers`).
"""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from ops.allocations import bounded
from ops.harness import lowered_for, random
from streamrt.ops import Buffers, supported
from streamrt.ops.epilogue import ACTIVATIONS

_UNARY = ("Abs", "Ceil", "Exp", "Floor", "Identity", "Log", "LogSoftmax", "Not", "Reciprocal", "Sign", "Sqrt")
_FUNCTIONS = ("Acos", "Acosh", "Asin", "Asinh", "Atan", "Atanh", "Cos", "Cosh", "Round", "Sin", "Sinh", "Tan", "IsNaN")
_BINARY = ("And", "Equal", "Greater", "GreaterOrEqual", "Less", "LessOrEqual", "Mod", "Or", "Sub", "Xor")

# name: (operator, shapes of inputs, parameters, attributes); every tensor but the vectors is 256 KiB or more
CASES: dict[str, tuple[str, list[tuple[int, ...]], list[int], dict[str, Any]]] = {
    "Gemm, one sample": ("Gemm", [(1, 1024), (512, 1024), (512,)], [1, 2], {}),
    "Gemm": ("Gemm", [(256, 1024), (512, 1024), (512,)], [1, 2], {}),
    "MatMul": ("MatMul", [(256, 1024), (1024, 512)], [1], {}),
    "MatMul of batches": ("MatMul", [(4, 3, 256, 128), (4, 3, 128, 256)], [], {}),
    "MatMul transB of batches": ("MatMul", [(4, 3, 256, 128), (4, 3, 256, 128)], [], {"transB": 1}),
    "MatMul, broadcast": ("MatMul", [(4, 1, 256, 128), (1, 3, 128, 256)], [], {}),
    "MatMul in a loop": ("MatMul", [(2, 1, 4, 1, 64, 64), (1, 2, 4, 2, 64, 64)], [], {}),
    "Attention": ("Attention", [(2, 4, 256, 64), (2, 2, 512, 64), (2, 2, 512, 64), (256, 512)], [], {"is_causal": 1}),
    "Attention, a row at a time": (
        "Attention",
        [(1, 1, 8, 4), (1, 1, 2**18, 4), (1, 1, 2**18, 4)],
        [],
        {"softcap": 2.0},
    ),
    "RotaryEmbedding": ("RotaryEmbedding", [(2, 16, 64, 64), (64, 32), (64, 32)], [1, 2], {}),
    "Einsum": ("Einsum", [(4, 256, 3, 128), (4, 256, 3, 128)], [], {"equation": "bihd,bjhd->bijh"}),
    "Einsum of a diagonal": ("Einsum", [(512, 16, 512)], [], {"equation": "iji->ij"}),
    "Einsum with sums": ("Einsum", [(64, 64, 64), (64, 64, 16)], [1], {"equation": "abc,cde->ae"}),
    "RMSNormalization": ("RMSNormalization", [(512, 512), (512,)], [1], {}),
    "Conv": ("Conv", [(2, 32, 64, 64), (32, 32, 3, 3), (32,)], [1, 2], {"pads": (1, 1, 1, 1)}),
    "Conv strided": ("Conv", [(1, 64, 40, 40), (64, 64, 3, 3), (64,)], [1, 2], {"strides": (2, 2)}),
    "Conv in groups": ("Conv", [(2, 32, 64, 64), (32, 8, 3, 3), (32,)], [1, 2], {"group": 4}),
    "Conv pointwise": ("Conv", [(2, 32, 64, 64), (48, 32, 1, 1), (48,)], [1, 2], {}),
    "Conv depthwise": ("Conv", [(2, 32, 64, 64), (32, 1, 3, 3), (32,)], [1, 2], {"group": 32}),
    "Conv of volumes": ("Conv", [(1, 32, 8, 32, 32), (32, 32, 3, 3, 3), (32,)], [1, 2], {"pads": (1,) * 6}),
    "BatchNormalization": ("BatchNormalization", [(2, 64, 64, 64), *[(64,)] * 4], [1, 2, 3, 4], {}),
    "Gelu": ("Gelu", [(512, 512)], [], {}),
    "PRelu": ("PRelu", [(2, 64, 64, 64), (64, 1, 1)], [1], {}),
    "PRelu, any slope": ("PRelu", [(2, 64, 64, 64), (64, 1, 64)], [1], {}),
    "Softmax": ("Softmax", [(256, 512)], [], {}),
    "LRN": ("LRN", [(2, 64, 64, 64)], [], {"size": 5}),
    "MaxPool": ("MaxPool", [(2, 64, 64, 64)], [], {"kernel_shape": (2, 2), "strides": (2, 2)}),
    "AveragePool": ("AveragePool", [(2, 64, 64, 64)], [], {"kernel_shape": (3, 3), "pads": (1, 1, 1, 1)}),
    "AveragePool of volumes": ("AveragePool", [(1, 64, 16, 32, 32)], [], {"kernel_shape": (2, 3, 3)}),
    "LpPool of volumes": ("LpPool", [(1, 64, 16, 32, 32)], [], {"kernel_shape": (2, 2, 2)}),
    "GlobalAveragePool": ("GlobalAveragePool", [(2, 64, 64, 64)], [], {}),
    "Add": ("Add", [(2, 64, 64, 64), (2, 64, 64, 64)], [], {}),
    "Mul broadcast": ("Mul", [(2, 64, 64, 64), (2, 64, 1, 1)], [], {}),
    "Div by rows": ("Div", [(2, 64, 64, 64), (64, 64)], [], {}),
    "Sum": ("Sum", [(2, 64, 64, 64)] * 3, [], {}),
    "Pow": ("Pow", [(2, 64, 64, 64), ()], [1], {}),
    "Softplus": ("Softplus", [(2, 64, 64, 64)], [], {}),
    "Max": ("Max", [(2, 64, 64, 64)] * 3, [], {}),
    "Where": ("Where", [(64, 64), (2, 64, 64, 64), (2, 64, 64, 64)], [0], {}),
    "InstanceNormalization": ("InstanceNormalization", [(2, 64, 64, 64), (64,), (64,)], [1, 2], {}),
    "LayerNormalization": ("LayerNormalization", [(512, 512), (512,), (512,)], [1, 2], {}),
    "LpPool": ("LpPool", [(2, 64, 64, 64)], [], {"kernel_shape": (2, 2), "p": 3}),
    "GlobalLpPool": ("GlobalLpPool", [(2, 64, 64, 64)], [], {}),
    "Gather": ("Gather", [(2, 64, 64, 64)], [], {"axis": 1, "indices": tuple(range(63, -1, -1))}),
    "Expand": ("Expand", [(2, 64, 1, 64)], [], {"shape": (64, 1)}),
    "Resize": ("Resize", [(2, 64, 64, 64)], [], {"sizes": (0, 0, 96, 128)}),
    "Resize cubic": ("Resize", [(2, 64, 64, 64)], [], {"sizes": (0, 0, 96, 32), "mode": "cubic"}),
    "Resize with antialias": (
        "Resize",
        [(1, 1, 100_000)],
        [],
        {"sizes": (0, 0, 999), "mode": "linear", "antialias": 1},
    ),
    "GridSample": ("GridSample", [(2, 16, 64, 64), (2, 256, 256, 2)], [], {"padding_mode": "reflection"}),
    "GridSample cubic": ("GridSample", [(2, 64, 64, 64), (2, 64, 64, 2)], [], {"mode": "cubic"}),
    "GridSample of volumes": ("GridSample", [(1, 16, 16, 16, 16), (1, 64, 32, 32, 3)], [], {}),
    "Resize linear": ("Resize", [(2, 64, 64, 64)], [], {"sizes": (0, 0, 96, 32), "mode": "linear"}),
    "DepthToSpace": ("DepthToSpace", [(2, 64, 64, 64)], [], {"blocksize": (2, 2)}),
    "SpaceToDepth": ("SpaceToDepth", [(2, 64, 64, 64)], [], {"blocksize": (2, 2)}),
    "Concat": ("Concat", [(2, 64, 64, 64), (2, 32, 64, 64)], [], {"axis": 1}),
    "Transpose": ("Transpose", [(2, 64, 64, 64)], [], {"perm": (0, 2, 3, 1)}),
    "Slice": ("Slice", [(2, 64, 64, 64)], [], {"starts": (64,), "ends": (0,), "axes": (1,), "steps": (-1,)}),
    "Pad": ("Pad", [(2, 64, 64, 64)], [], {"pads": (0, 0, 9, 9, 0, 0, 9, 9)}),
    "Pad reflect": ("Pad", [(2, 64, 64, 64)], [], {"pads": (0, 0, 9, 9, 0, 0, 9, 9), "mode": "reflect"}),
    "Pad edge": ("Pad", [(2, 64, 64, 64)], [], {"pads": (0, 0, 9, 9, 0, 0, 9, 9), "mode": "edge"}),
    "ReduceMean": ("ReduceMean", [(2, 64, 64, 64)], [], {"axes": (1,)}),
    "ReduceMean of every other axis": ("ReduceMean", [(2, 64, 64, 64)], [], {"axes": (1, 3)}),
    "ReduceMax of every other axis": ("ReduceMax", [(2, 64, 64, 64)], [], {"axes": (1, 3)}),
    "ReduceSum of the last axes": ("ReduceSum", [(2, 64, 64, 64)], [], {"axes": (2, 3)}),
    "ReduceMean of the last axes": ("ReduceMean", [(2, 64, 64, 64)], [], {"axes": (2, 3)}),
    "ReduceMin": ("ReduceMin", [(2, 64, 64, 64)], [], {"axes": (1, 3)}),
    "Min": ("Min", [(2, 64, 64, 64), (64, 1)], [], {}),
    "GlobalMaxPool": ("GlobalMaxPool", [(2, 64, 64, 64)], [], {}),
    "GlobalLpPool of large powers": ("GlobalLpPool", [(2, 64, 64, 64)], [], {"p": 3}),
    "Split": ("Split", [(2, 64, 64, 64)], [], {"axis": 1, "split": (64,)}),
    "Flatten": ("Flatten", [(2, 64, 64, 64)], [], {}),
    "Reshape": ("Reshape", [(2, 64, 64, 64)], [], {"shape": (0, -1)}),
    "Reshape of weights": ("Reshape", [(64, 64, 64)], [0], {"shape": (-1,)}),
    "Squeeze": ("Squeeze", [(2, 1, 64, 64, 64)], [], {"axes": (1,)}),
    "Unsqueeze": ("Unsqueeze", [(2, 64, 64, 64)], [], {"axes": (1,)}),
    "Cast to truth values": ("Cast", [(2, 64, 64, 64)], [], {"to": "bool"}),
    "CumSum": ("CumSum", [(2, 64, 64, 64)], [], {"axis": 1, "exclusive": 1, "reverse": 1}),
    "Mod": ("Mod", [(2, 64, 64, 64), (64, 1, 64)], [], {"fmod": 1}),
    "ReduceProd": ("ReduceProd", [(2, 64, 64, 64)], [], {"axes": (1, 3)}),
    "ArgMax": ("ArgMax", [(512, 512)], [], {"axis": 1}),
    "ArgMax of channels": ("ArgMax", [(2, 64, 64, 64)], [], {"axis": 1}),
    "ArgMin, the last": ("ArgMin", [(2, 64, 64, 64)], [], {"axis": 3, "select_last_index": 1}),
    "Resize of long rows": ("Resize", [(1, 1, 100_000)], [], {"sizes": (0, 0, 150_000)}),
    "Resize of long rows, linear": ("Resize", [(1, 2, 100_000)], [], {"sizes": (0, 0, 70_000), "mode": "linear"}),
    "Resize of long columns": (
        "Resize",
        [(1, 1, 80_000, 2)],
        [],
        {"scales": (1.0, 1.0, 1.5, 2.0), "mode": "linear", "coordinate_transformation_mode": "half_pixel_symmetric"},
    ),
    "Gather of many": ("Gather", [(4, 70_000)], [], {"axis": 1, "indices": tuple(range(300, 4396))}),
    "Pad of many axes": ("Pad", [(2,) * 8], [], {"pads": (1,) * 16, "mode": "edge"}),
    "Gemm of many samples": ("Gemm", [(200_000, 2), (2, 2), (2,)], [1, 2], {}),
    "Conv dilated": ("Conv", [(1, 8, 64, 64), (8, 8, 3, 3)], [1], {"dilations": (2, 2)}),
    "Conv of rows": ("Conv", [(1, 8, 40_000), (8, 8, 5)], [1], {}),
    "Conv of the whole input": ("Conv", [(4, 16, 64, 64), (8, 16, 64, 64)], [1], {}),
    "Conv, added to": ("Conv", [(1, 32, 64, 64), (32, 32, 1, 1), None, (1, 32, 64, 64)], [1], {}),
    "Conv, scaled": (
        "Conv",
        [(1, 32, 64, 64), (32, 32, 1, 1), None, None, (32,), (32,)],
        [1, 4, 5],
        {"input_min": 0.0},
    ),
    "LSTM": ("LSTM", [(8, 16, 1024), (1024, 256), (1024,)], [1, 2], {}),
    "LSTM, one sample": ("LSTM", [(80, 1, 1024), (1024, 256), None, *[(1, 1, 256)] * 2, (768,)], [1, 5], {}),
    "LSTM, samples first": ("LSTM", [(64, 8, 1024), (1024, 256)], [1], {"layout": 1, "direction": "reverse"}),
    "LSTM of many samples": ("LSTM", [(2, 5000, 64), (64, 16)], [1], {"activations": "Softsign,Softplus,Softsign"}),
    "GRU": ("GRU", [(8, 16, 768), (768, 256), (768,)], [1, 2], {"clip": 3.0}),
    "GRU, linear before reset": ("GRU", [(8, 16, 768), (768, 256)], [1], {"linear_before_reset": 1}),
    "RNN": ("RNN", [(80, 4, 256), (256, 256)], [1], {}),
    "RNN of many steps": ("RNN", [(500, 32, 16), (16, 16)], [1], {"activations": "ThresholdedRelu"}),
    "IsInf": ("IsInf", [(2, 64, 64, 64)], [], {"detect_negative": 0}),
    "GroupNormalization": ("GroupNormalization", [(2, 64, 64, 64), (64,), (64,)], [1, 2], {"num_groups": 8}),
    "CumSum of rows": ("CumSum", [(64, 8192)], [], {"axis": 1, "reverse": 1}),
    "CumProd": ("CumProd", [(2, 64, 64, 64)], [], {"axis": 0}),
    "TopK": ("TopK", [(64, 8192)], [], {"k": 300}),
    "TopK of all": ("TopK", [(2, 300_000)], [], {"k": 300_000, "largest": 0}),
    "TopK of channels": ("TopK", [(2, 64, 64, 64)], [], {"k": 60, "axis": 1}),
    "Hardmax": ("Hardmax", [(512, 512)], [], {}),
    "Hardmax of channels": ("Hardmax", [(2, 64, 64, 64)], [], {"axis": 1}),
    "ReverseSequence": ("ReverseSequence", [(64, 64, 64)], [], {"sequence_lens": (*range(1, 65),)}),
    "Tile": ("Tile", [(64, 64, 16)], [], {"repeats": (2, 1, 3)}),
    "Trilu": ("Trilu", [(4, 256, 256)], [], {"k": -1}),
    "OneHot": ("OneHot", [(64, 64)], [], {"depth": 64}),
    "OneHot of few": ("OneHot", [(8,)], [], {"depth": 100_000, "axis": 0}),
    "GatherElements": (
        "GatherElements",
        [(70_000, 4)],
        [],
        {"indices": (*range(4096),), "indices_shape": (1024, 4), "axis": 0},
    ),
    "GatherND": ("GatherND", [(64, 64, 64)], [], {"indices": (*range(64),), "indices_shape": (64, 1)}),
    "ScatterElements": (
        "ScatterElements",
        [(70_000, 4), (1024, 4)],
        [],
        {"indices": (*range(4096),), "indices_shape": (1024, 4), "reduction": "add"},
    ),
    "ScatterND": ("ScatterND", [(64, 64, 64), (32, 64, 64)], [1], {"indices": (*range(32),), "indices_shape": (32, 1)}),
    "QuantizeLinear": ("QuantizeLinear", [(2, 64, 64, 64), (64,), (64,)], [1, 2], {"axis": 1}),
    "DequantizeLinear": ("DequantizeLinear", [(2, 64, 64, 64), (), ()], [1, 2], {}),
    **{op: (op, [(2, 64, 64, 64)], [], {}) for op in (*_UNARY, *_FUNCTIONS, *ACTIVATIONS)},
    **{op: (op, [(2, 64, 64, 64), (64, 1, 64)], [], {}) for op in _BINARY},
}


def test_the_memory_of_every_operator_is_measured() -> None:
    assert {op for op, *_ in CASES.values()} | {"DynamicQuantizeLinear"} == supported()  # see test_quantize.py


@pytest.mark.parametrize("activation", [None, ("Relu", {})], ids=["plain", "Relu"])
@pytest.mark.parametrize("case", CASES.values(), ids=CASES)
def test_nothing_that_grows_is_allocated(case: Any, activation: Any) -> None:
    op, shapes, params, attrs = case
    with bounded("lowering"):
        lowered = lowered_for(op, shapes, params, attrs=attrs, activation=activation)
    inputs = tuple(
        None if shape is None else np.asarray(np.abs(random(*shape, seed=i))) for i, shape in enumerate(shapes)
    )
    outputs = tuple(np.empty(shape, np.float32) for shape in lowered.outputs)
    scratch = np.empty(lowered.scratch, np.uint8)
    with bounded("binding"):
        run = lowered.bind(Buffers(inputs, outputs, scratch))
    middle = lowered.rows // 2
    cuts = [(0, lowered.rows)] if middle == 0 else [(0, middle), (middle, lowered.rows)]
    with np.errstate(invalid="ignore", over="ignore"):  # the arccosine of large numbers, sums of many steps
        run(*cuts[0])  # the first call may fill caches of NumPy and Python
        with bounded("running"):
            for first, last in cuts:
                run(first, last)
