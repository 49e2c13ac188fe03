"""Recurrent layers in one direction: LSTM, GRU and RNN.

They differ from ONNX's operators in one point. Input 0 is the product of ONNX's X with the transpose of W, plus the
biases that can be added to it. It has one value for each gate in place of ONNX's features. Packing makes this product a
MatMul of its own, for all steps at once, and makes a layer in two directions two nodes.

What is left is the product of the state of each step with the recurrent weights R, which have a row for each unit of
each gate. So a node reads R once for each step: these are its passes (`Lowered.passes`). The rows of the node are those
of R for the first step, then for the second step, and so on.

Each sample has its own state, and the same is computed for every sample. With ``layout=1`` samples lie along axis 0.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import NamedTuple

import numpy as np

import streamrt._core as _core
from streamrt._core import Coded
from streamrt.ops.base import Array, Buffers, Lowered, Param, Run, Shape
from streamrt.ops.call import Call
from streamrt.ops.coded import TYPES
from streamrt.ops.epilogue import IDENTITY, epilogue_of
from streamrt.ops.gemm import Dense
from streamrt.ops.recurrent_activations import Apply, activations
from streamrt.ops.registry import Traits, operator
from streamrt.ops.scratch import Part, Scratch

_TRAITS = Traits(dtypes={1: TYPES}, params=("weight", "bias", "initial_h", "initial_c", "peephole"))

#: ``advance(first, last, x)``: compute rows ``first`` to ``last`` of R for a step. The last one changes the state. x is
#: (gates, samples, hidden): input 0 of the step.
Advance = Callable[[int, int, Array], None]


class _Bound(NamedTuple):
    """Memory of a node while it runs.

    Attributes:
        buffers: of the node.
        gates: (gates, samples, hidden), before and after their activations.
        states: the state of each sample, (samples, hidden): h, and for an LSTM c.
        spare: as many floats as ``gates``.
        bias: the bias of all rows; None if the node has none.
    """

    buffers: Buffers
    gates: Array
    states: tuple[Array, ...]
    spare: Array
    bias: Array | None


class _Layer:
    """The part that all recurrent operators have in common.

    Args:
        call: the node.
        gates: of the operator.
        default: its activations.
        states: tensors that a step hands to the next one, which are optional inputs from 3 on, and outputs from 1 on.
        others: inputs behind those.
    """

    def __init__(self, call: Call, gates: int, default: tuple[str, ...], states: int = 1, others: int = 0) -> None:
        call.expect((2, 3 + states + others), (1, 1 + states))
        x, r = call.computed(0), call.param(1)
        if len(x) != 3 or len(r) != 2 or r[0] != gates * r[1] or x[2] != r[0]:
            raise call.fail(
                f"an input of shape {x} and weights of shape {r}, expected (steps, samples, {gates} * hidden), or with "
                f"layout=1 (samples, steps, {gates} * hidden), and ({gates} * hidden, hidden)"
            )
        self.call = call
        self.rows, self.hidden = r
        self.gates = gates
        self.by_sample = call.flag("layout", False)
        self.steps, self.samples = (x[1], x[0]) if self.by_sample else (x[0], x[1])
        self.reverse = call.text("direction", "forward", ("forward", "reverse")) == "reverse"
        self.clip = call.float_("clip", math.inf)
        if not self.clip > 0:
            raise call.fail(f"attribute 'clip' is {self.clip}, expected a number above 0")
        self.activations = activations(call, default)
        self.epilogue = epilogue_of(call)
        self.state_shape: Shape = (self.samples, 1, self.hidden) if self.by_sample else (1, self.samples, self.hidden)
        for index in range(3, 3 + states):
            if call.optional(index) not in (None, self.state_shape):
                raise call.fail(f"input {index} has shape {call.shape(index)}, expected {self.state_shape}")
        self.scratch = scratch = Scratch()
        self._kept: list[tuple[int, Part]] = []
        self._bias = self.keep(2, self.rows) if call.bias(2, self.rows) else None
        self._gates, self._spare = (scratch.add(gates, self.samples, self.hidden) for _ in range(2))
        self._states = [scratch.add(self.samples, self.hidden) for _ in range(states)]
        self._flops = 0

    def keep(self, index: int, *shape: int) -> Part:
        """Memory for a copy of a parameter that only the first tile may read."""
        part = self.scratch.add(*shape)
        self._kept.append((index, part))
        return part

    def product(self, first: int, last: int) -> _Product:
        """The product of R's rows from ``first`` to ``last`` with a state; its memory is added to ``scratch``."""
        found = _Product(self, first, last)
        self._flops += found.flops
        return found

    def clipped(self, x: Array) -> None:
        """Limit sums of a gate to ``clip``."""
        if self.clip != math.inf:
            np.clip(x, -self.clip, self.clip, out=x)

    def lowered(self, bind: Callable[[_Bound], Advance]) -> Lowered:
        """The node; ``bind`` gives the function that computes a step."""
        call, shape, states = self.call, self.state_shape, len(self._states)
        y = (self.samples, self.steps, 1, self.hidden) if self.by_sample else (self.steps, 1, *shape[1:])
        initial = range(3, 3 + states)

        def bind_node(buffers: Buffers) -> Run:
            return self._bind(buffers, bind)

        return Lowered(
            outputs=(y, *[shape] * states)[: len(call.node.outputs)],
            bind=bind_node,
            scratch=self.scratch.nbytes,
            tiled=(1,),
            rows=self.steps * self.rows,
            passes=self.steps,
            batchwise=self.by_sample and all(call.batch(i) == 0 for i in (0, *initial) if call.optional(i) is not None),
            flops=self.steps * (self._flops + 8 * self.samples * self.rows),
        )

    def _bind(self, buffers: Buffers, bind: Callable[[_Bound], Advance]) -> Run:
        steps, samples, rows, hidden = self.steps, self.samples, self.rows, self.hidden
        outputs = dict(zip((i for i, name in enumerate(self.call.node.outputs) if name), buffers.outputs, strict=True))
        whole = outputs[0]
        if self.by_sample:
            x = buffers.input(0).reshape(samples, steps, self.gates, hidden).transpose(1, 2, 0, 3)
            y = whole.reshape(samples, steps, hidden).transpose(1, 0, 2)
        else:
            x = buffers.input(0).reshape(steps, samples, self.gates, hidden).transpose(0, 2, 1, 3)
            y = whole.reshape(steps, samples, hidden)
        memory = buffers.scratch
        states = tuple(part.of(memory) for part in self._states)
        bias = None if self._bias is None else self._bias.of(memory)
        advance = bind(_Bound(buffers, self._gates.of(memory), states, self._spare.of(memory), bias))
        initial = [buffers.optional(3 + index) for index in range(len(states))]
        copies = [(part.of(memory), buffers.input(index)) for index, part in self._kept]

        def start() -> None:
            for target, source in copies:
                np.copyto(target, source.reshape(target.shape))
            for state, value in zip(states, initial, strict=True):
                np.copyto(state, 0.0 if value is None else value.reshape(state.shape))

        def finish() -> None:
            for index, state in enumerate(states, 1):
                if index in outputs:
                    np.copyto(outputs[index].reshape(state.shape), state)
            if self.epilogue != IDENTITY:
                _core.unary(whole, whole, *self.epilogue)

        def run(first: int, last: int) -> None:
            if first == 0:
                start()
            while first < last:
                step, row = divmod(first, rows)
                end = min(rows, row + last - first)
                position = steps - 1 - step if self.reverse else step
                advance(row, end, x[position])
                if end == rows:
                    np.copyto(y[position], states[0])
                first += end - row
            if last == steps * rows:
                finish()

        return run


