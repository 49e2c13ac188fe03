"""The limits of a header: counts that are checked before they cost time or memory, and errors that name the node."""

from __future__ import annotations

import json
import time
import tracemalloc
from pathlib import Path
from typing import Any

import pytest

from format.attacks.make import Draft
from streamrt.engine.planner import Planner
from streamrt.engine.programs import Programs
from streamrt.errors import BudgetError, FormatError
from streamrt.format import read_header
from streamrt.format.header import from_json
from streamrt.graph import Graph, Node, TensorSpec
from streamrt.host.rates import Rates
from streamrt.plan import Extent, NodeWeights, all_weights
from streamrt.plan.tiling import smallest_tiling
from streamrt.program import arena
from streamrt.program.arena import Block
from streamrt.program.compile import compile_program

MIB = 1 << 20
RATES = Rates(disk=2e9, memory=2e10, flops=1e11)


def opened(path: Path, graph: Any) -> Any:
    draft = Draft(graph=graph, data=b"")
    draft.tensors = {}
    path.write_bytes(draft.build())
    return read_header(path)


def node(index: int, op: str, inputs: list[str], outputs: list[str], **attrs: Any) -> dict[str, Any]:
    return {"name": f"n{index}", "op": op, "inputs": inputs, "outputs": outputs, "attrs": attrs}


def graph(nodes: list[dict[str, Any]], outputs: list[str], dims: Any = ("N", 4)) -> dict[str, Any]:
    return {
        "inputs": [{"name": "x", "dims": ["N", 4]}],
        "outputs": [{"name": name, "dims": list(dims)} for name in outputs],
        "nodes": nodes,
    }


@pytest.mark.parametrize(
    ("nodes", "reason"),
    [
        ([node(0, "Relu", ["x"], ["y0"])] * 10_001, "graph.nodes: 10001 entries, more than the 10000 allowed"),
        (
            [node(i, "Concat", ["x"] * 4096, [f"y{i}"], axis=1) for i in range(13)],
            "node 'n12': 53248 inputs of all nodes up to this one, more than the 50000 allowed",
        ),
        (
            [node(i, "Split", ["x"], [f"y{i}_{j}" for j in range(4096)], split=[1]) for i in range(5)],
            "node 'n4': 20480 outputs of all nodes up to this one, more than the 20000 allowed",
        ),
        (
            [node(i, "Gather", ["x"], [f"y{i}"], indices=[1] * 4096) for i in range(65)],
            "node 'n64': 266240 numbers in attributes of all nodes up to this one, more than the 262144 allowed",
        ),
    ],
    ids=["nodes", "inputs", "outputs", "numbers"],
)
def test_a_graph_of_too_many_parts_is_refused(tmp_path: Path, nodes: list[dict[str, Any]], reason: str) -> None:
    with pytest.raises(FormatError, match=reason):
        opened(tmp_path / "model.safetensors", graph(nodes, ["y0"]))


