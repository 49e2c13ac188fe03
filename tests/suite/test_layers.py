"""The benchmark of layers: which node counts for which layer, and the arithmetic of its tables."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

import streamrt
from bench import report
from bench.layers import figures, graph, matching, measure, table
from bench.models import Source
from bench.peers import NodeTimes, Profiled, onnxruntime, openvino
from bench.process.job import Job
from bench.record import Record

MACHINE = {
    "processor": "A Processor", "identity": "model 17", "instructions": ["avx2", "fma"], "cores": 2, "memory": 24 << 30,
    "kernel": "6.1", "filesystem": "ext4", "swap": 0, "virtual": False, "python": "3.11.7",
}  # fmt: skip
SHARED: Record = {
    "at": "2026-01-02T03:04:05+00:00", "quick": False, "machine": MACHINE, "versions": {"streamrt": "0.1.0"},
    "commit": "0123456789ab", "checkout_installed": True,
}  # fmt: skip
#: A convolution with its activation, a view that takes no time, and a dense layer.
LAYERS = [
    {
        "name": "conv", "op": "Conv + Relu", "shape": [1, 4, 8, 8], "multiply_adds": 2e9, "bytes": 3 << 20,
        "names": {"conv": True, "c": True, "relu": False, "r": False},
    },
    {"name": "flat", "op": "Flatten", "shape": [1, 256], "multiply_adds": 0, "bytes": 0, "names": {"flat": False}},
    {
        "name": "fc", "op": "Gemm", "shape": [1, 10], "multiply_adds": 1e9, "bytes": 1 << 20,
        "names": {"fc": True, "y": True},
    },
]  # fmt: skip
OWNERS = matching.owners(LAYERS)


# ---- which layer a node counts for


@pytest.mark.parametrize(
    ("names", "layer"),
    [
        (["conv"], 0),
        (["r"], 0),  # the tensor that an activation computes
        (["unknown", "fc"], 2),
        (["flat", "fc"], 2),  # a product before others
        (["relu", "flat"], 0),  # else the first
        (["fc", "conv"], 2),
        (["reorder"], None),
        ([], None),
    ],
)
def test_the_layer_of_a_node(names: list[str], layer: int | None) -> None:
    assert matching.layer_of(names, OWNERS) == layer


def test_nodes_of_one_layer_add_up_and_unknown_nodes_are_other() -> None:
    nodes = [node(1, "conv"), node(2, "relu"), node(4, "fc"), node(8, "reorder"), node(16, "reorder_1")]
    assert matching.matched(nodes, OWNERS) == ({0: 3, 2: 4}, 24)


def node(seconds: float, *names: str) -> dict[str, Any]:
    return {"names": list(names), "op": "Op", "seconds": seconds}


def test_a_name_counts_for_the_first_layer_that_has_it() -> None:
    assert matching.owners([{"names": {"a": False}}, {"names": {"a": True, "b": True}}]) == {
        "a": (0, False), "b": (1, True),
    }  # fmt: skip


# ---- the layers of a packed model


def onnx_node(name: str, op: str, inputs: str, output: str) -> Any:
    return SimpleNamespace(name=name, op_type=op, input=inputs.split(), output=[output])


def test_nodes_between_the_inputs_and_outputs_of_a_layer_are_parts_of_it() -> None:
    """Of a residual block, whose first convolution has the name of its activation's output."""
    block = [
        onnx_node("conv1", "Conv", "x w1", "a"),
        onnx_node("relu1", "Relu", "a", "b"),
        onnx_node("conv2", "Conv", "b w2", "c"),
        onnx_node("", "Add", "c x", "d"),
        onnx_node("relu2", "Relu", "d", "y"),
    ]
    layers = [
        SimpleNamespace(name="conv1", inputs=("x", "w1"), outputs=("b",)),
        SimpleNamespace(name="conv2", inputs=("b", "w2", "", "x"), outputs=("y",)),
    ]
    assert graph.onnx_names(layers, block) == [
        {"relu1": False, "b": False, "conv1": True, "a": True},
        {"relu2": False, "y": False, "d": False, "conv2": True, "c": True},
    ]


