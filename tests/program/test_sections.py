"""Programs with sections: which nodes they have, which tensors lie in the arena, and the same answers as without."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from program.test_placement import concat, node
from streamrt.graph import Graph, Node, TensorSpec
from streamrt.ops import FLOAT32, NUMPY_TYPES, Operand, Run
from streamrt.program.compile import Program, compile_program
from streamrt.program.current import Current
from streamrt.program.division import Known, section_of_rounds

SHAPE = (1, 3, 40, 11)
WINDOW = {"kernel_shape": (3, 3), "pads": (1, 1, 1, 1)}


def graph(nodes: list[Node], outputs: list[str], inputs: str = "x") -> Graph:
    dims = ("n", SHAPE[1], "h", "w")
    return Graph(
        tuple(TensorSpec(name, dims) for name in inputs),
        tuple(TensorSpec(name, ("n", "c", "h", "w")) for name in outputs),
        tuple(nodes),
    )


def compiled(
    made: Graph, bands: int, samples: int = 1, rows: int = SHAPE[2], strips: int = 1, columns: int = SHAPE[3]
) -> Program:
    shapes = {spec.name: (samples, SHAPE[1], rows, columns) for spec in made.inputs}
    return compile_program(made, {}, shapes, lean=True, bands=bands, strips=strips)


def answers(program: Program, dtype: Any = np.float32) -> dict[str, Any]:
    """The outputs for random inputs. Memory that holds no values yet is NaN."""
    memory = np.full(program.workspace, 0xFF, np.uint8)
    outside = {
        spec.name: np.empty(program.shapes[spec.name], dtype)
        for spec in program.graph.outputs
        if spec.name in program.outside
    }
    inputs = {}
    for seed, spec in enumerate(program.graph.inputs):
        values = np.random.default_rng(seed).standard_normal(program.shapes[spec.name]).astype(dtype)
        if spec.name in program.outside:
            inputs[spec.name] = values
        else:
            program.tensor(memory, spec.name)[...] = values
    current = Current()
    runs = program.bind(memory, {}, outside=inputs | outside, current=current)
    assert len(runs) == len(program.steps)
    for current.strip in range(program.rounds):
        for run, step in zip(runs, program.steps, strict=True):
            run(0, program.lowered[step.node].rows)
    kept = {spec.name: program.tensor(memory, spec.name) for spec in program.graph.outputs if spec.name not in outside}
    return {name: values.copy() for name, values in {**kept, **outside}.items()}


CHAIN = [node("MaxPool", ["x"], "a", **WINDOW), node("AveragePool", ["a"], "b", **WINDOW), concat(["a", "b", "x"], "c")]
#: A small section, and a large one behind a Resize.
ENLARGED = [
    *CHAIN[:2],
    node("GlobalLpPool", ["b"], "g"),
    node("Mul", ["b", "g"], "d"),
    node("Resize", ["d"], "e", scales=(1.0, 1.0, 8.0, 8.0)),
    node("AveragePool", ["e"], "f", **WINDOW),
]


@pytest.mark.parametrize("bands", [1, 2, 7, 40])
def test_a_section_has_the_answers_of_its_nodes(bands: int) -> None:
    made = graph(CHAIN, ["c"])
    program, plain = compiled(made, bands), compiled(made, 0)
    assert program.bands == bands
    assert [(section.first, section.last) for section in program.sections] == [(0, 3)]
    assert program.outside == {"x", "c"}
    assert not program.offsets
    np.testing.assert_array_equal(answers(program)["c"], answers(plain)["c"])
    assert sum(step.share for step in program.steps) == pytest.approx(3)
    assert (bands < 7) == (program.workspace > plain.workspace / 3)


def test_programs_in_other_bands_share_sections() -> None:
    """The sections that are known count as if they were found again."""
    made = graph(CHAIN, ["c"])
    known = Known()
    shapes = {"x": SHAPE}
    for bands in (2, 4, 5, 64, 128):
        program = compile_program(made, {}, shapes, lean=True, bands=bands, known=known)
        alone = compiled(made, bands)
        assert [section.schedule for section in program.sections] == [section.schedule for section in alone.sections]
        assert (program.workspace, program.steps, program.bands) == (alone.workspace, alone.steps, alone.bands)
        np.testing.assert_array_equal(answers(program)["c"], answers(alone)["c"])
    assert sorted(rows for _, rows, _ in known.sections) == [1, 8, 16, 32]
    (section, marks), *_ = known.sections.values()
    known.sections.update(dict.fromkeys(known.sections, (section, 2**16 + 1)))
    assert marks > 0
    assert not compile_program(made, {}, shapes, lean=True, bands=2, known=known).sections


def test_programs_in_other_strips_share_schedules() -> None:
    """Those that are known count as if they were found again."""
    made = graph(CHAIN, ["c"])
    shapes = {"x": (*SHAPE[:3], WIDE)}
    known = Known()
    for strips in (1, 2, 3):
        known = Known(known.schedules)
        program = compile_program(made, {}, shapes, lean=True, bands=8, strips=strips, known=known)
        ((schedule, marks),) = known.schedules.values()
        assert program.strips == strips
        assert program.sections[0].schedule is schedule == compiled(made, 8, columns=WIDE).sections[0].schedule
    known = Known(dict.fromkeys(known.schedules, (schedule, 2**16 + 1)))
    assert marks > 0
    assert not compile_program(made, {}, shapes, lean=True, bands=8, strips=2, known=known).sections


def test_the_callers_arrays_may_have_other_types() -> None:
    program = compiled(graph(CHAIN, ["c"]), 4)
    halves = answers(program, np.float16)["c"]
    assert halves.dtype == np.float16
    np.testing.assert_allclose(halves, answers(compiled(graph(CHAIN, ["c"]), 0), np.float16)["c"], atol=1e-3)


@pytest.mark.parametrize(
    ("nodes", "outputs", "outside", "sections"),
    [
        (CHAIN, ["a", "c"], {"x", "a", "c"}, [(0, 3)]),
        # x is read as a whole, too
        ([*CHAIN, node("GlobalLpPool", ["x"], "d")], ["c", "d"], {"c"}, [(0, 3)]),
        # c is read behind its section
        ([*CHAIN, node("GlobalLpPool", ["c"], "d")], ["c", "d"], {"x"}, [(0, 3)]),
        # a is made in one section and read in another one
        (
            [*CHAIN[:2], node("GlobalLpPool", ["b"], "g"), node("Mul", ["a", "g"], "e"), node("Relu", ["e"], "f")],
            ["a", "f"],
            {"x", "f"},
            [(0, 2), (3, 5)],
        ),
        # the input is an output
        (CHAIN, ["x", "c"], {"c"}, [(0, 3)]),
        # a node alone is no section
        (CHAIN[:1], ["a"], set(), []),
        # y is not read
        (CHAIN, ["c"], {"x", "c"}, [(0, 3)]),
    ],
)
def test_which_tensors_lie_outside(
    nodes: list[Node], outputs: list[str], outside: set[str], sections: list[tuple[int, int]]
) -> None:
    made = graph(nodes, outputs, "xy")
    program, plain = compiled(made, 5), compiled(made, 0)
    assert program.outside == outside
    assert [(section.first, section.last) for section in program.sections] == sections
    ends = {spec.name for spec in (*made.inputs, *made.outputs)}
    assert ends - outside <= program.offsets.keys()
    assert not outside & program.offsets.keys()
    found, wanted = answers(program), answers(plain)
    for name, values in wanted.items():
        np.testing.assert_array_equal(found[name], values)


def test_a_result_takes_no_place_of_rows_that_are_read_later() -> None:
    """Of b only 10 rows are read, so they come in more slowly than the rows of the result are made."""
    nodes = [
        *CHAIN[:2],
        node("GlobalLpPool", ["b"], "g"),
        node("Slice", ["b"], "s", starts=(0,), ends=(10,), axes=(2,)),
        node("AveragePool", ["a"], "y", **WINDOW),
        node("GlobalLpPool", ["y"], "m"),
        node("Mul", ["y", "m"], "e"),
        node("Relu", ["e"], "f"),
    ]
    made = graph(nodes, ["g", "s", "f"])
    program = compiled(made, 8)
    section = program.sections[1]
    assert (section.inputs, section.outputs, section.inplace) == (("b", "a"), ("y",), (1,))
    found, plain = answers(program), answers(compiled(made, 0))
    for name, values in plain.items():
        np.testing.assert_allclose(found[name], values, rtol=1e-6)


def test_the_name_of_what_a_half_finds_may_be_taken() -> None:
    """The node then needs the whole plane."""
    groups = node("InstanceNormalization", ["a", "s", "t"], "n", epsilon=1e-5)
    params = {name: Operand((3,), is_param=True) for name in "st"}
    for name, sections in (("n (mean and deviation)", [(2, 4)]), ("other", [(0, 2), (2, 5)])):
        nodes = [*CHAIN[:1], groups, node("Relu", ["n"], name), node("AveragePool", [name], "y", **WINDOW)]
        shapes = {"x": (1, *SHAPE[1:])}
        program = compile_program(graph(nodes, ["y"]), params, shapes, lean=True, bands=8)
        assert [(section.first, section.last) for section in program.sections] == sections


def test_a_small_section_has_fewer_bands() -> None:
    """The section behind the Resize needs more memory in its bands than the one before it as a whole."""
    made = graph(ENLARGED, ["f"])
    program = compiled(made, 16)
    small, large = program.sections
    assert (small.bands, large.bands) == (1, 10)
    assert small.nbytes <= large.nbytes
    np.testing.assert_array_equal(answers(program)["f"], answers(compiled(made, 0))["f"])


def test_many_steps_count_as_memory() -> None:
    few, many = (compiled(graph(CHAIN, ["c"]), bands, rows=1000) for bands in (500, 1000))
    assert (len(few.steps), len(many.steps)) == (1501, 3000)
    assert few.memory == few.workspace
    assert many.memory == many.workspace + 1536 * (3000 - 3 - 2048)


def test_a_node_that_reads_all_rows_ends_its_section_with_a_small_result() -> None:
    """A gate of all positions: the section before finds it, the next one uses it."""
    nodes = [
        *CHAIN[:2],
        node("GlobalAveragePool", ["b"], "g"),
        node("Mul", ["b", "g"], "d"),
        node("AveragePool", ["d"], "e", **WINDOW),
        node("GlobalMaxPool", ["e"], "m"),
    ]
    made = graph(nodes, ["e", "m"])
    plain = answers(compiled(made, 0))
    for bands in (2, 7, 40):
        program = compiled(made, bands)
        assert [(section.first, section.last) for section in program.sections] == [(0, 3), (3, 6)]
        assert program.outside == {"x", "e"}
        assert program.offsets.keys() == {"b", "g", "m"}
        found = answers(program)
        for name in ("e", "m"):
            np.testing.assert_allclose(found[name], plain[name], rtol=1e-6)


def test_the_result_of_a_section_takes_the_place_of_an_input() -> None:
    """The rows of the input have been read by then, so no memory is needed for both."""
    nodes = [
        *CHAIN[:2],
        node("GlobalAveragePool", ["b"], "g"),
        node("Mul", ["b", "g"], "d"),
        node("AveragePool", ["d"], "e", **WINDOW),
        node("GlobalMaxPool", ["e"], "m"),
        node("Mul", ["e", "m"], "f"),
        node("Relu", ["f"], "h"),
    ]
    made = graph(nodes, ["h"])
    program = compiled(made, 8, columns=WIDE)
    assert [section.inplace for section in program.sections] == [(), (0,), ()]
    assert program.offsets["b"] == program.offsets["e"]
    np.testing.assert_allclose(answers(program)["h"], answers(compiled(made, 0, columns=WIDE))["h"], rtol=1e-6)
    again = compiled(graph([*nodes, node("Add", ["h", "b"], "i")], ["i"]), 8, columns=WIDE)  # b is needed longer
    assert again.offsets["b"] != again.offsets["e"]
    doubled = node("Resize", ["d"], "e", scales=(1.0, 1.0, 2.0, 1.0))  # e has other rows
    assert compiled(graph([*nodes[:4], doubled, *nodes[5:]], ["h"]), 8, columns=WIDE).sections[1].inplace == ()


def test_several_samples_have_no_section() -> None:
    program = compiled(graph(CHAIN, ["c"]), 5, samples=2)
    assert not program.sections
    assert program.bands == 0
    assert program.workspace == compiled(graph(CHAIN, ["c"]), 0, samples=2).workspace


def test_a_tensor_within_a_section_has_no_array() -> None:
    program = compiled(graph(CHAIN, ["c"]), 5)
    with pytest.raises(KeyError):
        program.tensor(np.empty(program.workspace, np.uint8), "a")
    assert NUMPY_TYPES[FLOAT32].itemsize * np.prod(SHAPE) * 2 > program.workspace


WIDE = 203
#: Sections in strips, and their outputs: with strides, other scales, several inputs, and results of all positions.
IN_STRIPS: dict[str, tuple[list[Node], list[str]]] = {
    "windows": (CHAIN, ["a", "c"]),
    "strides": (
        [
            node("MaxPool", ["x"], "a", kernel_shape=(3, 4), strides=(2, 2), pads=(1, 2, 0, 1)),
            node("AveragePool", ["a"], "b", kernel_shape=(2, 3), strides=(1, 3), pads=(0, 0, 1, 2), ceil_mode=1),
        ],
        ["b"],
    ),
    "scales": (
        [
            node("AveragePool", ["x"], "a", kernel_shape=(2, 2), strides=(2, 2)),
            node("Resize", ["a"], "b", scales=(1.0, 1.0, 2.0, 2.0), mode="linear"),
            node("Slice", ["x"], "s", starts=(0, 0), ends=(40, 202), axes=(2, 3)),
            concat(["b", "s"], "c"),
            node("MaxPool", ["c"], "d", **WINDOW),
        ],
        ["d"],
    ),
    "borders": (
        [
            node("Pad", ["x"], "a", pads=(0, 0, 1, 3, 0, 0, 0, 2), value=0.5),
            node("AveragePool", ["a"], "b", **WINDOW),
            node("Slice", ["b"], "s", starts=(5,), ends=(-7,), axes=(3,)),
        ],
        ["s", "b"],
    ),
    "two inputs": ([*CHAIN[:2], node("Relu", ["y"], "r"), node("Add", ["b", "r"], "c")], ["c"]),
    "all positions": (
        [*CHAIN, *(node(op, ["b"], op) for op in ("GlobalAveragePool", "GlobalMaxPool"))],
        ["c", "GlobalAveragePool", "GlobalMaxPool"],
    ),
    "a gate": (
        [
            *CHAIN[:2],
            node("GlobalAveragePool", ["b"], "g"),
            node("Mul", ["b", "g"], "d"),
            node("AveragePool", ["d"], "e", **WINDOW),
            node("ReduceSum", ["e"], "m", axes=(2, 3)),
        ],
        ["e", "m"],
    ),
}


@pytest.mark.parametrize("name", IN_STRIPS)
@pytest.mark.parametrize(("bands", "strips"), [(1, 2), (2, 3), (8, 2), (40, 5)])
def test_strips_have_the_answers_of_the_whole(name: str, bands: int, strips: int) -> None:
    nodes, outputs = IN_STRIPS[name]
    made = graph(nodes, outputs, "xy" if "y" in {each for one in nodes for each in one.inputs} else "x")
    program = compiled(made, bands, strips=strips, columns=WIDE)
    rows, plain = (compiled(made, count, columns=WIDE) for count in (bands, 0))
    assert program.strips == strips
    assert max(section.times for section in program.sections) in {2, strips}
    assert max(section.nbytes for section in program.sections) < max(section.nbytes for section in rows.sections)
    assert program.rounds * sum(step.share for step in program.steps) > sum(step.share for step in rows.steps)
    seconds = program.by_step([1.0] * len(program.nodes))
    assert program.rounds * sum(seconds) == pytest.approx(sum(rows.by_step([1.0] * len(program.nodes))))
    found = answers(program)
    for output, values in answers(plain).items():
        if min(values.shape[2:]) > 1:
            np.testing.assert_array_equal(found[output], values)
        else:
            np.testing.assert_allclose(found[output], values, rtol=1e-6)


def test_other_nodes_compute_in_one_of_the_rounds(monkeypatch: pytest.MonkeyPatch) -> None:
    """The node before a section in strips, and the one behind it. Strips of a section have the same steps."""
    nodes = [
        node("GlobalLpPool", ["x"], "first"),
        *CHAIN[:2],
        node("Sum", ["a", "b", "x"], "s"),
        node("Mul", ["s", "first"], "c"),
        node("GlobalLpPool", ["c"], "p"),
        node("Resize", ["p"], "r", scales=(1.0, 1.0, 8.0, 8.0)),
        node("AveragePool", ["r"], "t", **WINDOW),
        node("MaxPool", ["t"], "last", **WINDOW),
    ]
    made = graph(nodes, ["c", "last"])
    few, many = (compiled(made, 8, strips=strips, columns=WIDE) for strips in (2, 5))
    assert [(section.first, section.last, section.times) for section in many.sections] == [(1, 5, 5), (7, 9, 1)]
    assert (few.rounds, many.rounds) == (2, 5)
    assert len(few.steps) == len(many.steps)
    assert many.memory < few.memory
    assert many.rounds * sum(step.share for step in many.steps if step.section != 1) == pytest.approx(5)
    computed = []
    bind = Program._bind_node

    def counted(self: Program, index: int, *args: Any) -> Run:
        run = bind(self, index, *args)

        def count(first: int, last: int) -> None:
            computed.append(index)
            run(first, last)

        return count

    with monkeypatch.context() as patch:
        patch.setattr(Program, "_bind_node", counted)
        found = answers(many)
    assert computed == [0, 5, 6]
    for name, values in answers(compiled(made, 0, columns=WIDE)).items():
        np.testing.assert_array_equal(found[name], values)


def test_strips_are_no_rounds_if_other_nodes_read_more_weights() -> None:
    """These would be read once a strip."""
    nodes = [node("MaxPool", ["x"], "a", **WINDOW), node("PRelu", ["a", "w"], "b"), node("MatMul", ["b", "v"], "c")]
    for columns, found in ((3, 0), (4, 0), (5, None)):
        tensors = {"x": Operand(SHAPE), "w": Operand((4, 1, 1), is_param=True), "v": Operand((columns,), is_param=True)}
        for name, width in (("a", 18), ("b", 18), ("c", 17)):
            tensors[name] = Operand((1, 3, 40, width))
        assert section_of_rounds([(0, 2)], nodes, tensors) == found
        assert section_of_rounds([(0, 2), (2, 3)], nodes, tensors) == found
    assert section_of_rounds([(2, 3)], nodes, tensors) is None  # not wide
    assert section_of_rounds([(0, 1), (1, 2)], nodes, tensors) is None  # both are
    assert section_of_rounds([], nodes, tensors) is None


@pytest.mark.parametrize("bands", [2, 8, 40])
def test_nodes_run_whole_where_that_needs_no_more_than_another_section(bands: int) -> None:
    """Those before the Resize need less whole than the section behind it in the lowest bands."""
    made = graph([node("GlobalLpPool", ["x"], "q"), *ENLARGED], ["f", "q"])
    program, plain = compiled(made, bands), compiled(made, 0)
    assert [section.first for section in program.sections] == [4]
    assert program.workspace < plain.workspace
    found, wanted = answers(program), answers(plain)
    for name in ("f", "q"):
        np.testing.assert_array_equal(found[name], wanted[name])


def test_a_result_beside_an_input_that_is_needed_later_counts() -> None:
    """The second section makes e beside b, which the third reads. Both need 2 planes, and lines of low bands."""
    nodes = [
        *CHAIN[:2],
        node("GlobalAveragePool", ["b"], "g"),
        node("Mul", ["b", "g"], "d"),
        *(node(op, ["d"], name, **WINDOW) for op, name in (("AveragePool", "s"), ("MaxPool", "t"))),
        node("Sum", ["d", "s", "t"], "e"),
        node("GlobalAveragePool", ["e"], "p"),
        node("Mul", ["e", "p"], "q"),
        node("MaxPool", ["q"], "r", **WINDOW),
        node("Sum", ["q", "r", "b"], "y"),
    ]
    program = compiled(graph(nodes, ["y"]), 40, columns=WIDE)
    assert [section.first for section in program.sections] == [0, 3, 8]
    assert program.workspace < 2.6 * 4 * SHAPE[1] * SHAPE[2] * WIDE


def test_no_input_makes_place_for_a_result_in_strips() -> None:
    """Columns of the input are read again."""
    nodes = [
        *IN_STRIPS["a gate"][0][:4],
        *(node(op, ["d"], name, **WINDOW) for op, name in (("AveragePool", "e"), ("MaxPool", "f"))),
        node("Sum", ["d", "e", "f"], "s"),
        node("ReduceSum", ["s"], "m", axes=(2, 3)),
        node("GlobalLpPool", ["s"], "p"),
    ]
    made = graph(nodes, ["p"])
    assert compiled(made, 8, columns=WIDE).sections[1].inplace == (0,)
    program = compiled(made, 8, strips=3, columns=WIDE)
    assert program.sections[1].strips is not None
    assert program.sections[1].inplace == ()
    plain = answers(compiled(made, 0, columns=WIDE))
    np.testing.assert_allclose(answers(program)["p"], plain["p"], rtol=1e-6)


def test_only_sections_that_need_it_have_strips() -> None:
    """The section behind the Resize needs more memory in its strips than the one before it in whole rows."""
    made = graph(ENLARGED, ["f"])
    program = compiled(made, 16, strips=2, columns=WIDE)
    small, large = program.sections
    assert (small.times, large.times) == (1, 2)
    assert small.nbytes <= large.nbytes
    np.testing.assert_array_equal(answers(program)["f"], answers(compiled(made, 0, columns=WIDE))["f"])


@pytest.mark.parametrize(
    "last",
    [
        node("Concat", ["a", "x"], "y", axis=3),
        node("Slice", ["a"], "y", starts=(-1,), ends=(-999,), axes=(3,), steps=(-1,)),
        node("Resize", ["a"], "y", scales=(1.0, 1.0, 1.0, 1.37)),
        node("Slice", ["a"], "y", starts=(0,), ends=(90,), axes=(3,)),
        node("MaxPool", ["a"], "y", kernel_shape=(1, 151)),
    ],
)
def test_some_nodes_allow_no_strips(last: Node) -> None:
    program = compiled(graph([CHAIN[0], last], ["y"]), 4, strips=2, columns=WIDE)
    assert program.strips == 1
    assert [section.strips for section in program.sections] == [None]
    plain = answers(compiled(graph([CHAIN[0], last], ["y"]), 0, columns=WIDE))
    np.testing.assert_array_equal(answers(program)["y"], plain["y"])
