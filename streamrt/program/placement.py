"""Which tensors share memory, and where in the arena each tensor and each node's scratch memory lies."""

from __future__ import annotations

import itertools
import math
from collections import Counter
from collections.abc import Container, Mapping, Sequence
from typing import NamedTuple

from streamrt.graph import Node
from streamrt.ops import NUMPY_TYPES, Lowered, Operand
from streamrt.program import arena


class _Place(NamedTuple):
    """A position in a block of memory: ``offset`` bytes from its beginning."""

    block: int
    offset: int


class _Part(NamedTuple):
    """A position in the memory of another tensor: ``offset`` bytes from its beginning."""

    whole: str
    offset: int


def nbytes(tensor: Operand) -> int:
    """Bytes of a computed tensor."""
    return math.prod(tensor.shape) * NUMPY_TYPES[tensor.dtype].itemsize


class Layout(NamedTuple):
    """The blocks of memory that tensors share, and when they are in use.

    Attributes:
        home: the place of each computed tensor in a block.
        blocks: of the tensors.
        scratch: a block of each node.
    """

    home: dict[str, _Place]
    blocks: list[arena.Block]
    scratch: list[arena.Block]

    def placed(self) -> tuple[dict[str, int], tuple[int, ...], int]:
        """Where each computed tensor and each node's scratch begins in the arena, bytes, and the bytes of the arena."""
        offsets, workspace = arena.arrange([*self.blocks, *self.scratch])
        return (
            {name: offsets[place.block] + place.offset for name, place in self.home.items()},
            tuple(offsets[len(self.blocks) :]),
            workspace,
        )

    def in_use(self) -> list[int]:
        """The bytes that are in use while each node runs."""
        return [*map(int, arena.alive([*self.blocks, *self.scratch], 0, len(self.scratch)))]


def lay_out(
    inputs: Sequence[str],
    outputs: Sequence[str],
    nodes: Sequence[Node],
    constants: Sequence[str],
    params: Container[str],
    tensors: Mapping[str, Operand],
    lowered: Sequence[Lowered],
    join: bool,
) -> Layout:
    """Which tensors share memory.

    ``inputs`` and ``outputs`` are those of the graph that lie in the arena. ``nodes`` run in a pass, and each has its
    ``lowered`` form. ``constants`` stay in the arena from pass to pass. With
    ``join``, tensors that a node would only copy side by side are computed at their final position. This can make
    the arena larger or smaller.
    """
    last_use = {name: step for step, node in enumerate(nodes) for name in node.inputs}
    last_use |= {name: len(nodes) for name in (*outputs, *constants)}
    parts = _within_outputs(nodes, tensors, lowered) if join else {}

    home: dict[str, _Place] = {}
    block_of: dict[str, int] = {}  # of the tensors that are no part of another one
    sizes: list[int] = []
    first: list[int] = []
    last: list[int] = []

    def settle(name: str, step: int, place: _Place | None = None) -> None:
        if place is None:
            part = parts.get(name, _Part(name, 0))
            if part.whole not in block_of:
                block_of[part.whole] = len(sizes)
                sizes.append(nbytes(tensors[part.whole]))
                first.append(step)
                last.append(step)
            place = _Place(block_of[part.whole], part.offset)
        home[name] = place
        last[place.block] = max(last[place.block], last_use.get(name, step))

    for name in (*inputs, *constants):
        settle(name, -1)
    for step, (node, low) in enumerate(zip(nodes, lowered, strict=True)):
        for index, name in enumerate(node.outputs):
            if name:
                alone = index > 0 or name in parts
                shared = None if alone else _shared_input(node, low, step, home, last, params)
                settle(name, step, None if shared is None else home[shared])

    return Layout(
        home,
        [arena.Block(*block) for block in zip(sizes, first, last, strict=True)],
        [arena.Block(low.scratch, step, step) for step, low in enumerate(lowered)],
    )


def _within_outputs(
    nodes: Sequence[Node], tensors: Mapping[str, Operand], lowered: Sequence[Lowered]
) -> dict[str, _Part]:
    """The tensors that are computed within another one, so that the node which joins them has nothing to copy.

    The last joining node is handled first. In a chain in which each node appends to the output of the one before, all
    outputs then lie at the beginning of the last node's output.
    """
    makers = {node.outputs[0]: low for node, low in zip(nodes, lowered, strict=True) if node.outputs}
    parts: dict[str, _Part] = {}
    for node, low in zip(reversed(nodes), reversed(lowered), strict=True):
        if not low.joins:
            continue
        output = node.outputs[0]
        begins = list(itertools.accumulate((nbytes(tensors[name]) for name in node.inputs), initial=0))[:-1]
        known = parts.get(node.inputs[0])
        if known and output not in parts:
            there = [_Part(known.whole, known.offset + begin) for begin in begins]
            if there == [parts.get(name) for name in node.inputs]:
                parts[output] = known
                continue
        whole, start = parts.get(output, _Part(output, 0))
        times = Counter(node.inputs)
        for name, begin in zip(node.inputs, begins, strict=True):
            maker = makers.get(name)
            if maker and maker.view_of is None and name not in parts and times[name] == 1:
                parts[name] = _Part(whole, start + begin)
    return parts


def _shared_input(
    node: Node, low: Lowered, step: int, home: Mapping[str, _Place], last: Sequence[int], params: Container[str]
) -> str | None:
    """The input whose memory the first output takes over, if any.

    A view always does. A node that can run in place does if no later node reads the input.
    """
    if low.view_of is not None:
        return node.inputs[low.view_of]
    for index in low.inplace:
        name = node.inputs[index]
        if name in params or last[home[name].block] != step:
            continue
        if sum(other in home and home[other].block == home[name].block for other in node.inputs) == 1:
            return name
    return None
