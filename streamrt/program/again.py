"""Nodes that run again in a later section, so that it needs no whole tensor of an earlier one.

A node that needs the whole plane ends a section. What the next section reads of this one is a whole tensor. If the next
section can make it again, from tensors that are smaller or in memory anyway, its line buffer is enough. Such nodes run
twice, as steps of their own that read the same parameters.

The tensors that are held while a place runs (`streamrt.program.held`) set the least budget. So nodes are chosen step by
step. In each step the place that holds most has a tensor less: of all that it can do without, the one that saves the
most bytes for each operation. The steps end where the largest place cannot hold less, and before a pass takes twice as
many operations as it has without any.

Pure: nothing is lowered, and no memory is touched.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from heapq import heappop, heappush
from itertools import islice
from typing import NamedTuple

from streamrt.graph import Node
from streamrt.host.yielding import give_way
from streamrt.ops import Shape
from streamrt.ops.rows import Rows
from streamrt.program.held import Copies, Held, PlacesOfNodes
from streamrt.program.runs import Runs

#: The most nodes that are gone back from a tensor to those that it can be made of.
_LONGEST = 32
#: The most steps, and the most choices that are tried in one. A choice takes about 1 ms for a network of 500 nodes.
_MOST_STEPS, _MOST_TRIED = 2**6, 2**3
#: The most choices that are looked at in all steps. Each takes up to 50 us.
_MOST_OPTIONS = 2**14
#: Smaller tensors than this part of the largest do not count, such as gates, means and deviations.
_SMALL = 2**8
#: A way is worth planning for if it holds at most this much of what the one before it holds.
_LESS = 0.7


@dataclass(frozen=True, slots=True)
class Way:
    """The nodes of a program in one of the ways to run it.

    Attributes:
        nodes: those that run again have names of their own, and so have their outputs.
        sources: for each, the index of the node that it is, or is again.
        runs: of two nodes or more that can be computed in bands together: the first of each and the one behind it. All
            tensors of a shorter one are whole.
        held: the most bytes of whole tensors at a time, or a little less.
    """

    nodes: tuple[Node, ...]
    sources: tuple[int, ...]
    runs: Runs
    held: int


def ways_of(
    nodes: Sequence[Node],
    rows: Sequence[Rows | None],
    shapes: Mapping[str, Shape],
    sizes: Mapping[str, int],
    work: Sequence[int],
    results: Sequence[str],
    taken: Collection[str],
) -> list[Way]:
    """The ways to run a program: first that in which no node runs again.

    Each further one holds at most 70 % of the one before it. The last one holds as little as is possible.

    Args:
        nodes: of the program.
        rows: how each node computes bands; None if it cannot.
        shapes: of all tensors by name.
        sizes: bytes of the program's inputs, and of the tensors that nodes make; 0 if one lies where another does.
        work: operations of each node.
        results: the names of the program's outputs.
        taken: the names of all tensors, parameters included. No node makes another tensor of such a name.
    """
    least = max(sizes.values(), default=0) // _SMALL
    large = {name: size if size > least else 0 for name, size in sizes.items()}
    places = PlacesOfNodes(nodes, rows, shapes, large, results)
    search = _Search(places, work)
    steps = [(search.copies, search.most)]
    while len(steps) <= _MOST_STEPS and search.step():
        give_way()
        if search.most < steps[-1][1]:
            steps.append((search.copies, search.most))
    chosen = steps[:1]
    for step in steps[1:]:
        if step is steps[-1] or step[1] <= chosen[-1][1] * _LESS:
            chosen.append(step)
    found = [_way(places, copies, most, taken) for copies, most in chosen]
    return [way for way in found if way is not None]


class _Option(NamedTuple):
    """Nodes that run again in some places: the bytes that are saved in one, and their operations."""

    saved: int
    work: int
    copies: Copies


class _Search:
    """Chooses nodes that run again.

    Attributes:
        copies: the nodes.
    """

    def __init__(self, places: PlacesOfNodes, work: Sequence[int]) -> None:
        self._places, self._work = places, work
        self._left, self._looks = sum(work), _MOST_OPTIONS  # operations and choices
        self.copies: Copies = {}
        self._held = places.held(places.reads({}), {})

    @property
    def most(self) -> int:
        """The most bytes of whole tensors at a time, or a little less."""
        return max((each.least for each in self._held), default=0)

    def step(self) -> bool:
        """Let the place that holds most do without a tensor. The result is False if it cannot.

        If another tensor can have the memory of that one, the place holds less only when it does without both.
        """
        most = self.most
        if not most:
            return False
        place = next(place for place, each in enumerate(self._held) if each.least == most)
        found = list(islice(self._options(place), self._looks))
        self._looks -= len(found)
        found.sort(key=lambda each: -each.saved / max(1, each.work))
        best: tuple[_Option, list[Held]] | None = None
        for option in found[:_MOST_TRIED]:
            held = self._places.held(self._places.reads(option.copies), option.copies)
            changes = zip(held, self._held, strict=True)
            if all(after.least < most or after.least <= before.least for after, before in changes):
                if held[place].least < most:
                    best = option, held
                    break
                if best is None and held[place] < self._held[place]:
                    best = option, held
        if best is None:
            return False
        self._left -= best[0].work
        self.copies, self._held = best[0].copies, best[1]
        return True

    def _options(self, place: int) -> Iterator[_Option]:
        places = self._places
        reads = places.reads(self.copies)
        lives = places.lives(reads, self.copies)
        there = {name for name, (begin, end) in lives.items() if begin <= place <= end}
        for name in filter(there.__contains__, places.maker):
            if places.can_do_without(name, reads):
                users = [user for user, each in enumerate(reads) if name in each.by_rows]
                for chain, needs in self._chains(name, there):
                    copies = dict(self.copies)
                    work = 0
                    for user in users:
                        before = copies.get(user, ())
                        work += sum(self._work[index] for index in chain.difference(before))
                        copies[user] = tuple(sorted(chain.union(before)))
                    if work > self._left:
                        break
                    saved = places.sizes[name] - sum(places.sizes[each] for each in needs)
                    if saved > 0:
                        yield _Option(saved, work, copies)

    def _chains(self, name: str, there: Collection[str]) -> Iterator[tuple[set[int], set[str]]]:
        """The nodes that make a tensor, going back node by node, and the tensors that they need beside those ``there``.

        They need no tensor of the caller, whose rows can be read again.
        """
        places = self._places
        chain: set[int] = set()
        waiting = [-places.maker[name]]
        while waiting and len(chain) < _LONGEST:
            index = -heappop(waiting)
            if index in chain:
                continue
            chain.add(index)
            for each in places.inputs_of(index, by_rows=True):
                if each not in there and places.may_be_made_again(each):
                    heappush(waiting, -places.maker[each])
            made = {each for one in chain for each in places.nodes[one].outputs}
            needs = {each for one in chain for kind in (True, False) for each in places.inputs_of(one, by_rows=kind)}
            yield set(chain), {each for each in needs - made if each not in there and each in places.maker}


def _way(places: PlacesOfNodes, copies: Copies, held: int, taken: Collection[str]) -> Way | None:
    """The nodes of all places. None: a name is taken."""
    taken = {*taken, *(node.name for node in places.nodes)}
    nodes: list[Node] = []
    sources: list[int] = []
    runs: Runs = []
    times: Counter[int] = Counter()
    for place, span in enumerate(places.spans):
        first = len(nodes)
        names: dict[str, str] = {}  # of tensors that are made again
        for index in copies.get(place, ()):
            times[index] += 1
            node, number = places.nodes[index], f" (run {times[index] + 1})"
            renamed = _with_inputs(node, places.rows[index], names)
            names |= {name: name + number for name in node.outputs}
            outputs = tuple(name + number for name in node.outputs)
            nodes.append(replace(renamed, name=node.name + number, outputs=outputs))
            sources.append(index)
        if taken.intersection((*names.values(), *(node.name for node in nodes[first:]))):
            return None
        for index in range(*span):
            nodes.append(_with_inputs(places.nodes[index], places.rows[index], names))
            sources.append(index)
        if places.are_runs[place] and len(nodes) - first > 1:
            runs.append((first, len(nodes)))
    return Way(tuple(nodes), tuple(sources), runs, held)


def _with_inputs(node: Node, rows: Rows | None, names: Mapping[str, str]) -> Node:
    """A node that reads the rows of tensors of other names."""
    if not names or rows is None:
        return node
    inputs = (names.get(name, name) if i in rows.inputs else name for i, name in enumerate(node.inputs))
    return replace(node, inputs=tuple(inputs))
