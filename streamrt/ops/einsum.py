"""Einsum of one or two tensors: copies, sums, and one product of matrices.

An axis that only one operand has, and that is not in the result, is summed first. What remains is a product: axes that
both operands and the result have are pairs of matrices, axes that both operands alone have are inner, and the others
are rows and columns. Operands and the result are copied to that order only if theirs is another one.
"""

from __future__ import annotations

import math
from collections.abc import Container, Sequence
from dataclasses import dataclass

import numpy as np

from streamrt.ops.base import MAX_RANK, Array, Buffers, Lowered, Run, Shape
from streamrt.ops.call import Call
from streamrt.ops.epilogue import IDENTITY
from streamrt.ops.matmul import Product
from streamrt.ops.movement import copy_all
from streamrt.ops.registry import operator
from streamrt.ops.scratch import Part, Scratch

#: The most characters of an equation: three terms of 8 axes, an ellipsis each, and separators, all with spaces between.
_MOST_CHARACTERS = 128
_ELLIPSIS = "..."
_Labels = tuple[str, ...]


@dataclass(frozen=True, slots=True)
class _Term:
    """An operand whose axes have labels, each label once."""

    labels: _Labels
    extents: Shape


@operator("Einsum")
def einsum(call: Call) -> Lowered:
    """NumPy's einsum, by its ``equation``, of one or two tensors. Axes of extent 1 broadcast."""
    call.expect((1, 2))
    shapes = [call.shape(index) for index in range(len(call.operands))]
    terms, result = _parsed(call, shapes)
    extents: dict[str, int] = {}
    for labels, shape in zip(terms, shapes, strict=True):
        for label, extent in zip(labels, shape, strict=True):
            known = extents.setdefault(label, extent)
            if 1 not in (known, extent) and known != extent:
                raise call.fail(f"axes {label!r} of the equation have extents {known} and {extent}, expected one")
            extents[label] = max(known, extent)
    for labels, shape in zip(terms, shapes, strict=True):
        for label, extent in zip(labels, shape, strict=True):
            if labels.count(label) > 1 and extent != extents[label]:
                raise call.fail(f"an axis {label!r} that is repeated has extent {extent}, expected {extents[label]}")
    out = tuple(extents[label] for label in result)
    call.check("output 0", out)  # before anything is computed from its size
    scratch = Scratch()
    if len(terms) == 1:
        lowered = _single(_Operand(terms[0], shapes[0], result, (), scratch), result, out, scratch)
    else:
        lowered = _pair(terms, shapes, result, extents, scratch)
    return Lowered(
        outputs=(out,),
        bind=lowered.bind,
        scratch=scratch.nbytes,
        batchwise=_is_batchwise(call, terms, shapes, result),
        flops=2 * math.prod(extents.values()),
    )


def _parsed(call: Call, shapes: Sequence[Shape]) -> tuple[list[_Labels], _Labels]:
    """The labels of the axes of each operand and of the result. Axes of an ellipsis have numbers as labels."""
    equation = call.string("equation", _MOST_CHARACTERS)
    left, arrow, right = equation.replace(" ", "").partition("->")
    terms = left.split(",")
    if len(terms) != len(shapes):
        raise call.fail(f"equation {equation!r} has {len(terms)} terms for {len(shapes)} inputs")
    most = 0
    labels: list[_Labels] = []
    for term, shape in zip(terms, shapes, strict=True):
        begin, dots, end = term.partition(_ELLIPSIS)
        count = len(shape) - len(begin) - len(end)
        if not _are_letters(begin + end) or (count != 0 if not dots else count < 0):
            raise call.fail(f"term {term!r} of equation {equation!r} does not fit an input of shape {shape}")
        most = max(most, count)
        labels.append((*begin, *(str(count - axis) for axis in range(count)), *end))
    hidden = tuple(str(most - axis) for axis in range(most))
    letters = [label for term in labels for label in term if label not in hidden]
    if not arrow:
        return labels, (*hidden, *sorted(label for label in set(letters) if letters.count(label) == 1))
    begin, dots, end = right.partition(_ELLIPSIS)
    named = begin + end
    if not _are_letters(named) or len(set(named)) != len(named) or not set(named) <= set(letters):
        raise call.fail(f"result {right!r} of equation {equation!r}, expected each label once, and of an operand")
    result = (*begin, *(hidden if dots else ()), *end)
    if len(result) > MAX_RANK:
        raise call.fail(f"the result of equation {equation!r} has {len(result)} axes, more than the {MAX_RANK} allowed")
    return labels, result


def _are_letters(text: str) -> bool:
    return all(label.isascii() and label.isalpha() for label in text)


