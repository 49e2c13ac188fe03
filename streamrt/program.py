"""A program: a graph lowered for given input shapes, with every activation placed in one arena.

Pure: nothing is allocated and no file is touched. `Program.bind` hands the memory to the kernels.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from streamrt import arena
from streamrt.graph import Graph, Node
from streamrt.ops import Array, Buffers, Lowered, Run, Shape, lower

_FLOAT = 4


@dataclass(frozen=True, slots=True)
class Program:
    """A graph for given input shapes.

    Attributes:
        graph: what is computed.
        shapes: the shape of every tensor, parameters included.
        lowered: one for each node.
        offsets: where each computed tensor lies in the arena, in bytes.
        scratch: where each node's scratch lies.
        workspace: bytes of the arena.
    """

    graph: Graph
    shapes: Mapping[str, Shape]
    lowered: tuple[Lowered, ...]
    offsets: Mapping[str, int]
    scratch: tuple[int, ...]
    workspace: int

    @property
    def batchwise(self) -> bool:
        """Whether sample n of every output depends on sample n of every input only (axis 0)."""
        ends = [self.shapes[spec.name] for spec in (*self.graph.inputs, *self.graph.outputs)]
        extents = {shape[0] if shape else None for shape in ends}
        return len(extents) == 1 and None not in extents and all(low.batchwise for low in self.lowered)

    @property
    def flops(self) -> int:
        """Floating-point operations of a pass."""
        return sum(low.flops for low in self.lowered)

    @property
    def transfer_bytes(self) -> int:
        """Bytes of all inputs and outputs, as a caller has them."""
        ends = (*self.graph.inputs, *self.graph.outputs)
        return sum(math.prod(self.shapes[spec.name]) * np.dtype(spec.dtype).itemsize for spec in ends)

    def tensor(self, memory: NDArray[np.uint8], name: str) -> Array:
        """The array of a computed tensor in the arena ``memory``."""
        shape = self.shapes[name]
        start = self.offsets[name]
        return memory[start : start + _nbytes(shape)].view(np.float32).reshape(shape)

    def bind(self, memory: NDArray[np.uint8], params: Mapping[str, Array]) -> list[Run]:
        """The function to run for each node, over an arena of ``workspace`` bytes and the parameters."""
        runs = []
        for node, low, start in zip(self.graph.nodes, self.lowered, self.scratch, strict=True):
            runs.append(
                low.bind(
                    Buffers(
                        inputs=tuple(self._input(name, memory, params) for name in node.inputs),
                        outputs=tuple(self.tensor(memory, name) for name in node.outputs if name),
                        scratch=memory[start : start + low.scratch],
                    )
                )
            )
        return runs

    def _input(self, name: str, memory: NDArray[np.uint8], params: Mapping[str, Array]) -> Array | None:
        if not name:
            return None
        return params[name] if name in params else self.tensor(memory, name)


def compile_program(
    graph: Graph, params: Mapping[str, Shape], inputs: Mapping[str, Shape], exact: bool = False
) -> Program:
    """Lower ``graph`` for inputs of these shapes; ``params`` are the shapes of the weights.

    With ``exact``, no algorithm is used that rounds more than a plain sum does; those also need more memory.

    Raises:
        FormatError: a node's attributes or the shapes do not fit together.
    """
    shapes: dict[str, Shape] = {**params, **inputs}
    lowered = []
    for node in graph.nodes:
        low = lower(
            node,
            tuple(shapes[name] if name else None for name in node.inputs),
            tuple(name in params for name in node.inputs),
            exact,
        )
        shapes.update((name, shape) for name, shape in zip(node.outputs, low.outputs, strict=True) if name)
        lowered.append(low)
    offsets, scratch, workspace = _place(graph, params, shapes, lowered)
    return Program(graph, shapes, tuple(lowered), offsets, scratch, workspace)


def _place(
    graph: Graph, params: Mapping[str, Shape], shapes: Mapping[str, Shape], lowered: Sequence[Lowered]
) -> tuple[dict[str, int], tuple[int, ...], int]:
    """Offsets of tensors and scratch. Tensors that share memory (views, in-place results) share a block."""
    last_use = {name: step for step, node in enumerate(graph.nodes) for name in node.inputs}
    last_use |= {spec.name: len(graph.nodes) for spec in graph.outputs}

    home: dict[str, int] = {}  # tensor -> index of its block
    sizes: list[int] = []
    first: list[int] = []
    last: list[int] = []

    def settle(name: str, step: int, block: int | None = None) -> None:
        if block is None:
            block = len(sizes)
            sizes.append(_nbytes(shapes[name]))
            first.append(step)
            last.append(step)
        home[name] = block
        last[block] = max(last[block], last_use.get(name, step))

    for spec in graph.inputs:
        settle(spec.name, -1)
    for step, (node, low) in enumerate(zip(graph.nodes, lowered, strict=True)):
        for index, name in enumerate(node.outputs):
            if name:
                shared = _shared_input(node, low, step, home, last, params) if index == 0 else None
                settle(name, step, None if shared is None else home[shared])

    tensors = [arena.Block(*block) for block in zip(sizes, first, last, strict=True)]
    scratch = [arena.Block(low.scratch, step, step) for step, low in enumerate(lowered)]
    offsets, workspace = arena.place([*tensors, *scratch])
    return (
        {name: offsets[block] for name, block in home.items()},
        tuple(offsets[len(tensors) :]),
        workspace,
    )


def _shared_input(
    node: Node, low: Lowered, step: int, home: Mapping[str, int], last: Sequence[int], params: Mapping[str, Shape]
) -> str | None:
    """The input whose memory the first output takes over, if any: a view always, in place when it dies here."""
    if low.view_of is not None:
        return node.inputs[low.view_of]
    for index in low.inplace:
        name = node.inputs[index]
        if name in params or last[home[name]] != step:
            continue
        if sum(home.get(other) == home[name] for other in node.inputs) == 1:
            return name
    return None


def _nbytes(shape: Shape) -> int:
    return math.prod(shape) * _FLOAT
