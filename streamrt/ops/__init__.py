"""The operators: from a node and the shapes of its inputs to a function that computes it.

Read `base` first: it defines an operator. `call` is the node that it lowers, `epilogue` the activation that it may
apply as its last step. `registry` finds operators by name. `coded`, `scratch`, `shapes`, `window` and `columns` are
shared. Each other module holds one family of operators. `sizes` has those that are evaluated and not run.
"""

from streamrt.ops import activation, arithmetic, conv, gemm, logic, movement, norm, pooling, reduce, resize, sizes  # noqa: F401 (registers them)
from streamrt.ops.base import Array, Buffers, Lowered, Operand, Param, Run, Shape, Value, size_problem
from streamrt.ops.call import Call
from streamrt.ops.registry import NO_SUCH_OPERATOR, Traits, lower, supported, traits_of

__all__ = [
    "NO_SUCH_OPERATOR",
    "Array",
    "Buffers",
    "Call",
    "Lowered",
    "Operand",
    "Param",
    "Run",
    "Shape",
    "Traits",
    "Value",
    "lower",
    "size_problem",
    "sizes",
    "supported",
    "traits_of",
]
