"""Embeddings of token ids: a pass reads the rows that it needs, and no others."""

from __future__ import annotations

import mmap
import os
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

import streamrt
from model import zoo
from streamrt.engine import tables
from streamrt.format import UNCODED, Coding, Segment, Source, encoded, read_header, write
from streamrt.graph import Graph, Node, TensorSpec
from streamrt.host.budget import format_size
from streamrt.ops import Operand, lower

ROWS, INNER, OUT = 60_000, 96, 256
ROW_BYTES = 4 * INNER
CODINGS = {
    "float32": UNCODED,
    "float16": Coding("F16"),
    "bfloat16": Coding("BF16"),
    "int8": Coding("int8"),
    "int4": Coding("int4", block=32),
}


def random(*shape: int, seed: int = 0) -> NDArray[np.float32]:
    return np.random.default_rng([seed, *shape]).standard_normal(shape, np.float32)


def source(name: str, array: Any, coding: Coding = UNCODED) -> Source:
    if array.dtype == np.int64:
        return Source(name, array.shape, lambda: iter([array.reshape(-1).view(np.uint8)]), Coding("I64"))
    return Source(name, array.shape, lambda: encoded(coding, name, array.shape, iter([array.reshape(-1)])), coding)


@pytest.fixture(scope="module")
def embedding(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    """The path of a model of ids (N, 9): rows of a table of 23 MB, times a matrix of 96 KiB, stored as a type."""
    folder = tmp_path_factory.mktemp("tables")

    def make(kind: str) -> Path:
        path = folder / f"{kind}.safetensors"
        if not path.exists():
            nodes = (
                Node("embed", "Gather", ("table", "ids"), ("rows",)),
                Node("matrix", "MatMul", ("rows", "w"), ("product",), {"transB": 1}),
                Node("last", "Relu", ("product",), ("y",)),
            )
            graph = Graph((TensorSpec("ids", ("N", 9), "int64"),), (TensorSpec("y", ("N", 9, OUT)),), nodes)
            table = source("table", random(ROWS, INNER), CODINGS[kind])
            write(path, graph, [Segment([table]), Segment([source("w", random(OUT, INNER, seed=1))])])
        return path

    return make


def some_ids(count: int = 4) -> NDArray[np.int64]:
    return np.random.default_rng(count).integers(-ROWS, ROWS, (count, 9))


def open_descriptors(path: Path) -> int:
    """How many descriptors of this process are of the file."""
    return sum(
        os.path.samestat(entry.stat(), path.stat()) for entry in Path("/proc/self/fd").iterdir() if entry.exists()
    )


@pytest.fixture
def counted(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """The bytes of each read of rows."""
    found: list[int] = []
    plain = os.preadv

    def preadv(fd: int, buffers: Any, offset: int) -> int:
        count = plain(fd, buffers, offset)
        found.append(count)
        return count

    monkeypatch.setattr(tables.os, "preadv", preadv)
    return found


@pytest.mark.parametrize("io", ["mmap", "pread"])
@pytest.mark.parametrize("verify", [None, "read"])
@pytest.mark.parametrize("kind", CODINGS)
def test_rows_are_those_of_the_table_in_memory(
    embedding: Callable[[str], Path], kind: str, verify: str | None, io: str
) -> None:
    ids = some_ids()
    with streamrt.Model(embedding(kind), budget=None) as model:
        expected = model(ids, ["rows", "y"])
        assert not model.plan.by_index
        assert model.plan.pinned_bytes > ROWS * INNER // 2
    with streamrt.Model(embedding(kind), "64MiB", io=io, verify=verify) as model:
        model.set_budget(model.min_budget(ids.shape))
        for _ in range(2):
            found = model(ids, ["rows", "y"])
            np.testing.assert_array_equal(found["rows"], expected["rows"])
            np.testing.assert_allclose(found["y"], expected["y"], rtol=1e-4, atol=1e-4)
        assert model.plan.by_index
        assert model.plan.total < 1 << 20
        if kind == "float32":
            np.testing.assert_array_equal(expected["rows"], random(ROWS, INNER)[ids])


def test_a_pass_reads_its_rows_alone(embedding: Callable[[str], Path], counted: list[int], tmp_path: Path) -> None:
    path, ids = tmp_path / "model", some_ids()
    path.write_bytes(embedding("float32").read_bytes())
    zoo.evict(path)
    table = read_header(path).tensors["table"]
    with streamrt.Model(path, "1MiB") as model:
        counted.clear()  # the header
        mapping = model._engine.mapping
        before = mapping.resident(table.offset + (2 << 20), table.nbytes - (4 << 20))  # not what lies beside the table
        model(ids)
        assert counted == [ROW_BYTES] * ids.size
        assert model.stats.bytes_by_index == ids.size * ROW_BYTES
        assert f"rows of tables {format_size(ids.size * ROW_BYTES)}" in str(model.stats)
        assert mapping.resident(table.offset + (2 << 20), table.nbytes - (4 << 20)) <= before
    with streamrt.Model(path, budget=None) as model:
        counted.clear()
        model(ids)
        assert counted == []
        assert model.stats.bytes_by_index == 0
        assert "rows of tables" not in str(model.stats)


def test_a_table_is_kept_in_memory_if_all_weights_are(embedding: Callable[[str], Path]) -> None:
    with streamrt.Model(embedding("float32"), "64MiB") as model:
        model(some_ids())
        assert not model.plan.by_index
        model.set_budget("1MiB")
        np.testing.assert_array_equal(model(some_ids(), ["rows"]), random(ROWS, INNER)[some_ids()])
        assert model.plan.by_index


@pytest.mark.parametrize("budget", ["1MiB", None])
@pytest.mark.parametrize("wrong", [ROWS, -ROWS - 1, 2**62])
def test_an_index_out_of_range(embedding: Callable[[str], Path], budget: str | None, wrong: int) -> None:
    good = some_ids()
    bad = good.copy()
    bad[1, 2] = wrong
    with streamrt.Model(embedding("float32"), budget) as model:
        expected = model(good)
        with pytest.raises(
            streamrt.InputError, match=rf"'embed' \(Gather\).*'ids'.* {wrong}, expected -60000 to 59999"
        ):
            model(bad)
        np.testing.assert_array_equal(model(good), expected)
        one, two = model.call_together([bad, good])
        assert isinstance(one, streamrt.InputError)
        np.testing.assert_allclose(two, expected, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("kind", ["float32", "int8"])
def test_damage_is_found_where_rows_are_read(embedding: Callable[[str], Path], kind: str, tmp_path: Path) -> None:
    path = tmp_path / "damaged"
    content = bytearray(embedding(kind).read_bytes())
    file = read_header(embedding(kind))
    table, block = file.tensors["table"], file.block_size
    row_bytes = table.nbytes // ROWS
    row = (file.data_offset + block - table.offset) // row_bytes + 10  # in the second block, which no edge is in
    content[table.offset + row * row_bytes] ^= 1
    path.write_bytes(content)
    ids = np.zeros((1, 9), np.int64)
    with streamrt.Model(path, "1MiB", verify="read") as model:
        if table.offset + table.nbytes > file.data_offset + 2 * block:
            expected = model(ids)
        ids[0, 3] = row + 1
        with pytest.raises(streamrt.WeightsIOError, match="are damaged"):
            model(ids)
        if table.offset + table.nbytes > file.data_offset + 2 * block:
            np.testing.assert_array_equal(model(np.zeros((1, 9), np.int64)), expected)
    with streamrt.Model(path, "1MiB") as model:
        model(ids)


def test_the_blocks_at_the_ends_of_a_table_are_checked(embedding: Callable[[str], Path], tmp_path: Path) -> None:
    """No range of the plan has all weights of these blocks."""
    path = tmp_path / "damaged"
    content = bytearray(embedding("float32").read_bytes())
    content[read_header(embedding("float32")).tensors["w"].offset] ^= 1
    path.write_bytes(content)
    with (
        streamrt.Model(path, "1MiB", verify="read") as model,
        pytest.raises(streamrt.WeightsIOError, match="are damaged"),
    ):
        model(np.zeros((1, 9), np.int64))


def test_a_file_that_is_cut_short(embedding: Callable[[str], Path], tmp_path: Path) -> None:
    path = tmp_path / "short"
    path.write_bytes(embedding("float32").read_bytes())
    tensor = read_header(path).tensors["table"]
    with streamrt.Model(path, "1MiB") as model:
        model(some_ids())
        os.truncate(path, tensor.offset + 1000 * ROW_BYTES)
        with pytest.raises(streamrt.WeightsIOError):
            model(np.full((1, 9), 2000))


def test_a_file_that_was_replaced_meanwhile(embedding: Callable[[str], Path], tmp_path: Path) -> None:
    path = tmp_path / "model"
    path.write_bytes(embedding("float32").read_bytes())
    file = read_header(path)
    path.unlink()
    path.write_bytes(embedding("float32").read_bytes())
    with pytest.raises(streamrt.WeightsIOError, match="replaced while it was being opened"):
        tables.Tables(file, verify=False)
    path.unlink()
    with pytest.raises(streamrt.WeightsIOError, match="No such file"):
        tables.Tables(file, verify=False)


def test_the_descriptor_is_closed(embedding: Callable[[str], Path]) -> None:
    path = embedding("float32")
    before = open_descriptors(path)
    with streamrt.Model(path, "1MiB") as model:
        model(some_ids())
        assert open_descriptors(path) > before
    assert open_descriptors(path) == before


def test_many_threads(embedding: Callable[[str], Path]) -> None:
    table, wrong = random(ROWS, INNER), []
    with streamrt.Model(embedding("float32"), "1MiB") as model:

        def call(seed: int) -> None:
            for turn in range(5):
                ids = np.random.default_rng([seed, turn]).integers(0, ROWS, (2, 9))
                if not np.array_equal(model(ids, ["rows"]), table[ids]):
                    wrong.append(seed)

        threads = [threading.Thread(target=call, args=(seed,)) for seed in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    assert not wrong


def test_a_pool_with_less_memory_than_the_table(embedding: Callable[[str], Path]) -> None:
    with streamrt.ModelPool("4MiB") as pool:
        pool.register("model", embedding("float32"))
        with pool.lease("model") as model:
            np.testing.assert_array_equal(model(some_ids(), ["rows"]), random(ROWS, INNER)[some_ids()])
            assert model.plan.by_index


def test_weights_that_a_product_reads_too(tmp_path: Path) -> None:
    """The output layer of a language model is often its table. The product streams it."""
    table = random(20_000, 64)
    nodes = (
        Node("embed", "Gather", ("table", "ids"), ("rows",)),
        Node("head", "MatMul", ("rows", "table"), ("y",), {"transB": 1}),
    )
    graph = Graph((TensorSpec("ids", ("N", 3), "int64"),), (TensorSpec("y", ("N", 3, 20_000)),), nodes)
    write(tmp_path / "tied", graph, [Segment([source("table", table)])])
    ids = np.random.default_rng(0).integers(0, 20_000, (2, 3))
    for io in ("mmap", "pread"):
        with streamrt.Model(tmp_path / "tied", "64MiB", io=io, verify="read") as model:
            model.set_budget(model.min_budget(ids.shape))
            for _ in range(2):
                np.testing.assert_allclose(model(ids), table[ids] @ table.T, rtol=1e-4, atol=1e-4)
            assert model.plan.by_index
            assert model.plan.streamed_bytes >= table.nbytes


def test_a_table_of_integers(tmp_path: Path) -> None:
    table = np.random.default_rng(5).integers(-(2**62), 2**62, (50_000, 8))
    nodes = (Node("embed", "Gather", ("table", "ids"), ("y",)),)
    graph = Graph((TensorSpec("ids", ("N",), "int64"),), (TensorSpec("y", ("N", 8), "int64"),), nodes)
    write(tmp_path / "m", graph, [Segment([source("table", table)])])
    ids = np.array([0, -1, 777, 49_999])
    with streamrt.Model(tmp_path / "m", "1MiB") as model:
        np.testing.assert_array_equal(model(ids), table[ids])
        assert model.plan.by_index


@pytest.mark.parametrize(("dtype", "size"), [("F32", 4), ("I64", 8)])
def test_the_budget_has_room_for_the_pages_of_the_rows(dtype: str, size: int) -> None:
    node = Node("embed", "Gather", ("table", "ids"), ("y",))
    lowered = lower(node, [Operand((1000, 5000), dtype, is_param=True), Operand((4,), "I64")])
    pages = (size * 5000 - 2) // mmap.PAGESIZE + 2  # of a row: the first and the last may have one byte of it
    assert lowered.scratch >= tables.TABLE_AHEAD * pages * mmap.PAGESIZE


def test_a_small_table_is_an_ordinary_weight(tmp_path: Path) -> None:
    nodes = (Node("embed", "Gather", ("table", "ids"), ("y",)),)
    graph = Graph((TensorSpec("ids", ("N",), "int64"),), (TensorSpec("y", ("N", 64)),), nodes)
    write(tmp_path / "m", graph, [Segment([source("table", random(2, 64))])])
    with streamrt.Model(tmp_path / "m", "64KiB") as model:
        np.testing.assert_array_equal(model(np.array([1, 0, -1])), random(2, 64)[[1, 0, -1]])
        assert not model.plan.by_index
