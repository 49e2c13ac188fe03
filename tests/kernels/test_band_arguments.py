"""A band is checked before it runs: rows that are not in memory and strides that do not fit give ValueError."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from kernels.geometry import Geometry
from streamrt._core import (
    ACTIVATIONS,
    CONV_COLUMNS,
    AveragePool,
    Band,
    Convolution,
    Depthwise,
    MaxPool,
    MoveRows,
    Sliding,
    Window,
)

ACT = (ACTIVATIONS["Relu"], 0.0, 0.0)
WINDOW = Geometry((9, 5), (3, 3), (2, 1), pads=(1, 1, 1, 1)).window()


@pytest.fixture(autouse=True)
def isa() -> None:
    """Run each test once: arguments are checked before the instruction set matters."""


def ones(*shape: int) -> np.ndarray:
    return np.ones(shape, np.float32)


def kernels(rows_of_x: int, rows_of_y: int) -> list[Sliding]:
    """Each kernel, with arrays that have room for so many rows. The window reads 2 i - 1 to 2 i + 1 for row i."""
    x, y = ones(1, 2, rows_of_x, 5), ones(1, 2, rows_of_y, 5)
    return [
        Convolution(x, ones(2, 2, 3, 3), None, None, y, WINDOW, 1, ones(1, 18 * CONV_COLUMNS), *ACT),
        Depthwise(x, ones(2, 3, 3), None, y, WINDOW, *ACT),
        MaxPool(x, y, WINDOW),
        AveragePool(x, y, WINDOW, False),
    ]


@pytest.mark.parametrize(("rows_of_x", "rows_of_y"), [(8, 5), (10, 5), (9, 4), (9, 6), (0, 5), (9, 0)])
def test_a_kernel_with_some_rows_runs_in_bands_only(rows_of_x: int, rows_of_y: int) -> None:
    for kernel in kernels(9, 5):
        kernel(0, 1)
    for kernel in kernels(rows_of_x, rows_of_y):
        with pytest.raises(ValueError, match="or a Band"):
            kernel(0, 1)


def test_a_residual_with_some_rows() -> None:
    x, y, w, scratch = ones(1, 2, 9, 5), ones(1, 2, 5, 5), ones(2, 2, 3, 3), ones(1, 18 * CONV_COLUMNS)
    for rows in (0, 4, 6):
        kernel = Convolution(x, w, None, ones(1, 2, rows, 5), y, WINDOW, 1, scratch, *ACT)
        with pytest.raises(ValueError, match="residual has"):
            kernel(0, 2)
        if rows < 5:
            with pytest.raises(ValueError, match="residual has"):
                Band(kernel, 0, 5, (0, 9))
    for wrong in (ones(1, 2, 5, 6), ones(1, 3, 5, 5), ones(2, 5, 5)):
        with pytest.raises(ValueError, match="residual has"):
            Convolution(x, w, None, wrong, y, WINDOW, 1, scratch, *ACT)
    memory = ones(1, 2, 6, 5)
    with pytest.raises(ValueError, match="overlaps"):
        Convolution(x, w, None, memory[:, :, 1:], memory[:, :, :5], WINDOW, 1, scratch, *ACT)


@pytest.mark.parametrize(
    ("first", "last", "held", "at", "reason"),
    [
        (1, 3, (1, 6), {}, None),
        (1, 3, (0, 6), {"x": 1, "y": 2}, None),
        (4, 5, (7, 9), {"x": 5, "y": 3}, None),
        (1, 3, (2, 6), {}, "not in memory"),
        (1, 3, (1, 5), {}, "not in memory"),
        (4, 5, (8, 9), {}, "not in memory"),
        (0, 1, (1, 2), {}, "not in memory"),
        (-1, 3, (0, 6), {}, "lie in the output"),
        (3, 1, (0, 6), {}, "lie in the output"),
        (4, 6, (7, 9), {}, "lie in the output"),
        (0, 1, (-1, 2), {}, "lie in the input"),
        (4, 5, (7, 10), {}, "lie in the input"),
        (0, 0, (2, 1), {}, "lie in the input"),
        (1, 3, (1, 6), {"x": 3}, "x has 7 rows"),
        (1, 3, (0, 9), {}, "x has 7 rows"),
        (1, 3, (1, 6), {"x": -1}, "x has 7 rows"),
        (1, 3, (1, 6), {"x": 2**63 - 1}, "x has 7 rows"),
        (1, 3, (1, 6), {"y": 3}, "y has 4 rows"),
        (1, 3, (1, 6), {"y": -1}, "y has 4 rows"),
        (0, 5, (0, 9), {}, "rows"),
        (1, 3, (1, 6, 7), {}, "two rows"),
        (1, 3, (), {}, "two rows"),
    ],
)
def test_rows(first: int, last: int, held: Any, at: dict[str, int], reason: str | None) -> None:
    for kernel in kernels(7, 4):
        if reason is None:
            Band(kernel, first, last, held, **at)(0, 2)
        else:
            with pytest.raises(ValueError, match=reason):
                Band(kernel, first, last, held, **at)


def test_numbers_and_kernels_of_other_types() -> None:
    kernel = kernels(9, 5)[0]
    for wrong in ((0, 2**70), ("0", 9), (None, 9)):
        with pytest.raises((TypeError, OverflowError)):
            Band(kernel, 0, 5, wrong)  # type: ignore[arg-type]
    for other in (None, Band(kernel, 0, 5, (0, 9)), 1):
        with pytest.raises(TypeError):
            Band(other, 0, 5, (0, 9))  # type: ignore[arg-type]


def test_channels_out_of_range() -> None:
    for kernel in kernels(9, 5)[:2]:
        for first, last in ((-1, 1), (1, 0), (0, 3)):
            with pytest.raises(ValueError, match="range"):
                Band(kernel, 0, 5, (0, 9))(first, last)


def test_volumes_have_no_bands() -> None:
    window = Geometry((1, 4, 5), (1, 3, 3), pads=(0, 1, 1, 0, 1, 1)).window()
    x, y = ones(1, 2, 1, 4, 5), ones(1, 2, 1, 4, 5)
    for kernel in (Depthwise(x, ones(2, 1, 3, 3), None, y, window, *ACT), MaxPool(x, y, window)):
        kernel(0, 2)
        with pytest.raises(ValueError, match="volumes"):
            Band(kernel, 0, 4, (0, 4))
    for wrong in (ones(1, 2, 1, 5, 5), ones(1, 2, 1, 4, 10)[..., ::2], ones(1, 2, 1, 8, 5)[:, :, :, ::2]):
        with pytest.raises(ValueError, match=r"shape|contiguous"):
            MaxPool(wrong, y, window)


def strided(shape: tuple[int, ...], strides: tuple[int, ...]) -> np.ndarray:
    """An array with strides in elements."""
    memory = np.ones(4096, np.float32)
    return np.ndarray(shape, np.float32, memory, 4 * 1024, [4 * stride for stride in strides])


@pytest.mark.parametrize(
    ("strides", "right"),
    [
        ((90, 45, 5, 1), True),
        ((120, 60, 6, 1), True),
        ((0, 60, 5, 1), True),  # the stride of one sample does not matter
        ((0, 5, 10, 1), True),  # rows of both channels side by side
        ((0, 45, 5, 2), False),
        ((0, 45, 4, 1), False),
        ((0, 44, 5, 1), False),
        ((0, 45, -5, 1), False),
        ((0, -45, 5, 1), False),
        ((0, 0, 5, 1), False),
        ((0, 4, 10, 1), False),
        ((0, 5, 9, 1), False),
    ],
)
def test_strides(strides: tuple[int, ...], right: bool) -> None:
    scratch = ones(1, 18 * CONV_COLUMNS)
    for planes, rows in (("x", 9), ("y", 5)):
        array = strided((1, 2, rows, 5), strides)
        x, y = (array, ones(1, 2, 5, 5)) if planes == "x" else (ones(1, 2, 9, 5), array)
        binds: list[Any] = [
            lambda x=x, y=y: Convolution(x, ones(2, 2, 3, 3), None, None, y, WINDOW, 1, scratch, *ACT),
            lambda x=x, y=y: Depthwise(x, ones(2, 3, 3), None, y, WINDOW, *ACT),
            lambda x=x, y=y: MaxPool(x, y, WINDOW),
        ]
        for bind in binds:
            # the planes of 5 rows overlap less
            if right or (planes == "y" and strides in {(0, 44, 5, 1)}):
                bind()(0, 2)
            else:
                with pytest.raises(ValueError, match="rows"):
                    bind()


def test_samples_at_unequal_distances() -> None:
    x, y = strided((2, 3, 9, 5), (150, 45, 5, 1)), ones(2, 3, 5, 5)
    with pytest.raises(ValueError, match="equal distances"):
        MaxPool(x, y, WINDOW)
    MaxPool(strided((2, 3, 9, 5), (150, 50, 5, 1)), y, WINDOW)(0, 1)


def test_rows_that_lie_too_far_apart() -> None:
    memory = ones(8)
    window = Geometry((2, 1), (1, 1)).window()
    for strides in ((8, 2**40, 4), (2**62, 4, 4), (2**62, 2**40, 4)):
        far = np.lib.stride_tricks.as_strided(memory, (2, 2, 1), strides)
        with pytest.raises(ValueError, match=r"rows"):
            MaxPool(far, ones(2, 2, 1), window)


@given(st.data())
def test_rows_read(data: st.DataObject) -> None:
    """The rows that a band reads are those of its windows, from the first to the last that is not padding."""
    draw = data.draw
    kernel, stride, dilation = draw(st.integers(1, 5)), draw(st.integers(1, 4)), draw(st.integers(1, 3))
    before, behind, height = draw(st.integers(0, 9)), draw(st.integers(0, 9)), draw(st.integers(0, 12))
    most = max(0, (height + before + behind - 1) // stride + 1)
    rows = draw(st.integers(0, most))
    window = Window((kernel, 1), (stride, 1), (dilation, 1), (before, 0, behind, 0), (height, 4), (rows, 4))
    first = draw(st.integers(0, rows))
    last = draw(st.integers(first, rows))
    low = [o * stride - before for o in range(first, last)]
    reached = range(max(0, min(low)), min(height, max(low) + (kernel - 1) * dilation + 1)) if low else range(0)
    found = window.rows_read(first, last)
    assert 0 <= found[0] <= found[1] <= height
    assert range(*found) == reached
    if reached:
        x, y = ones(1, 1, len(reached), 4), ones(1, 1, last - first, 4)
        Band(MaxPool(x, y, window), first, last, found)(0, 1)
    with pytest.raises(ValueError, match="range"):
        window.rows_read(first, rows + 1)


def test_a_huge_window_reads_its_picture() -> None:
    huge = 2**30 - 1
    window = Window((huge, huge), (1, 1), (huge, huge), (huge, huge, huge, huge), (3, 40), (2, 40))
    assert window.rows_read(0, 2) == (0, 3)
    far = Window((2, 1), (huge, 1), (1, 1), (0, 0, huge, 0), (2, 4), (2, 4))
    assert far.rows_read(0, 1) == (0, 2)
    assert far.rows_read(1, 2) == (2, 2)
    y = ones(1, 1, 1, 4)
    Band(MaxPool(ones(1, 1, 0, 4), y, far), 1, 2, (2, 2))(0, 1)
    assert (y == -np.inf).all()


@pytest.mark.parametrize("gap", [0, 3])
def test_moving_rows(gap: int) -> None:
    memory = np.arange(2 * 3 * 9 * (4 + gap), dtype=np.float32).reshape(2, 3, 9, 4 + gap)
    expected, x = memory.copy(), memory[..., :4]
    for source, target, count in ((3, 1, 5), (8, 0, 1), (2, 2, 7), (4, 0, 0), (1, 0, 8)):
        expected[:, :, target : target + count, :4] = expected[:, :, source : source + count, :4].copy()
        MoveRows(x)(source, target, count)
        np.testing.assert_array_equal(memory, expected)
    for wrong in ((1, 2, 3), (3, 0, 7), (-1, -1, 1), (0, 0, -1), (0, -1, 1), (9, 9, 1)):
        with pytest.raises(ValueError, match="row"):
            MoveRows(x)(*wrong)
    for other in (memory[0, 0, 0], memory[..., ::2], x.astype(np.float64)):
        with pytest.raises(ValueError, match=r"axes|contiguous|format"):
            MoveRows(other)
