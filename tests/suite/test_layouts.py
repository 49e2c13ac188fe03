"""The benchmark of layouts: its changes fit the kernels, blocks of rows, and the arithmetic of its tables."""

from __future__ import annotations

import subprocess
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from bench.layouts import blocks, measure, table
from bench.layouts.operands import Operands, has_few_tiles
from bench.layouts.shapes import NETWORKS, Shape
from bench.record import Record

SHARED: Record = {
    "at": "2026-01-02T03:04:05+00:00", "versions": {"numpy": "2"}, "commit": "0123456789ab", "checkout_installed": True,
    "machine": {
        "processor": "A Processor", "identity": "model 17", "instructions": ["avx2"], "cores": 2, "memory": 24 << 30,
        "kernel": "6.1", "filesystem": "ext4", "swap": 0, "virtual": False, "python": "3.11.7",
    },
}  # fmt: skip


def test_changes_fit_the_kernels(checkout: Path) -> None:
    """If this fails: the kernels have changed, and `bench.layouts.blocks` must follow them."""
    for file in {change.file for change in blocks.CHANGES}:
        blocks.changed(file, (checkout / "src" / "kernels" / file).read_text(), blocks.CHANGES)


def test_changed_kernels_are_c(checkout: Path, tmp_path: Path) -> None:
    """A compiler accepts them. What they compute is compared with float64 by every run of the command."""
    from bench.layouts import library

    folder = tmp_path / "src"
    library.write(folder, blocks.CHANGES)
    for name in ("scalar", "avx2", "avx512"):
        source = folder / "kernels" / "simd" / f"{name}.c"
        subprocess.run([*library.compiler(), *library.FLAGS, f"-I{folder}", "-fsyntax-only", str(source)], check=True)


@pytest.mark.parametrize("texts", ["", "twice twice"])
def test_a_change_whose_text_is_not_there_once_is_refused(texts: str) -> None:
    with pytest.raises(ValueError, match="expected once"):
        blocks.changed("a.h", texts, (blocks.Change("a.h", "twice", "once"),))


def test_a_change_of_another_file_is_left_out() -> None:
    assert blocks.changed("a.h", "one", (blocks.Change("b.h", "one", "two"), blocks.Change("a.h", "o", "O"))) == "One"


@pytest.mark.parametrize("rows", [1, 11, 12, 13, 24, 40])
def test_blocks_of_rows(rows: int) -> None:
    weights = np.arange(rows * 5, dtype=np.float32).reshape(rows, 5)
    laid = blocks.in_blocks(weights)
    assert laid.shape == (weights.size,)
    for row in range(rows):
        top = row // blocks.ROWS * blocks.ROWS
        height = min(blocks.ROWS, rows - top)
        block = laid[top * 5 : (top + height) * 5].reshape(5, height)
        np.testing.assert_array_equal(block[:, row - top], weights[row])


def test_products_of_networks() -> None:
    """ResNet-50 has 4.09e9 multiply-adds; MobileNetV2 has 0.30e9, of which depthwise layers have 0.02e9."""
    sums = {name: sum(shape.count * shape.multiply_adds for shape in shapes) for name, shapes in NETWORKS.items()}
    assert sums["resnet50"] == pytest.approx(4.089e9, rel=0.002)
    assert sums["mobilenet_v2"] == pytest.approx(0.281e9, rel=0.01)
    layers = {name: sum(shape.count for shape in shapes) for name, shapes in NETWORKS.items()}
    assert layers["resnet50"] == 54
    assert layers["mobilenet_v2"] == 36


def test_the_size_of_an_output() -> None:
    assert [Shape(3, 64, 224, 7, 2).output, Shape(8, 8, 7, 3, 2).output, Shape(8, 8, 7, 3).output] == [112, 4, 7]
    assert (Shape(8, 4).output, Shape(8, 4).multiply_adds) == (1, 32)


