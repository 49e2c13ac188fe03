"""Attention, and the rotary embedding of its queries and keys."""

from __future__ import annotations

import math

import numpy as np

import streamrt._core as _core
from streamrt.ops.base import Buffers, Lowered, Run, Shape
from streamrt.ops.call import Call
from streamrt.ops.columns import columns, threads_for
from streamrt.ops.registry import Traits, operator
from streamrt.ops.scratch import Scratch

#: The most scores that are computed together: 1 MiB, so that they stay in cache. A row of scores may have more.
_SCORES = 2**18
#: The kernel takes fewer keys, and fewer values of a head.
_MOST_COLUMNS = 2**30


@operator("Attention", traits=Traits(params=("mask",)))
def attention(call: Call) -> Lowered:
    """``softmax(cap(scale * q @ transpose(k)) + mask) @ v`` for each head; cap(x) is ``softcap * tanh(x / softcap)``.

    q (..., heads, queries, inner), k (..., key heads, keys, inner), v (..., key heads, keys, width). With three axes
    there is one head, and no axis of heads. The number of heads is a multiple of the number of key heads: the heads are
    shared out in order. The mask broadcasts to (..., heads, queries, keys), along all axes before the heads or none.
    Its last axis may be shorter, and later keys are then not used.

    Attributes, besides ONNX's ``scale``, ``softcap``, ``is_causal``, ``left_window_size`` and ``right_window_size``:
    with ``truth`` the mask is of truth values, and keys with 0 are not used. Query i lies at the place i + ``offset``
    of the keys. A query that may use no key gives 0, or, as a Softmax does, NaN with ``nan``.
    """
    call.expect((3, 4))
    q, k, v = (_with_heads(call, index) for index in range(3))
    samples, heads, queries, inner = q
    keys, width = v[2], v[3]
    leads = {shape[: max(1, len(shape) - 3)] for shape in _shapes(call)}
    ranks = {len(shape) for shape in _shapes(call)}
    if k != (samples, v[1], keys, inner) or len(leads) > 1 or len(ranks) > 1 or heads % v[1]:
        raise call.fail(
            f"inputs of shapes {', '.join(map(str, _shapes(call)))}, expected (N, heads, queries, inner), "
            "(N, key heads, keys, inner) and (N, key heads, keys, width)"
        )
    if max(keys, width) >= _MOST_COLUMNS:
        raise call.fail(f"{keys} keys and {width} values of a head, expected fewer than 2**30")
    mask = _mask(call, (samples, heads, queries, keys))
    scale, cap = call.float_("scale", 1 / math.sqrt(inner)), call.float_("softcap", 0.0)
    truth, causal, zeros = call.flag("truth", False), call.flag("is_causal", False), not call.flag("nan", False)
    offset = call.int_("offset", 0, 0, _MOST_COLUMNS - 1)
    left, right = (call.int_(f"{side}_window_size", -1, -1, _MOST_COLUMNS - 1) for side in ("left", "right"))
    if not math.isfinite(scale) or not 0 <= cap < math.inf:
        raise call.fail(f"'scale' is {scale} and 'softcap' {cap}, expected finite numbers, and no softcap below 0")
    pieces, rows = samples * v[1], heads // v[1] * queries
    room = max(keys, min(_SCORES, pieces * rows * keys))
    height = _core.attention_rows(pieces, rows, keys, room)
    scratch = Scratch()
    scores, unused = scratch.add(room), scratch.add(height)
    scaled = scratch.add(height * inner) if scale != 1 or cap != 0 else None
    panels = columns(scratch, threads_for(height * keys * max(inner, width)), max(inner, keys), max(keys, width))

    def bind(buffers: Buffers) -> Run:
        given = buffers.optional(3)
        return _core.Attention(
            buffers.input(0).reshape(samples, v[1], -1, queries, inner),
            buffers.input(1).reshape(k),
            buffers.input(2).reshape(v),
            None if given is None or mask is None else given.reshape(mask),
            buffers.outputs[0].reshape(samples, v[1], -1, queries, width),
            scores.of(buffers.scratch),
            None if scaled is None else scaled.of(buffers.scratch),
            unused.of(buffers.scratch),
            panels.of(buffers.scratch),
            scale=scale,
            cap=cap,
            truth=truth,
            causal=causal,
            offset=offset,
            left=left,
            right=right,
            zeros=zeros,
        )

    return Lowered(
        outputs=((*call.shape(0)[:-1], width),),
        bind=bind,
        scratch=scratch.nbytes,
        batchwise=_is_batchwise(call, mask),
        flops=pieces * rows * keys * (2 * inner + 2 * width + 5),
    )


def _shapes(call: Call) -> list[Shape]:
    return [call.shape(index) for index in range(3)]