class _Product:
    """``state @ R[first:last].T`` plus the bias of these rows, for a (samples, hidden) state."""

    def __init__(self, layer: _Layer, first: int, last: int) -> None:
        self._rows = (first, last)
        self._dense = Dense(
            layer.samples,
            layer.hidden,
            last - first,
            dtype=layer.call.operand(1).dtype,
            has_bias=layer.call.optional(2) is not None,
            epilogue=IDENTITY,
            scratch=layer.scratch,
        )
        self._result = layer.scratch.add(layer.samples, last - first)
        self.flops = self._dense.flops

    def bind(self, bound: _Bound, state: Array) -> tuple[Run, Array]:
        """The function that computes rows, counted from ``first``, and the result (gates, samples, hidden)."""
        first, last = self._rows
        buffers = bound.buffers
        result = self._result.of(buffers.scratch)
        bias = None if bound.bias is None else bound.bias[first:last]
        run = self._dense.bind(
            Buffers((state, _part(buffers.weights(1), first, last), bias), (result,), buffers.scratch)
        )
        samples, hidden = state.shape
        return run, result.reshape(samples, -1, hidden).transpose(1, 0, 2)


def _part(weights: Param, first: int, last: int) -> Param:
    return weights.rows(first, last) if isinstance(weights, Coded) else weights[first:last]


