"""The index of the largest or the smallest value along an axis."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from streamrt._core import Copies
from streamrt.ops.base import FLOAT32, INT64, Array, Buffers, Lowered, Run
from streamrt.ops.call import Call
from streamrt.ops.registry import Traits, operator
from streamrt.ops.scratch import Part, Scratch

#: The largest extent whose indices are all different in float32.
_MOST_INDICES = 2**24
#: About how many values are searched at once: in float32 128 KiB, which stay in a second-level cache.
_BLOCK = 2**15

_Any = NDArray[Any]


@operator("ArgMax", "ArgMin", traits=Traits(integers=True))
def arg(call: Call) -> Lowered:
    """The index of the largest (smallest) value along ``axis``, which stays with extent 1 if ``keepdims``.

    If several values are equal, it is the index of the first, or with ``select_last_index`` of the last. With ``to``
    "int64" the result is int64. Without it the result is float32, as in files of before there were integers.
    """
    call.expect((1, 1))
    x = call.shape(0)
    axis = call.axis("axis", len(x), 0)
    dtype = INT64 if call.text("to", "float32", ("float32", "int64")) == "int64" else FLOAT32
    if dtype == FLOAT32 and x[axis] > _MOST_INDICES:
        raise call.fail(f"axis {axis} has extent {x[axis]}, more than the {_MOST_INDICES} that float32 can count")
    search = _Search(
        np.argmax if call.node.op == "ArgMax" else np.argmin,
        (math.prod(x[:axis]), x[axis], math.prod(x[axis + 1 :])),
        call.operand(0).dtype,
        dtype,
        call.flag("select_last_index", False),
    )

    def bind(buffers: Buffers) -> Run:
        return search.bind(buffers.input(0).reshape(search.shape), buffers.outputs[0], buffers.scratch)

    by_rows = len(x) == 4 and x[0] == 1 and axis == 1
    kept = (1,) if call.flag("keepdims", True) else ()
    return Lowered(
        outputs=((*x[:axis], *kept, *x[axis + 1 :]),),
        bind=bind,
        scratch=search.scratch.nbytes,
        batchwise=axis != 0,
        flops=math.prod(x),
        dtypes=(dtype,),
        collects=_ByRows(search, x[3]) if by_rows else None,
    )


@dataclass(frozen=True, slots=True)
class _Search:
    """Searches values (outer, extent, inner), a block of positions at a time.

    Attributes:
        function: of NumPy, which returns indices.
        shape: of the values.
        values: their type.
        indices: the type of the result.
        from_end: whether the index is that of the last of equal values.
    """

    function: Callable[..., Any]
    shape: tuple[int, int, int]
    values: str
    indices: str
    from_end: bool

    @property
    def scratch(self) -> Scratch:
        """Memory for the values of a block, and for its results."""
        return self._parts()[2]

    def bind(self, x: _Any, y: _Any, memory: NDArray[np.uint8]) -> Run:
        """Binds searching ``x`` (outer, extent, inner), with one result for each position in ``y``."""
        extent, target = self.shape[1], y.reshape(-1)
        rows_part, found_part, _ = self._parts()
        rows = None if rows_part is None else rows_part.of(memory)
        whole = None if found_part is None else found_part.of(memory)
        at_once, x = self._at_once, x[:, ::-1] if self.from_end else x

        def run(first: int, last: int) -> None:
            end = 0
            for values in _blocks(x, at_once):
                begin, end = end, end + values.size // extent
                lying = values.reshape(-1, extent) if rows is None else rows[: end - begin]
                if rows is not None:
                    Copies([(lying.reshape(values.shape), values)])(0, 1)
                result = target[begin:end]
                found = result if whole is None else whole[: end - begin]
                self.function(lying, axis=1, out=found)
                if self.from_end:
                    np.subtract(extent - 1, found, out=found)
                if found is not result:
                    np.copyto(result, found, casting="unsafe")

        return run

    @property
    def _at_once(self) -> int:
        """The positions of a block."""
        outer, extent, inner = self.shape
        return min(max(1, _BLOCK // extent), outer * inner)

    def _parts(self) -> tuple[Part | None, Part | None, Scratch]:
        """The values of a block in rows, which NumPy would copy otherwise; its results, if their type is another."""
        scratch, at_once, (_, extent, inner) = Scratch(), self._at_once, self.shape
        rows = scratch.add(at_once, extent, dtype=self.values) if inner != 1 or self.from_end else None
        found = scratch.add(at_once, dtype=INT64) if self.indices != INT64 else None
        return rows, found, scratch


def _blocks(x: _Any, at_once: int) -> Iterator[_Any]:
    """Views (outer, inner, extent) of parts of ``x`` (outer, extent, inner), with at most so many positions each."""
    outer, _, inner = x.shape
    together = max(1, at_once // inner)
    for begin in range(0, outer, together):
        part = x[begin : begin + together].transpose(0, 2, 1)
        for start in range(0, inner, at_once):
            yield part[:, start : start + at_once]


@dataclass(frozen=True, slots=True)
class _ByRows:
    """Implements `Collects`: the indices along the channels. The output has rows, which it gets band by band.

    Attributes:
        search: of the whole picture.
        width: of the picture.
        step, in_parts: see `Collects`.
    """

    search: _Search
    width: int
    step: int = 1
    in_parts: bool = False

    def scratch(self, rows: int) -> int:
        """See `Collects`."""
        return self._of(rows).scratch.nbytes

    def bind(self, x: Array, y: Array, first: int, memory: NDArray[np.uint8], *, begins: bool, ends: bool) -> Run:
        """See `Collects`."""
        rows = len(x)
        return self._of(rows).bind(x, y.reshape(-1, self.width)[first : first + rows], memory)

    def _of(self, rows: int) -> _Search:
        return replace(self.search, shape=(rows, self.search.shape[1], self.width))
