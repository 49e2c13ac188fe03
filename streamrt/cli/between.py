"""The whole tensors that are in memory while a section runs: what a workspace has beside rows and scratch memory."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from operator import attrgetter

from streamrt.errors import printable
from streamrt.host.budget import format_size
from streamrt.ops import FLOAT32, INT64, Operand
from streamrt.program.compile import Program
from streamrt.program.placement import nbytes

#: The most tensors that are named.
_SHOWN = 4


@dataclass(frozen=True, slots=True)
class HeldTensor:
    """A whole tensor in the arena, ``nbytes`` from ``offset`` on. Two may have the same bytes, one after the other."""

    name: str
    offset: int
    nbytes: int


@dataclass(frozen=True, slots=True)
class Held:
    """What is held while one section runs: bytes, and the tensors, the largest first."""

    nbytes: int = 0
    tensors: tuple[HeldTensor, ...] = ()

    def __str__(self) -> str:
        shown = [f"{printable(each.name)} {format_size(each.nbytes)}" for each in self.tensors[:_SHOWN]]
        more = [f"{len(self.tensors) - _SHOWN} more"] if len(self.tensors) > _SHOWN else []
        shared = ", some in the same memory" if sum(each.nbytes for each in self.tensors) > self.nbytes else ""
        return f"at most {format_size(self.nbytes)} of whole tensors ({', '.join([*shown, *more])}{shared})"


def held_between(program: Program) -> Held:
    """What is held while that section runs for which most is held. Nothing if there are no sections."""
    end = len(program.nodes)
    made = {name: index for index, node in enumerate(program.nodes) for name in node.outputs}
    last = {name: index for index, node in enumerate(program.nodes) for name in node.inputs}
    last |= dict.fromkeys((*program.constants, *(spec.name for spec in program.graph.outputs)), end)
    tensors = [
        HeldTensor(name, offset, nbytes(Operand(program.shapes[name], INT64 if name in program.integers else FLOAT32)))
        for name, offset in program.offsets.items()
    ]
    tensors.sort(key=lambda each: (-each.nbytes, each.name))
    found = [
        [
            each
            for each in tensors
            if made.get(each.name, -1) < section.last
            and max(made.get(each.name, -1), last.get(each.name, -1)) >= section.first
        ]
        for section in program.sections
    ]
    return max((Held(_covered(each), tuple(each)) for each in found), key=attrgetter("nbytes"), default=Held())


def _covered(tensors: Sequence[HeldTensor]) -> int:
    """Bytes in which any of the tensors lies."""
    total = behind = 0
    for each in sorted(tensors, key=attrgetter("offset")):
        total += max(0, each.offset + each.nbytes - max(behind, each.offset))
        behind = max(behind, each.offset + each.nbytes)
    return total
