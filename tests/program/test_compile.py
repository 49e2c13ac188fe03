"""The types of a program's parameters."""

from __future__ import annotations

import pytest

from streamrt.errors import FormatError
from streamrt.graph import Graph, Node, TensorSpec
from streamrt.ops import Operand
from streamrt.program.compile import compile_program

GRAPH = Graph((TensorSpec("x", ("n", 3)),), (TensorSpec("y", ("n", 4)),), (Node("dense", "Gemm", ("x", "w"), ("y",)),))


def test_the_type_of_a_parameter_reaches_the_operator_that_reads_it() -> None:
    compiled = compile_program(GRAPH, {"w": Operand((4, 3), "F32", is_param=True)}, {"x": (2, 3)})
    assert compiled.shapes == {"x": (2, 3), "w": (4, 3), "y": (2, 4)}
    assert compiled.offsets.keys() == {"x", "y"}
    with pytest.raises(FormatError, match=r"node 'dense' \(Gemm\): input 1 \('w'\) is F64, expected F32"):
        compile_program(GRAPH, {"w": Operand((4, 3), "F64", is_param=True)}, {"x": (2, 3)})