def test_a_layer_with_a_new_name_of_its_output_is_found_by_its_own_name() -> None:
    nodes = [onnx_node("conv1", "Conv", "x w1", "a"), onnx_node("conv2", "Conv", "a w2", "y")]
    layers = [
        SimpleNamespace(name="conv1", inputs=("x", "w1"), outputs=("a.1",)),
        SimpleNamespace(name="conv2", inputs=("a.1", "w2"), outputs=("y",)),  # it cannot take what is taken
    ]
    assert [set(names) for names in graph.onnx_names(layers, nodes)] == [{"conv1", "a"}, {"conv2", "y"}]


def test_the_layers_of_a_network(tmp_path: Path) -> None:
    """Every ONNX node counts for one layer, and a folded node for the layer that computes it."""
    source = small_network(tmp_path)
    streamrt.pack(source.onnx, tmp_path / "packed")
    one, three = (graph.layers(source, tmp_path / "packed", batch) for batch in (1, 3))
    by_node = {name: layer["name"] for layer in one for name in layer["names"]}
    assert {"conv1", "bn1", "relu1", "conv2", "bn2", "add", "relu2", "pool", "flat", "fc"} <= by_node.keys()
    assert by_node["bn1"] == by_node["relu1"] == by_node["conv1"]
    assert by_node["bn2"] == by_node["add"] == by_node["relu2"] == by_node["conv2"] != by_node["conv1"]
    conv1, conv2, *_, fc = one
    assert (conv1["op"], conv1["shape"]) == ("Conv + Relu", (1, 4, 8, 8))
    assert [conv1["multiply_adds"], conv2["multiply_adds"]] == [4 * 3 * 9 * 64, 4 * 4 * 9 * 64]
    assert fc["multiply_adds"] >= 40  # a layer that is no product may count other operations, too
    assert three[0]["multiply_adds"] == 3 * conv1["multiply_adds"]
    # Weights and bias, the input and the output. The second convolution adds its own input, which counts once.
    assert conv1["bytes"] == 4 * (4 * 3 * 9 + 4 + 3 * 64 + 4 * 64)
    assert conv2["bytes"] == 4 * (4 * 4 * 9 + 4 + 2 * 4 * 64)


def small_network(folder: Path) -> Source:
    """A residual block and a classifier."""
    onnx = pytest.importorskip("onnx")
    from onnx import helper, numpy_helper

    random = np.random.default_rng(0)

    def weight(name: str, *shape: int) -> Any:
        return numpy_helper.from_array(random.random(shape, np.float32) + 0.5, name)

    statistics = ("scale", "bias", "mean", "var")
    nodes = [
        helper.make_node("Conv", ["x", "w1"], ["a"], "conv1", pads=[1] * 4),
        helper.make_node("BatchNormalization", ["a", *statistics], ["b"], "bn1"),
        helper.make_node("Relu", ["b"], ["c"], "relu1"),
        helper.make_node("Conv", ["c", "w2"], ["d"], "conv2", pads=[1] * 4),
        helper.make_node("BatchNormalization", ["d", *statistics], ["e"], "bn2"),
        helper.make_node("Add", ["e", "c"], ["f"], "add"),
        helper.make_node("Relu", ["f"], ["g"], "relu2"),
        helper.make_node("GlobalAveragePool", ["g"], ["h"], "pool"),
        helper.make_node("Flatten", ["h"], ["i"], "flat"),
        helper.make_node("Gemm", ["i", "w3", "b3"], ["y"], "fc", transB=1),
    ]
    weights = [weight("w1", 4, 3, 3, 3), weight("w2", 4, 4, 3, 3), weight("w3", 10, 4), weight("b3", 10)]
    weights += [weight(name, 4) for name in statistics]
    x = helper.make_tensor_value_info("x", onnx.TensorProto.FLOAT, ("n", 3, 8, 8))
    y = helper.make_tensor_value_info("y", onnx.TensorProto.FLOAT, ("n", 10))
    made = helper.make_graph(nodes, "small", [x], [y], weights)
    onnx.save(helper.make_model(made, opset_imports=[helper.make_opsetid("", 17)], ir_version=8), folder / "model.onnx")
    unused: Any = None
    return Source("small", "cnn", folder, (3, 8, 8), (), unused, unused)


