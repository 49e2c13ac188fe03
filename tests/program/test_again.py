"""Nodes that run again in a later section: which do, what is held then, and the same bits as without."""

from __future__ import annotations

from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from program.test_placement import concat, node
from program.test_sections import CHAIN, SHAPE, WINDOW, answers, graph
from streamrt.graph import Graph, Node
from streamrt.ops import Operand
from streamrt.program.compile import Program, compile_program

WIDE = 203
PLANE = 4 * SHAPE[1] * SHAPE[2] * SHAPE[3]


def compiled(made: Graph, bands: int, again: int = 0, strips: int = 1, columns: int = SHAPE[3]) -> Program:
    shapes = {spec.name: (1, SHAPE[1], SHAPE[2], columns) for spec in made.inputs}
    return compile_program(made, {}, shapes, lean=True, bands=bands, strips=strips, again=again)


def names(program: Program) -> list[str]:
    return [each.name for each in program.nodes]


def gate(source: str, number: int) -> list[Node]:
    """A factor for each channel."""
    return [
        node("GlobalAveragePool", [source], f"g{number}"),
        node("Mul", [source, f"g{number}"], f"m{number}"),
    ]


def test_what_a_gate_needs_is_made_again() -> None:
    made = graph([*CHAIN, *gate("c", 1), node("MaxPool", ["m1"], "y", **WINDOW)], ["y"])
    held, one, some, again = (compiled(made, 8, way) for way in range(4))
    assert [way.held for way in again.ways] == [3 * PLANE, 2 * PLANE, PLANE, 0]
    assert held.ways == one.ways == some.ways == again.ways
    assert [program.again for program in (held, one, some, again)] == [0, 1, 2, 3]
    assert names(one) == ["a", "b", "c", "g1", "c (run 2)", "m1", "y"]
    assert names(some) == ["a", "b", "c", "g1", "a (run 2)", "c (run 2)", "m1", "y"]
    assert names(again) == ["a", "b", "c", "g1", "a (run 2)", "b (run 2)", "c (run 2)", "m1", "y"]
    assert [(section.first, section.last) for section in again.sections] == [(0, 4), (4, 9)]
    assert held.offsets.keys() == {"c", "g1"}
    assert again.offsets.keys() == {"g1"}
    assert again.outside == {"x", "y"}
    assert {step.node for step in again.steps} == set(range(9))
    for program in (one, some, again):
        np.testing.assert_array_equal(answers(program)["y"], answers(held)["y"])


@pytest.mark.parametrize(
    ("nodes", "outputs"),
    [
        # no tensor crosses a border
        (CHAIN, ["c"]),
        # the caller gets it
        ([*CHAIN, *gate("c", 1)], ["c", "m1"]),
        # a node needs it as a whole
        ([*CHAIN, *gate("c", 1), node("GlobalLpPool", ["c"], "p")], ["m1", "p"]),
        # the name is taken
        ([*CHAIN, *gate("c", 1), node("Relu", ["x"], "c (run 2)")], ["m1", "c (run 2)"]),
        # nodes that need whole planes are no part of a section
        ([node("GlobalLpPool", ["x"], "p"), node("Mul", ["x", "p"], "a"), *CHAIN[1:2], *gate("a", 1)], ["m1", "b"]),
    ],
)
def test_where_no_node_runs_again(nodes: list[Node], outputs: list[str]) -> None:
    made = graph(nodes, outputs)
    program = compiled(made, 8)
    assert len(program.ways) == 1
    assert names(program) == [each.name for each in nodes]
    plain = answers(compiled(made, 0))
    for name, values in answers(program).items():
        np.testing.assert_allclose(values, plain[name], rtol=1e-6)


def test_names_of_parameters_are_taken() -> None:
    nodes = [*CHAIN, *gate("c", 1), node("Mul", ["m1", "c (run 2)"], "y")]
    shapes = {"x": SHAPE}
    params = {"c (run 2)": Operand((1,), is_param=True)}
    program = compile_program(graph(nodes, ["y"]), params, shapes, lean=True, bands=8)
    assert len(program.ways) == 1
    assert program.shapes["c (run 2)"] == (1,)


def test_a_smaller_tensor_is_held_instead() -> None:
    """The tensor that is read again is in memory anyway, for a sum at the end."""
    nodes = [
        node("GlobalLpPool", ["x"], "p"),
        node("Mul", ["x", "p"], "s"),
        node("Relu", ["s"], "t"),
        node("GlobalAveragePool", ["t"], "h"),
        node("Mul", ["t", "h"], "a"),
        node("AveragePool", ["a"], "b", **WINDOW),
        concat(["b", "a"], "c"),
        *gate("c", 1),
        node("AveragePool", ["m1"], "d", **WINDOW),
        node("Concat", ["d", "t"], "y", axis=1),
    ]
    made = graph(nodes, ["y"])
    program = compiled(made, 8, 1)
    first, second = program.ways
    assert second.held < first.held
    assert "c (run 2)" in names(program)
    assert "c" not in program.offsets
    np.testing.assert_array_equal(answers(program)["y"], answers(compiled(made, 8))["y"])


