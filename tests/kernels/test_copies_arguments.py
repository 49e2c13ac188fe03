"""Arrays that cannot be copied are refused when they are bound."""

from __future__ import annotations

import sys
from typing import Any

import numpy as np
import pytest

from streamrt import _core

as_strided = np.lib.stride_tricks.as_strided


@pytest.fixture(autouse=True)
def isa() -> None:
    """Run each test once: arguments are checked before the instruction set matters."""


def floats(*shape: int) -> np.ndarray:
    return np.ones(shape, np.float32)


X = floats(4, 6)
Y = floats(12)
READ_ONLY = floats(6)
READ_ONLY.setflags(write=False)
CASES: dict[str, tuple[Any, Any, str]] = {
    "shapes": (floats(3, 4), floats(4, 3), "expected the same"),
    "axes": (floats(3, 1), floats(3), "expected the same"),
    "a source to broadcast": (floats(3, 4), floats(1, 4), "expected the same"),
    "types": (floats(3), np.ones(3, np.int32), "expected one"),
    "sizes": (floats(3), np.ones(3, np.float64), "expected one"),
    "small values": (np.ones(3, np.int16), np.ones(3, np.int16), "expected values of 4 or 8"),
    "complex values": (np.ones(3, np.complex64), np.ones(3, np.complex64), "expected values of 4 or 8"),
    "the other order of bytes": (np.ones(3, ">f4"), np.ones(3, ">f4"), "expected values of 4 or 8"),
    "alignment": (floats(3), np.zeros(13, np.uint8)[1:].view(np.float32), "not aligned"),
    "alignment of the target": (np.zeros(13, np.uint8)[1:].view(np.float32), floats(3), "not aligned"),
    "strides": (floats(2), as_strided(floats(9), (2,), (6,)), "whole words"),
    "strides of the target": (as_strided(floats(9), (2,), (6,)), floats(2), "whole words"),
    "a target of one element": (as_strided(floats(1), (3,), (0,)), floats(3), "must not overlap"),
    "a target that overlaps itself": (as_strided(floats(9), (3, 3), (8, 4)), floats(3, 3), "must not overlap"),
    "a target of words that overlap": (as_strided(np.ones(9, np.int64), (3,), (4,)), np.ones(3, np.int64), "overlap"),
    "the same array": (X, X, "overlaps the source"),
    "parts that overlap": (Y[:7], Y[5:12], "overlaps the source"),
    "backwards": (Y[6::-1], Y[11:4:-1], "overlaps the source"),
    "one element of a repeated source": (Y[:7], as_strided(Y[6:], (7,), (0,)), "overlaps the source"),
    "17 axes": (floats(*(2,) * 17), floats(*(2,) * 17).transpose(), "at most 16 axes"),
}


@pytest.mark.parametrize("name", CASES)
def test_arrays_that_do_not_fit(name: str) -> None:
    target, source, message = CASES[name]
    before = [sys.getrefcount(array) for array in (target, source)]
    good = (floats(2), floats(2))
    with pytest.raises(ValueError, match=message):
        _core.Copies([good, (target, source), good])
    assert [sys.getrefcount(array) for array in (target, source)] == before


def test_a_target_that_is_read_only() -> None:
    with pytest.raises((ValueError, BufferError), match="read-only"):
        _core.Copies([(READ_ONLY, floats(6))])
    y = floats(6)
    _core.Copies([(y, READ_ONLY)])(0, 1)


@pytest.mark.parametrize("pairs", [None, 3, [3], [(floats(2),)], [(floats(2), None)], [("a", "b")]])
def test_what_is_no_list_of_pairs(pairs: Any) -> None:
    with pytest.raises((TypeError, ValueError)):
        _core.Copies(pairs)


def test_parts_that_touch_are_copied() -> None:
    memory = np.arange(12, dtype=np.float32)
    _core.Copies([(memory[:6], memory[6:])])(0, 1)
    np.testing.assert_array_equal(memory[:6], np.arange(6, 12))
    _core.Copies([(memory[5::-1], memory[:5:-1])])(0, 1)
    np.testing.assert_array_equal(memory[:6], np.arange(6, 12))


def test_axes_of_one_element_do_not_count() -> None:
    shape = (2, 1, 3) + (1,) * 17
    x, y = np.arange(6, dtype=np.float32).reshape(shape), floats(*shape)
    _core.Copies([(y, x)])(0, 1)
    np.testing.assert_array_equal(x, y)
    x, y = np.arange(2**16, dtype=np.float32).reshape((2,) * 16), floats(*(2,) * 16)
    _core.Copies([(y, x.transpose())])(0, 1)
    np.testing.assert_array_equal(y, x.transpose())


def test_arrays_are_released() -> None:
    x, y = floats(2), floats(2)
    before = sys.getrefcount(x), sys.getrefcount(y)
    kernel = _core.Copies([(y, x)])
    assert (sys.getrefcount(x), sys.getrefcount(y)) > before
    del kernel
    assert (sys.getrefcount(x), sys.getrefcount(y)) == before


def test_integers_that_are_aligned_to_4_bytes() -> None:
    memory = np.arange(9, dtype=np.int32)
    x, y = memory[1:].view(np.int64), np.empty(4, np.int64)
    _core.Copies([(y, x)])(0, 1)
    np.testing.assert_array_equal(x, y)
    _core.Copies([(memory[1:5].view(np.int64)[::-1], y[2:])])(0, 1)
    np.testing.assert_array_equal(memory[1:5].view(np.int64), y[:1:-1])
