"""The operators: from a node and the shapes of its inputs to a function that computes it.

Read `base` first: it defines an operator. `call` is the node that it lowers, `epilogue` the activation that it may
apply as its last step. `registry` finds operators by name. `rows` computes bands of rows, and `strip` tells which
columns these need. `coded`, `scratch`, `shapes`, `window`, `columns` and `collect` are shared. Each other module holds
one family of operators. `sizes` has those that are evaluated and not run.
"""

from streamrt.ops import (  # noqa: F401 (registers them)
    activation,
    arg,
    arithmetic,
    attention,
    cast,
    conv,
    einsum,
    gather,
    gemm,
    indexed,
    logic,
    matmul,
    movement,
    norm,
    order,
    pad,
    pooling,
    quantize,
    recurrent,
    reduce,
    repeat,
    resize,
    sampling,
    sizes,
)
from streamrt.ops.base import (
    FLOAT32,
    INT64,
    NUMPY_TYPES,
    Array,
    Buffers,
    Lowered,
    Operand,
    Param,
    Run,
    Shape,
    Table,
    Value,
    computed_type,
    size_problem,
)
from streamrt.ops.call import Call
from streamrt.ops.registry import NO_SUCH_OPERATOR, Traits, lower, supported, traits_of

__all__ = [
    "FLOAT32",
    "INT64",
    "NO_SUCH_OPERATOR",
    "NUMPY_TYPES",
    "Array",
    "Buffers",
    "Call",
    "Lowered",
    "Operand",
    "Param",
    "Run",
    "Shape",
    "Table",
    "Traits",
    "Value",
    "computed_type",
    "lower",
    "size_problem",
    "sizes",
    "supported",
    "traits_of",
]