@pytest.mark.parametrize("atom", ["[]", "{}", '{"a":{}}', '"ab"', "[[]]"])
def test_text_of_too_many_values_is_not_parsed(tmp_path: Path, atom: str) -> None:
    text = ",".join([atom] * (800_001 // (1 + sum(map(atom.count, "{[:")))))
    path = tmp_path / "model.safetensors"
    path.write_bytes(Draft(graph=f"[{text}]").build())
    tracemalloc.start()
    try:
        with pytest.raises(FormatError, match="braces, brackets, colons and commas, more than 800000 allowed"):
            read_header(path)
        assert tracemalloc.get_traced_memory()[1] < 5 * path.stat().st_size
    finally:
        tracemalloc.stop()


def test_the_keys_of_an_object_take_the_most_for_each_mark() -> None:
    text = "{" + ",".join(f'"{i:x}":0' for i in range(40_000)) + "}"
    tracemalloc.start()
    try:
        from_json(text, "this", numbers="any")
        assert tracemalloc.get_traced_memory()[1] < 120 * sum(map(text.count, "{[:,"))
    finally:
        tracemalloc.stop()


def test_a_large_network_opens(tmp_path: Path) -> None:
    names = [f"/model/layers.{i}/mlp/projection/Relu_output_{i}" for i in range(5000)]
    nodes = [
        node(i, "Clip", [names[i - 1] if i else "x"], [name], min=0.0, max=float(i + 1)) for i, name in enumerate(names)
    ]
    file = opened(tmp_path / "model.safetensors", graph(nodes, [names[-1]]))
    planner = Planner(Programs(file), None, RATES)
    planner.check()
    assert planner.prepare(file.graph, {"x": (1, 4)}).program.workspace == 64


@pytest.mark.parametrize("op", ["Neg", "Sin", "NonZero", "Not", "CumSum"])
def test_values_computed_from_sizes_take_little_memory(op: str) -> None:
    numbers = [
        node(i, "Constant", [], [name], value=[n], shape=[])
        for i, (name, n) in enumerate(zip("abc", (0, 2**22, 1), strict=True))
    ]
    chain = [node(3 + i, op, [f"v{i}", *["a"] * (op == "CumSum")], [f"v{i + 1}"]) for i in range(50)]
    made = graph([*numbers, node(99, "Range", ["a", "b", "c"], ["v0"]), *chain], ["v50"], dims=(2**22,))
    tracemalloc.start()
    try:
        with pytest.raises(FormatError, match="a value computed from sizes would have 4194304 elements"):
            compile_program(Graph.from_json(made), {}, {"x": (1, 4)})
        assert tracemalloc.get_traced_memory()[1] < 128 * MIB
    finally:
        tracemalloc.stop()


@pytest.mark.parametrize("dims", [[2**39] * 8, [2**39, 2**21]])
def test_an_unread_input_that_is_too_large(tmp_path: Path, dims: list[int]) -> None:
    made = graph([node(0, "Relu", ["x"], ["y"])], ["y"])
    made["inputs"].append({"name": "unread", "dims": dims})
    with pytest.raises(FormatError, match=r"graph.inputs\[1\] \('unread'\): extents .* fewer than 2\*\*40 elements"):
        opened(tmp_path / "model.safetensors", made)


@pytest.mark.parametrize("shape", [(2**40,) * 8, (2**40, 2**20), (1,) * 9, (0, 4)])
def test_shapes_of_an_unread_input_that_are_too_large(shape: tuple[int, ...]) -> None:
    specs = TensorSpec("x", ("N", 4)), TensorSpec("unread", tuple("abcdefghi"[: len(shape)]))
    made = Graph(specs, (TensorSpec("y", ("N", 4)),), (Node("relu", "Relu", ("x",), ("y",)),))
    with pytest.raises(FormatError, match="input 'unread' has"):
        compile_program(made, {}, {"x": (1, 4), "unread": shape})


def test_inputs_that_are_joined_are_compared_a_few_times_each() -> None:
    compared = 0

    class Name(str):
        __slots__ = ()
        __hash__ = str.__hash__

        def __eq__(self, other: object) -> bool:
            nonlocal compared
            compared += 1
            return str.__eq__(self, other)  # type: ignore[arg-type]

    count = 512
    relus = [Node(f"n{i}", "Relu", ("x",), (f"r{i}",)) for i in range(count)]
    join = Node("join", "Concat", tuple(Name(f"r{i}") for i in range(count)), ("y",), {"axis": 1})
    made = Graph((TensorSpec("x", (1, 4)),), (TensorSpec("y", (1, 4 * count)),), (*relus, join))
    compile_program(made, {}, {"x": (1, 4)})
    assert compared < 20 * count


@pytest.mark.parametrize("last", [30_000, 0], ids=["all alive at the end", "each alive alone"])
def test_the_most_blocks_of_a_graph_are_placed_in_time(last: int) -> None:
    """A graph has up to 20,000 outputs of nodes and 10,000 blocks of scratch. Placing them takes 1 to 2 s at most."""
    count = 30_000
    start = time.process_time()
    offsets, total = arena.arrange([Block(100, i, max(i, last)) for i in range(count)])
    assert time.process_time() - start < 10
    assert total == (count if last else 1) * 128
    assert len(set(offsets)) == (count if last else 1)


@pytest.fixture
def compiled(monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """Shapes for which programs are compiled."""
    found: list[Any] = []

    def counted(made: Graph, params: Any, inputs: Any, **kwargs: Any) -> Any:
        found.append(dict(inputs))
        return compile_program(made, params, inputs, **kwargs)

    monkeypatch.setattr("streamrt.engine.programs.compile_program", counted)
    return found


def test_a_call_beyond_its_budget_is_refused_at_once(tmp_path: Path, compiled: list[Any]) -> None:
    file = opened(tmp_path / "model.safetensors", graph([node(0, "Exp", ["x"], ["y"])], ["y"]))
    planner = Planner(Programs(file), 63, RATES)
    with pytest.raises(BudgetError, match="63 bytes is too small: 64 bytes of activations") as caught:
        planner.prepare(file.graph, {"x": (2**20, 4)})
    assert caught.value.minimum == 64
    assert len(compiled) <= 3


def test_a_large_batch_is_divided_in_few_steps(tmp_path: Path, compiled: list[Any]) -> None:
    file = opened(
        tmp_path / "model.safetensors", graph([node(0, "ReduceMax", ["x"], ["y"], axes=[1])], ["y"], ["N", 1])
    )
    assert Planner(Programs(file), 1 << 12, RATES).prepare(file.graph, {"x": (2**20, 4)}).plan.micro_batch == 128
    assert len(compiled) <= 10


@pytest.mark.parametrize(
    ("nodes", "inputs", "tried"),
    [(5000, 1, 0), (1025, 1, 0), (1024, 1, 4), (2, 4000, 3), (64, 400, 1), (2, 1, 12)],
)
def test_few_programs_in_bands_are_tried_for_a_large_graph(
    tmp_path: Path, compiled: list[Any], nodes: int, inputs: int, tried: int
) -> None:
    """Nodes and inputs of all bands are bounded, so that a call beyond its budget is refused within 2 s."""
    op = "Max" if inputs > 1 else "Relu"
    made = [node(i, op, [f"y{i - 1}" if i else "x"] * inputs, [f"y{i}"]) for i in range(nodes)]
    file = opened(tmp_path / "model.safetensors", graph(made, [f"y{nodes - 1}"], ["N", 1, 2**14, 1]))
    planner = Planner(Programs(file), 63, RATES)
    start = time.process_time()
    with pytest.raises(BudgetError) as caught:
        planner.prepare(file.graph, {"x": (1, 1, 2**14, 1)})
    assert time.process_time() - start < 2
    assert len(compiled) <= 4 + tried  # four programs of whole activations
    assert caught.value.minimum == planner.min_budget(file.graph, {"x": (1, 1, 2**14, 1)})


def test_a_large_graph_is_not_tried_with_every_size(tmp_path: Path, compiled: list[Any]) -> None:
    nodes = [node(i, "Relu", ["x"], [f"y{i}"]) for i in range(9000)]
    nodes.append(node(9000, "Reshape", ["x"], ["z"], shape=[7, 7, 7]))
    file = opened(tmp_path / "model.safetensors", graph(nodes, ["y0"]))
    Planner(Programs(file), None, RATES).check()
    assert len(compiled) <= 2


@pytest.mark.parametrize("count", [64, 100, 1000])
def test_weights_that_many_nodes_read_are_cut_into_few_tiles(count: int) -> None:
    size = 1 << 30
    reader = NodeWeights(whole=(), tiled=(Extent(0, size),), rows=2**14, row_step=1, seconds=1e-3, call_rows=0)
    assert smallest_tiling([reader] * count).tile_bytes * 2**16 >= count * size
    assert all_weights([reader] * count, size, huge=False) == size


def test_a_pass_that_reads_too_much_is_refused(tmp_path: Path) -> None:
    side = 2**14
    nodes = [node(i, "MatMul", [f"y{i - 1}" if i else "x", "w"], [f"y{i}"], transB=1) for i in range(1100)]
    made = graph(nodes, ["y1099"], ["N", side])
    made["inputs"][0]["dims"][1] = side
    begin, size = 2 * MIB - 2**18, 4 * side**2
    draft = Draft(graph=json.dumps(made), data=b"")
    draft.metadata = {"streamrt.block_size": str(2**26), "streamrt.block_crc32c": "0" * 8 * 17}
    draft.tensors = {
        "streamrt.pad.0": {"dtype": "U8", "shape": [begin], "data_offsets": [0, begin]},
        "w": {"dtype": "F32", "shape": [side, side], "data_offsets": [begin, begin + size]},
    }
    head = draft.build()
    begin = 2 * MIB - len(head)
    draft.tensors["streamrt.pad.0"] |= {"shape": [begin], "data_offsets": [0, begin]}
    draft.tensors["w"]["data_offsets"] = [begin, begin + size]
    path = tmp_path / "model.safetensors"
    with path.open("wb") as out:
        out.write(draft.build())
        out.truncate(2 * MIB + size)  # a hole
    file = read_header(path)
    with pytest.raises(FormatError, match=r"node 'n1024': up to here a pass reads .* more than 2\*\*40"):
        Planner(Programs(file), 1000, RATES).prepare(file.graph, {"x": (1, side)})
