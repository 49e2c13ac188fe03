"""The operators: from a node and the shapes of its inputs to a function that computes it.

`streamrt.ops.base` says what an operator is; each of the other modules holds one family.
"""

from streamrt.ops import activation, arithmetic, conv, gemm, layout, logic, norm, pool, reduce, resize  # noqa: F401 (registers them)
from streamrt.ops.base import Array, Buffers, Call, Lowered, Run, Shape, lower, size_problem, supported

__all__ = ["Array", "Buffers", "Call", "Lowered", "Run", "Shape", "lower", "size_problem", "supported"]
