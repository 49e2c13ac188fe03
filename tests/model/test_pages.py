"""Whole models in pages of 16 and 64 KiB, which a preloaded library simulates."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from subprocess import CompletedProcess

import numpy as np
import pytest
from numpy.typing import NDArray

from model import zoo
from model.test_tables import random, source
from streamrt.format import Segment, write
from streamrt.graph import Graph, Node, TensorSpec

RUN = """
import mmap, sys
import numpy as np
from streamrt import BudgetError, Model
from streamrt.ops.base import TABLE_AHEAD

path, io, page, folder = sys.argv[1], sys.argv[2], int(sys.argv[3]), sys.argv[4]
assert mmap.PAGESIZE == page
x = np.load(folder + "/x.npy")
with Model(path, io=io) as model:
    least = model.min_budget(x.shape)
    model.set_budget(least)
    answers = [model(x) for _ in range(2)]  # the second pass finds what the first has left
    plan, stats = model.plan, model.stats
    assert plan.granule % page == 0
    assert plan.streamed_bytes > 0
    assert stats.peak_weights + stats.workspace <= least
    if plan.by_index:  # each row that is read ahead lies in a page of its own
        assert plan.workspace >= TABLE_AHEAD * page
    try:
        model.set_budget(least - 1)
    except BudgetError:
        print("too little")
np.save(folder + "/y.npy", np.stack(answers))
print("table" if plan.by_index else "dense")
"""


@pytest.fixture(params=[(io, page) for io in ("mmap", "pread") for page in (16384, 65536)], ids="{0[0]}-{0[1]}".format)
def run(
    request: pytest.FixtureRequest,
    tmp_path: Path,
    run_python: Callable[..., CompletedProcess[str]],
    page_size: Callable[[int], dict[str, str]],
) -> Callable[..., NDArray[np.float32]]:
    """Computes a model twice at its least budget: ``run(path, x, kind)``."""
    io, page = request.param

    def run(path: Path, x: NDArray[np.generic], kind: str) -> NDArray[np.float32]:
        np.save(tmp_path / "x.npy", x)
        result = run_python(RUN, path, io, page, tmp_path, **page_size(page))
        assert result.stdout == f"too little\n{kind}\n", result.stderr
        return np.load(tmp_path / "y.npy")

    return run


def test_dense_layers(small: zoo.Packed, run: Callable[..., NDArray[np.float32]]) -> None:
    x = zoo.random_input(3, 64)
    for y in run(small.path, x, "dense"):
        zoo.assert_close(y, small.answer(x))


def test_an_embedding(tmp_path: Path, run: Callable[..., NDArray[np.float32]]) -> None:
    table, w, ids = random(20_000, 64), random(1000, 64), np.random.default_rng(3).integers(0, 20_000, (2, 9))
    nodes = (
        Node("embed", "Gather", ("table", "ids"), ("rows",)),
        Node("matrix", "MatMul", ("rows", "w"), ("y",), {"transB": 1}),
    )
    graph = Graph((TensorSpec("ids", ("N", 9), "int64"),), (TensorSpec("y", ("N", 9, 1000)),), nodes)
    path = tmp_path / "m.safetensors"
    write(path, graph, [Segment([source("table", table)]), Segment([source("w", w)])])
    wanted = table[ids].astype(np.float64) @ w.T.astype(np.float64)
    for y in run(path, ids, "table"):
        zoo.assert_close(y, wanted)
