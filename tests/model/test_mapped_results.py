"""Results in mapped files where memory is short: they are written to the files, and take little memory."""

from __future__ import annotations

import mmap
import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

import streamrt
from kernels.isas import NUMPY, using
from memory_limit import MIB
from model import zoo
from model.test_bands import Builder, unet
from streamrt import _core
from streamrt.engine import mapped
from streamrt.host import memory

SHAPE = 1, 3, 160, 128
#: Bytes before the array in its file: pages, which are not mapped, and the bytes of a header.
HEADER = 65536 + 128


@pytest.fixture(scope="module", autouse=True)
def compiled_kernels() -> Iterator[None]:
    """Convolutions of NumPy compute no bands."""
    with using("scalar" if _core.isa() == NUMPY else _core.isa()):
        yield


@pytest.fixture
def short(monkeypatch: pytest.MonkeyPatch) -> None:
    """Memory is short for every result, and for each row of it."""
    monkeypatch.setattr(mapped, "_room", lambda: 0)


@pytest.fixture
def written(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Bytes of each write to a file."""
    found: list[int] = []
    write = os.pwritev

    def noted(file: int, buffers: list[memoryview], place: int) -> int:
        found.append(sum(each.nbytes for each in buffers))
        return write(file, buffers, place)

    monkeypatch.setattr(os, "pwritev", noted)
    return found


def array_in(path: Path, shape: tuple[int, ...] = SHAPE, mode: Any = "r+") -> np.memmap[Any, np.dtype[np.float32]]:
    """An array of ones in a mapped file that has seven more at its end."""
    values = np.ones(HEADER // 4 + int(np.prod(shape)) + 7, np.float32)
    values.tofile(path)
    return np.memmap(path, np.float32, mode, HEADER, shape)


def ones_around(path: Path) -> bool:
    values = np.fromfile(path, np.float32)
    return bool((values[: HEADER // 4] == 1).all() and (values[-7:] == 1).all())


def descriptors(file: Path) -> int:
    """Descriptors of a file in this process; a mapping has one."""
    found = [each.stat() for each in Path("/proc/self/fd").iterdir() if each.exists()]
    return sum(os.path.samestat(each, file.stat()) for each in found)


def in_file(array: NDArray[Any]) -> bool:
    with mapped.in_files({"y": array}) as files:
        return "y" in files


@pytest.mark.usefixtures("short")
@pytest.mark.parametrize("strips", [False, True])
def test_results_have_the_bits_of_others(strips: bool, written: list[int], tmp_path: Path) -> None:
    """A batch of two: each sample is written to its place."""
    width = 2000 if strips else 128
    path = unet(tmp_path / "model", "nearest", 64, width, (8, 16, 32))
    x = zoo.random_input(2, 3, 64, width)
    with streamrt.Model(path, exact=True) as model:
        whole, least = model(x), model.min_budget(x.shape)
    out = array_in(tmp_path / "y", whole.shape)
    with streamrt.Model(path, least, exact=True) as model:
        for _ in range(2):
            out[...] = 7
            assert model(x, out=out) is out
            assert out.tobytes() == whole.tobytes()
        (bands,) = model.plan_for(x.shape).bands
    assert (bands.strips > 1) is strips
    assert np.fromfile(tmp_path / "y", np.float32, whole.size, offset=HEADER).tobytes() == whole.tobytes()
    assert ones_around(tmp_path / "y")
    assert sum(written) == 2 * whole.nbytes


@pytest.mark.usefixtures("short")
def test_each_of_several_results_is_in_its_file(written: list[int], tmp_path: Path) -> None:
    """The first is used by the second, too."""
    build = Builder(*SHAPE[1:])
    first = build.conv(build.conv("x", 3, 8), 8, 8)
    path = build.pack(tmp_path / "model", build.conv(first, 8, 4), first)
    x = zoo.random_input(*SHAPE)
    with streamrt.Model(path, exact=True) as model:
        whole, least = model(x), model.min_budget(x.shape)
    out = {name: array_in(tmp_path / f"{index}", y.shape) for index, (name, y) in enumerate(whole.items())}
    with streamrt.Model(path, least, exact=True) as model:
        model(x, out=out)
    assert {name: y.tobytes() for name, y in out.items()} == {name: y.tobytes() for name, y in whole.items()}
    assert sum(written) == sum(y.nbytes for y in whole.values())


@pytest.mark.usefixtures("short")
def test_the_array_that_is_written_shares_a_file_that_has_its_name(tmp_path: Path) -> None:
    path = tmp_path / "y"
    out = array_in(path)
    assert in_file(out)
    assert in_file(np.asarray(out))
    assert in_file(np.frombuffer(out._mmap, np.float32, out.size, HEADER % mmap.ALLOCATIONGRANULARITY).reshape(SHAPE))
    assert not in_file(np.ones(SHAPE, np.float32))
    assert not in_file(out[:, :, :, 1:])
    assert not in_file(out.view(np.int32))
    assert not in_file(array_in(tmp_path / "private", mode="c"))
    path.rename(tmp_path / "moved")
    assert in_file(out)  # the kernel knows its name
    array_in(path)
    path.rename(tmp_path / "moved")  # the file of the array has no name any more
    assert not in_file(out)


@pytest.mark.usefixtures("short")
def test_another_file_of_the_same_name_is_not_written(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    out = array_in(tmp_path / "y")
    array_in(tmp_path / "other")
    place = mapped._file_of(out)
    assert place
    monkeypatch.setattr(mapped, "_file_of", lambda array: (os.fsencode(tmp_path / "other"), *place[1:]))
    before = descriptors(tmp_path / "other")
    assert not in_file(out)
    assert descriptors(tmp_path / "other") == before


def test_with_enough_memory_results_are_written_through_the_mapping(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    out = array_in(tmp_path / "y")
    for room, found in ((2 * out.nbytes, False), (2 * out.nbytes - 1, True)):
        monkeypatch.setattr(memory, "available", lambda room=room: room)
        assert in_file(out) is found


@pytest.mark.usefixtures("short")
def test_a_write_that_ends_early_is_continued(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    write = os.pwritev
    monkeypatch.setattr(os, "pwritev", lambda file, buffers, place: write(file, [buffers[0][:3]], place))
    out, rows = array_in(tmp_path / "y", (1, 2, 5, 4)), zoo.random_input(1, 2, 3, 4)
    with mapped.in_files({"y": out}) as files:
        files["y"][slice(0, 1), slice(None), slice(1, 4)] = rows
    assert np.asarray(out[:, :, 1:4]).tobytes() == rows.tobytes()
    assert (out[:, :, 0] == 1).all()
    assert (out[:, :, 4] == 1).all()
    assert ones_around(tmp_path / "y")


@pytest.mark.usefixtures("short")
def test_an_error_of_the_file_is_passed_on(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    def full(*arguments: object) -> int:
        raise OSError(28, "No space left on device")

    path = unet(tmp_path / "model", "nearest", 64, 64)
    x = zoo.random_input(1, 3, 64, 64)
    with streamrt.Model(path) as model:
        budget, y = model.min_budget(x.shape), model(x)
    out = array_in(tmp_path / "y", y.shape)
    before = descriptors(tmp_path / "y")
    with streamrt.Model(path, budget) as model:
        with monkeypatch.context() as patched:
            patched.setattr(os, "pwritev", full)
            with pytest.raises(OSError, match="No space"):
                model(x, out=out)
        model(x, out=out)
    assert descriptors(tmp_path / "y") == before
    np.testing.assert_allclose(out, y, rtol=1e-5, atol=1e-6)


@pytest.mark.usefixtures("short")
def test_whole_pages_of_rows_are_given_back_after_each_band(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """No page that a later band of the channel, or another channel, writes, too."""
    page, shape = os.sysconf("SC_PAGE_SIZE"), (1, 2, 48, 1024)
    out, advised = array_in(tmp_path / "y", shape), list[tuple[int, int]]()
    monkeypatch.setattr(os, "posix_fadvise", lambda file, begin, length, advice: advised.append((begin, length)))
    with mapped.in_files({"y": out}) as files:
        for first, last in ((0, 32), (32, 48)):
            advised.clear()
            files["y"][slice(0, 1), slice(None), slice(first, last)] = np.zeros((1, 2, last - first, 1024), np.float32)
            assert len(advised) == 2
            for channel, (begin, length) in enumerate(advised):
                start, end = (HEADER + (48 * channel + row) * 4096 for row in (0, last))
                assert begin % page == length % page == 0
                assert start <= begin < start + page
                assert end - page < begin + length <= end
        advised.clear()
    ((begin, length),) = advised
    assert HEADER <= begin < HEADER + page
    assert HEADER + out.nbytes - page < begin + length <= HEADER + out.nbytes


@pytest.mark.parametrize(("left", "right"), [(0, 1024), (256, 640)])
def test_rows_are_given_back_together(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, left: int, right: int) -> None:
    """A disk takes as long for a page as for many. Rows of both channels may hold 1/16 of what there is."""
    shape, row = (1, 2, 48, 1024), 4096
    out, advised = array_in(tmp_path / "y", shape), list[tuple[int, int]]()
    monkeypatch.setattr(os, "posix_fadvise", lambda file, begin, length, advice: advised.append((begin, length)))
    monkeypatch.setattr(mapped, "_room", lambda: 16 * 2 * 5 * row)
    ends: list[int] = []
    with mapped.in_files({"y": out}) as files:
        for first in range(0, 48, 3):
            advised.clear()
            part = slice(0, 1), slice(None), slice(first, first + 3), slice(left, right)
            files["y"][part] = np.zeros((1, 2, 3, right - left), np.float32)
            assert len(advised) in (0, 2)
            ends += [first + 3] if advised else []
    assert ends == [6, 12, 15, 21, 27, 30, 36, 42, 45, 48]


CODE = """
    import sys
    path, group, budget, y, room = sys.argv[1:]
    import memory_limit
    memory_limit.enter(group)
    import numpy as np, streamrt
    from pathlib import Path
    from streamrt.engine import mapped
    size = 1, 24, 1024, 1024
    x = np.random.default_rng(0).standard_normal((1, 3, *size[2:]), np.float32)
    out = np.memmap(y, np.float32, "w+", shape=size)
    with streamrt.Model(path, int(budget), exact=True) as model:
        model.plan_for(x.shape)
        usage, bound = ("memory.usage_in_bytes", "memory.limit_in_bytes")
        if not Path(group, usage).exists():
            usage, bound = ("memory.current", "memory.max")
        Path(group, bound).write_text(str(int(Path(group, usage).read_text()) + int(budget) + int(room)))
        model(x, out=out)
        out.flush()
        with mapped.in_files({"y": out}):
            pass  # what the disk had not written at the end of the pass
        stat = dict(line.split() for line in Path(group, "memory.stat").read_text().splitlines())
        print(sum(int(stat[name]) for name in ("active_file", "inactive_file")), out.nbytes)
"""


def test_pages_of_a_result_leave_a_full_cgroup(
    memory_cgroup: Callable[..., Any], run_limited: Callable[..., Any], tmp_path: Path
) -> None:
    """A result of 96 MiB, in bands of whole rows, in a group that has room for 48 MiB beside the budget."""
    build = Builder(3, 1024, 1024)
    path = build.pack(tmp_path / "model", build.conv(build.conv("x", 3, 8), 8, 24))
    x = np.random.default_rng(0).standard_normal((1, 3, 1024, 1024), np.float32)
    with streamrt.Model(path, exact=True) as model:
        whole, budget = model(x), 2 * model.min_budget(x.shape)  # with the least it has 32 strips
    with memory_cgroup(None) as group:
        done = run_limited(CODE, path, group.path, budget, tmp_path / "y", 48 * MIB, STREAMRT_ISA=_core.isa())
    assert done.returncode == 0, done.stderr
    cached, size = map(int, done.stdout.split())
    assert cached < size / 4
    assert np.fromfile(tmp_path / "y", np.float32).tobytes() == whole.tobytes()
