"""Weights in fewer bytes than float32: kernels give the same bits as with the float32 weights that they mean."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from coded import Example, examples, floats, integers
from kernels.calls import dense, dense_wide
from kernels.geometry import Geometry
from kernels.test_conv import scratch
from kernels.test_dense import columns, pack
from streamrt import _core
from streamrt._core import ACTIVATIONS, CONV_DEPTH, Coded, Convolution, Gemm, row_bytes

Floats = NDArray[np.float32]
NONE, RELU = (ACTIVATIONS["Identity"], 0.0, 0.0), (ACTIVATIONS["Relu"], 0.0, 0.0)


def named(example: Example) -> str:
    return f"{example.dtype}, block {example.block}, zero points {example.zeros}"


@pytest.mark.parametrize("inner", [1, 2, 7, 15, 16, 17, 33, 100, 255, 256, 257, 700])
def test_decoding(rng: np.random.Generator, inner: int) -> None:
    for example in examples(rng, (5, inner)):
        out = np.full((5, inner), np.nan, np.float32)
        example.coded.decode(0, 5, out)
        np.testing.assert_array_equal(out, example.values, named(example))
        example.coded.rows(1, 4).decode(1, 3, out[:2])
        np.testing.assert_array_equal(out[:2], example.values[2:4], named(example))


def test_every_float16_and_every_bfloat16() -> None:
    every = np.arange(2**16, dtype=np.uint16).reshape(16, -1)
    out = np.empty(every.shape, np.float32)
    Coded(every.view(np.uint8), "F16", every.shape).decode(0, 16, out)
    with np.errstate(invalid="ignore"):  # some processors raise the flag for a NaN
        expected = every.view(np.float16).astype(np.float32)
    np.testing.assert_array_equal(out, expected)
    assert (np.signbit(out) == (every >> 15 == 1)).all()
    Coded(every.view(np.uint8), "BF16", every.shape).decode(0, 16, out)
    np.testing.assert_array_equal(out, (every.astype(np.uint32) << 16).view(np.float32))


@pytest.mark.parametrize("rows", [1, 5, 13, 40])
@pytest.mark.parametrize("inner", [1, 15, 16, 33, 255, 257, 1040, 1500])
def test_products_with_few_samples(rng: np.random.Generator, rows: int, inner: int) -> None:
    for example in examples(rng, (rows, inner)):
        for batch in (1, 2, 3, 4, 7):
            x, bias = rng.normal(size=(batch, inner)).astype(np.float32), rng.normal(size=rows).astype(np.float32)
            y, expected = np.empty((batch, rows), np.float32), np.empty((batch, rows), np.float32)
            dense(example.coded, pack(x), y, bias, *RELU)
            dense(example.values, pack(x), expected, bias, *RELU)
            np.testing.assert_array_equal(y, expected, named(example))


@pytest.mark.parametrize("rows", [1, 8, 13, 24])
@pytest.mark.parametrize("inner", [1, 33, 127, 128, 130, 256, 300, 1040])
def test_products_with_up_to_sixteen_samples(rng: np.random.Generator, rows: int, inner: int) -> None:
    x, bias = rng.normal(size=(13, inner)).astype(np.float32), rng.normal(size=rows).astype(np.float32)
    for example in examples(rng, (rows, inner)):
        y, expected = np.full((13, rows), np.nan, np.float32), np.empty((13, rows), np.float32)
        dense_wide(example.coded, columns(x), y, bias, *RELU)
        dense_wide(example.values, columns(x), expected, bias, *RELU)
        np.testing.assert_array_equal(y, expected, named(example))


@pytest.mark.parametrize(("batch", "inner", "rows"), [(1, 40, 5), (17, 600, 31), (50, 1201, 60), (33, 1024, 29)])
def test_products_with_many_samples(rng: np.random.Generator, batch: int, inner: int, rows: int) -> None:
    x = rng.normal(size=(batch, inner)).astype(np.float32)
    panels, block = np.empty((2, 64 * min(inner, CONV_DEPTH)), np.float32), np.empty(batch * 9, np.float32)
    for example in examples(rng, (rows, inner)):
        found = []
        for w in (example.coded, example.values):
            y = np.full((batch, rows), np.nan, np.float32)
            gemm = Gemm(x, w, None, y, block, panels, *NONE)
            gemm(0, rows // 3)
            gemm(rows // 3, rows)
            found.append(y)
        np.testing.assert_array_equal(*found, named(example))


def convolve(w: Coded | Floats, x: Floats, geometry: Geometry, groups: int, columns: Floats, **more: Any) -> Floats:
    """The convolution in two calls, the first of which ends within a group."""
    outputs = w.shape[0]
    y = np.full((len(x), outputs, *geometry.output), np.nan, np.float32)
    kernel = Convolution(x, w, None, None, y, geometry.window(), groups, columns, *NONE, **more)
    kernel(0, outputs // 3)
    kernel(outputs // 3, outputs)
    return y


@pytest.mark.parametrize(
    ("geometry", "groups", "channels", "outputs"),
    [
        (Geometry((1, 1), (1, 1)), 1, 70, 30),
        (Geometry((7, 7), (1, 1)), 1, 1030, 37),
        (Geometry((5, 11), (3, 3), pads=(1, 1, 1, 1)), 1, 9, 33),
        (Geometry((14, 14), (1, 1)), 1, 512, 64),
        (Geometry((17, 19), (3, 3), (2, 2), pads=(1, 0, 1, 0)), 3, 5, 7),
        (Geometry((9, 41), (5, 3), pads=(2, 1, 2, 1)), 1, 40, 31),
        (Geometry((9, 127), (3, 3), (2, 2), pads=(1, 1, 1, 1)), 1, 3, 130),  # rows in phases
        (Geometry((4, 5, 7), (3, 3, 3), (1, 2, 1), pads=(1,) * 6), 2, 23, 17),
    ],
    ids=str,
)
def test_convolutions(rng: np.random.Generator, geometry: Geometry, groups: int, channels: int, outputs: int) -> None:
    x = rng.normal(size=(2, groups * channels, *geometry.input)).astype(np.float32)
    columns = scratch(geometry, channels, panels=3)
    for example in examples(rng, (groups * outputs, channels, *geometry.kernel)):
        y = convolve(example.coded, x, geometry, groups, columns)
        np.testing.assert_array_equal(y, convolve(example.values, x, geometry, groups, columns), named(example))


@pytest.mark.parametrize(
    ("n", "channels", "outputs", "extents"),
    [(1, 64, 64, (56, 56)), (2, 133, 37, (14, 15)), (1, 203, 201, (7, 7)), (1, 131, 203, (8, 6))],
)
def test_winograd(rng: np.random.Generator, n: int, channels: int, outputs: int, extents: tuple[int, int]) -> None:
    geometry = Geometry(extents, (3, 3), pads=(1, 1, 1, 1))
    x = rng.normal(size=(n, channels, *extents)).astype(np.float32)
    seat = _core.winograd_seat(n, channels, outputs, geometry.window())
    assert seat > 0
    columns = np.full((2, seat), np.nan, np.float32)
    for example in examples(rng, (outputs, channels, 3, 3)):
        y = convolve(example.coded, x, geometry, 1, columns, winograd=True)
        expected = convolve(example.values, x, geometry, 1, columns, winograd=True)
        np.testing.assert_array_equal(y, expected, named(example))


@pytest.mark.parametrize(("size", "channels", "outputs"), [(14, 384, 64), (7, 1152, 190)])
def test_long_sums_of_small_maps_by_two_threads(
    rng: np.random.Generator, size: int, channels: int, outputs: int
) -> None:
    geometry = Geometry((size, size), (1, 1))
    x, columns = rng.normal(size=(1, channels, size, size)).astype(np.float32), scratch(geometry, channels, 2, seats=4)
    sums = np.empty(_core.conv_sums(1, 1, channels, outputs, geometry.window()), np.float32)
    assert sums.size
    threads = _core.threads()
    try:
        for count in (1, 2):
            _core.set_threads(count)
            for example in examples(rng, (outputs, channels, 1, 1)):
                y = convolve(example.coded, x, geometry, 1, columns, sums=sums)
                expected = convolve(example.values, x, geometry, 1, columns, sums=sums)
                np.testing.assert_array_equal(y, expected, named(example))
    finally:
        _core.set_threads(threads)


def test_the_bytes_of_a_row() -> None:
    assert [row_bytes("F16", 7), row_bytes("BF16", 7)] == [14, 14]
    assert [row_bytes("int8", inner, 32) for inner in (0, 1, 32, 33)] == [0, 8, 36, 44]
    assert [row_bytes("int8", inner, 32, True) for inner in (0, 1, 32, 33)] == [0, 8, 40, 44]
    assert [row_bytes("int4", inner, 32) for inner in (0, 1, 15, 17, 32, 33)] == [0, 8, 20, 20, 20, 28]
    assert row_bytes("int8", 2**59 - 1, 1, True) == (2**59 - 1) * 6 + 2


@pytest.mark.parametrize(
    ("arguments", "reason"),
    [
        (("int9", 8, 8), "int9"),
        (("int8", -1, 8), "rows of -1"),
        (("int8", 2**59, 8), "2\\*\\*59"),
        (("int8", 8, 0), "blocks of 0"),
        (("F16", 8, 8), "no blocks"),
        (("BF16", 8, 0, True), "no zero points"),
    ],
)
def test_rows_that_cannot_be(arguments: tuple[Any, ...], reason: str) -> None:
    with pytest.raises(ValueError, match=reason):
        row_bytes(*arguments)


def test_coded_weights_that_cannot_be(rng: np.random.Generator) -> None:
    data = integers(rng, "int8", (4, 9)).data
    assert data.shape == (4, 16)
    for shape in ((), (4, 13), (5, 9), (-1, 9), (2**60, 9), (2**40, 2**30)):
        with pytest.raises(ValueError, match=r"expected"):
            Coded(data, "int8", shape)
    with pytest.raises(ValueError, match="aligned"):
        Coded(np.zeros(65, np.uint8)[1:], "int8", (4, 9))
    whole = Coded(data, "int8", (4, 3, 3))
    assert whole.reshape(4, 9).shape == (4, 9)
    for wrong in ((), (9, 4), (4, 8)):
        with pytest.raises(ValueError, match="the rows must stay"):
            whole.reshape(*wrong)
    for first, last in ((-1, 2), (3, 2), (0, 5)):
        with pytest.raises(ValueError, match="expected a range within 0 to 4"):
            whole.rows(first, last)
        with pytest.raises(ValueError, match="expected a range within 0 to 4"):
            whole.decode(first, last, np.empty((2, 9), np.float32))
    with pytest.raises(ValueError, match="out has shape"):
        whole.decode(0, 4, np.empty((4, 8), np.float32))


def test_weights_of_other_shapes_are_refused(rng: np.random.Generator) -> None:
    w, geometry = floats(rng, "F16", (4, 9)).coded, Geometry((5, 5), (3, 3))
    with pytest.raises(ValueError, match="w has 2 axes, expected 4"):
        Convolution(
            np.zeros((1, 1, 5, 5), "f"), w, None, None, np.zeros((1, 4, 3, 3), "f"), geometry.window(), 1,
            scratch(geometry, 1, 1), *NONE,
        )  # fmt: skip
    with pytest.raises(ValueError, match="x has shape"):
        dense(w, np.zeros((1, 32), "f"), np.zeros((1, 4), "f"), None, *NONE)
    y = np.frombuffer(bytearray(256), np.float32)[:4].reshape(1, 4)
    shared = Coded(y.view(np.uint8).reshape(-1), "F16", (4, 2))
    with pytest.raises(ValueError, match="overlaps"):
        dense(shared, np.zeros((1, 16), "f"), y, None, *NONE)
