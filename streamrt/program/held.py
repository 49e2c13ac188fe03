"""The whole tensors that are held while each section runs, if some nodes run again in later ones.

The *place* of a node is the section that it is in, or itself. A tensor that no section makes again for itself is held
from its place to the last one that reads it.

Pure: names and bytes alone.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from itertools import accumulate
from typing import NamedTuple

from streamrt.graph import Node
from streamrt.ops import Shape
from streamrt.ops.rows import Rows
from streamrt.program.runs import Runs, runs_of

#: The nodes that run again in each place, as indices in ascending order, by place.
Copies = Mapping[int, tuple[int, ...]]


class Held(NamedTuple):
    """Bytes of whole tensors, or a little less; and those that there would be if none had the memory of another one."""

    least: int
    apart: int


class Reads(NamedTuple):
    """The tensors of other places that a place reads by rows, and those that it reads as a whole."""

    by_rows: frozenset[str]
    whole: frozenset[str]


class PlacesOfNodes:
    """The sections of a program and the nodes between them, in their order.

    For the arguments see `streamrt.program.again.ways_of`.

    Attributes:
        nodes, rows: as given.
        spans: the first node of each place and the one behind it.
        are_runs: whether each place is a run of nodes that compute rows.
        place_of: the place of each node.
        maker: the node that makes each tensor.
        sizes: bytes of each tensor; 0 if it does not count.
    """

    def __init__(
        self,
        nodes: Sequence[Node],
        rows: Sequence[Rows | None],
        shapes: Mapping[str, Shape],
        sizes: Mapping[str, int],
        results: Sequence[str],
    ) -> None:
        self.nodes, self.rows, self.sizes = nodes, rows, sizes
        runs = dict(runs_of(nodes, rows))
        self.spans: Runs = []
        while (first := self.spans[-1][1] if self.spans else 0) < len(nodes):
            self.spans.append((first, runs.get(first, first + 1)))
        self.are_runs = [first in runs for first, _ in self.spans]
        self.place_of = [place for place, span in enumerate(self.spans) for _ in range(*span)]
        self.maker = {name: index for index, node in enumerate(nodes) for name in node.outputs if name}
        self._shapes, self._results = shapes, set(results)
        self._own = [self._read(range(*span)) for span in self.spans]

    def inputs_of(self, index: int, *, by_rows: bool) -> list[str]:
        """The tensors that a node reads by rows, or the others that it reads. Parameters are none of them."""
        own = self.rows[index]
        inputs = enumerate(self.nodes[index].inputs)
        return [name for i, name in inputs if name in self.sizes and by_rows == (own is not None and i in own.inputs)]

    def may_be_made_again(self, name: str) -> bool:
        """Whether the node that makes a tensor can be a part of another section."""
        own = self.rows[self.maker[name]] if name in self.maker else None
        return own is not None and not own.collects

    def can_do_without(self, name: str, reads: Sequence[Reads]) -> bool:
        """Whether no place needs a tensor as a whole."""
        if name in self._results or not self.may_be_made_again(name):
            return False
        users = (place for place, each in enumerate(reads) if name in each.by_rows)
        return all(map(self.are_runs.__getitem__, users)) and not any(name in each.whole for each in reads)

    def reads(self, copies: Copies) -> list[Reads]:
        """Of each place, if these nodes run again."""
        found = list(self._own)
        for place, indices in copies.items():
            more, made = self._read(indices), self._made(indices)
            found[place] = Reads((found[place].by_rows - made) | more.by_rows, found[place].whole | more.whole)
        return found

    def lives(self, reads: Sequence[Reads], copies: Copies) -> dict[str, tuple[int, int]]:
        """The first and the last place at which each whole tensor is in the arena."""
        last = dict.fromkeys(self._results.intersection(self.sizes), len(reads) - 1)
        otherwise: set[str] = set()  # read by others than sections, or as a whole
        for place in reversed(range(len(reads))):
            by_rows, whole = reads[place]
            otherwise |= whole if self._is_section(place, copies) else whole | by_rows
            for name in whole | by_rows:
                last.setdefault(name, place)
        read = {name for each in reads for name in each.by_rows}
        found = {}
        for name, end in last.items():
            begin = self.place_of[self.maker[name]] if name in self.maker else 0
            if name in self.maker:
                own = self.rows[self.maker[name]]
                inside = name not in read and self._is_section(begin, copies) and own is not None and not own.collects
            else:
                inside = name not in self._results
            if not inside or name in otherwise:
                found[name] = begin, end
        return found

    def held(self, reads: Sequence[Reads], copies: Copies) -> list[Held]:
        """What is held while each place runs."""
        lives = self.lives(reads, copies)
        for index, node in enumerate(self.nodes):
            if not self._is_section(self.place_of[index], copies):  # what it makes is whole even if no node reads it
                lives |= {name: (self.place_of[index],) * 2 for name in node.outputs if name and name not in lives}
        changes = [0] * (len(reads) + 1)
        made: dict[int, list[str]] = {}
        for name, (begin, end) in lives.items():
            changes[begin] += self.sizes[name]
            changes[end + 1] -= self.sizes[name]
            made.setdefault(begin, []).append(name)
        found = [Held(size, size) for size in accumulate(changes[:-1])]
        for place, (by_rows, whole) in enumerate(reads):
            is_section = self._is_section(place, copies)
            ending = [name for name in by_rows | whole if name in lives and lives[name][1] == place]
            largest = max(made.get(place, ()), key=lambda name: (self.sizes[name], name), default=None)
            if largest and any(self._may_have_place(largest, name, is_section) for name in ending):
                found[place] = found[place]._replace(least=found[place].least - self.sizes[largest])
        return found

    def _may_have_place(self, name: str, other: str, is_section: bool) -> bool:
        """Whether what a place makes may have the memory of what it reads; see also `streamrt.program.division`."""
        own, shape = self._shapes[name], self._shapes[other]
        if not is_section:
            return self.sizes[name] <= self.sizes[other] or not self.sizes[other]
        return len(own) == len(shape) == 4 and own[2:] == shape[2:] and own[1] <= shape[1]

    def _is_section(self, place: int, copies: Copies) -> bool:
        first, last = self.spans[place]
        return self.are_runs[place] and (last - first > 1 or place in copies)

    def _made(self, indices: Iterable[int]) -> set[str]:
        return {name for index in indices for name in self.nodes[index].outputs}

    def _read(self, indices: Sequence[int]) -> Reads:
        made = self._made(indices)
        by_rows = {name for index in indices for name in self.inputs_of(index, by_rows=True)}
        whole = {name for index in indices for name in self.inputs_of(index, by_rows=False)}
        return Reads(frozenset(by_rows - made), frozenset(whole))