def test_a_node_may_run_in_several_sections() -> None:
    nodes = [*CHAIN, *gate("c", 1), *gate("m1", 2), concat(["m2", "c"], "y"), node("Relu", ["y"], "z")]
    made = graph(nodes, ["z"])
    program = compiled(made, 8, len(compiled(made, 8).ways) - 1)
    assert [name for name in names(program) if name.startswith("c")] == ["c", "c (run 2)", "c (run 3)"]
    assert program.offsets.keys() == {"g1", "g2"}
    np.testing.assert_array_equal(answers(program)["z"], answers(compiled(made, 8))["z"])


@pytest.mark.parametrize(("gates", "again"), [(2, ["m0", "m0", "m1"]), (3, [])])
def test_a_pass_takes_at_most_twice_the_operations(gates: int, again: list[str]) -> None:
    """Each further section makes one tensor more, so that in the end the number of operations is a square."""
    nodes = [node("Relu", ["x"], "m0")]
    for number in range(1, gates + 1):
        nodes += gate(f"m{number - 1}", number)
    program = compiled(graph(nodes, [f"m{gates}"]), 8)
    assert [each.name.partition(" ")[0] for each in program.ways[-1].nodes if each.name.endswith(")")] == again


@st.composite
def graphs(draw: st.DrawFn) -> Graph:
    """Windows and pointwise nodes, with gates and means of whole planes, sums across them, and other sizes."""
    shapes = {"x": SHAPE[1:3]}
    nodes: list[Node] = []

    def add(op: str, inputs: list[str], shape: tuple[int, int], **attrs: object) -> str:
        name = f"t{len(nodes)}"
        nodes.append(node(op, inputs, name, **attrs))
        shapes[name] = shape
        return name

    def rows() -> str:
        """Mostly one of the last tensors."""
        there = [name for name, (_, height) in shapes.items() if height > 1]
        return there[-1 - min(draw(st.integers(0, 5)), len(there) - 1)]

    for _ in range(draw(st.integers(3, 12))):
        kind, source = draw(st.integers(0, 8)), rows()
        channels, height = shape = shapes[source]
        if kind <= 1:
            add(("MaxPool", "AveragePool")[kind], [source], shape, **WINDOW)
        elif kind == 2 and height > 4:
            add("MaxPool", [source], (channels, -(-height // 2)), **WINDOW | {"strides": (2, 1)})
        elif kind == 3 and height < SHAPE[2]:
            add("Resize", [source], (channels, 2 * height), scales=(1.0, 1.0, 2.0, 1.0))
        elif kind <= 5:
            other = add(draw(st.sampled_from(["GlobalAveragePool", "GlobalMaxPool"])), [source], (channels, 1))
            add(draw(st.sampled_from(["Mul", "Sub"])), [source, other], shape)
        elif kind == 6 and channels < 20:
            alike = [name for name, (_, tall) in shapes.items() if tall == height]
            other = draw(st.sampled_from(alike))
            nodes.append(node("Concat", [source, other], f"t{len(nodes)}", axis=1))
            shapes[nodes[-1].outputs[0]] = channels + shapes[other][0], height
        elif kind == 7:
            other = draw(st.sampled_from([name for name, each in shapes.items() if each == shape]))
            add("Add", [source, other], shape)
        else:
            other = add("GlobalLpPool", [source], (channels, 1))
            add("Mul", [source, other], shape)
    read = {name for each in nodes for name in each.inputs}
    ends = [name for name in shapes if name not in read]
    also = draw(st.lists(st.sampled_from(sorted(shapes.keys() - {"x", *ends}) or ends), max_size=1, unique=True))
    return graph(nodes, list(dict.fromkeys((*ends, *also))))


@given(graphs(), st.sampled_from([1, 3, 8, 40]), st.sampled_from([1, 2, 3]))
def test_all_ways_have_the_same_bits(made: Graph, bands: int, strips: int) -> None:
    columns = WIDE if strips > 1 else SHAPE[3]
    first = compiled(made, bands, 0, strips, columns)
    found, plain = answers(first), answers(compiled(made, 0, columns=columns))
    work = len(first.nodes)
    held = [way.held for way in first.ways]
    assert held == sorted(held, reverse=True)
    assert all(10 * after <= 7 * before for before, after in pairwise(held[:-1]))
    for name, values in plain.items():
        np.testing.assert_allclose(found[name], values, rtol=1e-4, atol=1e-5)
    for again in range(len(first.ways)):
        program = compiled(made, bands, again, strips, columns)
        assert program.ways == first.ways
        assert program.workspace >= held[again]
        assert (len(program.nodes) > work) == (again > 0)
        assert set(names(first)) <= set(names(program))
        assert sum(name.endswith(")") for name in names(program)) == len(program.nodes) - work
        for name, values in answers(program).items():
            if program.strips == first.strips == 1:
                np.testing.assert_array_equal(values, found[name])
            else:  # means are added up in another order
                np.testing.assert_allclose(values, found[name], rtol=1e-4, atol=1e-5)
