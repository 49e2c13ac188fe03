"""Rules of a graph that the hostile files do not test."""

import pytest

from streamrt.errors import FormatError
from streamrt.graph import Graph, Node, TensorSpec

X, Y, W = TensorSpec("x", ("N", 4)), TensorSpec("y", ("N", 4)), TensorSpec("w", (4, 4))
DENSE = Node("n", "Gemm", ("x", "w"), ("y",))


def test_json_round_trip():
    graph = Graph((X,), (Y,), (DENSE,))
    graph.check(["w"])
    assert Graph.from_json(graph.to_json()) == graph


@pytest.mark.parametrize("outputs", [(W,), (Y, Y), (TensorSpec("z", ()),)])
def test_outputs_are_computed_and_named_once(outputs):
    with pytest.raises(FormatError, match="output"):
        Graph((X,), outputs, (DENSE,)).check(["w"])


def test_a_graph_of_too_many_outputs_is_refused():
    nodes = [Node(f"n{i}", "Split", ("x",), tuple(f"{i}.{j}" for j in range(1000))) for i in range(50)]
    with pytest.raises(FormatError, match="outputs"):
        Graph.from_json(Graph((X,), (), tuple(nodes)).to_json())