class _Operand:
    """An operand: repeated labels become a diagonal, and labels that nothing else has are summed."""

    def __init__(
        self, labels: _Labels, shape: Shape, kept: Container[str], other: Container[str], scratch: Scratch
    ) -> None:
        self._labels, self._shape = labels, shape
        extents = dict(zip(labels, shape, strict=True))
        once = tuple(dict.fromkeys(labels))
        stays = [label for label in once if extents[label] > 1 and (label in kept or label in other)]
        self._once, self._sums = once, tuple(axis for axis, label in enumerate(once) if label not in stays)
        #: The operand after the sums.
        self.term = _Term(tuple(stays), tuple(extents[label] for label in stays))
        self._is_plain = len(once) == len(labels) and all(extents[once[axis]] == 1 for axis in self._sums)
        self._part = None if self._is_plain else scratch.add(*self.term.extents)

    def bind(self, x: Array, buffers: Buffers) -> tuple[Array, Run | None]:
        """The operand after the sums, and the function that computes it, or None if it needs none."""
        if self._part is None:
            return x.reshape(self.term.extents), None
        strides = dict.fromkeys(self._once, 0)
        for label, stride in zip(self._labels, x.strides, strict=True):
            strides[label] += stride  # of a diagonal: a step along all its axes
        extents = dict(zip(self._labels, self._shape, strict=True))
        view = np.lib.stride_tricks.as_strided(
            x, [extents[label] for label in self._once], list(strides.values()), writeable=False
        )
        target, axes = self._part.of(buffers.scratch), self._sums

        def run(first: int, last: int) -> None:
            np.add.reduce(view, axis=axes, out=target)

        return target, run


def _single(operand: _Operand, result: _Labels, out: Shape, scratch: Scratch) -> Lowered:
    """An einsum of one operand."""
    order = [operand.term.labels.index(label) for label in result if label in operand.term.labels]

    def bind(buffers: Buffers) -> Run:
        source, before = operand.bind(buffers.input(0), buffers)
        moved = source.transpose(order)
        copy = _copy(moved, buffers.outputs[0].reshape(moved.shape))
        return copy if before is None else _in_turn((before, copy))

    return Lowered(outputs=(out,), bind=bind)


def _pair(
    terms: Sequence[_Labels], shapes: Sequence[Shape], result: _Labels, extents: dict[str, int], scratch: Scratch
) -> Lowered:
    """An einsum of two operands."""
    given = list(zip(terms, shapes, strict=True))
    wide = [{label for label, extent in zip(*pair, strict=True) if extent > 1} for pair in given]
    operands = [_Operand(*pair, result, others, scratch) for pair, others in zip(given, reversed(wide), strict=True)]
    left, right = (operand.term for operand in operands)
    both = [label for label in left.labels if label in right.labels]
    pairs = [label for label in result if label in both]
    inner = [label for label in both if label not in result]
    rows = [label for label in result if label in left.labels and label not in both]
    columns = [label for label in result if label in right.labels and label not in both]
    transposed = right.labels == (*pairs, *columns, *inner)
    first = _Order(left, [*pairs, *rows, *inner], scratch)
    second = _Order(right, [*pairs, *columns, *inner] if transposed else [*pairs, *inner, *columns], scratch)
    made = [*pairs, *rows, *columns]
    wanted = [label for label in result if label in made]
    product_part = None if made == wanted else scratch.add(*(extents[label] for label in made))
    groups, height, depth, width = (
        math.prod(extents[label] for label in labels) for labels in (pairs, rows, inner, columns)
    )
    product = Product(
        (groups,), (groups,), height, depth, width, transposed=transposed, epilogue=IDENTITY, scratch=scratch
    )

    def bind(buffers: Buffers) -> Run:
        steps: list[Run] = []
        arrays: list[Array] = []
        for index, (operand, order) in enumerate(zip(operands, (first, second), strict=True)):
            source, before = operand.bind(buffers.input(index), buffers)
            ordered, copy = order.bind(source, buffers)
            steps += [step for step in (before, copy) if step is not None]
            arrays.append(ordered)
        y = buffers.outputs[0]
        target = y if product_part is None else product_part.of(buffers.scratch)
        steps.append(product.bind(arrays[0], arrays[1], target, buffers))
        if product_part is not None:
            moved = target.transpose([made.index(label) for label in wanted])
            steps.append(_copy(moved, y.reshape(moved.shape)))
        return steps[0] if len(steps) == 1 else _in_turn(steps)

    return Lowered(outputs=(tuple(extents[label] for label in result),), bind=bind)


class _Order:
    """A term with its axes in a given order, in scratch memory if that is not its own order."""

    def __init__(self, term: _Term, order: list[str], scratch: Scratch) -> None:
        self._axes = [term.labels.index(label) for label in order]
        self._part: Part | None = None
        if self._axes != sorted(self._axes):
            self._part = scratch.add(*(term.extents[axis] for axis in self._axes))

    def bind(self, x: Array, buffers: Buffers) -> tuple[Array, Run | None]:
        """The array in this order, and the function that computes it, or None if it needs none."""
        if self._part is None:
            return x, None
        target = self._part.of(buffers.scratch)
        return target, _copy(x.transpose(self._axes), target)


def _copy(source: Array, target: Array) -> Run:
    return copy_all([(target, source)])


def _in_turn(steps: Sequence[Run]) -> Run:
    def run(first: int, last: int) -> None:
        for step in steps:
            step(0, 1)

    return run


def _is_batchwise(call: Call, terms: Sequence[_Labels], shapes: Sequence[Shape], result: _Labels) -> bool:
    """Whether axis 0 of the result is axis 0, and no other axis, of each computed operand, and of no parameter."""
    if not result:
        return False
    batch = result[0]
    for index, (labels, shape) in enumerate(zip(terms, shapes, strict=True)):
        if call.batch(index) is None:
            if any(label == batch and extent > 1 for label, extent in zip(labels, shape, strict=True)):
                return False
        elif labels[:1] != (batch,) or labels.count(batch) != 1:
            return False
    computed = [shape[0] for index, shape in enumerate(shapes) if call.batch(index) is not None]
    return len(set(computed)) == 1
