"""A pass allocates nothing that grows with the model: NumPy reports what it allocates to tracemalloc."""

from __future__ import annotations

import tracemalloc
from typing import Any

import numpy as np
import pytest

from ops.harness import lowered_for, random
from streamrt.ops import Buffers

# A call may take views and tuples, and one buffer of 8192 values for each operand that NumPy broadcasts.
_BOUND = 96 << 10

# name: (operator, shapes of inputs, parameters, attributes); every tensor but the vectors is 256 KiB or more
CASES: dict[str, tuple[str, list[tuple[int, ...]], list[int], dict[str, Any]]] = {
    "Gemm, one sample": ("Gemm", [(1, 1024), (512, 1024), (512,)], [1, 2], {}),
    "Gemm": ("Gemm", [(256, 1024), (512, 1024), (512,)], [1, 2], {}),
    "MatMul": ("MatMul", [(256, 1024), (1024, 512)], [1], {}),
    "MatMul of batches": ("MatMul", [(4, 3, 256, 128), (4, 3, 128, 256)], [], {}),
    "Conv": ("Conv", [(2, 32, 64, 64), (32, 32, 3, 3), (32,)], [1, 2], {"pads": (1, 1, 1, 1)}),
    "Conv strided": ("Conv", [(1, 64, 40, 40), (64, 64, 3, 3), (64,)], [1, 2], {"strides": (2, 2)}),
    "Conv in groups": ("Conv", [(2, 32, 64, 64), (32, 8, 3, 3), (32,)], [1, 2], {"group": 4}),
    "Conv pointwise": ("Conv", [(2, 32, 64, 64), (48, 32, 1, 1), (48,)], [1, 2], {}),
    "Conv depthwise": ("Conv", [(2, 32, 64, 64), (32, 1, 3, 3), (32,)], [1, 2], {"group": 32}),
    "BatchNormalization": ("BatchNormalization", [(2, 64, 64, 64), *[(64,)] * 4], [1, 2, 3, 4], {}),
    "Gelu": ("Gelu", [(512, 512)], [], {}),
    "PRelu": ("PRelu", [(2, 64, 64, 64), (64, 1, 1)], [1], {}),
    "PRelu, any slope": ("PRelu", [(2, 64, 64, 64), (64, 1, 64)], [1], {}),
    "Softmax": ("Softmax", [(256, 512)], [], {}),
    "LRN": ("LRN", [(2, 64, 64, 64)], [], {"size": 5}),
    "MaxPool": ("MaxPool", [(2, 64, 64, 64)], [], {"kernel_shape": (2, 2), "strides": (2, 2)}),
    "AveragePool": ("AveragePool", [(2, 64, 64, 64)], [], {"kernel_shape": (3, 3), "pads": (1, 1, 1, 1)}),
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
}


@pytest.mark.parametrize("activation", [None, ("Relu", {})], ids=["plain", "Relu"])
@pytest.mark.parametrize("case", CASES.values(), ids=CASES)
def test_a_run_allocates_nothing_that_grows(case: Any, activation: Any) -> None:
    op, shapes, params, attrs = case
    lowered = lowered_for(op, shapes, params, attrs=attrs, activation=activation)
    run = lowered.bind(
        Buffers(
            inputs=tuple(np.abs(random(*shape, seed=i)) for i, shape in enumerate(shapes)),
            outputs=tuple(np.empty(shape, np.float32) for shape in lowered.outputs),
            scratch=np.empty(lowered.scratch, np.uint8),
        )
    )
    middle = lowered.rows // 2
    cuts = [(0, lowered.rows)] if middle == 0 else [(0, middle), (middle, lowered.rows)]
    tracemalloc.start()
    try:
        for _ in range(2):  # the first call may fill caches of NumPy and Python
            tracemalloc.reset_peak()
            before, _ = tracemalloc.get_traced_memory()
            for first, last in cuts:
                run(first, last)
            _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert peak - before < _BOUND