@operator("RNN", traits=_TRAITS)
def rnn(call: Call) -> Lowered:
    """``h = f(x + h @ R.T + bias)``.

    Inputs: x (steps, samples, hidden), the parameter R (hidden, hidden), and optionally the parameter bias (hidden,)
    and the first state h (1, samples, hidden). Outputs: h of each step, (steps, 1, samples, hidden), and optionally of
    the last one. With ``layout=1`` samples come first in x, in the states and in the outputs.
    """
    layer = _Layer(call, 1, ("Tanh",))
    (f,) = layer.activations
    product = layer.product(0, layer.rows)

    def bind(bound: _Bound) -> Advance:
        (gate,), (h,), (spare,) = bound.gates, bound.states, bound.spare
        multiply, (sums,) = product.bind(bound, h)

        def advance(first: int, last: int, x: Array) -> None:
            multiply(first, last)
            if last == layer.rows:
                np.add(sums, x[0], out=gate)
                layer.clipped(gate)
                f(gate, h, spare)

        return advance

    return layer.lowered(bind)


@operator("GRU", traits=_TRAITS)
def gru(call: Call) -> Lowered:
    """Gates z, r and h: ``h = (1 - z) * new + z * h`` with ``new = g(x_h + (r * h) @ R_h.T + bias_h)``.

    With ``linear_before_reset`` it is ``new = g(x_h + r * (h @ R_h.T + bias_h))``. Inputs and outputs are those of an
    RNN, for 3 gates: x (steps, samples, 3 * hidden), R (3 * hidden, hidden), bias (3 * hidden,).
    """
    layer = _Layer(call, 3, ("Sigmoid", "Tanh"))
    f, g = layer.activations
    if call.flag("linear_before_reset", False):
        return layer.lowered(_gru_linear_before_reset(layer, f, g))
    middle = 2 * layer.hidden
    gate_product, new_product = layer.product(0, middle), layer.product(middle, layer.rows)
    part = layer.scratch.add(layer.samples, layer.hidden)

    def bind(bound: _Bound) -> Advance:
        (h,), spare, spare_of_one = bound.states, bound.spare[:2], bound.spare[2]
        gates, (update, reset, new) = bound.gates[:2], bound.gates
        kept = part.of(bound.buffers.scratch)
        multiply_gates, gate_sums = gate_product.bind(bound, h)
        multiply_new, (new_sums,) = new_product.bind(bound, kept)

        def advance(first: int, last: int, x: Array) -> None:
            if first < middle:
                multiply_gates(first, min(last, middle))
                if last >= middle:
                    np.add(gate_sums, x[:2], out=gates)
                    layer.clipped(gates)
                    f(gates, gates, spare)
                    np.multiply(reset, h, out=kept)
            if last > middle:
                multiply_new(max(first, middle) - middle, last - middle)
            if last == layer.rows:
                np.add(new_sums, x[2], out=new)
                layer.clipped(new)
                g(new, new, spare_of_one)
                _mix(update, new, h)

        return advance

    return layer.lowered(bind)


