"""A program: a graph lowered for given input shapes, with every activation placed in one arena.

Pure: nothing is allocated and no file is touched. `Program.bind` hands the memory to the kernels.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from streamrt.errors import FormatError
from streamrt.graph import Graph
from streamrt.host.yielding import give_way
from streamrt.ops import Array, Buffers, Lowered, Operand, Param, Run, Shape, lower, size_problem
from streamrt.program.placement import nbytes, place


@dataclass(frozen=True, slots=True)
class Program:
    """A graph for given input shapes.

    Attributes:
        graph: the graph, or the part of it that computes the requested outputs.
        shapes: the shape of every tensor by name, parameters included.
        lowered: the lowering of each node, in the order of the graph.
        offsets: where each computed tensor begins in the arena, bytes.
        scratch: where the scratch memory of each node begins in the arena, bytes.
        workspace: size of the arena, bytes.
        lean: the program takes less memory, and may be slower: see `compile_program`.
    """

    graph: Graph
    shapes: Mapping[str, Shape]
    lowered: tuple[Lowered, ...]
    offsets: Mapping[str, int]
    scratch: tuple[int, ...]
    workspace: int
    lean: bool

    @property
    def batchwise(self) -> bool:
        """Whether sample n of every output depends on sample n of every input only; samples lie along axis 0."""
        ends = [self.shapes[spec.name] for spec in (*self.graph.inputs, *self.graph.outputs)]
        extents = {shape[0] if shape else None for shape in ends}
        return len(extents) == 1 and None not in extents and all(low.batchwise for low in self.lowered)

    @property
    def flops(self) -> int:
        """Floating-point operations of a pass."""
        return sum(low.flops for low in self.lowered)

    @property
    def transfer_bytes(self) -> int:
        """Bytes of all inputs and outputs in the types that the caller gives and gets."""
        ends = (*self.graph.inputs, *self.graph.outputs)
        return sum(math.prod(self.shapes[spec.name]) * np.dtype(spec.dtype).itemsize for spec in ends)

    def tensor(self, memory: NDArray[np.uint8], name: str) -> Array:
        """The array of a computed tensor in the arena ``memory``."""
        shape = self.shapes[name]
        start = self.offsets[name]
        return memory[start : start + nbytes(shape)].view(np.float32).reshape(shape)

    def bind(self, memory: NDArray[np.uint8], params: Mapping[str, Param]) -> list[Run]:
        """The function that runs each node.

        Args:
            memory: the arena, ``workspace`` bytes.
            params: all parameters by name, as they lie in the weights file.
        """
        runs = []
        for node, low, start in zip(self.graph.nodes, self.lowered, self.scratch, strict=True):
            give_way()
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

    def _input(self, name: str, memory: NDArray[np.uint8], params: Mapping[str, Param]) -> Param | None:
        if not name:
            return None
        return params[name] if name in params else self.tensor(memory, name)


def compile_program(
    graph: Graph,
    params: Mapping[str, Operand],
    inputs: Mapping[str, Shape],
    exact: bool = False,
    lean: bool = False,
) -> Program:
    """Lower ``graph`` for given inputs.

    Args:
        graph: the graph.
        params: all parameters of the weights file by name.
        inputs: the shape of each input by name.
        exact: use no algorithm that rounds more than a plain sum does.
        lean: use no algorithm that needs more memory than a plain sum; ``exact`` excludes the same algorithms. Also
            place no tensor inside another one, since that may take more memory.

    Raises:
        FormatError: a node's attributes or the shapes do not fit together, or an input's size is out of bounds, even
            if no node reads that input.
    """
    for name, shape in inputs.items():
        if problem := size_problem(shape):
            raise FormatError(f"input {name!r} {problem}")
    operands = {**params, **{name: Operand(shape) for name, shape in inputs.items()}}
    lowered = []
    for node in graph.nodes:
        give_way()
        low = lower(node, [operands[name] if name else None for name in node.inputs], exact or lean)
        operands.update((name, Operand(shape)) for name, shape in zip(node.outputs, low.outputs, strict=True) if name)
        lowered.append(low)
    shapes = {name: operand.shape for name, operand in operands.items()}
    offsets, scratch, workspace = place(graph, params, shapes, lowered, join=not lean)
    return Program(graph, shapes, tuple(lowered), offsets, scratch, workspace, lean)
