"""Few bytes that stand for many messages, and shapes of many axes, are refused before they are parsed."""

from __future__ import annotations

import tracemalloc
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import streamrt
from convert.support import check, integers, make_model, onnx, random
from streamrt.convert.limits import Limits
from streamrt.convert.onnx.size import count_file, count_model

node = onnx.helper.make_node
COUNT = 30_000


def varint(number: int) -> bytes:
    found = b""
    while number >= 128:
        found += bytes([number & 127 | 128])
        number >>= 7
    return found + bytes([number])


def field(number: int, data: bytes) -> bytes:
    return varint(number << 3 | 2) + varint(len(data)) + data


def plain() -> Any:
    return make_model([node("Relu", ["x"], ["y"], name="r")])


def in_model(number: int) -> bytes:
    return bytes(plain().SerializeToString()) + field(number, b"") * COUNT


def in_graph(number: int) -> bytes:
    model = plain()
    graph = model.graph.SerializeToString()
    model.ClearField("graph")
    return bytes(model.SerializeToString()) + field(7, graph + field(number, b"") * COUNT)


def in_node(data: bytes) -> bytes:
    model = plain()
    graph = model.graph.SerializeToString()
    model.ClearField("graph")
    last = node("Relu", ["y"], ["z"], name="last").SerializeToString()
    return bytes(model.SerializeToString()) + field(7, graph + field(1, last + data))


PARTS: dict[str, Callable[[], bytes]] = {
    "nodes": lambda: in_graph(1),
    "initializers": lambda: in_graph(5),
    "inputs": lambda: in_graph(11),
    "outputs": lambda: in_graph(12),
    "sparse initializers": lambda: in_graph(15),
    "functions": lambda: in_model(25),
    "sets of operators": lambda: in_model(8),
    "names": lambda: in_node(field(1, b"") * 3 * COUNT),
    "attributes": lambda: in_node(field(5, b"") * COUNT),
    "graphs": lambda: in_node(field(5, field(1, b"a") + field(11, b"") * COUNT)),
    "tensors": lambda: in_node(field(5, field(1, b"a") + field(10, b"") * COUNT)),
    "integers": lambda: in_node(field(5, field(1, b"a") + b"\x40\x00" * 3 * COUNT)),
    "packed integers": lambda: in_node(field(5, field(1, b"a") + field(8, bytes(3 * COUNT)))),
    "texts": lambda: in_node(field(5, field(1, b"a") + field(9, b"") * 3 * COUNT)),
    "unknown": lambda: in_graph(1000) + in_node(b"\x80\x7d\x00" * 5 * COUNT),
}
#: Cases that are refused only in a file: the lists of a parsed model have no unknown fields.
_ONLY_FILE = ("unknown",)


@pytest.mark.parametrize("case", PARTS)
def test_many_parts(case: str, tmp_path: Path) -> None:
    data = PARTS[case]()
    sources: list[Any] = [tmp_path / "model.onnx"]
    sources[0].write_bytes(data)
    if case not in _ONLY_FILE:
        sources.append(onnx.ModelProto.FromString(data))
    for source in sources:
        tracemalloc.start()
        try:
            with pytest.raises(streamrt.FormatError, match=r"nodes, lists and names .*max_memory="):
                streamrt.pack(source, tmp_path / "out", max_memory="256KiB")
            _, peak = tracemalloc.get_traced_memory()
        finally:
            tracemalloc.stop()
        assert peak < 4 << 20
    assert not (tmp_path / "out").exists()


def test_counting_takes_time(tmp_path: Path) -> None:
    path = tmp_path / "model.onnx"
    path.write_bytes(in_graph(16))
    with pytest.raises(streamrt.FormatError, match="max_seconds="):
        streamrt.pack(path, tmp_path / "out", max_seconds=1e-6)


def test_parts_that_packing_leaves_out(tmp_path: Path) -> None:
    """Documentation, metadata and inferred shapes take no memory."""
    model = make_model([node("Gemm", ["x", "w"], ["y"])], {"w": random(3, 4)}, inputs={"x": ("N", 3)})
    model.doc_string = model.graph.doc_string = model.graph.node[0].doc_string = "about"
    model.metadata_props.add(key="a", value="b")
    model.graph.node[0].metadata_props.add(key="a", value="b")
    for index in range(2000):
        model.graph.value_info.append(onnx.helper.make_tensor_value_info(f"v{index}", 1, [1, 2, 3]))
    check(model, tmp_path)
    data = memoryview(model.SerializeToString())
    for count in (lambda: count_file(data), lambda: count_model(model)):
        with Limits(1).in_force():
            count()


def ranked(place: str, rank: int) -> Any:
    model = plain()
    tensor = onnx.TensorProto(name="w", data_type=onnx.TensorProto.FLOAT, dims=[2**40] * rank)
    match place:
        case "initializer":
            model.graph.initializer.append(tensor)
        case "input":
            model.graph.input[0].name = model.graph.node[0].input[0] = "x" * 5000
            del model.graph.input[0].type.tensor_type.shape.dim[:]
            for _ in range(rank):
                model.graph.input[0].type.tensor_type.shape.dim.add()
        case "sparse":
            model.graph.sparse_initializer.add(dims=[2**40] * rank)
        case "attribute":
            model = make_model(
                [node("ConstantOfShape", ["s"], ["c"], value=tensor), node("Add", ["x", "c"], ["y"])],
                {"s": integers(3)},
            )
        case _:
            model = make_model([node("Constant", [], ["c"], value=tensor), node("Add", ["x", "c"], ["y"])])
    return model


@pytest.mark.parametrize("rank", [33, 20_000])
@pytest.mark.parametrize("place", ["initializer", "input", "sparse", "attribute", "constant"])
def test_too_many_axes(place: str, rank: int, tmp_path: Path) -> None:
    model = ranked(place, rank)
    path = tmp_path / "model.onnx"
    path.write_bytes(model.SerializeToString())
    for source in (path, model):
        tracemalloc.start()
        try:
            with pytest.raises(streamrt.FormatError, match="axes"):
                streamrt.pack(source, tmp_path / "out")
            _, peak = tracemalloc.get_traced_memory()
        finally:
            tracemalloc.stop()
        assert peak < 8 << 20


def test_an_input_with_more_axes_than_operators_take(tmp_path: Path) -> None:
    with pytest.raises(streamrt.FormatError, match=r"input .* has 9 axes, expected no more than 8"):
        streamrt.pack(ranked("input", 9), tmp_path / "out")