def _with_heads(call: Call, index: int) -> Shape:
    """The shape of an input as (N, heads, rows, columns); N is the product of all axes before the heads."""
    shape = call.shape(index)
    if len(shape) < 3:
        raise call.fail(f"input {index} has shape {shape}, expected at least 3 axes")
    return (math.prod(shape[:-3]), *shape[-3:]) if len(shape) > 3 else (shape[0], 1, *shape[1:])


def _mask(call: Call, scores: Shape) -> Shape | None:
    """The shape of the mask with four axes, or None if there is no mask. ``scores`` is (N, heads, queries, keys)."""
    mask, q = call.optional(3), call.shape(0)
    if mask is None:
        return None
    whole = (1,) * (len(q) - len(mask)) + mask
    if len(q) == 3 and len(whole) == 3:
        whole = (whole[0], 1, *whole[1:])
    lead, last = whole[:-3], whole[-3:]
    if len(whole) == max(4, len(q)) and (set(lead) == {1} or lead == (q[:-3] or q[:1])):
        fits = all(extent in (1, wide) for extent, wide in zip(last[:2], scores[1:3], strict=True))
        if fits and last[2] <= scores[3]:
            return (math.prod(lead), *last)
    raise call.fail(f"a mask of shape {mask} does not broadcast to {(*q[:-1], scores[3])}")


def _is_batchwise(call: Call, mask: Shape | None) -> bool:
    """Whether sample n of the output depends only on sample n of each computed input."""
    if any(call.batch(index) is None for index in range(3)):
        return False
    if mask is None:
        return True
    varies = mask[0] != 1
    spans = len(call.shape(3)) == len(call.shape(0)) and call.shape(3)[0] == call.shape(0)[0]
    return not varies if call.batch(3) is None else spans


@operator("RotaryEmbedding", traits=Traits(params=("cos", "sin")))
def rotary_embedding(call: Call) -> Lowered:
    """Turns pairs of numbers of each head by the angle of their position.

    x is (N, heads, positions, size), or (N, positions, heads * size) with attribute ``num_heads``. Inputs 1 and 2 are
    the cosine and the sine of the angles: (N, positions, pairs), where N may be 1 or left out. Pair i is the numbers i
    and i + pairs of a head, or with ``interleaved`` the numbers 2 i and 2 i + 1. Numbers behind the pairs stay.
    """
    call.expect((3, 3))
    x = call.shape(0)
    interleaved, heads = call.flag("interleaved", False), call.int_("num_heads", 0, 0)
    if len(x) not in (3, 4) or (len(x) == 3 and (heads == 0 or x[2] % heads)):
        raise call.fail(
            f"an input of shape {x} and {heads} heads, expected 4 axes, or 3 with a multiple of 'num_heads' as the last"
        )
    positions, size = (x[2], x[3]) if len(x) == 4 else (x[1], x[2] // heads)
    angles = [(1,) * (3 - len(call.shape(index))) + call.shape(index) for index in (1, 2)]
    pairs = angles[0][-1]
    if any(shape not in ((1, positions, pairs), (x[0], positions, pairs)) for shape in angles) or 2 * pairs > size:
        raise call.fail(
            f"angles of shapes {call.shape(1)} and {call.shape(2)}, expected (N, positions, pairs) "
            f"for {positions} positions and heads of {size} numbers"
        )
    folded = x if len(x) == 4 else (x[0], positions, heads, size)
    scratch = Scratch()
    products = [scratch.add(*folded[:3], pairs) for _ in range(2)]
    first, second = slice(0, 2 * pairs, 2), slice(1, 2 * pairs, 2)
    if not interleaved:
        first, second = slice(0, pairs), slice(pairs, 2 * pairs)

    def bind(buffers: Buffers) -> Run:
        source, target = buffers.input(0).reshape(folded), buffers.outputs[0].reshape(folded)
        by = (slice(None), None) if len(x) == 4 else (slice(None), slice(None), None)
        cos, sin = (buffers.input(index).reshape(shape)[by] for index, shape in zip((1, 2), angles, strict=True))
        one, other = (part.of(buffers.scratch) for part in products)

        def run(begin: int, end: int) -> None:
            for by_first, by_second, add, part in ((cos, sin, np.subtract, first), (sin, cos, np.add, second)):
                np.multiply(source[..., first], by_first, out=one)
                np.multiply(source[..., second], by_second, out=other)
                add(one, other, out=one)
                np.copyto(target[..., part], one)
            np.copyto(target[..., 2 * pairs :], source[..., 2 * pairs :])

        return run

    return Lowered(
        outputs=(x,),
        bind=bind,
        scratch=scratch.nbytes,
        batchwise=call.batch(0) is not None and all(_turns_samples(call, index) for index in (1, 2)),
        flops=6 * math.prod(folded[:3]) * pairs,
    )


def _turns_samples(call: Call, index: int) -> bool:
    """Whether each sample has its own angles if they are computed, and all have the same if they are a parameter."""
    shape = call.shape(index)
    if call.batch(index) is None:
        return len(shape) < 3 or shape[0] == 1
    return len(shape) == 3 and shape[0] == call.shape(0)[0]
