"""Rules of a graph that the hostile files do not test."""

from dataclasses import replace

import pytest

from streamrt.errors import FormatError
from streamrt.graph import Activation, Graph, Node, TensorSpec
from streamrt.program.compile import compile_program

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


def case(value, *, reads="is one", op="Relu"):
    """The nodes of a case of a batch that is 1, or is not."""
    return (
        Node("s", "Shape", ("x",), ("shape",), {"start": 0, "end": 1}),
        Node("c", "Constant", (), ("one",), {"value": (1,)}),
        Node("e", "Equal", ("shape", "one"), ("is one",)),
        Node("i", "If", (reads,), (), {"value": value}),
        Node("n", op, ("x",), ("y",)),
    )


def cases(*graphs):
    first, *others = graphs
    return replace(first, others=tuple(others))


def test_cases():
    graph = cases(Graph((X,), (Y,), case(1)), Graph((X,), (replace(Y, dims=("N", 5)),), case(0, op="Tanh")))
    graph.check([])
    assert Graph.from_json(graph.to_json()) == graph
    assert [node.op for node in graph.all_nodes if node.name == "n"] == ["Relu", "Tanh"]
    assert graph.subgraph(["y"]) == graph
    assert [node.op for node in graph.subgraph(["shape"]).nodes] == ["Shape", "Constant", "Equal", "If"]
    for batch, op in ((1, "Relu"), (2, "Tanh")):
        program = compile_program(graph, {}, {"x": (batch, 4)})
        assert [node.op for node in program.nodes] == [op]
        assert not program.batchwise
    one = Graph((X,), (Y,), case(1))
    with pytest.raises(FormatError, match=r"node .i. \(If\): with these extents the condition .is one. is False"):
        compile_program(one, {}, {"x": (2, 4)})


def test_subgraphs_have_the_cases_that_compute_all_outputs():
    first = Graph((X, TensorSpec("z", ("N",))), (Y,), (Node("n", "Relu", ("x",), ("y",)),))
    second = replace(first, nodes=(Node("m", "Relu", ("z",), ("own",)), Node("n", "Tanh", ("x",), ("y",))))
    graph = cases(first, second)
    assert [spec.name for spec in graph.subgraph(["y"]).inputs] == ["x"]
    part = graph.subgraph(["own", "y"])
    assert [spec.name for spec in part.inputs] == ["x", "z"]
    assert [case.nodes for case in part.cases] == [second.nodes]
    with pytest.raises(KeyError, match="nobody"):
        graph.subgraph(["own", "nobody"])


@pytest.mark.parametrize(
    ("second", "reason"),
    [
        (
            Graph((X,), (TensorSpec("x.y", ("N", 4)),), (Node("n", "Relu", ("x",), ("x.y",)),)),
            "different inputs or outputs",
        ),
        (Graph((X,), (replace(Y, dtype="int64"),), case(0)), "different inputs or outputs"),
        (Graph((TensorSpec("x", ("N", 5)),), (Y,), case(0)), "different inputs or outputs"),
        (Graph((X,), (Y,), ()), "'y' is not computed"),
        (Graph((X,), (Y,), case(0, reads="later")), "reads 'later'"),
    ],
)
def test_each_case_is_checked(second, reason):
    with pytest.raises(FormatError, match=reason):
        cases(Graph((X,), (Y,), case(1)), second).check([])


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"cases": [{"outputs": [], "nodes": []}] * 16}, "graph.cases: 16 entries, more than the 15 allowed"),
        ({"cases": [{"outputs": []}]}, r"graph.cases\[0\]: missing keys \['nodes'\]"),
        ({"cases": [{"outputs": [], "nodes": [], "cases": []}]}, r"graph.cases\[0\]: unknown keys"),
        ({"cases": 3}, "graph.cases: expected a list"),
    ],
)
def test_malformed_cases(change, reason):
    with pytest.raises(FormatError, match=reason):
        Graph.from_json(Graph((X,), (Y,), case(1)).to_json() | change)


def test_limits_count_all_cases():
    constants = [Node(f"c{i}", "Constant", (), (f"k{i}",), {"value": (0,) * 4096}) for i in range(33)]
    graph = cases(*[Graph((X,), (Y,), (DENSE, *constants))] * 2)
    with pytest.raises(FormatError, match="numbers in attributes of all nodes"):
        Graph.from_json(graph.to_json())
    many = Graph((X,), (Y,), tuple(Node(f"n{i}", "Relu", ("x",), (f"y{i}",)) for i in range(5001)))
    with pytest.raises(FormatError, match="10001 nodes"):
        Graph.from_json(cases(many, many).to_json())


@pytest.mark.parametrize(
    "node",
    [
        Node("i", "If", ("x",), (), {"value": 1}),
        Node("i", "If", ("shape",), ("z",), {"value": 1}),
        Node("i", "If", ("shape", "shape"), (), {"value": 1}),
        Node("i", "If", ("shape",), (), {"value": 1, "more": 1}),
        Node("i", "If", ("shape",), (), {"value": 2}),
        Node("i", "If", ("shape",), ()),
        Node("i", "If", ("both",), (), {"value": 1}),
        Node("i", "If", ("shape",), (), {"value": 1}, Activation("Relu")),
    ],
)
def test_malformed_conditions(node):
    sizes = Node("s", "Shape", ("x",), ("shape",), {"end": 1}), Node("b", "Shape", ("x",), ("both",))
    graph = Graph((X,), (Y,), (*sizes, node, Node("n", "Relu", ("x",), ("y",))))
    with pytest.raises(FormatError, match="node 'i'"):
        compile_program(graph, {}, {"x": (1, 4)})
