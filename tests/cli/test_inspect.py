"""``streamrt inspect`` on a terminal: its text fits, and names keep both ends. Elsewhere nothing is cut."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from cli.terminal import on_terminal
from kernels.isas import NUMPY, using
from model.test_again import SHAPE, gated
from model.test_bands import unet
from streamrt import _core
from streamrt.cli.inspection import inspect_model
from streamrt.format import Segment, Source, read_header, write
from streamrt.graph import Graph, Node, TensorSpec

NAME = "model.backbone.stages.{}.blocks.depthwise_convolution_with_a_name"


@pytest.fixture(scope="module")
def path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model whose names are longer than a terminal."""
    tensors = ["x", *(f"{NAME.format(index)}.output_tensor_0" for index in range(2)), "y"]
    nodes, segments = [], []
    for index in range(3):
        name = NAME.format(index)
        weight = np.full((64, 64), 0.1, np.float32)
        nodes.append(Node(name, "Gemm", (tensors[index], f"{name}.weight"), (tensors[index + 1],)))
        segments.append(Segment([Source(f"{name}.weight", weight.shape, lambda weight=weight: iter([weight]))]))
    dest = tmp_path_factory.mktemp("a folder with a name " + "of many words " * 6) / "model.safetensors"
    ends = [TensorSpec(name, ("batch", 64)) for name in "xy"]
    write(dest, Graph((ends[0],), (ends[1],), tuple(nodes)), segments)
    return dest


@pytest.mark.parametrize("columns", [60, 80, 100, 132])
def test_the_table_fits_into_the_terminal(path: Path, columns: int) -> None:
    out = on_terminal("inspect", path, "--budget", "64KiB", stream="stdout", columns=columns)
    lines = out.split("\n")
    assert max(map(len, lines)) <= columns
    rows = lines[1:4]
    assert [row.split()[0][0] for row in rows] == ["m", "m", "m"]
    assert all(".." in row.split()[0] and row.split()[0].endswith("e") for row in rows)
    assert all("64x64" in row for row in rows) or columns == 60
    assert "(65536 bytes)" in out


def test_names_are_shortened_no_more_than_necessary(path: Path) -> None:
    found = inspect_model(path)
    whole = max(map(len, found.to_text().split("\n")))
    assert found.to_text(whole) == found.to_text()
    for width in range(70, whole, 10):
        text = found.to_text(width)
        longest = max(map(len, text.split("\n")))
        assert longest <= width
        assert longest > width - 30
    assert ".." not in found.to_text()


def test_nothing_is_cut_in_a_pipe(path: Path) -> None:
    command = [sys.executable, "-m", "streamrt", "inspect", str(path)]
    done = subprocess.run(command, capture_output=True, text=True, check=True, env=os.environ | {"COLUMNS": "40"})
    assert done.stdout == f"{inspect_model(path)}\n"
    assert f"{NAME.format(2)}.weight 64x64" in done.stdout


def test_bands_have_a_line(tmp_path: Path) -> None:
    path = unet(tmp_path / "model", "nearest", 96, 24, (8, 16))
    with using("scalar" if _core.isa() == NUMPY else _core.isa()):
        whole = inspect_model(path)
        found = inspect_model(path, whole.min_budget)
    assert "in bands" not in str(whole)
    assert whole.to_json()["plan"]["bands"] == []
    (bands,) = found.plan.bands
    names = found.layers[0].name, found.layers[-1].name
    assert f"in bands         {names[0]} to {names[1]}: {bands.count} bands, " in str(found)
    expected = {"first": 0, "last": len(found.layers), "count": bands.count, "nbytes": bands.nbytes, "strips": 1}
    assert found.to_json()["plan"]["bands"] == [expected]
    assert sum(layer.tiles for layer in found.layers) == len(found.plan.tiles) > bands.count


def test_strips_are_named(tmp_path: Path) -> None:
    path = unet(tmp_path / "model", "nearest", 16, 800, (8, 16))
    with using("scalar" if _core.isa() == NUMPY else _core.isa()):
        found = inspect_model(path, inspect_model(path).min_budget)
    (bands,) = found.plan.bands
    assert bands.strips > 1
    assert f": {bands.count} bands in each of {bands.strips} strips of columns, " in str(found)
    assert found.to_json()["plan"]["bands"][0]["strips"] == bands.strips
    assert sum(layer.tiles for layer in found.layers) == bands.strips * len(found.plan.tiles)
    read = sum(layer.streamed for layer in found.layers)  # padding between parameters is read, too
    assert 0.8 * found.plan.streamed_bytes < read <= found.plan.streamed_bytes


def test_whole_tensors_between_sections_are_named(tmp_path: Path) -> None:
    path = gated(tmp_path / "model")
    plane = 4 * SHAPE[2] * SHAPE[3]
    with using("scalar" if _core.isa() == NUMPY else _core.isa()):
        whole = inspect_model(path)
        found = inspect_model(path, whole.min_budget)
    assert "held between" not in str(whole)
    assert whole.to_json()["plan"]["held_between"] == 0
    held = found.held
    # 8 channels of the tensor between two blocks, and gates. The next one may have the memory of the first.
    assert 8 * plane <= held.nbytes < 9 * plane
    assert {each.nbytes for each in held.tensors[:2]} == {8 * plane}
    # So each byte of the workspace is accounted for, but for what aligns tensors.
    largest = max(bands.nbytes for bands in found.plan.bands)
    assert 0 <= found.plan.workspace - held.nbytes - largest < 4096
    names = ", ".join(f"{each.name} 240 KiB" for each in held.tensors[:2])
    assert f"held between     sections: at most 240 KiB of whole tensors ({names}, " in str(found)
    assert ", some in the same memory)" in str(found)
    assert found.to_json()["plan"]["held_between"] == held.nbytes


def test_layers_that_run_again_are_counted_once(tmp_path: Path) -> None:
    path = gated(tmp_path / "model")
    with using("scalar" if _core.isa() == NUMPY else _core.isa()):
        found = inspect_model(path, inspect_model(path).min_budget)
    again = [layer for layer in found.layers if layer.again]
    assert again
    assert all(layer.name.endswith("(run 2)") for layer in again)
    count = len(read_header(path).graph.nodes)
    assert len(found.layers) == count + len(again)
    assert f" in {count} layers, {len(again)} of which run again\n" in str(found)
    assert [layer["again"] for layer in found.to_json()["layers"]] == [layer in again for layer in found.layers]
