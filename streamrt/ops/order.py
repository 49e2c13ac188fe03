"""Operators along one axis whose results depend on the order of values or of positions."""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray

from streamrt.ops.base import FLOAT32, INT64, Array, Buffers, Lowered, Run
from streamrt.ops.call import Call
from streamrt.ops.movement import copy_all
from streamrt.ops.registry import Traits, operator
from streamrt.ops.scratch import Scratch

_ACCUMULATED = {"CumSum": (np.add, 0), "CumProd": (np.multiply, 1)}
#: The largest extent whose indices can be found. A key of a value has 32 bits for its index.
_MOST_INDICES = 2**31 - 1
#: The most samples of a ReverseSequence: as many as an attribute can have numbers.
_MOST_LENGTHS = 4096
#: All bits of a float32 except the sign.
_MAGNITUDE = np.int32(2**31 - 1)
#: The place of the sign in a float32. A number of Python would be converted, with buffers for all operands.
_SIGN = np.int32(31)
#: Indices that are counted at once, so that their memory does not grow with the tensor.
_PART = 1024


@operator(*_ACCUMULATED, traits=Traits(moves_batch=True, integers=True))
def accumulated(call: Call) -> Lowered:
    """At each position, the sum (product) of the values up to there along ``axis``.

    With ``exclusive`` the value itself does not count, with ``reverse`` the values from the end count.
    """
    call.expect((1, 1))
    x = call.shape(0)
    function, neutral = _ACCUMULATED[call.node.op]
    axis = call.axis("axis", len(x))
    exclusive, reverse = call.flag("exclusive", False), call.flag("reverse", False)

    def bind(buffers: Buffers) -> Run:
        source, target = (np.moveaxis(array, axis, 0) for array in (buffers.input(0), buffers.outputs[0]))
        if reverse:
            source, target = source[::-1], target[::-1]
        start = target[:1]
        if exclusive:
            source, target = source[:-1], target[1:]

        def run(first: int, last: int) -> None:
            if exclusive:
                start.fill(neutral)
            if len(source):
                function.accumulate(source, axis=0, out=target)

        return run

    batch = call.batch() or 0
    return Lowered(
        outputs=(x,),
        bind=bind,
        batchwise=axis != batch,
        batch=batch,
        flops=math.prod(x),
        dtypes=(call.dtype(0),),
    )


@operator("TopK")
def top_k(call: Call) -> Lowered:
    """The ``k`` largest values along ``axis`` (``largest`` is 0: smallest) in this order, and their indices.

    Of equal values the first comes first.
    """
    call.expect((1, 1), (1, 2))
    x = call.shape(0)
    axis = call.axis("axis", len(x), -1)
    extent = x[axis]
    k = call.int_("k", low=1, high=extent)
    largest = call.flag("largest", True)
    if extent > _MOST_INDICES:
        raise call.fail(f"axis {axis} has extent {extent}, more than the {_MOST_INDICES} that are allowed")
    others = (*x[:axis], *x[axis + 1 :])
    scratch = Scratch()
    # A key has the index of a value in its lower 32 bits, and in its upper 32 bits a number that orders values.
    values_part, keys_part = scratch.add(*others, extent), scratch.add(math.prod(others), extent, 2)
    out = (*x[:axis], k, *x[axis + 1 :])
    named = [index for index, name in enumerate(call.node.outputs) if name]

    def bind(buffers: Buffers) -> Run:
        source = np.moveaxis(buffers.input(0), axis, -1)
        targets = {index: np.moveaxis(y, axis, -1) for index, y in zip(named, buffers.outputs, strict=True)}
        lying = values_part.of(buffers.scratch)
        halves = keys_part.of(buffers.scratch).view(np.int32)
        bits, keys = lying.reshape(-1, extent).view(np.int32), halves.view(np.int64)[..., 0]
        lower, upper, best = halves[..., 0], halves[..., 1], keys[:, :k]
        shape = targets[0].shape

        def run(first: int, last: int) -> None:
            np.add(source, np.float32(0), out=lying)  # -0 becomes 0, so that the two are equal
            _ordered(bits, upper)
            if largest:
                np.invert(upper, out=upper)
            _count(lower)
            if k < extent:
                keys.partition(k - 1, axis=1)
            best.sort(axis=1)
            if largest:
                np.invert(upper, out=upper)
            _ordered(upper, bits)
            np.copyto(targets[0], lying.reshape(-1, extent)[:, :k].reshape(shape))
            if 1 in targets:
                np.copyto(targets[1], lower[:, :k].reshape(shape))

        return run

    return Lowered(
        outputs=(out, out)[: len(call.node.outputs)],
        dtypes=(FLOAT32, INT64)[: len(call.node.outputs)],
        bind=bind,
        scratch=scratch.nbytes,
        batchwise=axis != 0,
        flops=8 * math.prod(x),
    )