def _gru_linear_before_reset(layer: _Layer, f: Apply, g: Apply) -> Callable[[_Bound], Advance]:
    product = layer.product(0, layer.rows)

    def bind(bound: _Bound) -> Advance:
        (h,), spare, spare_of_one = bound.states, bound.spare[:2], bound.spare[2]
        gates, (update, reset, new) = bound.gates[:2], bound.gates
        multiply, sums = product.bind(bound, h)
        gate_sums, new_sums = sums[:2], sums[2]

        def advance(first: int, last: int, x: Array) -> None:
            multiply(first, last)
            if last == layer.rows:
                np.add(gate_sums, x[:2], out=gates)
                layer.clipped(gates)
                f(gates, gates, spare)
                np.multiply(reset, new_sums, out=new)
                np.add(new, x[2], out=new)
                layer.clipped(new)
                g(new, new, spare_of_one)
                _mix(update, new, h)

        return advance

    return bind


def _mix(update: Array, new: Array, h: Array) -> None:
    """``h = (1 - update) * new + update * h``; ``new`` and ``update`` are overwritten."""
    np.multiply(h, update, out=h)
    np.subtract(1.0, update, out=update)
    np.multiply(new, update, out=new)
    np.add(h, new, out=h)


@operator("LSTM", traits=_TRAITS)
def lstm(call: Call) -> Lowered:
    """Gates i, o, f and c: ``c = f * c + i * g(...)`` and ``h = o * h(c)``.

    Inputs: x (steps, samples, 4 * hidden), the parameter R (4 * hidden, hidden), and optionally the parameter bias
    (4 * hidden,), the first states h and c (1, samples, hidden), and a parameter of peepholes (3 * hidden,): the
    weights of c in the gates i, o and f. Outputs: h of each step, and optionally h and c of the last one. With
    ``input_forget`` f is ``1 - i``. ``clip`` limits the sums of the gates, and not c, as in ONNX Runtime.
    """
    layer = _Layer(call, 4, ("Sigmoid", "Tanh", "Tanh"), states=2, others=1)
    hidden = layer.hidden
    peephole: Part | None = None
    if call.optional(5) is not None:
        if call.param(5) != (3 * hidden,):
            raise call.fail(f"input 5 has shape {call.shape(5)}, expected ({3 * hidden},)")
        peephole = layer.keep(5, 3, hidden)
    coupled = call.flag("input_forget", False)
    f, g, h_of = layer.activations
    product = layer.product(0, layer.rows)

    def bind(bound: _Bound) -> Advance:
        gates, (h, c) = bound.gates, bound.states
        (enter, leave, keep, new), in_row = gates, gates[:3]
        spare, spare_of_row = bound.spare[0], bound.spare[:3]
        multiply, sums = product.bind(bound, h)
        weights = None if peephole is None else peephole.of(bound.buffers.scratch)

        def activate(gate: Array, weight: Array) -> None:
            np.multiply(c, weight, out=spare)
            np.add(gate, spare, out=gate)
            layer.clipped(gate)
            f(gate, gate, spare)

        def advance(first: int, last: int, x: Array) -> None:
            multiply(first, last)
            if last < layer.rows:
                return
            np.add(sums, x, out=gates)
            if weights is None:
                layer.clipped(in_row)
                f(in_row, in_row, spare_of_row)
            else:
                activate(enter, weights[0])
                activate(keep, weights[2])
            layer.clipped(new)
            g(new, new, spare)
            if coupled:
                np.subtract(1.0, enter, out=keep)
            np.multiply(c, keep, out=c)
            np.multiply(enter, new, out=new)
            np.add(c, new, out=c)
            if weights is not None:
                activate(leave, weights[1])
            h_of(c, new, spare)
            np.multiply(leave, new, out=h)

        return advance

    return layer.lowered(bind)