# ---- times of peers


def test_nodes_of_a_profile_of_onnx_runtime() -> None:
    """The first run is left out, and so are events that are not of nodes."""

    def event(name: str, microseconds: int, index: int, cat: str = "Node") -> dict[str, Any]:
        return {"cat": cat, "name": name, "dur": microseconds, "args": {"op_name": "Conv", "node_index": str(index)}}

    events = [event("model_run", 999, 0, "Session")]
    for run in (100, 1, 2):
        events += [
            event("fused conv_fence_before", 9, 0),
            event("fused conv_kernel_time", run, 0),
            event("r_nchwc_kernel_time", 10 * run, 1),
            event("twice_kernel_time", run, 2),
            event("twice_kernel_time", 3 * run, 3),
        ]
    found = onnxruntime.node_times(events)
    assert [(it.names, it.op) for it in found] == [
        (("fused conv", "conv"), "Conv"), (("r_nchwc", "r"), "Conv"), (("twice",), "Conv"), (("twice",), "Conv"),
    ]  # fmt: skip
    assert [it.seconds for it in found] == [pytest.approx([factor * 1e-6, factor * 2e-6]) for factor in (1, 10, 1, 3)]


def test_names_of_openvino_are_shortened() -> None:
    assert openvino._names("a/b/WithoutBiases") == ["a/b/WithoutBiases", "a/b", "a"]
    assert openvino._names("conv") == ["conv"]


def test_passes_and_what_is_kept_of_each() -> None:
    """The first pass is kept, too, so that a peer can subtract it."""
    calls: list[int] = []

    def run(x: Any) -> Any:
        calls.append(x)
        return len(calls)

    def nodes(kept: Sequence[int]) -> list[NodeTimes]:
        assert kept == [1, 2, 3, 4]
        return [NodeTimes(("a",), "Op", [0.0] * 3)]

    profiled = Profiled(run, lambda: len(calls), nodes)
    times, found, y = measure.passes(profiled, np.zeros(1), Job("profile", "", least_passes=3, seconds=0.0))
    assert len(times) == 3
    assert all(seconds > 0 for seconds in times)
    assert (found[0].names, y) == (("a",), 4)


def test_time_between_nodes_is_that_of_each_pass() -> None:
    a, b = NodeTimes(("a",), "A", [1.0, 2.0, 3.0]), NodeTimes(("b",), "B", [5.0, 4.0, 9.0])
    found = measure.summary([7.0, 6.5, 20.0], [a, b])
    assert found["between"] == 1.0  # of 1, 0.5 and 8
    assert [(it["names"], it["op"], it["seconds"]) for it in found["nodes"]] == [(("a",), "A", 2.0), (("b",), "B", 5.0)]


def test_time_between_nodes_whose_means_alone_are_known() -> None:
    found = measure.summary([7.0, 8.0, 12.0], [NodeTimes(("a",), "A", [6.0]), NodeTimes(("b",), "B", [2.5])])
    assert found["between"] == pytest.approx(9.0 - 8.5)


# ---- figures and tables


def timing(
    peer: str, median: float, nodes: Sequence[dict[str, Any]] = (), *, threads: int = 2, status: str = "ok"
) -> Record:
    """A pass that is timed with its nodes, or without if there are none."""
    steady = {"lower": median - 0.001, "median": median, "upper": median + 0.002}
    values: Mapping[str, Any] = {"steady": steady} | ({"between": 0.004, "nodes": list(nodes)} if nodes else {})
    case = {"kind": "profile" if nodes else "passes"}
    fields = {"status": status, "reason": "", "values": values if status == "ok" else {}}
    return SHARED | {"kind": "timing", "peer": peer, "threads": threads, "case": case} | fields


