"""Arithmetic on shapes that several families of operators share."""

from __future__ import annotations

from streamrt.ops.base import Shape
from streamrt.ops.call import Call


def broadcast(call: Call, *shapes: Shape) -> Shape:
    """The shape to which ``shapes`` broadcast by NumPy's rules; `FormatError` if they do not."""
    rank = max(map(len, shapes))
    out = []
    for extents in zip(*((1,) * (rank - len(shape)) + shape for shape in shapes), strict=True):
        wide = {extent for extent in extents if extent != 1}
        if len(wide) > 1:
            raise call.fail(f"shapes {', '.join(map(str, shapes)):.200} do not broadcast together")
        out.append(wide.pop() if wide else 1)
    return tuple(out)


def borrowed(call: Call, count: int) -> dict[int, int]:
    """The extents that the result takes from the last input, by axis of the result.

    Attribute ``extents`` has one number for each of the ``count`` axes of the result: an axis of the last input, or -1
    if the extent is not taken from there. The last input may be a computed input 1 that is read only for its shape.
    """
    call.expect((1, 2))
    if not call.has("extents"):
        call.expect((1, 1))
        return {}
    lender = call.computed(len(call.operands) - 1)
    sources = call.ints("extents", low=-1, high=len(lender) - 1, count=count)
    return {axis: lender[source] for axis, source in enumerate(sources) if source >= 0}


def keeps_batch(call: Call, found: dict[int, int]) -> bool:
    """Whether the batch is axis 0, and no other axis, of both inputs and of the result. ``found`` is of `borrowed`."""
    x, lender = call.shape(0), call.shape(len(call.operands) - 1)
    if not found:
        return lender[:1] == x[:1]  # a smaller batch cuts axis 0 of the last input, too, even if no extent is used
    sources = call.ints("extents")
    return len(lender) > 0 and lender[:1] == x[:1] and sources[0] in (-1, 0) and 0 not in sources[1:]


def is_batchwise(call: Call, out: Shape) -> bool:
    """Whether sample n of ``out``, to which the inputs broadcast, depends only on sample n of each input.

    Samples lie along axis `batch_of` of the output. Fixed inputs must not vary along it.
    """
    axis = batch_of(call, out)
    if axis >= len(out):
        return False
    for operand in filter(None, call.operands):
        own = axis - (len(out) - len(operand.shape))
        if operand.fixed and own >= 0 and operand.shape[own] != 1:
            return False
        if not operand.fixed and (operand.batch != own or operand.shape[own] != out[axis]):
            return False
    return True


def batch_of(call: Call, out: Shape) -> int:
    """The axis along which samples lie in ``out``, to which the inputs broadcast; 0 if all inputs are fixed."""
    for operand in filter(None, call.operands):
        if not operand.fixed and operand.batch is not None:
            return operand.batch + len(out) - len(operand.shape)
    return 0
