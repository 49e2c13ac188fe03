"""Runs one operator as a model would: lowered, bound to memory of its own, cut into tiles.

It shows whether an operator keeps the contract of `streamrt.ops.base`. Memory that the operator may not read holds NaN.
Memory that it may not write is compared afterwards. Its allocations beside scratch memory are counted.
"""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ops.allocations import bounded
from streamrt.graph import Activation, Node
from streamrt.ops import FLOAT32, INT64, NUMPY_TYPES, Array, Buffers, Lowered, Operand, lower

_GUARD = 256
_ALIGNMENT = 64


def node(
    op: str,
    inputs: int,
    attrs: Mapping[str, Any] | None = None,
    *,
    outputs: int = 1,
    activation: tuple[str, Mapping[str, Any]] | None = None,
) -> Node:
    return Node(
        name="under_test",
        op=op,
        inputs=tuple(f"in{i}" for i in range(inputs)),
        outputs=tuple(f"out{i}" for i in range(outputs)),
        attrs=dict(attrs or {}),
        activation=None if activation is None else Activation(activation[0], dict(activation[1])),
    )


def lowered_for(
    op: str,
    shapes: Sequence[tuple[int, ...] | None],
    params: Sequence[int] = (),
    integers: Sequence[int] = (),
    **kwargs: Any,
) -> Lowered:
    """The lowering of an operator; ``params`` are the inputs that are parameters, ``integers`` those that are int64."""
    operands = [
        None if shape is None else Operand(shape, INT64 if i in integers else FLOAT32, is_param=i in params)
        for i, shape in enumerate(shapes)
    ]
    return lower(node(op, len(shapes), **kwargs), operands)


def run(
    op: str,
    inputs: Sequence[NDArray[Any] | None],
    params: Sequence[int] = (),
    *,
    cuts: Sequence[int] = (),
    inplace: int | None = None,
    **kwargs: Any,
) -> list[NDArray[Any]]:
    """The outputs of an operator that is cut into tiles at the rows ``cuts``. Inputs are float32 or int64.

    With ``inplace``, the first output is written to the memory of that input.
    """
    shapes = [None if x is None else x.shape for x in inputs]
    integers = [index for index, x in enumerate(inputs) if x is not None and x.dtype == np.int64]
    lowered = lowered_for(op, shapes, params, integers, **kwargs)
    types = [NUMPY_TYPES[lowered.dtype(index)] for index in range(len(lowered.outputs))]
    arrays = [None if x is None else _guarded(x.nbytes, x) for x in inputs]
    outputs = [
        _guarded(int(np.prod(shape)) * dtype.itemsize) for shape, dtype in zip(lowered.outputs, types, strict=True)
    ]
    if lowered.view_of is not None:
        assert inplace is None
        inplace = lowered.view_of
    elif inplace is not None:
        assert inplace in lowered.inplace
    if inplace is not None:
        given = inputs[inplace]
        assert given is not None
        assert given.dtype == types[0]
        outputs[0] = arrays[inplace]
    scratch = _guarded(lowered.scratch)
    bound = Buffers(
        inputs=tuple(
            None if a is None or x is None else _array(a, x.shape, x.dtype) for a, x in zip(arrays, inputs, strict=True)
        ),
        outputs=tuple(_array(o, s, t) for o, s, t in zip(outputs, lowered.outputs, types, strict=True)),
        scratch=scratch[_GUARD : _GUARD + lowered.scratch],
    )
    with bounded("binding"):
        run_tile = lowered.bind(bound)
    results = []
    for garbage in (0x7F, 0xFF):  # bytes that make a huge number and NaN
        bound.scratch.fill(garbage)
        for index, x in enumerate(inputs):
            if x is not None:
                bound.input(index)[...] = x
        for output in bound.outputs if inplace is None else bound.outputs[1:]:
            _spoil(output)
        edges = (0, *cuts, lowered.rows)
        for first, last in itertools.pairwise(edges):
            _hide(bound, inputs, params, lowered, first, last)
            with bounded("running"), np.errstate(all="ignore"):
                run_tile(first, last)
        results.append([np.array(output) for output in bound.outputs])
    for index, x in enumerate(inputs):
        if x is not None and index != inplace and index not in params:
            np.testing.assert_array_equal(bound.input(index), x, err_msg="an input was written to")
    for memory in (*arrays, *outputs, scratch):
        if memory is not None:
            guards = np.concatenate([memory[:_GUARD], memory[-_GUARD:]])
            assert (guards == 0xA5).all(), "written out of bounds"
    for one, other in zip(*results, strict=True):
        np.testing.assert_array_equal(one, other, err_msg="the second pass differs from the first")
    return results[0]


def rows_read(lowered: Lowered, first: int, last: int) -> NDArray[np.int64]:
    """The rows of tiled parameters that the tile from ``first`` to ``last`` may read."""
    return np.unique(np.arange(first, last) % (lowered.rows // lowered.passes))


def random(*shape: int, seed: int = 0) -> Array:
    """Normally distributed values, the same for the same shape and seed."""
    return np.random.default_rng([seed, *shape]).standard_normal(shape).astype(np.float32)


def assert_close(actual: Array, expected: NDArray[Any], least: float = 1.0) -> None:
    """Equal shapes, and values within float32 accuracy of the largest magnitude, or of ``least`` if that is larger."""
    assert actual.shape == expected.shape
    scale = max(least, float(np.nanmax(np.abs(np.where(np.isfinite(expected), expected, 0.0)), initial=0.0)))
    np.testing.assert_allclose(actual, expected, rtol=2e-5, atol=2e-6 * scale)


def _hide(
    bound: Buffers,
    inputs: Sequence[NDArray[Any] | None],
    params: Sequence[int],
    lowered: Lowered,
    first: int,
    last: int,
) -> None:
    """Fill parameters with NaN where the tile from ``first`` to ``last`` may not read them."""
    for index in params:
        value = inputs[index]
        if value is None:
            continue
        target = bound.input(index)
        if index in lowered.tiled:
            rows = rows_read(lowered, first, last)
            _spoil(target)
            target[rows] = value[rows]
        elif first > 0:
            _spoil(target)


def _spoil(array: NDArray[Any]) -> None:
    """Fill an array with NaN, or with the least integer."""
    array.fill(np.nan if array.dtype.kind == "f" else np.iinfo(array.dtype).min)


def _guarded(nbytes: int, x: NDArray[Any] | None = None) -> NDArray[np.uint8]:
    """Memory of ``nbytes``, aligned, between two guards."""
    raw = np.empty(nbytes + 2 * _GUARD + _ALIGNMENT, np.uint8)
    start = -raw.ctypes.data % _ALIGNMENT
    memory = raw[start : start + nbytes + 2 * _GUARD]
    memory.fill(0xA5)
    if x is not None:
        memory[_GUARD:-_GUARD] = np.ascontiguousarray(x).reshape(-1).view(np.uint8)
    return memory


def _array(memory: NDArray[np.uint8], shape: tuple[int, ...], dtype: np.dtype[Any]) -> Any:
    nbytes = int(np.prod(shape)) * dtype.itemsize
    return memory[_GUARD : _GUARD + nbytes].view(dtype).reshape(shape)
