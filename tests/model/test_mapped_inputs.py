"""Inputs in mapped files: rows that come next are read from the disk before they are copied."""

from __future__ import annotations

import mmap
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

import streamrt
from kernels.isas import NUMPY, using
from model import zoo
from model.test_bands import unet
from streamrt import _core
from streamrt._core import Mapping
from streamrt.engine import ahead
from streamrt.engine.ahead import RowsAhead, fetched_ahead

#: Rows of 16 KiB in each of the channels.
SHAPE = 1, 3, 96, 4096
PAGE = mmap.PAGESIZE
EVERYTHING = slice(0, 1), slice(None)


@pytest.fixture(scope="module", autouse=True)
def compiled_kernels() -> Iterator[None]:
    """Convolutions of NumPy compute no bands."""
    with using("scalar" if _core.isa() == NUMPY else _core.isa()):
        yield


class Noted(mmap.mmap):
    """A mapping that remembers the spans of bytes that are fetched."""

    def madvise(self, option: int, start: int = 0, length: int | None = None) -> None:
        assert option == mmap.MADV_WILLNEED
        assert length
        assert start % PAGE == 0
        assert length <= 128 << 10
        super().madvise(option, start, length)
        self.spans = [*getattr(self, "spans", []), (start, start + length)]

    def pages(self) -> set[int]:
        """The pages that were fetched since the last call."""
        found = {page for begin, end in getattr(self, "spans", []) for page in range(begin // PAGE, -(-end // PAGE))}
        self.spans: list[tuple[int, int]] = []
        return found


def noise_in(path: Path, shape: tuple[int, ...], header: int = 128) -> Noted:
    """A mapping of a file with a header and an array."""
    path.write_bytes(bytes(header) + zoo.random_input(*shape).tobytes())
    with path.open("r+b") as file:
        return Noted(file.fileno(), 0, access=mmap.ACCESS_READ)


def pages_of(part: NDArray[Any], owner: mmap.mmap) -> set[int]:
    """The pages that have values of ``part``, a view of the mapping."""
    begin = np.frombuffer(owner, np.uint8).__array_interface__["data"][0]
    places = part.__array_interface__["data"][0] - begin
    for stride, extent in zip(part.strides, part.shape, strict=True):
        places = np.add.outer(places, stride * np.arange(extent))
    return set(np.unique(places // PAGE).tolist())


def planes(owner: mmap.mmap) -> NDArray[np.float32]:
    return np.frombuffer(owner, np.float32, offset=128).reshape(SHAPE)


def channels_last(owner: mmap.mmap) -> NDArray[np.float32]:
    _, channels, height, width = SHAPE
    return np.frombuffer(owner, np.float32, offset=128).reshape(1, height, width, channels).transpose(0, 3, 1, 2)


def one_picture(owner: mmap.mmap) -> NDArray[np.float32]:
    """NumPy gives the new axis the stride 0."""
    return np.frombuffer(owner, np.float32, offset=128).reshape(SHAPE[1:])[None]


def every_second(owner: mmap.mmap) -> NDArray[np.float32]:
    return planes(owner)[:, ::2, ::2]


@pytest.mark.parametrize("columns", [(), (slice(1100, 2100),)])
@pytest.mark.parametrize("layout", [planes, channels_last, one_picture, every_second])
def test_the_pages_of_the_rows_that_come_next_are_fetched(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, layout: Any, columns: tuple[slice, ...]
) -> None:
    owner = noise_in(tmp_path / "x", SHAPE)
    array = layout(owner)
    height = array.shape[2]
    monkeypatch.setattr(ahead, "_FETCHED", 8 * array[(*EVERYTHING, slice(0, 1), *columns)].nbytes)
    rows = RowsAhead(array, owner)

    def fetched(first: int, last: int) -> set[int]:
        index = (*EVERYTHING, slice(first, last), *columns)
        np.testing.assert_array_equal(rows[index], array[index])
        return owner.pages()

    def needed(first: int, last: int) -> set[int]:
        return pages_of(array[(*EVERYTHING, slice(first, last), *columns)], owner)

    for _ in range(2):  # the second time is another strip or section
        assert fetched(0, 2) == needed(0, 10)
        assert fetched(2, 5) == set()
        assert fetched(5, 7) == needed(10, 15)
        assert fetched(7, 30) == needed(15, min(height, 53))  # as many rows as the band has
        assert fetched(30, height) == needed(min(height, 53), height)


def test_at_least_a_row_is_fetched_ahead(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    owner = noise_in(tmp_path / "x", SHAPE)
    array = planes(owner)
    monkeypatch.setattr(ahead, "_FETCHED", 1)
    rows = RowsAhead(array, owner)
    for row in range(5):
        rows[(*EVERYTHING, slice(row, row + 1))]
        assert owner.pages() == pages_of(array[:, :, row + (row > 0) : row + 2], owner)


def test_rows_of_many_pieces_are_not_fetched(tmp_path: Path) -> None:
    """Columns are the outermost axis, and each takes more than a page."""
    owner = noise_in(tmp_path / "x", (600, 600, 3, 1))
    columns_first = np.frombuffer(owner, np.float32, offset=128).reshape(600, 600, 3, 1).T
    RowsAhead(columns_first, owner)[(*EVERYTHING, slice(0, 8))]
    assert owner.pages() == set()


def test_the_disk_reads_them_meanwhile(tmp_path: Path) -> None:
    owner = noise_in(tmp_path / "x", SHAPE, header=0)
    zoo.evict(tmp_path / "x")
    plane, row = 4 * SHAPE[2] * SHAPE[3], 4 * SHAPE[3]
    with Mapping(tmp_path / "x") as file:
        assert file.resident() == 0
        rows = RowsAhead(np.frombuffer(owner, np.float32).reshape(SHAPE), owner)
        rows[(*EVERYTHING, slice(0, 8))]  # a view: nothing of it is touched
        for channel in range(3):
            zoo.eventually(lambda at=channel * plane: file.resident(at, 16 * row) == 16 * row, 10)
            assert file.resident(channel * plane + 64 * row, 32 * row) == 0


def test_arrays_that_are_in_no_mapping(tmp_path: Path) -> None:
    x = zoo.random_input(*SHAPE)
    assert fetched_ahead(x) is x
    owner = noise_in(tmp_path / "x", SHAPE)
    upwards = planes(owner)[:, :, ::-1]
    assert fetched_ahead(upwards) is upwards
    for layout in (planes, channels_last, one_picture, every_second):
        assert isinstance(fetched_ahead(layout(owner)), RowsAhead)
    memory = np.frombuffer(mmap.mmap(-1, x.nbytes), np.float32).reshape(SHAPE)
    memory[...] = x
    np.testing.assert_array_equal(fetched_ahead(memory)[(*EVERYTHING, slice(3, 9))], x[:, :, 3:9])


@pytest.mark.parametrize("strips", [False, True])
def test_a_pass_fetches_its_inputs(strips: bool, tmp_path: Path) -> None:
    """A batch of two: each sample is an array of its own. The mapping can be closed afterwards."""
    height, width = 64, 2000 if strips else 128
    path = unet(tmp_path / "model", "nearest", height, width, (8, 16, 32))
    owner = noise_in(tmp_path / "x", (2, height, width, 3))
    x = np.frombuffer(owner, np.float32, offset=128).reshape(2, height, width, 3).transpose(0, 3, 1, 2)
    with streamrt.Model(path, exact=True) as model:
        whole, least = model(np.ascontiguousarray(x)), model.min_budget(x.shape)
    with streamrt.Model(path, least, exact=True) as model:
        (bands,) = model.plan_for(x.shape).bands
        assert model(x).tobytes() == whole.tobytes()
        assert owner.pages() == pages_of(x, owner)
        del x
        owner.close()
    assert (bands.strips > 1) is strips
