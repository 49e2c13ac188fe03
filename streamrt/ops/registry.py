"""The operators by name, with their traits, and the lowering of a node by its own operator."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from types import MappingProxyType

import numpy as np
from numpy.typing import NDArray

import streamrt._core as _core
from streamrt.errors import FormatError, printable
from streamrt.graph import Attr, Node
from streamrt.ops.base import FLOAT32, INT64, Array, Buffers, ByRows, Collects, Lowered, Operand, Run, Value
from streamrt.ops.call import Call, type_name
from streamrt.ops.coded import TYPES, decoded
from streamrt.ops.epilogue import Epilogue, epilogue_of

#: Refuse an operator that needs this many bytes of scratch. The limit leaves room for several of the largest tensors
#: (2**42 bytes each), and keeps sums of sizes within 64 bits.
_MAX_SCRATCH = 2**46

#: The reason in the error for a node whose operator is not registered.
NO_SUCH_OPERATOR = 'no such operator in this version of streamrt; streamrt.operators("layers") lists all that there are'

#: The types of operands.
_ALL = (*TYPES, INT64)
#: The most numbers of a computed attribute: as many as a file may have in one.
_MAX_NUMBERS = 4096

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
        moves_batch: whether the operator takes samples along any axis, and says along which they lie in its outputs
            (`Lowered.batch`). Of all other operators they lie along axis 0, of inputs and outputs.
        extents: the attributes that are extents of its result. They may be computed from the number of samples; if any
            other attribute is, the operator does not work sample by sample.
        dtypes: the types that the operator takes for a parameter, by index of the input. Parameters of other types, and
            those that are not listed, are decoded to float32 in scratch memory (`streamrt.ops.coded`).
        integers: whether inputs may be int64. The operator checks which types its inputs may have together.
        table: an input of which a node with a further input reads single rows (`Lowered.indexed`), or None.
        rowwise: whether each row of an output (N, C, H, W) is computed from the same row of its inputs alone, as far as
            they have H rows, so that rows can be given as samples, (H, C, 1, W). An operator that can also work along
            the rows then changes their number. The same holds for columns.
        hidden: whether no weights file may use it: it is a part of a node (`Lowered.parts`).
    """

    activation: bool = False
    fuses: bool = False
    row_axis: int | None = None
    params: tuple[str, ...] = ("weight", "bias")
    moves_batch: bool = False
    extents: tuple[str, ...] = ()
    dtypes: Mapping[int, tuple[str, ...]] = field(default_factory=dict)
    integers: bool = False
    table: int | None = None
    rowwise: bool = False
    hidden: bool = False


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


def lowering_of(op: str) -> Lower:
    """The function that lowers an operator, which must be registered; its docstring says what the operator computes."""
    return _OPERATORS[op][0]


def lower(
    node: Node,
    operands: Sequence[Operand | None],
    exact: bool = False,
    *,
    samples: int = 0,
    sizes: Mapping[str, Value] = MappingProxyType({}),
    hidden: bool = False,
) -> Lowered:
    """Lower ``node`` for these inputs; None is an input left out. For ``exact`` and ``samples`` see `Call`.

    ``sizes`` has the values of the attributes that are computed from sizes (`Node.sizes`). ``hidden`` allows
    hidden operators, too.

    Raises:
        FormatError: an unknown operator, or attributes, shapes or types of parameters that do not fit it.
    """
    function, traits = _OPERATORS.get(node.op, (None, Traits()))
    foreign = [
        None if operand is None or operand.dtype in (*traits.dtypes.get(index, (FLOAT32,)), INT64) else operand
        for index, operand in enumerate(operands)
    ]
    as_taken = [
        operand if operand is None or other is None else operand._replace(dtype=FLOAT32)
        for operand, other in zip(operands, foreign, strict=True)
    ]
    if sizes:
        node = replace(
            node, attrs={**node.attrs, **{name: _attribute(node, name, value) for name, value in sizes.items()}}
        )
    call = Call(node, as_taken, exact, samples=samples, sizes=sizes)
    if function is None or traits.hidden > hidden:
        raise call.fail(NO_SUCH_OPERATOR)
    for index, operand in enumerate(operands):
        if operand is not None:
            call.check(f"input {index}", operand.shape)
            if operand.dtype not in (_ALL if traits.integers else TYPES):
                expected = "float32" if operand.dtype == INT64 else " or ".join(_ALL)
                raise call.fail(
                    f"input {index} ({node.inputs[index]!r:.80}) is {type_name(operand.dtype)}, expected {expected}"
                )
    lowered = decoded(function(call), foreign)
    for index, shape in enumerate(lowered.outputs):
        call.check(f"output {index}", shape)
    if lowered.scratch >= _MAX_SCRATCH:
        raise call.fail(f"it needs {lowered.scratch} bytes of scratch memory, expected less than 2**46 (64 TiB)")
    if node.activation is not None and INT64 in lowered.dtypes:
        raise call.fail(f"its result is int64, and activation {printable(node.activation.op):.80} expects float32")
    if node.activation is not None and not call.fused:
        lowered = _activated(call, lowered)
    call.finish()
    return _with_batch(call, traits, sizes, replace(lowered, rowwise=traits.rowwise or lowered.rowwise))