def test_few_tiles() -> None:
    assert has_few_tiles(Shape(8, 8, 7, 3), 2)
    assert not has_few_tiles(Shape(8, 8, 7, 3), 3)


@pytest.mark.parametrize("shape", [Shape(5, 13, 6, 3, 2), Shape(5, 13, 6), Shape(20, 13)])
def test_the_answer_in_float64(shape: Shape) -> None:
    """The error of the right answer is 0, and that of another is not."""
    operands = Operands.of(shape, 2)
    if shape.size:
        x, k, stride = operands.x[1].astype(np.float64), shape.kernel, shape.stride
        padded = np.pad(x, ((0, 0), (k // 2, k // 2), (k // 2, k // 2)))
        windows = np.lib.stride_tricks.sliding_window_view(padded, (k, k), (1, 2))[:, ::stride, ::stride]
        right = np.einsum("chwij,ocij->ohw", windows, operands.w.reshape(shape.outputs, shape.channels, k, k))
        right += operands.bias[:, None, None]
    else:
        right = operands.x @ operands.w.T.astype(np.float64) + operands.bias
    operands.y[-1 if shape.size else slice(None)] = np.maximum(right, 0)
    assert operands.error() < 1e-6
    operands.y[-1] += 1
    assert operands.error() > 1e-3


def test_samples_are_laid_out_for_their_kernel() -> None:
    operands = Operands.of(Shape(20, 13), 6)
    for most, shape in ((4, (6, 20)), (16, (6 * 32,))):
        layer, arrays = operands.layer("plain", 2, most)
        assert arrays[0].shape == shape
        assert (layer.n, layer.channels, layer.outputs, layer.size) == (6, 20, 13, 0)
    packed = arrays[0]
    np.testing.assert_array_equal(packed[:16], operands.x[0, :16])
    np.testing.assert_array_equal(packed[16:32], operands.x[1, :16])  # the group's next sample
    np.testing.assert_array_equal(packed[64:80], np.pad(operands.x[0, 16:], (0, 12)))
    wide = Operands.of(Shape(20, 13), 9)
    arrays = wide.layer("blocks", 2, 16)[1]
    np.testing.assert_array_equal(arrays[0][:, :9], wide.x.T)
    assert not arrays[0][:, 9:].any()


def line(plain: list[float], blocked: list[float], count: int = 1, **fields: Any) -> Record:
    shape = {"count": count}
    usual = {"kind": "layout", "network": "net", "name": "1x1", "batch": 1, "isa": "avx2", "threads": 1, "error": 1e-7}
    return SHARED | usual | {"shape": shape, "plain": plain, "blocks": blocked, "winograd": False} | fields


def test_the_ratio_is_that_of_neighbouring_turns() -> None:
    times = measure.Times(False, (1.0, 10.0, 2.0), (0.5, 6.0, 1.4), (0.8, 0.4), 0.0)
    assert times.ratio == pytest.approx((0.5, 0.6, 0.7))
    assert times.least == pytest.approx(0.5)


def test_a_table() -> None:
    records = [
        line([2.0] * 5, [1.0] * 5, count=2),
        line([2.0] * 5, [3.0] * 5, name="3x3", winograd=True),
        line([2.0] * 5, [2.0] * 5, batch=4),
        line([2.0] * 5, [2.0] * 5, isa="avx512"),
    ]
    text = table.report(records)
    assert "## avx2, 1 thread\n" in text
    assert "| net: 1x1 | 0.50 (0.50 - 0.50) | 1.00 (1.00 - 1.00) |" in text
    assert "| net: 3x3 | 1.50 (1.50 - 1.50) W | - |" in text
    assert "| **net, all products** | **0.83** | **1.00** |" in text  # (2 x 1 + 3) / (2 x 2 + 2)
    assert "## avx512, 1 thread\n" in text


def test_no_table_without_products() -> None:
    with pytest.raises(ValueError, match="no product"):
        table.report([])
