"""`Lowered.batchwise`: if it is true, running a batch in parts along axis 0 gives the same result; else it does not."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from ops.harness import lowered_for, random, run

# name: (operator, shapes of inputs, parameters, attributes)
Case = tuple[str, list[tuple[int, ...]], list[int], dict[str, Any]]
BATCHWISE: dict[str, Case] = {
    "Gemm": ("Gemm", [(4, 3), (5, 3), (5,)], [1, 2], {}),
    "MatMul transB": ("MatMul", [(4, 2, 3), (5, 3)], [1], {"transB": 1}),
    "MatMul rows": ("MatMul", [(4, 3), (3, 5)], [1], {}),
    "MatMul by a vector": ("MatMul", [(4, 3), (3,)], [1], {}),
    "MatMul of batches": ("MatMul", [(4, 2, 3), (4, 3, 5)], [], {}),
    "MatMul, one matrix to the left": ("MatMul", [(2, 3), (4, 3, 5)], [0], {}),
    "MatMul, one matrix to the left, with a batch axis": ("MatMul", [(1, 2, 3), (4, 3, 5)], [0], {}),
    "MatMul, one matrix to the right, with a batch axis": ("MatMul", [(4, 2, 3), (1, 3, 5)], [1], {}),
    "MatMul transB of batches": ("MatMul", [(4, 2, 3), (4, 5, 3)], [], {"transB": 1}),
    "Attention": ("Attention", [(4, 2, 3, 5)] * 3, [], {}),
    "Attention without heads": ("Attention", [(4, 3, 5)] * 3, [], {}),
    "Attention, one mask": ("Attention", [*[(4, 2, 3, 5)] * 3, (1, 2, 3, 3)], [3], {}),
    "Attention, one mask of fewer axes": ("Attention", [*[(4, 2, 3, 5)] * 3, (3, 3)], [3], {}),
    "Attention, computed masks": ("Attention", [*[(4, 2, 3, 5)] * 3, (4, 1, 1, 3)], [], {}),
    "RotaryEmbedding": ("RotaryEmbedding", [(4, 2, 3, 4), (3, 2), (3, 2)], [1, 2], {}),
    "RotaryEmbedding, own angles": ("RotaryEmbedding", [(4, 2, 3, 4), (4, 3, 2), (4, 3, 2)], [], {}),
    "RotaryEmbedding, one batch of angles": ("RotaryEmbedding", [(4, 2, 3, 4), (1, 3, 2), (3, 2)], [1, 2], {}),
    "Einsum": ("Einsum", [(4, 2, 3), (4, 3, 5)], [], {"equation": "bij,bjk->bik"}),
    "Einsum of a parameter": ("Einsum", [(4, 2, 3), (2, 5, 3)], [1], {"equation": "bij,ikj->bik"}),
    "Einsum of one": ("Einsum", [(4, 2, 3)], [], {"equation": "b...->b"}),
    "RMSNormalization": ("RMSNormalization", [(4, 3, 2), (2,)], [1], {}),
    "Conv": ("Conv", [(4, 3, 5, 5), (6, 3, 3, 3), (6,)], [1, 2], {}),
    "Conv over the whole input": ("Conv", [(4, 3, 5, 5), (6, 3, 5, 5)], [1], {}),
    "Conv depthwise": ("Conv", [(4, 3, 5, 5), (3, 1, 3, 3)], [1], {"group": 3}),
    "BatchNormalization": ("BatchNormalization", [(4, 3, 2), (3,), (3,), (3,), (3,)], [1, 2, 3, 4], {}),
    "Relu": ("Relu", [(4, 3)], [], {}),
    "PRelu": ("PRelu", [(4, 3), (3,)], [1], {}),
    "PRelu with a batch axis": ("PRelu", [(4, 3), (1, 3)], [1], {}),
    "Softmax": ("Softmax", [(4, 3)], [], {"axis": 1}),
    "Softmax coerced": ("Softmax", [(4, 3, 2)], [], {"coerce": 1}),
    "LRN": ("LRN", [(4, 3, 2)], [], {"size": 3}),
    "MaxPool": ("MaxPool", [(4, 3, 5)], [], {"kernel_shape": (2,)}),
    "GlobalAveragePool": ("GlobalAveragePool", [(4, 3, 5)], [], {}),
    "Add": ("Add", [(4, 3), (4, 3)], [], {}),
    "Add broadcast": ("Add", [(4, 3, 1), (4, 1, 5)], [], {}),
    "Add a parameter": ("Add", [(4, 3), (3,)], [1], {}),
    "Add a parameter with a batch axis": ("Add", [(4, 3), (1, 3)], [1], {}),
    "Sum": ("Sum", [(4, 3), (4, 3), (4, 1)], [], {}),
    "Sum of one": ("Sum", [(4, 3)], [], {}),
    "Concat": ("Concat", [(4, 3), (4, 2)], [], {"axis": 1}),
    "Reshape keeping": ("Reshape", [(4, 3, 2)], [], {"shape": (0, 6)}),
    "Reshape inferring": ("Reshape", [(4, 3, 2)], [], {"shape": (-1, 2, 3)}),
    "Reshape keeping and inferring": ("Reshape", [(4, 3, 2)], [], {"shape": (0, -1)}),
    "Reshape by its own extents": (
        "Reshape",
        [(4, 6, 5, 7)],
        [],
        {"shape": (0, 2, 3, 0, 0), "extents": (-1, -1, -1, 2, 3)},
    ),
    "Reshape by another's extents": ("Reshape", [(4, 35), (4, 2, 5)], [], {"shape": (0, 0, -1), "extents": (0, 2, -1)}),
    "Flatten": ("Flatten", [(4, 3, 2)], [], {}),
    "Flatten across an axis of 1": ("Flatten", [(4, 1, 2)], [], {"axis": 2}),
    "Squeeze": ("Squeeze", [(4, 1, 2)], [], {"axes": (1,)}),
    "Unsqueeze": ("Unsqueeze", [(4, 2)], [], {"axes": (1,)}),
    "Transpose": ("Transpose", [(4, 2, 3)], [], {"perm": (0, 2, 1)}),
    "Identity": ("Identity", [(4, 2)], [], {}),
    "Slice": ("Slice", [(4, 5)], [], {"starts": (1,), "ends": (3,), "axes": (1,)}),
    "Slice, all samples": ("Slice", [(4, 5)], [], {"starts": (0, 1), "ends": (2**62, 3)}),
    "Pad": ("Pad", [(4, 5)], [], {"pads": (0, 1, 0, 2)}),
    "Exp": ("Exp", [(4, 3)], [], {}),
    "Pow": ("Pow", [(4, 3), ()], [1], {}),
    "Max": ("Max", [(4, 3), (4, 3)], [], {}),
    "Where": ("Where", [(3,), (4, 3), ()], [0, 2], {}),
    "Where, computed": ("Where", [(4, 1), (4, 3), ()], [2], {}),
    "Greater": ("Greater", [(4, 3), (4, 1)], [], {}),
    "Not": ("Not", [(4, 3)], [], {}),
    "ArgMax": ("ArgMax", [(4, 3, 2)], [], {"axis": 1, "keepdims": 0}),
    "InstanceNormalization": ("InstanceNormalization", [(4, 3, 2), (3,), (3,)], [1, 2], {}),
    "LayerNormalization": ("LayerNormalization", [(4, 3, 2), (2,), (2,)], [1, 2], {}),
    "Conv of volumes": ("Conv", [(4, 3, 2, 3, 5), (2, 3, 1, 2, 3)], [1], {}),
    "AveragePool of volumes": ("AveragePool", [(4, 3, 2, 3, 5)], [], {"kernel_shape": (2, 2, 1)}),
    "LpPool": ("LpPool", [(4, 3, 5)], [], {"kernel_shape": (2,)}),
    "GlobalLpPool": ("GlobalLpPool", [(4, 3, 5)], [], {}),
    "Gather": ("Gather", [(4, 3, 2)], [], {"axis": 1, "indices": (2, 0)}),
    "Expand": ("Expand", [(4, 1)], [], {"shape": (1, 3)}),
    "Expand, fewer axes": ("Expand", [(4, 1)], [], {"shape": (3,)}),
    "Expand by another's extents": ("Expand", [(4, 1), (4, 3)], [], {"shape": (1, 1), "extents": (-1, 1)}),
    "Expand by another's batch": ("Expand", [(4, 1), (4, 3)], [], {"shape": (1, 1), "extents": (0, 1)}),
    "Resize": ("Resize", [(4, 1, 3)], [], {"sizes": (0, 0, 5), "mode": "linear"}),
    "Resize by another's extents": ("Resize", [(4, 1, 3), (4, 5)], [], {"sizes": (0, 0, 0), "extents": (-1, -1, 1)}),
    "DepthToSpace": ("DepthToSpace", [(4, 8, 2, 2)], [], {"blocksize": (2, 2)}),
    "SpaceToDepth": ("SpaceToDepth", [(4, 2, 4, 4)], [], {"blocksize": (2, 2)}),
    "ReduceMean": ("ReduceMean", [(4, 5, 2)], [], {"axes": (1,)}),
    "ReduceMax": ("ReduceMax", [(4, 5, 2)], [], {"axes": (1,)}),
    "GroupNormalization": ("GroupNormalization", [(4, 6, 2), (6,), (6,)], [1, 2], {"num_groups": 2}),
    "CumSum": ("CumSum", [(4, 3)], [], {"axis": 1}),
    "TopK": ("TopK", [(4, 5)], [], {"k": 3}),
    "Hardmax": ("Hardmax", [(4, 3, 2)], [], {"axis": 1}),
    "Hardmax coerced": ("Hardmax", [(4, 3, 2)], [], {"axis": 1, "coerce": 1}),
    "Tile": ("Tile", [(4, 3)], [], {"repeats": (1, 2)}),
    "Trilu": ("Trilu", [(4, 3, 3)], [], {}),
    "OneHot": ("OneHot", [(4, 3)], [], {"depth": 2, "axis": 1}),
    "Mod": ("Mod", [(4, 3), (3,)], [1], {}),
    "IsNaN": ("IsNaN", [(4, 3)], [], {}),
    "LSTM": ("LSTM", [(4, 5, 12), (12, 3), (12,), (4, 1, 3), (4, 1, 3)], [1, 2], {"layout": 1}),
    "GRU": ("GRU", [(4, 5, 9), (9, 3)], [1], {"layout": 1, "direction": "reverse"}),
    "GridSample": ("GridSample", [(4, 3, 5, 5), (4, 2, 2, 2)], [], {}),
    "QuantizeLinear": ("QuantizeLinear", [(4, 3, 2), (3,), (3,)], [1, 2], {"axis": 1}),
    "DequantizeLinear": ("DequantizeLinear", [(4, 3), ()], [1], {}),
    "ReduceMean without axes kept": ("ReduceMean", [(4, 5, 2)], [], {"axes": (1, 2), "keepdims": 0}),
}
NOT_BATCHWISE: dict[str, Case] = {
    "MatMul of rows and columns": ("MatMul", [(4, 3), (3, 4)], [], {}),
    "MatMul, columns": ("MatMul", [(4, 3), (3, 5)], [0], {}),
    "MatMul of vectors": ("MatMul", [(4,), (4,)], [], {}),
    "MatMul of a vector": ("MatMul", [(4,), (4, 5)], [1], {}),
    "MatMul by a computed vector": ("MatMul", [(4, 3), (3,)], [], {}),
    "MatMul, a batch of parameters": ("MatMul", [(4, 2, 3), (4, 3, 5)], [1], {}),
    "MatMul, parameters give the batch": ("MatMul", [(2, 3), (4, 3, 5)], [1], {}),
    "MatMul, one computed batch of 1": ("MatMul", [(1, 2, 3), (4, 3, 5)], [], {}),
    "MatMul, batches of other ranks": ("MatMul", [(4, 4, 2, 3), (4, 3, 5)], [], {}),
    "MatMul transB of rows": ("MatMul", [(4, 3), (4, 3)], [], {"transB": 1}),
    "Attention of parameters": ("Attention", [(4, 2, 3, 5)] * 3, [0], {}),
    "Attention, a mask for each sample": ("Attention", [*[(4, 2, 3, 5)] * 3, (4, 1, 1, 3)], [3], {}),
    "Attention, one computed mask": ("Attention", [*[(4, 2, 3, 5)] * 3, (3, 3)], [], {}),
    "Attention, a computed mask of one sample": ("Attention", [*[(4, 2, 3, 5)] * 3, (1, 1, 3, 3)], [], {}),
    "Attention, a mask of heads": ("Attention", [*[(4, 4, 3, 5)] * 3, (4, 3, 3)], [], {}),
    "RotaryEmbedding, angles for each sample": ("RotaryEmbedding", [(4, 2, 3, 4), (4, 3, 2), (3, 2)], [1, 2], {}),
    "RotaryEmbedding, computed angles": ("RotaryEmbedding", [(4, 2, 3, 4), (3, 2), (3, 2)], [], {}),
    "RotaryEmbedding, computed angles of one": ("RotaryEmbedding", [(4, 2, 3, 4), (1, 3, 2), (3, 2)], [2], {}),
    "Einsum, the batch moved": ("Einsum", [(4, 3)], [], {"equation": "bi->ib"}),
    "Einsum, the batch summed": ("Einsum", [(4, 3)], [], {"equation": "bi->i"}),
    "Einsum of a diagonal": ("Einsum", [(4, 4)], [], {"equation": "ii->i"}),
    "Einsum to a number": ("Einsum", [(4, 3)], [], {"equation": "ij->"}),
    "Einsum, a parameter for each sample": ("Einsum", [(4, 3), (4, 5)], [1], {"equation": "bi,bj->bij"}),
    "Einsum of rows": ("Einsum", [(4, 3), (4, 3)], [], {"equation": "bi,ci->bc"}),
    "Einsum, one sample with all": ("Einsum", [(1, 3), (4, 3)], [], {"equation": "bi,bi->b"}),
    "RMSNormalization": ("RMSNormalization", [(4, 3), (4, 3)], [1], {"axis": 0}),
    "RMSNormalization, a computed scale": ("RMSNormalization", [(4, 3), (3,)], [], {}),
    "MatMul transB of a vector": ("MatMul", [(4,), (5, 4)], [1], {"transB": 1}),
    "Add, a parameter for each sample": ("Add", [(4, 3), (4, 3)], [1], {}),
    "Add, a parameter for each sample, one value": ("Add", [(4, 3), (4, 1)], [1], {}),
    "Add, a parameter gives the batch": ("Add", [(3,), (4, 3)], [1], {}),
    "Add of other ranks": ("Add", [(4, 4), (4,)], [], {}),
    "Add of a computed batch of 1": ("Add", [(4, 3), (1, 3)], [], {}),
    "Add of scalars": ("Add", [(), ()], [], {}),
    "PRelu, a slope for each sample": ("PRelu", [(4, 3), (4, 1)], [1], {}),
    "Relu of a scalar": ("Relu", [()], [], {}),
    "Softmax": ("Softmax", [(4, 3)], [], {"axis": 0}),
    "Softmax from the back": ("LogSoftmax", [(4, 3)], [], {"axis": -2}),
    "Softmax of a vector": ("Softmax", [(4,)], [], {}),
    "Softmax coerced": ("Softmax", [(4, 3)], [], {"axis": 0, "coerce": 1}),
    "Concat": ("Concat", [(4, 3), (4, 3)], [], {"axis": 0}),
    "Concat from the back": ("Concat", [(4, 3), (4, 3)], [], {"axis": -2}),
    "Concat of a parameter": ("Concat", [(4, 3), (4, 3)], [1], {"axis": 1}),
    "Reshape merging": ("Reshape", [(4, 3)], [], {"shape": (-1,)}),
    "Reshape moving": ("Reshape", [(4, 3)], [], {"shape": (3, -1)}),
    "Reshape to a number": ("Reshape", [(4, 3)], [], {"shape": (4, -1)}),
    "Reshape, another's extent first": ("Reshape", [(4, 6), (4, 3)], [], {"shape": (0, -1), "extents": (1, -1)}),
    "Reshape, the batch elsewhere": ("Reshape", [(4, 8), (4, 3)], [], {"shape": (0, 0, -1), "extents": (-1, 0, -1)}),
    "Reshape, another batch's extent": ("Reshape", [(4, 6), (3, 2)], [], {"shape": (0, 0, -1), "extents": (-1, 1, -1)}),
    "Flatten": ("Flatten", [(4, 3)], [], {"axis": 0}),
    "Flatten merging": ("Flatten", [(4, 3)], [], {"axis": 2}),
    "Squeeze": ("Squeeze", [(1, 4)], [], {"axes": (0,)}),
    "Squeeze all axes of 1": ("Squeeze", [(4, 1)], [], {}),
    "Slice": ("Slice", [(4, 3)], [], {"starts": (0,), "ends": (2,)}),
    "Slice backwards": ("Slice", [(4, 3)], [], {"starts": (-1,), "ends": (-(2**62),), "steps": (-1,)}),
    "Slice from the end": ("Slice", [(4, 3)], [], {"starts": (-4,), "ends": (4,)}),
    "Split": ("Split", [(4, 3)], [], {"split": (4,)}),
    "Pad": ("Pad", [(4, 3)], [], {"pads": (0, 0, 1, 0)}),
    "Pad and crop": ("Pad", [(4, 3)], [], {"pads": (-1, 0, 1, 0)}),
    "Where, a condition for each sample": ("Where", [(4, 1), (4, 3), (4, 3)], [0], {}),
    "Where, a computed condition of one sample": ("Where", [(1, 3), (4, 3), (4, 3)], [], {}),
    "Greater, a parameter for each sample": ("Greater", [(4, 3), (4, 1)], [1], {}),
    "ArgMax": ("ArgMax", [(4, 3)], [], {}),
    "LayerNormalization": ("LayerNormalization", [(4, 3), (4, 3)], [1], {"axis": 0}),
    "QuantizeLinear, a scale for each sample": ("QuantizeLinear", [(4, 3), (4,)], [1], {"axis": 0}),
    "DequantizeLinear of a scalar": ("DequantizeLinear", [(), ()], [1], {}),
    "Gather": ("Gather", [(4, 3)], [], {"indices": (0, 1, 2, 3)}),
    "Expand": ("Expand", [(1, 3)], [], {"shape": (4, 1)}),
    "Expand to a number": ("Expand", [(4, 1)], [], {"shape": (4, 3)}),
    "Expand, another batch's extent": ("Expand", [(4, 1), (1, 3)], [], {"shape": (1, 1), "extents": (-1, 1)}),
    "Expand to another's batch": ("Expand", [(1, 3), (4, 3)], [], {"shape": (1, 1), "extents": (0, -1)}),
    "Resize": ("Resize", [(2, 1, 3)], [], {"sizes": (4, 0, 0)}),
    "Resize to another's batch": ("Resize", [(2, 1, 3), (4, 1)], [], {"sizes": (0, 0, 0), "extents": (0, -1, -1)}),
    "ReduceMean": ("ReduceMean", [(4, 3)], [], {"axes": (0,)}),
    "ReduceMean of all": ("ReduceMean", [(4, 3)], [], {}),
    "CumSum": ("CumSum", [(4, 3)], [], {"axis": 0}),
    "TopK": ("TopK", [(4, 3)], [], {"k": 2, "axis": 0}),
    "Hardmax": ("Hardmax", [(4, 3)], [], {"axis": 0}),
    "Tile": ("Tile", [(4, 3)], [], {"repeats": (2, 1)}),
    "Trilu": ("Trilu", [(4, 3)], [], {}),
    "OneHot": ("OneHot", [(4, 3)], [], {"depth": 2, "axis": 0}),
    "GridSample, a grid for each sample": ("GridSample", [(4, 3, 5, 5), (4, 2, 2, 2)], [1], {}),
    "ReverseSequence": ("ReverseSequence", [(3, 4)], [], {"sequence_lens": (1, 2, 3, 3)}),
    "GatherElements": ("GatherElements", [(4, 3)], [], {"indices": (0, 1, 2), "indices_shape": (1, 3)}),
    "ScatterND": ("ScatterND", [(4, 3), (1, 3)], [], {"indices": (0,), "indices_shape": (1, 1)}),
    "RNN, steps first": ("RNN", [(4, 5, 3), (3, 3)], [1], {}),
    "RNN, a first state for each sample": ("RNN", [(4, 5, 3), (3, 3), None, (4, 1, 3)], [1, 3], {"layout": 1}),
    "ReduceMean of a scalar": ("ReduceMean", [()], [], {}),
}

#: The case, and the axis of the output along which samples lie.
MOVED: dict[str, tuple[Case, int]] = {
    "Transpose": (("Transpose", [(4, 3)], [], {}), 1),
    "Transpose from the back": (("Transpose", [(4, 3, 2)], [], {"perm": (2, 1, 0)}), 2),
    "Unsqueeze": (("Unsqueeze", [(4, 3)], [], {"axes": (0,)}), 1),
    "Unsqueeze twice": (("Unsqueeze", [(4, 3)], [], {"axes": (0, 2)}), 1),
    "Expand, more axes": (("Expand", [(4, 1)], [], {"shape": (2, 1, 3)}), 1),
    "Expand, more axes of fewer": (("Expand", [(4,)], [], {"shape": (2, 1)}), 1),
}
FIXED: dict[str, Case] = {
    "Add of parameters": ("Add", [(4, 3), (4, 3)], [0, 1], {}),
    "Relu of a parameter": ("Relu", [(4,)], [0], {}),
    "Transpose of a parameter": ("Transpose", [(4, 3)], [0], {}),
}


@pytest.mark.parametrize("case", BATCHWISE.values(), ids=BATCHWISE)
def test_parts_of_a_batch_give_the_whole(case: Case) -> None:
    op, shapes, params, attrs = case
    lowered = lowered_for(op, shapes, params, attrs=attrs)
    assert (lowered.batchwise, lowered.batch, lowered.fixed) == (True, 0, False)
    inputs = [np.abs(random(*shape, seed=i)) for i, shape in enumerate(shapes)]
    whole = run(op, inputs, params, attrs=attrs)[0]
    for size in (1, 3):
        parts = []
        for begin in range(0, 4, size):
            part = [x if i in params else x[begin : begin + size] for i, x in enumerate(inputs)]
            parts.append(run(op, part, params, attrs=attrs)[0])
        np.testing.assert_allclose(np.concatenate(parts), whole, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("case", NOT_BATCHWISE.values(), ids=NOT_BATCHWISE)
def test_operators_that_mix_samples(case: Case) -> None:
    op, shapes, params, attrs = case
    assert not lowered_for(op, shapes, params, attrs=attrs).batchwise


@pytest.mark.parametrize("case", MOVED.values(), ids=MOVED)
def test_samples_along_another_axis(case: tuple[Case, int]) -> None:
    (op, shapes, params, attrs), axis = case
    lowered = lowered_for(op, shapes, params, attrs=attrs)
    assert (lowered.batchwise, lowered.batch, lowered.fixed) == (True, axis, False)
    inputs = [random(*shape, seed=i) for i, shape in enumerate(shapes)]
    whole = run(op, inputs, params, attrs=attrs)[0]
    parts = [run(op, [x[n : n + 1] for x in inputs], params, attrs=attrs)[0] for n in range(4)]
    np.testing.assert_array_equal(np.concatenate(parts, axis), whole)


@pytest.mark.parametrize("case", FIXED.values(), ids=FIXED)
def test_the_same_for_all_samples(case: Case) -> None:
    op, shapes, params, attrs = case
    assert lowered_for(op, shapes, params, attrs=attrs).fixed
