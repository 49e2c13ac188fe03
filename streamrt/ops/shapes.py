"""Arithmetic on shapes that several families of operators share."""

from __future__ import annotations

from streamrt.ops.base import Call, Shape


def broadcast(call: Call, *shapes: Shape) -> Shape:
    """The shape that ``shapes`` broadcast to by NumPy's rules; `FormatError` when they do not."""
    rank = max(map(len, shapes))
    out = []
    for extents in zip(*((1,) * (rank - len(shape)) + shape for shape in shapes), strict=True):
        wide = {extent for extent in extents if extent != 1}
        if len(wide) > 1:
            raise call.fail(f"shapes {', '.join(map(str, shapes))} do not broadcast together")
        out.append(wide.pop() if wide else 1)
    return tuple(out)


def is_batchwise(call: Call, out: Shape) -> bool:
    """Whether inputs that broadcast to ``out`` meet sample by sample along axis 0.

    A computed input must have the output's axis 0; a parameter must be the same for all samples.
    """
    if not out:
        return False
    for shape, is_param in zip(call.shapes, call.is_param, strict=True):
        if shape is None:
            continue
        spans = len(shape) == len(out)
        if is_param and spans and shape[0] != 1:
            return False
        if not is_param and not (spans and shape[0] == out[0]):
            return False
    return True
