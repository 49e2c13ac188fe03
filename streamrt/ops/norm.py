"""Normalisation: by stored or computed statistics, across channels, and to probabilities."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import replace

import numpy as np

import streamrt._core as _core
from streamrt.graph import Node
from streamrt.ops.base import Array, Buffers, Lowered, Run, Shape
from streamrt.ops.call import Call
from streamrt.ops.collect import moments
from streamrt.ops.epilogue import IDENTITY, Epilogue, epilogue_of
from streamrt.ops.registry import Traits, operator
from streamrt.ops.scratch import Scratch
from streamrt.ops.shapes import broadcast

#: The halves of a normalisation of groups: see `Lowered.parts`.
_COLLECT, _NORMALISE = "GroupMoments", "GroupNormalise"


@operator(
    "BatchNormalization",
    traits=Traits(fuses=True, row_axis=1, params=("scale", "bias", "mean", "var"), rowwise=True),
)
def batch_normalization(call: Call) -> Lowered:
    """``(x - mean) / sqrt(var + epsilon) * scale + bias`` for each channel, axis 1."""
    call.expect((5, 5))
    x = call.shape(0)
    folded = _channels(call, x)
    for index in range(1, 5):
        if call.param(index) != (x[1],):
            raise call.fail(f"input {index} has shape {call.shape(index)}, expected ({x[1]},)")
    epsilon = call.float_("epsilon", 1e-5)
    epilogue = epilogue_of(call)
    scratch = Scratch()
    factor_part, shift_part = scratch.add(x[1]), scratch.add(x[1])

    def bind(buffers: Buffers) -> Run:
        source, target = buffers.input(0).reshape(folded), buffers.outputs[0].reshape(folded)
        scale, bias, mean, var = (buffers.input(index) for index in range(1, 5))
        factor, shift = factor_part.of(buffers.scratch), shift_part.of(buffers.scratch)

        def run(first: int, last: int) -> None:
            np.add(var, epsilon, out=factor)
            np.sqrt(factor, out=factor)
            np.divide(scale, factor, out=factor)
            np.multiply(mean, factor, out=shift)
            np.subtract(bias, shift, out=shift)
            _core.scale_shift_act(source, factor, shift, target, *epilogue)

        return run

    return Lowered(
        outputs=(x,),
        bind=bind,
        scratch=scratch.nbytes,
        inplace=_own(call),
        flops=2 * math.prod(x),
    )


@operator("InstanceNormalization", traits=Traits(fuses=True, row_axis=1))
def instance_normalization(call: Call) -> Lowered:
    """``(x - mean) / sqrt(var + epsilon) * scale + bias``, with mean and var of each channel of each sample."""
    call.expect((3, 3))
    x = call.shape(0)
    if len(x) < 3:
        raise call.fail(f"an input of shape {x}, expected at least 3 axes")
    return _of_groups(call, x[1])


@operator("GroupNormalization", traits=Traits(fuses=True, row_axis=1))
def group_normalization(call: Call) -> Lowered:
    """As InstanceNormalization, with mean and var of each of ``num_groups`` groups of neighbouring channels."""
    call.expect((3, 3))
    channels = _channels(call, call.shape(0))[1]
    groups = call.int_("num_groups", low=1)
    if channels % groups:
        raise call.fail(f"{channels} channels, expected a multiple of {groups} groups")
    return _of_groups(call, groups)


def _of_groups(call: Call, groups: int) -> Lowered:
    x = call.shape(0)
    samples, channels, positions = _channels(call, x)
    for index in (1, 2):
        if call.param(index) != (channels,):
            raise call.fail(f"input {index} has shape {call.shape(index)}, expected ({channels},)")
    epsilon, epilogue = call.float_("epsilon", 1e-5), epilogue_of(call)
    planes = (channels, *(x[2:] if len(x) == 4 else (1, positions)))
    found = moments(planes, groups, epsilon)
    scratch = Scratch(found.nbytes)
    moments_part, factors_part = scratch.add(2 * groups), scratch.add(2, channels)

    def bind(buffers: Buffers) -> Run:
        source, target = (
            array.reshape(samples, channels, positions) for array in (buffers.input(0), buffers.outputs[0])
        )
        scale, bias = buffers.input(1), buffers.input(2)
        numbers, factors = moments_part.of(buffers.scratch), factors_part.of(buffers.scratch)
        collects = [found.bind_whole(source[n].reshape(planes), numbers, buffers.scratch) for n in range(samples)]

        def run(first: int, last: int) -> None:
            for n, collect in enumerate(collects):
                collect(0, 1)
                _normalise(source[n, None], numbers, scale, bias, target[n, None], factors, epilogue)

        return run

    return Lowered(
        outputs=(x,),
        bind=bind,
        scratch=scratch.nbytes,
        inplace=_own(call),
        batchwise=True,
        flops=8 * math.prod(x),
        parts=_halves(call.node, groups, epsilon) if len(x) == 4 else (),
    )


def _halves(node: Node, groups: int, epsilon: float) -> tuple[Node, Node]:
    """See `Lowered.parts`."""
    x, scale, bias = node.inputs
    numbers = f"{node.outputs[0]} (mean and deviation)"
    attrs = {"num_groups": groups, "epsilon": epsilon}
    return (
        replace(node, op=_COLLECT, inputs=(x,), outputs=(numbers,), attrs=attrs, activation=None),
        replace(node, op=_NORMALISE, inputs=(x, scale, bias, numbers), attrs={}),
    )


@operator(_COLLECT, traits=Traits(hidden=True))
def collected_moments(call: Call) -> Lowered:
    """The mean, and ``1 / sqrt(var + epsilon)``, of each of ``num_groups`` groups of channels of one sample."""
    x = call.shape(0)
    groups = call.int_("num_groups")
    found = moments(x[1:], groups, call.float_("epsilon"))

    def bind(buffers: Buffers) -> Run:
        return found.bind_whole(buffers.input(0)[0], buffers.outputs[0], buffers.scratch)

    return Lowered(outputs=((2 * groups,),), bind=bind, scratch=found.nbytes, flops=4 * math.prod(x), collects=found)


@operator(_NORMALISE, traits=Traits(hidden=True, rowwise=True))
def normalised(call: Call) -> Lowered:
    """``(x - mean) * deviation * scale + bias`` with what `collected_moments` found."""
    x = call.shape(0)
    folded, epilogue = _channels(call, x), epilogue_of(call)
    scratch = Scratch()
    factors_part = scratch.add(2, x[1])

    def bind(buffers: Buffers) -> Run:
        source, target = buffers.input(0).reshape(folded), buffers.outputs[0].reshape(folded)
        scale, bias, numbers = (buffers.input(index) for index in (1, 2, 3))
        factors = factors_part.of(buffers.scratch)
        return lambda first, last: _normalise(source, numbers, scale, bias, target, factors, epilogue)

    return Lowered(outputs=(x,), bind=bind, scratch=scratch.nbytes, inplace=_own(call), flops=4 * math.prod(x))


def _normalise(
    x: Array, numbers: Array, scale: Array, bias: Array, y: Array, factors: Array, epilogue: Epilogue
) -> None:
    """``y = act((x - mean) * deviation * scale + bias)``: x, y (N, C, S); ``factors`` (2, C) is scratch memory.

    The mean is subtracted first. In one product with a sum, digits would be lost where it is large.
    """
    mean, deviation = numbers.reshape(2, -1, 1)
    groups = len(mean)
    one, factor = factors
    less = y  # the difference is written where the result will be
    one.fill(1)
    factor.reshape(groups, -1)[:] = -mean
    _core.scale_shift_act(x, one, factor, less, *IDENTITY)
    np.multiply(scale.reshape(groups, -1), deviation, out=factor.reshape(groups, -1))
    _core.scale_shift_act(less, factor, bias, y, *epilogue)


@operator("LayerNormalization", traits=Traits(moves_batch=True))
def layer_normalization(call: Call) -> Lowered:
    """``(x - mean) / sqrt(var + epsilon) * scale + bias``, with mean and var over all axes from ``axis`` on.

    Output 1 is the mean, output 2 is ``1 / sqrt(var + epsilon)``; both are optional.
    """
    call.expect((2, 3), (1, 3))
    x = call.shape(0)
    axis = call.axis("axis", len(x), -1)
    for index in range(1, len(call.operands)):
        if index == 1 or call.optional(index) is not None:  # the scale must be there
            shape = call.param(index)
            if broadcast(call, shape, x[axis:]) != x[axis:]:
                raise call.fail(f"input {index} has shape {shape}, which does not broadcast to {x[axis:]}")
    scratch = Scratch()
    moments = _Moments(call.float_("epsilon", 1e-5), math.prod(x[:axis]), math.prod(x[axis:]), scratch)
    named = [index for index, name in enumerate(call.node.outputs) if name]

    def bind(buffers: Buffers) -> Run:
        outputs = dict(zip(named, buffers.outputs, strict=True))
        target = outputs[0]
        rows = (moments.rows, moments.columns)
        scale, bias = buffers.input(1), buffers.optional(2)
        kept = {index: outputs[index].reshape(-1) for index in outputs if index}
        normalise = moments.bind(buffers, buffers.input(0).reshape(rows), target.reshape(rows), kept)

        def run(first: int, last: int) -> None:
            normalise()
            np.multiply(target, scale, out=target)
            if bias is not None:
                np.add(target, bias, out=target)

        return run

    statistics = (*x[:axis], *(1,) * (len(x) - axis))
    return Lowered(
        outputs=(x, statistics, statistics)[: len(call.node.outputs)],
        bind=bind,
        scratch=scratch.nbytes,
        inplace=_own(call),
        batchwise=axis > (call.batch() or 0),
        batch=call.batch() or 0,
        flops=8 * math.prod(x),
    )


@operator("RMSNormalization", traits=Traits(params=("scale",)))
def rms_normalization(call: Call) -> Lowered:
    """``x / sqrt(mean(x * x) + epsilon) * scale``, with the mean over all axes from ``axis`` on."""
    call.expect((2, 2))
    x, scale_shape = call.shape(0), call.shape(1)
    axis = call.axis("axis", len(x), -1)
    if broadcast(call, scale_shape, x[axis:]) != x[axis:]:
        raise call.fail(f"input 1 has shape {scale_shape}, which does not broadcast to {x[axis:]}")
    epsilon = call.float_("epsilon", 1e-5)
    rows, inner = math.prod(x[:axis]), math.prod(x[axis:])
    scratch = Scratch()
    squares_part, roots_part = scratch.add(rows, inner), scratch.add(rows)

    def bind(buffers: Buffers) -> Run:
        source, target = buffers.input(0).reshape(rows, inner), buffers.outputs[0]
        scale, flat = buffers.input(1), target.reshape(rows, inner)
        squares, roots = squares_part.of(buffers.scratch), roots_part.of(buffers.scratch)
        mean_of_squares = _core.RowMean(squares, roots)

        def run(first: int, last: int) -> None:
            np.square(source, out=squares)
            mean_of_squares(0, 1)
            np.add(roots, epsilon, out=roots)
            np.sqrt(roots, out=roots)
            np.divide(source, roots[:, None], out=flat)
            np.multiply(target, scale, out=target)

        return run

    return Lowered(
        outputs=(x,),
        bind=bind,
        scratch=scratch.nbytes,
        inplace=_own(call),
        batchwise=axis > 0 and call.is_param(1),
        flops=5 * math.prod(x),
    )


class _Moments:
    """Normalises rows to mean 0 and variance 1, in two passes over them: a single pass would lose digits."""

    def __init__(self, epsilon: float, rows: int, columns: int, scratch: Scratch) -> None:
        self.rows, self.columns = rows, columns
        self._epsilon = epsilon
        self._mean, self._deviation = scratch.add(rows), scratch.add(rows)
        self._squares = scratch.add(rows, columns)

    def bind(
        self, buffers: Buffers, source: Array, target: Array, kept: Mapping[int, Array] | None = None
    ) -> Callable[[], None]:
        """The function that normalises ``source`` (rows, columns) to ``target``, which may be the same memory.

        It writes the mean of each row to ``kept[1]`` and ``1 / sqrt(var + epsilon)`` to ``kept[2]``, if they are given.
        """
        kept = kept or {}
        mean = kept.get(1, self._mean.of(buffers.scratch))
        inverse = kept.get(2, self._deviation.of(buffers.scratch))
        squares = self._squares.of(buffers.scratch)
        mean_of_rows, mean_of_squares = _core.RowMean(source, mean), _core.RowMean(squares, inverse)

        def normalise() -> None:
            mean_of_rows(0, 1)
            np.subtract(source, mean[:, None], out=target)
            np.square(target, out=squares)
            mean_of_squares(0, 1)
            np.add(inverse, self._epsilon, out=inverse)
            np.sqrt(inverse, out=inverse)
            np.reciprocal(inverse, out=inverse)
            np.multiply(target, inverse[:, None], out=target)

        return normalise


@operator("LRN", traits=Traits(fuses=True, rowwise=True))
def lrn(call: Call) -> Lowered:
    """``x / (bias + alpha / size * s) ** beta``, where s is the sum of the squares of the ``size`` nearest channels."""
    call.expect((1, 1))
    x = call.shape(0)
    folded = _channels(call, x)
    size = call.int_("size", low=1)
    alpha, beta, bias = call.float_("alpha", 1e-4), call.float_("beta", 0.75), call.float_("bias", 1.0)

    def bind(buffers: Buffers) -> Run:
        source, target = buffers.input(0).reshape(folded), buffers.outputs[0].reshape(folded)
        return lambda first, last: _core.lrn(source, target, size, alpha, beta, bias)

    return Lowered(outputs=(x,), bind=bind, flops=math.prod(x) * min(size, x[1]))


@operator("Softmax", "LogSoftmax", traits=Traits(moves_batch=True))
def softmax(call: Call) -> Lowered:
    """``exp(x) / sum(exp(x))`` along ``axis``, or its logarithm.

    With ``coerce`` the sum is over all axes from ``axis`` on, as in ONNX before opset 13.
    """
    call.expect((1, 1))
    x = call.shape(0)
    coerce = call.flag("coerce", False)
    axis = call.axis("axis", len(x), 1 if coerce else -1)
    end = len(x) if coerce else axis + 1
    folded = (math.prod(x[:axis]), math.prod(x[axis:end]), math.prod(x[end:]))
    log = call.node.op == "LogSoftmax"

    def bind(buffers: Buffers) -> Run:
        source, target = buffers.input(0).reshape(folded), buffers.outputs[0].reshape(folded)
        return lambda first, last: _core.softmax(source, target, log)

    return Lowered(
        outputs=(x,),
        bind=bind,
        inplace=_own(call),
        batchwise=not axis <= (call.batch() or 0) < end,
        batch=call.batch() or 0,
        flops=3 * math.prod(x),
        rowwise=(axis, end) == (1, 2),
    )


def _own(call: Call) -> tuple[int, ...]:
    """`Lowered.inplace` of a node that can write to the memory of input 0, unless input 0 is a parameter."""
    return () if call.is_param(0) else (0,)


def _channels(call: Call, x: Shape) -> Shape:
    """``x`` as (samples, channels, positions)."""
    if len(x) < 2:
        raise call.fail(f"an input of shape {x}, expected at least 2 axes")
    return (x[0], x[1], math.prod(x[2:]))