def _ordered(bits: NDArray[np.int32], out: NDArray[np.int32]) -> None:
    """Integers in the order of the float32 numbers that have these bits. Done twice, it gives the bits."""
    np.right_shift(bits, _SIGN, out=out)
    np.bitwise_and(out, _MAGNITUDE, out=out)
    np.bitwise_xor(out, bits, out=out)


def _count(rows: NDArray[np.int32]) -> None:
    """Write the index of each column to every row."""
    for start in range(0, rows.shape[1], _PART):
        part = rows[:, start : start + _PART]
        np.copyto(part, np.arange(start, start + part.shape[1], dtype=np.int32))


@operator("Hardmax")
def hardmax(call: Call) -> Lowered:
    """1 at the largest value along ``axis``, the first of equal ones, and 0 elsewhere.

    With ``coerce`` the largest value is that of all axes from ``axis`` on, as in ONNX before opset 13.
    """
    call.expect((1, 1))
    x = call.shape(0)
    coerce = call.flag("coerce", False)
    axis = call.axis("axis", len(x), 1 if coerce else -1)
    end = len(x) if coerce else axis + 1
    outer, extent, inner = math.prod(x[:axis]), math.prod(x[axis:end]), math.prod(x[end:])
    scratch = Scratch()
    rows_part, found_part = scratch.add(outer, inner, extent), scratch.add(outer, inner, 2)  # 64 bits each

    def bind(buffers: Buffers) -> Run:
        source = buffers.input(0).reshape(outer, extent, inner).transpose(0, 2, 1)
        target = buffers.outputs[0].reshape(outer, extent, inner).transpose(0, 2, 1)
        # NumPy would copy values that do not lie in rows.
        lying = rows_part.of(buffers.scratch)
        found = found_part.of(buffers.scratch).view(np.intp)[..., 0]
        lay, put_back = copy_all([(lying, source)]), copy_all([(target, lying)])

        def run(first: int, last: int) -> None:
            lay(0, 1)
            np.argmax(lying, axis=2, out=found)
            _mark(found, lying)
            put_back(0, 1)

        return run

    return Lowered(outputs=(x,), bind=bind, scratch=scratch.nbytes, batchwise=axis != 0, flops=math.prod(x))


def _mark(found: NDArray[np.intp], rows: Array) -> None:
    """Write 1 at index ``found`` of each row, and 0 elsewhere."""
    rows.fill(0)
    flat, at, extent = rows.reshape(-1, rows.shape[2]), found.reshape(-1), rows.shape[2]
    for start in range(0, len(flat), _PART):
        part = flat[start : start + _PART]
        positions = np.arange(0, len(part) * extent, extent) + at[start : start + _PART]
        part.reshape(-1)[positions] = 1


@operator("ReverseSequence")
def reverse_sequence(call: Call) -> Lowered:
    """For sample i of ``batch_axis``, the first ``sequence_lens[i]`` values along ``time_axis`` in reverse order."""
    call.expect((1, 1))
    x = call.shape(0)
    batch, time = call.axis("batch_axis", len(x), 1), call.axis("time_axis", len(x), 0)
    if batch == time:
        raise call.fail(f"batch_axis and time_axis are both {batch}, expected two axes")
    if x[batch] > _MOST_LENGTHS:
        raise call.fail(f"{x[batch]} samples, more than the {_MOST_LENGTHS} allowed")
    lengths = call.ints("sequence_lens", low=0, high=x[time], count=x[batch])

    def bind(buffers: Buffers) -> Run:
        source, target = (np.moveaxis(a, (batch, time), (0, 1)) for a in (buffers.input(0), buffers.outputs[0]))

        def run(first: int, last: int) -> None:
            for sample, length in enumerate(lengths):
                np.copyto(target[sample, :length], source[sample, :length][::-1])
                np.copyto(target[sample, length:], source[sample, length:])

        return run

    return Lowered(outputs=(x,), bind=bind, batchwise=False)
