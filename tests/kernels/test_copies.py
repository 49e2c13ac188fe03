"""Copies give what `numpy.copyto` gives, for any views, and write nothing beside their targets."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from streamrt import _core

#: A list of copies of so many words writes past the caches.
PAST = np.empty(2**23, np.float32)
WIDE = (PAST, np.broadcast_to(np.float32(3), PAST.shape))


@pytest.fixture(autouse=True)
def restore_threads() -> Iterator[None]:
    before = _core.threads()
    yield
    _core.set_threads(before)


def random_words(shape: tuple[int, ...], dtype: Any) -> NDArray[Any]:
    """Any bits, so also those of signalling NaNs. Views of them are copied as float32 or int64."""
    size = int(np.prod(shape)) * np.dtype(dtype).itemsize
    return np.random.default_rng(size).integers(0, 256, size, np.uint8).view(dtype).reshape(shape)


def bits(array: NDArray[Any]) -> NDArray[Any]:
    return array.view(np.uint32 if array.itemsize == 4 else np.uint64)


def check(pairs: list[tuple[NDArray[Any], NDArray[Any]]], memory: list[NDArray[Any]], past: bool = False) -> None:
    """Copy with both, and compare the whole ``memory`` of the targets."""
    before = [array.copy() for array in memory]
    for target, source in pairs:
        np.copyto(bits(target), bits(source))
    expected = [array.copy() for array in memory]
    for array, old in zip(memory, before, strict=True):
        array[...] = old
    if past:
        PAST[...] = 0
    _core.Copies([WIDE, *pairs] if past else pairs)(0, 1)
    for array, wanted in zip(memory, expected, strict=True):
        assert array.tobytes() == wanted.tobytes()
    assert not past or (PAST == 3).all()


def viewed(memory: NDArray[Any], order: list[int], steps: list[int], offset: int) -> NDArray[Any]:
    """A view of ``memory`` from element ``offset`` of its last axis on, with its axes in another order."""
    lying = memory[..., offset:].transpose(order)
    return lying[tuple(slice(None, None, step) for step in steps)]


@st.composite
def copy_cases(draw: st.DrawFn) -> tuple[NDArray[Any], NDArray[Any], NDArray[Any]]:
    """A target, the memory in which it lies, and a source."""
    dtype = draw(st.sampled_from([np.float32, np.int64]))
    count = draw(st.integers(0, 5))
    extents = draw(st.lists(st.sampled_from([1, 2, 3, 4, 5, 8, 9]), min_size=count, max_size=count))
    if count:
        extents[draw(st.integers(0, count - 1))] = draw(st.integers(1, 80))
    arrays = []
    for choices in ((1, 1, 1, 2, 3, -1, -2), (1, 1, 1, 2, 4, -1, -3, 0)):
        steps = [draw(st.sampled_from(choices)) for _ in extents]
        order = draw(st.permutations(range(count)))
        lying = [1 if step == 0 else (extent - 1) * abs(step) + 1 for extent, step in zip(extents, steps, strict=True)]
        place = [order.index(axis) for axis in range(count)]
        shape = [lying[axis] for axis in place]
        offset = draw(st.integers(0, 3)) if count else 0
        if count:
            shape[-1] += offset
        memory = random_words(tuple(shape), dtype)
        view = viewed(memory, order, [step or 1 for step in steps], offset) if count else memory
        arrays.append((memory, view if 0 not in steps else np.broadcast_to(view, extents)))
    (memory, target), (_, source) = arrays
    return target, memory, source


@given(copy_cases())
def test_any_views(case: tuple[NDArray[Any], NDArray[Any], NDArray[Any]]) -> None:
    target, memory, source = case
    check([(target, source)], [memory])


@pytest.mark.parametrize("past", [False, True])
@pytest.mark.parametrize("dtype", [np.float32, np.int64])
@pytest.mark.parametrize("offset", [0, 1, 2, 6])
def test_lists_of_matrices(dtype: Any, offset: int, past: bool) -> None:
    """Rows and columns of each number that has a loop, and arrays that begin at any place of a line."""
    pairs, memory = [], []
    for rows in (1, 2, 3, 4, 7, 100):
        for cols in (1, 2, 4, 5, 41, 130):
            for source in (
                random_words((rows, cols), dtype),
                random_words((cols, rows), dtype).T,
                random_words((rows, 2 * cols), dtype)[:, ::2],
                random_words((rows, 2 * cols), dtype)[:, ::-2],
                np.broadcast_to(random_words((rows, 1), dtype), (rows, cols)),
            ):
                room = random_words((rows * (cols + 3) + 32,), dtype)
                place = (-room.ctypes.data % 64) // room.itemsize + offset
                gap = 3 if rows % 2 else 0
                inside = room[place : place + rows * (cols + gap)].reshape(rows, cols + gap)[:, :cols]
                pairs.append((inside, source))
                memory.append(room)
    check(pairs, memory, past)


def large_pairs() -> list[tuple[str, NDArray[Any], NDArray[Any]]]:
    """Copies that are large enough to be shared, each by its own loop or cut."""
    rng = np.random.default_rng(4)
    x = rng.normal(size=(3, 64, 61, 67)).astype(np.float32)
    flat = x.reshape(-1)
    deep = x[:, :, :60, :64].copy().reshape(3, 2, 2, 16, 60, 64).transpose(0, 3, 4, 1, 5, 2)
    broad = np.broadcast_to(x[:, :1, :, :1], x.shape)
    blocks = x[:, :, :60, :64].copy().reshape(3, 64, 30, 2, 32, 2).transpose(0, 3, 5, 1, 2, 4)
    fours = x[:, :, :60, :64].copy().reshape(3, 64, 15, 4, 16, 4).transpose(0, 3, 5, 1, 2, 4)
    sixteen = x[:, :, :60, :64].copy().reshape(3, 4, 4, 4, 60, 64).transpose(0, 3, 4, 1, 5, 2)
    return [
        (name, np.empty(source.shape, source.dtype), source)
        for name, source in (
            ("a run", flat),
            ("rows", x[:, :, 1:, 2:]),
            ("channels last", x.transpose(0, 2, 3, 1)),
            ("channels last of a power of two", rng.normal(size=(64, 4096)).astype(np.float32).T),
            ("channels first", x.transpose(0, 3, 1, 2)),
            ("depth to space", deep),
            ("depth to space by four", sixteen),
            ("space to depth", blocks),
            ("space to depth by four", fours),
            ("every second", flat[::2]),
            ("backwards", x[:, :, ::-1, ::-1]),
            ("repeated", broad),
            ("pairs", rng.integers(0, 2**60, (500, 700)).T),
        )
    ]


@pytest.mark.parametrize("threads", [1, 2, 7])
def test_the_same_with_any_number_of_threads(threads: int) -> None:
    _core.set_threads(threads)
    for name, target, source in large_pairs():
        _core.Copies([(target, source)])(0, 1)
        assert np.array_equal(target, source), name
    pairs = [(np.empty_like(target), source) for _, target, source in large_pairs()]
    _core.Copies(pairs)(0, 1)
    for target, source in pairs:
        assert np.array_equal(target, source)


def test_large_copies_past_the_caches() -> None:
    _core.set_threads(2)
    for _, target, source in large_pairs():
        check([(target, source)], [target], past=True)


def test_a_target_with_gaps_is_shared_out() -> None:
    memory = random_words((2, 40, 130, 131), np.float32)
    source = random_words((2, 40, 65, 66), np.float32)
    _core.set_threads(3)
    check([(memory[:, :, ::2, ::2], source)], [memory])
    check([(memory[:, :, 129::-2, 131::-2], source)], [memory])


def test_nothing_to_copy() -> None:
    _core.Copies([])(0, 1)
    empty, x, y = np.empty((3, 0), np.float32), np.ones(3, np.float32), np.zeros(3, np.float32)
    _core.Copies([(empty, empty.copy()), (y, x), (empty.copy(), empty)])(0, 1)
    assert (y == 1).all()


def test_a_kernel_keeps_its_arrays_and_runs_again() -> None:
    x, y = np.arange(6, dtype=np.float32), np.empty(6, np.float32)
    kernel = _core.Copies([(y[::-1], x[:])])
    for value in (1, 2):
        x += value
        kernel(0, 1)
        np.testing.assert_array_equal(y[::-1], x)