def _attribute(node: Node, name: str, value: Value) -> Attr:
    """A value as an attribute: a number, or a list if it has an axis."""
    array = value.array
    if array.ndim > 1 or array.size > _MAX_NUMBERS:
        raise FormatError(
            f"node {node.name!r} ({printable(node.op):.80}): attribute {name!r:.80} is computed and has shape "
            f"{array.shape}, expected a number or a list of at most {_MAX_NUMBERS}"
        )
    numbers = array.astype(np.int64 if array.dtype.kind == "b" else array.dtype).tolist()
    return tuple(numbers) if array.ndim else numbers


def _with_batch(call: Call, traits: Traits, sizes: Mapping[str, Value], lowered: Lowered) -> Lowered:
    """``lowered``, with how its outputs depend on samples as far as the operator need not say it."""
    axes = {operand.batch for operand in call.operands if operand is not None and not operand.fixed}
    computed = [name for name, value in sizes.items() if value.depends_on_batch]
    if not axes and not computed:
        return replace(lowered, batchwise=True, fixed=True)
    whole = all(name in traits.extents and _follows(call, sizes[name]) for name in computed)
    whole &= traits.moves_batch or axes == {0}
    # Samples that mix lie along no axis. Operators that follow may count on an axis that is there.
    return lowered if whole and lowered.batchwise else replace(lowered, batchwise=False, batch=0)


def _follows(call: Call, value: Value) -> bool:
    """Whether the numbers of an attribute that are computed from the number of samples are multiples of it."""
    if value.resized or value.batch is not None:
        return False
    numbers = value.array[value.from_batch]
    return bool(np.all(numbers > 0) and np.all(numbers % max(1, call.samples) == 0))


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

    by_rows = lowered.by_rows and _ActivatedRows(lowered.by_rows, epilogue)
    collects = lowered.collects and _ActivatedCollects(lowered.collects, epilogue)
    # The activation must not change inputs that lie within the output.
    return replace(lowered, bind=bind, joins=False, window=None, by_rows=by_rows, collects=collects)


@dataclass(frozen=True, slots=True)
class _ActivatedRows:
    """Rows of a node with its activation: see `ByRows`."""

    of: ByRows
    epilogue: Epilogue

    def reads(self, first: int, last: int) -> tuple[int, int]:
        return self.of.reads(first, last)

    def scratch(self, rows: int) -> int:
        return self.of.scratch(rows)

    def bind(self, x: Array, y: Array, first: int, memory: NDArray[np.uint8]) -> Run:
        compute, flat, epilogue = self.of.bind(x, y, first, memory), y.reshape(-1), self.epilogue

        def run(first: int, last: int) -> None:
            compute(first, last)
            _core.unary(flat, flat, *epilogue)

        return run

    def narrowed(self, before: int, after: int) -> _ActivatedRows:
        return replace(self, of=self.of.narrowed(before, after))


@dataclass(frozen=True, slots=True)
class _ActivatedCollects:
    """A result of all rows, with the node's activation: see `Collects`.

    The last band applies it, since the output may have the values of what was read so far.
    """

    of: Collects
    epilogue: Epilogue

    @property
    def step(self) -> int:
        return self.of.step

    @property
    def width(self) -> int:
        return self.of.width

    @property
    def in_parts(self) -> bool:
        return self.of.in_parts

    def scratch(self, rows: int) -> int:
        return self.of.scratch(rows)

    def bind(self, x: Array, y: Array, first: int, memory: NDArray[np.uint8], *, begins: bool, ends: bool) -> Run:
        compute = self.of.bind(x, y, first, memory, begins=begins, ends=ends)
        if not ends:
            return compute
        flat, epilogue = y.reshape(-1), self.epilogue

        def run(first: int, last: int) -> None:
            compute(first, last)
            _core.unary(flat, flat, *epilogue)

        return run


def supported() -> frozenset[str]:
    """The names of all operators that a weights file may use."""
    return frozenset(name for name, (_, traits) in _OPERATORS.items() if not traits.hidden)