def peak(value: float | None, threads: int = 2) -> Record:
    fields = {"threads": threads, "status": "ok", "reason": "", "values": {"value": value}}
    return SHARED | {"kind": "limit", "peer": "fma"} | fields


def ours(conv: float, fc: float) -> list[dict[str, Any]]:
    return [node(conv, "conv"), node(0.0, "flat"), node(fc, "fc")]


def described() -> Record:
    return SHARED | {"kind": "layers", "model": "small", "batch": 1, "layers": LAYERS}


def rows(text: str) -> list[list[list[str]]]:
    """The cells of each table: rows without the rule below the header."""
    found: list[list[list[str]]] = []
    for block in text.split("\n\n"):
        if block.startswith("| "):
            lines = [[cell.strip() for cell in line.strip("|").split("|")] for line in block.splitlines()]
            found.append([lines[0], *lines[2:]])
    return found


def test_figures_are_medians_over_the_rounds() -> None:
    records = [timing("streamrt", 0.1 + 0.1 * it, ours(0.02 * it, 0.01)) for it in (1, 2, 5)]
    records += [timing("streamrt", it) for it in (0.3, 0.1)]
    (found,) = figures.contenders(records, LAYERS).values()
    assert found.layers == {0: 0.04, 1: 0.0, 2: 0.01}
    assert (found.other, found.between) == (0.0, 0.004)
    assert found.inside == pytest.approx(0.05)
    assert (found.profiled.lower, found.profiled.median, found.profiled.upper) == pytest.approx((0.299, 0.3, 0.302))
    assert found.plain
    assert found.plain.median == pytest.approx(0.2)


def test_our_own_layers_go_by_their_own_names() -> None:
    """Even if an ONNX node of another layer has such a name."""
    layers = [dict(LAYERS[0], names={"fc": True}), LAYERS[2]]
    found = figures.contenders([timing("streamrt", 1.0, [node(0.5, "conv"), node(0.25, "fc")])], layers)
    assert found["streamrt", 2].layers == {0: 0.5, 1: 0.25}


def test_a_table() -> None:
    theirs = [node(0.03, "r"), node(0.006, "reorder")]
    records = [
        described(),
        *(peak(value) for value in (200e9, 300e9, 250e9)),
        timing("streamrt", 0.045),
        timing("streamrt", 0.05, ours(0.02, 0.02)),
        timing("A", 0.05, theirs),
    ]
    text = table.report(records)
    assert text.startswith("# Layers of small, batch 1\n\nA Processor, 2 cores")
    assert "Commit `0123456789ab`" in text
    assert "Processor: model 17, avx2, fma." in text
    assert "## 2 threads: the peak is 300.0 GFLOP/s" in text
    (found,) = rows(text)
    header, *lines = found
    assert header[:5] == ["layer", "operator", "output", "G multiply-adds", "MiB"]
    assert header[5:] == ["streamrt", "GFLOP/s", "of the peak", "A", "÷ streamrt"]
    assert lines == [
        ["conv", "Conv + Relu", "1x4x8x8", "2.000", "3.00", "20.000", "200.0", "67%", "30.000", "1.50"],
        ["fc", "Gemm", "1x10", "1.000", "1.00", "20.000", "100.0", "33%", "-", "-"],
        ["other", "", "", "", "", "-", "", "", "6.000", "-"],
        ["**sum**", "", "", "3.000", "4.00", "40.000", "150.0", "50%", "36.000", "0.90"],
        ["between", "", "", "", "", "4.000", "", "", "4.000", "1.00"],
        ["profiled", "", "", "", "", "50.000 (49.000 - 52.000)", "", "", "50.000 (49.000 - 52.000)", "1.00"],
        ["**pass**", "", "", "", "", "45.000 (44.000 - 47.000)", "", "", "-", "-"],
    ]


