"""The operators by name, with their traits, and the lowering of a node by its own operator."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace

import streamrt._core as _core
from streamrt.graph import Node
from streamrt.ops.base import FLOAT32, Buffers, Lowered, Operand, Run
from streamrt.ops.call import Call
from streamrt.ops.coded import TYPES, decoded
from streamrt.ops.epilogue import epilogue_of

#: Refuse an operator that needs this many bytes of scratch. The limit leaves room for several of the largest tensors
#: (2**42 bytes each), and keeps sums of sizes within 64 bits.
_MAX_SCRATCH = 2**46

#: The reason in the error for a node whose operator is not registered.
NO_SUCH_OPERATOR = 'no such operator in this version of streamrt; streamrt.operators("layers") lists all that there are'

Lower = Callable[[Call], Lowered]


@dataclass(frozen=True, slots=True)
class Traits:
    """Properties of an operator that do not depend on its inputs or attributes; packing relies on them.

    Whether it works sample by sample depends on the shapes: see `Lowered.batchwise`.

    Attributes:
        activation: whether it can be the activation of another node.
        fuses: whether packing makes an activation its last step, if only that activation reads its output.
        row_axis: an axis of the output along which index i uses only row i of input 1, a parameter, and adds element i
            of input 2, an optional parameter. None if the operator has no such inputs.
        params: names of its parameters, from input 1 on.
        dtypes: the types that the operator takes for a parameter, by index of the input. Parameters of other types, and
            those that are not listed, are decoded to float32 in scratch memory (`streamrt.ops.coded`).
    """

    activation: bool = False
    fuses: bool = False
    row_axis: int | None = None
    params: tuple[str, ...] = ("weight", "bias")
    dtypes: Mapping[int, tuple[str, ...]] = field(default_factory=dict)


_OPERATORS: dict[str, tuple[Lower, Traits]] = {}


def operator(*names: str, traits: Traits = Traits()) -> Callable[[Lower], Lower]:
    """Register a function as the lowering of the operators ``names``, which all have these traits."""

    def register(function: Lower) -> Lower:
        for name in names:
            _OPERATORS[name] = function, traits
        return function

    return register


def traits_of(op: str) -> Traits:
    """The traits of an operator; the default ones if it is not registered."""
    return _OPERATORS[op][1] if op in _OPERATORS else Traits()


def lower(node: Node, operands: Sequence[Operand | None], exact: bool = False) -> Lowered:
    """Lower ``node`` for these inputs; None is an input left out. For ``exact`` see `Call.exact`.

    Raises:
        FormatError: an unknown operator, or attributes, shapes or types of parameters that do not fit it.
    """
    function, traits = _OPERATORS.get(node.op, (None, Traits()))
    foreign = [
        None if operand is None or operand.dtype in traits.dtypes.get(index, (FLOAT32,)) else operand
        for index, operand in enumerate(operands)
    ]
    as_taken = [
        operand if operand is None or other is None else operand._replace(dtype=FLOAT32)
        for operand, other in zip(operands, foreign, strict=True)
    ]
    call = Call(node, as_taken, exact)
    if function is None:
        raise call.fail(NO_SUCH_OPERATOR)
    for index, operand in enumerate(operands):
        if operand is not None:
            call.check(f"input {index}", operand.shape)
            if operand.dtype not in TYPES:
                raise call.fail(
                    f"input {index} ({node.inputs[index]!r:.80}) is {operand.dtype}, expected {' or '.join(TYPES)}"
                )
    lowered = decoded(function(call), foreign)
    for index, shape in enumerate(lowered.outputs):
        call.check(f"output {index}", shape)
    if lowered.scratch >= _MAX_SCRATCH:
        raise call.fail(f"it needs {lowered.scratch} bytes of scratch memory, expected less than 2**46 (64 TiB)")
    if node.activation is not None and not call.fused:
        lowered = _activated(call, lowered)
    call.finish()
    if all(call.is_param(index) for index in range(len(operands))):
        # Without a computed input no axis of the output is the batch.
        lowered = replace(lowered, batchwise=False)
    return lowered


def _activated(call: Call, lowered: Lowered) -> Lowered:
    """``lowered`` with the node's activation: for an operator that does not apply it and is not tiled."""
    epilogue = epilogue_of(call)
    if len(lowered.outputs) != 1:
        raise call.fail(f"a node with {len(lowered.outputs)} outputs has an activation, expected one output")

    def bind(buffers: Buffers) -> Run:
        compute = lowered.bind(buffers)
        y = buffers.outputs[0].reshape(-1)

        def run(first: int, last: int) -> None:
            compute(first, last)
            _core.unary(y, y, *epilogue)

        return run

    return replace(lowered, bind=bind, joins=False)  # the activation must not change inputs that lie within the output


def supported() -> frozenset[str]:
    """The names of all operators that a weights file may use."""
    return frozenset(_OPERATORS)
