"""What an operator is: a pure lowering from shapes to a kernel that can be bound to memory.

An operator is one function. Given a node and the shapes of its inputs it checks the attributes,
infers the output shapes and says what running will need; nothing is allocated and no weight is read:

    @operator("Relu")
    def relu(call: Call) -> Lowered: ...

The model then places all activations in one arena and calls ``bind`` once per shape. The function
that ``bind`` returns is what a pass runs: ``run(first, last)`` computes the output rows from ``first``
to ``last``, reading only those rows of the tiled parameters. A node that is not tiled gets ``run(0, rows)``.

Inside a pass, memory is what ``bind`` was handed: a kernel may not allocate anything that grows with the model.

A node's ``activation`` is no concern of most operators: `lower` applies it to what they compute. One whose kernel
can apply it on the way asks `epilogue_of` for it; views and tiled operators, which `lower` cannot wrap, must.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

Shape = tuple[int, ...]
#: A type of elements by the name that safetensors gives it: that of every computed tensor.
FLOAT32 = "F32"
Array = NDArray[np.float32]
#: ``run(first, last)``: compute output rows ``first`` to ``last``.
Run = Callable[[int, int], None]

#: More axes than any layer has; bounds work that is exponential in the rank.
MAX_RANK = 8
#: Keeps every byte count and index computed from a shape far from overflow in 64 bits.
_MAX_SIZE = 2**40


class Operand(NamedTuple):
    """An input of a node as its lowering knows it: ``dtype`` is safetensors' name of the type of its elements.

    Everything but a parameter, which lies in the weights file, is `FLOAT32`.
    """

    shape: Shape
    dtype: str = FLOAT32
    is_param: bool = False


class Buffers(NamedTuple):
    """The memory of one node: every array is float32 and C-contiguous; ``None`` is an input left out.

    ``scratch`` is ``Lowered.scratch`` bytes that begin on a 64-byte boundary and keep their content
    from the first tile of a node to its last, not longer.
    """

    inputs: tuple[Array | None, ...]
    outputs: tuple[Array, ...]
    scratch: NDArray[np.uint8]

    def input(self, index: int) -> Array:
        """The array of an input that is there."""
        array = self.inputs[index]
        assert array is not None
        return array


@dataclass(frozen=True, slots=True)
class Lowered:
    """A node for given input shapes.

    Attributes:
        outputs: shape of each output.
        bind: takes the `Buffers`, returns the function that a pass runs.
        scratch: bytes of scratch memory.
        view_of: the input whose memory ``outputs[0]`` shares, byte for byte (Reshape and its kin);
            ``run`` then does nothing.
        inplace: inputs whose memory ``outputs[0]`` may take over: the kernel gives the same answer when
            both are one buffer. Only inputs of the output's own shape.
        joins: ``outputs[0]`` is the inputs one after the other, byte for byte; ``run`` copies those that are not
            in their place in its memory already.
        tiled: the parameters (indices of inputs) that ``run`` reads by rows: axis 0 of each is ``rows`` long.
            Every other parameter is read only by the call with ``first == 0``, which copies to scratch what later
            tiles need.
        rows: length of the axis along which the node can be cut.
        row_step: cuts fall on multiples of this.
        batchwise: sample n of each output depends on sample n of the computed inputs only (axis 0 of each).
        flops: multiply-adds times two, for the planner.
    """

    outputs: tuple[Shape, ...]
    bind: Callable[[Buffers], Run]
    scratch: int = 0
    view_of: int | None = None
    inplace: tuple[int, ...] = ()
    joins: bool = False
    tiled: tuple[int, ...] = ()
    rows: int = 1
    row_step: int = 1
    batchwise: bool = True
    flops: int = 0


@lru_cache(4096)  # a graph may read one tensor thousands of times
def size_problem(shape: Shape) -> str | None:
    """What keeps a tensor of ``shape`` from being handled, if anything: it is empty, or its size is out of bounds."""
    if len(shape) > MAX_RANK:
        return f"has {len(shape)} axes, more than the {MAX_RANK} allowed"
    if not all(1 <= extent < _MAX_SIZE for extent in shape) or math.prod(shape) >= _MAX_SIZE:
        return f"has shape {shape}, expected 1 to 2**40 elements"
    return None