def test_the_way_between_processors_of_each_contender() -> None:
    records = [described(), timing("streamrt", 0.05, ours(0.02, 0.02)), timing("A", 0.05, [node(0.03, "r")])]
    says = "From core to core, in ns: "
    assert says not in table.report(records)
    records[1]["hops"], records[2]["hops"] = [50e-9, 52e-9], [190e-9, None]
    alone = timing("streamrt", 0.08, ours(0.05, 0.02), threads=1)
    assert table.report([*records, alone]).count(says) == 1
    assert f"{says}streamrt 51 (50 - 52); A 190.\n\n## 1 thread" in table.report([*records, alone])


def test_the_share_of_the_peak_of_another_instruction_set() -> None:
    records = [
        described(), peak(4e11), {**peak(3e11), "peer": "fma avx2"}, {**peak(2e11), "peer": "fma avx2"},
        timing("streamrt", 0.05, ours(0.02, 0.02)), timing("streamrt avx2", 0.08, ours(0.03, 0.02)),
    ]  # fmt: skip
    text = table.report(records)
    assert text.endswith(
        "streamrt avx2 computes 120.0 GFLOP/s in the sum of its layers, 40% of the peak of its vectors, 300.0 GFLOP/s."
    )
    assert text.count("streamrt avx2 computes") == 1
    assert "GFLOP/s in the sum of its layers." in table.report(
        [record for record in records if record.get("peer") != "fma avx2"]
    )


def test_a_second_number_of_threads_is_compared_with_the_first() -> None:
    records = [
        described(), peak(4e11), peak(None, 1),
        timing("streamrt", 0.05, ours(0.02, 0.02)), timing("streamrt", 0.08, ours(0.05, 0.02), threads=1),
    ]  # fmt: skip
    text = table.report(records)
    assert "## 2 threads: the peak is 400.0 GFLOP/s" in text
    assert "## 1 thread\n" in text
    two, one = rows(text)
    assert "÷ 2 threads" not in two[0]
    assert [row[two[0].index("of the peak")] for row in two[1:3]] == ["50%", "25%"]
    assert [row[one[0].index("of the peak")] for row in one[1:3]] == ["", ""]  # no compiler, no peak
    assert [row[one[0].index("÷ 2 threads")] for row in one[1:]] == ["2.50", "1.00", "-", "1.75", "1.00", "1.60", "-"]


def test_failures_are_told_and_have_no_column() -> None:
    records = [
        described(),
        SHARED | {"kind": "skip", "peer": "B", "status": "skipped", "reason": "not installed: b"},
        timing("streamrt", 0.05, ours(0.02, 0.02)),
        timing("A", 0.05, [node(0.03, "r")], status="wrong"),
    ]
    text = table.report(records)
    assert "Not measured: B: not installed: b." in text
    assert "Failed: A: wrong." in text
    assert "A" not in rows(text)[0][0]


def test_without_the_layers_there_is_no_table() -> None:
    with pytest.raises(ValueError, match="the layers of the model are not among the results"):
        table.report([timing("streamrt", 0.05, ours(0.02, 0.02))])


def test_a_report_writes_a_page_for_each_model(tmp_path: Path) -> None:
    """Without other results there is no page of all cases, and an interrupted run has no page."""
    records = [described(), peak(1e12), timing("streamrt", 0.01, ours(0.004, 0.002))]
    for name, lines in (("layers-small", records), ("layers-other.partial", records[1:])):
        (tmp_path / f"{name}.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    assert report.write(tmp_path, None) == [tmp_path / "layers-small.md"]
    assert (tmp_path / "layers-small.md").read_text() == table.report(records) + "\n"
    assert report._led_to([tmp_path / "layers-small.md"]).endswith("\n[small](layers-small.md)\n")
    assert report._led_to([]) == ""
