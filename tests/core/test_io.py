"""Both ways of reading give the same bytes, hold no more memory than they report, and raise errors that say why."""

from __future__ import annotations

import ctypes
import errno
import inspect
import os
import re
from collections.abc import Callable
from pathlib import Path
from subprocess import CompletedProcess

import numpy as np
import pytest

from core.files import BLOCK, PAGE, MakeFile, content, opened
from core.test_prefetch import SHAPES, covered, cut
from streamrt._core import Mapping
from streamrt.errors import WeightsIOError

RunPython = Callable[..., CompletedProcess[str]]
Preload = Callable[..., dict[str, str]]
WAYS = ["mmap", "pread"]


def anonymous(mapping: Mapping) -> int:
    """Bytes of memory behind the addresses of a mapping that are not the file's own pages.

    The kernel reports one page after the other. Memory that moves to later addresses meanwhile is counted twice. So
    the smaller of two counts is taken: this hardly ever happens in both.
    """
    page = os.sysconf("SC_PAGESIZE")
    first = np.frombuffer(mapping, np.uint8).ctypes.data // page
    # Bits of a page: it is in memory; it is a file's or shared; only this process has it (not so the page of zeros).
    present, of_a_file, exclusive = (np.uint64(1 << bit) for bit in (63, 61, 56))
    counts = []
    with Path("/proc/self/pagemap").open("rb", buffering=0) as pagemap:
        for _ in range(2):
            pagemap.seek(8 * first)
            pages = np.frombuffer(pagemap.read(8 * -(-len(mapping) // page)), np.uint64)
            counts.append(page * int(((pages & (present | of_a_file | exclusive)) == present | exclusive).sum()))
    return min(counts)


@pytest.mark.parametrize("pinned", [0, 3])
@pytest.mark.parametrize("shape", SHAPES)
def test_reading_holds_memory_for_the_window_and_no_page_of_the_file(
    make_file: MakeFile, shape: str, pinned: int
) -> None:
    granule, tile, start, window = SHAPES[shape]
    size = 5 * BLOCK + 12_345
    items = cut(size, tile, start, pinned)
    limit = window + covered(items[:pinned], granule, size)
    with opened(make_file(size), "pread") as (mapping, prefetcher):
        assert mapping.io == "pread"
        prefetcher.schedule(items, window, granule)
        for _ in range(3):
            for i, (at, length, _) in enumerate(items):
                prefetcher.wait(i)
                assert length <= prefetcher.held() <= limit
                assert length <= anonymous(mapping) <= limit + PAGE  # the file's last page counts as a whole
                with memoryview(mapping) as view:
                    assert view[at : at + length] == content(at, length)
                prefetcher.done(i)
            prefetcher.finish()
        assert prefetcher.peak() <= limit
        prefetcher.schedule([], 0, granule)
        assert anonymous(mapping) == 0
        assert mapping.resident() == 0
        with memoryview(mapping) as view:
            assert not any(view[: 2 * BLOCK])  # bytes that are not held read as zeros


@pytest.mark.parametrize("io", WAYS)
@pytest.mark.parametrize("granule", [PAGE, BLOCK])
def test_memory_that_the_process_has_locked_is_given_back(make_file: MakeFile, io: str, granule: int) -> None:
    """`madvise` releases locked memory only with ``MADV_DONTNEED_LOCKED``."""
    libc = ctypes.CDLL(None, use_errno=True)
    size = 4 * BLOCK
    with opened(make_file(size), io) as (mapping, prefetcher):
        address = np.frombuffer(mapping, np.uint8).ctypes.data
        if libc.mlock(ctypes.c_void_p(address), ctypes.c_size_t(size)) != 0:
            pytest.skip(f"mlock: {os.strerror(ctypes.get_errno())}")
        prefetcher.schedule([(at, BLOCK, at == 0) for at in range(0, size, BLOCK)], BLOCK, granule)
        for _ in range(2):
            for i in range(4):
                prefetcher.wait(i)
                with memoryview(mapping) as view:
                    assert view[i * BLOCK : (i + 1) * BLOCK] == content(i * BLOCK, BLOCK)
                prefetcher.done(i)
            prefetcher.finish()
        prefetcher.schedule([(0, BLOCK, True)], 0, granule)
        assert mapping.resident() + anonymous(mapping) <= BLOCK


def test_pread_reports_the_bytes_that_it_read(make_file: MakeFile) -> None:
    with opened(make_file(2 * BLOCK), "pread") as (mapping, prefetcher):
        prefetcher.schedule([(0, BLOCK, False), (BLOCK, BLOCK, False)], BLOCK, BLOCK)
        for i in range(2):
            prefetcher.wait(i)
            prefetcher.done(i)
        prefetcher.finish()
        assert [report.bytes_read for report in prefetcher.report()] == [BLOCK, BLOCK]
        assert mapping.size == 2 * BLOCK


@pytest.mark.parametrize("io", WAYS)
def test_a_file_that_is_cut_and_comes_back(make_file: MakeFile, io: str) -> None:
    path = make_file(4 * BLOCK)
    with opened(path, io) as (mapping, prefetcher):
        os.truncate(path, BLOCK + 100)
        prefetcher.schedule([(0, BLOCK, False), (BLOCK, BLOCK, False)], BLOCK, BLOCK)
        prefetcher.wait(0)
        prefetcher.done(0)
        with pytest.raises(WeightsIOError, match=rf"expected {4 * BLOCK} bytes, the file now has {BLOCK + 100}"):
            prefetcher.wait(1)
        assert prefetcher.held() == 0
        os.truncate(path, 4 * BLOCK)
        prefetcher.rewind()
        prefetcher.wait(0)
        prefetcher.done(0)
        prefetcher.wait(1)
        with pytest.raises(WeightsIOError, match="modified"):
            mapping.check()


@pytest.mark.parametrize("io", ["", "MMAP", "direct", None])
def test_an_unknown_way_of_reading_is_refused(make_file: MakeFile, io: str) -> None:
    with pytest.raises(ValueError, match="expected 'auto', 'mmap' or 'pread'"):
        Mapping(make_file(PAGE), io)


def test_auto_maps_files_on_a_disk(make_file: MakeFile) -> None:
    with Mapping(make_file(PAGE), "auto") as mapping:
        assert mapping.io == "mmap"


@pytest.mark.parametrize("io", WAYS)
def test_a_file_in_memory(io: str) -> None:
    """On tmpfs nothing can be released, and there is no cache to read past. The bytes are right nevertheless."""
    path = Path("/dev/shm") / f"streamrt-test-{os.getpid()}"
    if not path.parent.is_dir():
        pytest.skip("no /dev/shm")
    size = 3 * BLOCK + 5000
    path.write_bytes(content(0, size))
    try:
        with opened(path, io) as (mapping, prefetcher):
            items = cut(size, 300_000)
            prefetcher.schedule(items, BLOCK, PAGE)
            for _ in range(2):
                for i, (at, length, _) in enumerate(items):
                    prefetcher.wait(i)
                    with memoryview(mapping) as view:
                        assert view[at : at + length] == content(at, length)
                    prefetcher.done(i)
                prefetcher.finish()
    finally:
        path.unlink()


@pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning")
def test_a_forked_child_neither_sees_nor_keeps_bytes_that_were_read(make_file: MakeFile) -> None:
    with opened(make_file(2 * BLOCK), "pread") as (mapping, prefetcher):
        prefetcher.schedule([(0, BLOCK, True)], 0, BLOCK)
        prefetcher.wait(0)
        with memoryview(mapping) as view:
            child = os.fork()
            if child == 0:
                os._exit(any(view[:BLOCK]))
            assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
            assert view[:BLOCK] == content(0, BLOCK)


# ---------------------------------------------------------------- system calls that fail

PASS = f"""
from __future__ import annotations
import os, sys, numpy as np
from pathlib import Path
path, io, granule, wish = sys.argv[1], sys.argv[2], int(sys.argv[3]), sys.argv[4]
if wish.startswith("populate"):  # the failing call must be tried, even if the environment switches it off
    os.environ.pop("STREAMRT_TEST_POPULATE", None)
from streamrt._core import Mapping, Prefetcher
from streamrt.errors import WeightsIOError
block = 2 << 20
{inspect.getsource(anonymous)}
with Mapping(path, io) as mapping, Prefetcher(mapping) as prefetcher:
    print(mapping.io)
    count = mapping.size // block
    prefetcher.schedule([(i * block, block, i == 1) for i in range(count)], 2 * block, granule)
    for attempt in range(3):
        total = 0
        try:
            for i in range(count):
                prefetcher.wait(i)
                total += int(np.frombuffer(mapping, np.uint8)[i * block : (i + 1) * block].sum())
                # One block is pinned, two are in the window, and some pages pass through the page cache.
                # Tmpfs itself holds all four blocks.
                assert mapping.resident() + anonymous(mapping) <= 3.5 * block or wish == "naps"
                prefetcher.done(i)
            prefetcher.finish()
            print("sum", total)
        except WeightsIOError as error:
            prefetcher.rewind()
            print("error", error.errno, prefetcher.held() <= 3 * block)
"""
SIZE = 4 * BLOCK
SUM = sum(content(0, SIZE))


@pytest.fixture(params=[PAGE, BLOCK])
def passes(request: pytest.FixtureRequest, make_file: MakeFile, run_python: RunPython, failing_io: Preload) -> object:
    """Runs three passes, by pages or by blocks, while a system call fails; returns the lines that were printed."""

    def run(io: str, wish: str) -> list[str]:
        done = run_python(PASS, make_file(SIZE), io, request.param, wish, **failing_io(wish))
        assert done.returncode == 0, done.stderr
        assert "failing_io: 0" not in done.stderr  # the call did fail
        return done.stdout.splitlines()

    return run


@pytest.mark.parametrize("io", WAYS)
def test_a_bad_sector_is_an_error_with_its_number(passes: Callable[..., list[str]], io: str) -> None:
    call = "populate" if io == "mmap" else "pread"
    found = passes(io, f"{call}:3:{errno.EIO}")
    assert found[0] == io
    assert f"error {errno.EIO} True" in found[1:]


@pytest.mark.parametrize(
    ("io", "call", "number"),
    [("mmap", "populate", errno.ENOMEM), ("mmap", "populate", errno.EIO), ("pread", "pread", errno.EIO)],
)
def test_a_call_that_fails_once_works_the_next_time(
    passes: Callable[..., list[str]], io: str, call: str, number: int
) -> None:
    found = passes(io, f"{call}:3:{number}:1")
    assert found[1:] == [f"error {number} True", f"sum {SUM}", f"sum {SUM}"]


@pytest.mark.parametrize("number", [errno.EINVAL, errno.ENOSYS])
@pytest.mark.parametrize("io", WAYS)
def test_advice_that_the_kernel_does_not_know_is_not_needed(
    passes: Callable[..., list[str]], io: str, number: int
) -> None:
    assert passes(io, f"advise:0:{number}") == [io, *[f"sum {SUM}"] * 3]


@pytest.mark.parametrize("number", [errno.EINVAL, errno.ENOSYS, errno.EPERM])  # the last two come from sandboxes
def test_a_kernel_that_cannot_populate(passes: Callable[..., list[str]], number: int) -> None:
    assert passes("mmap", f"populate:0:{number}") == ["mmap", *[f"sum {SUM}"] * 3]


@pytest.mark.parametrize(
    "wish",
    [
        "short",
        f"pread:0:{errno.EINVAL}:1",  # the file system accepts O_DIRECT, but refuses such reads
        f"fcntl:0:{errno.EINVAL}",  # the file system refuses O_DIRECT
        f"pread:2:{errno.EINTR}:3",
    ],
)
def test_reading_falls_back_and_gives_the_same_bytes(passes: Callable[..., list[str]], wish: str) -> None:
    assert passes("pread", wish) == ["pread", *[f"sum {SUM}"] * 3]


@pytest.mark.parametrize(
    ("magic", "io"),
    [
        pytest.param(0x6969, "pread", id="NFS"),
        pytest.param(0x65735546, "pread", id="FUSE"),
        pytest.param(0x01021997, "pread", id="9P"),
        pytest.param(0xFE534D42, "pread", id="SMB2"),
        pytest.param(0xEF53, "mmap", id="ext4"),
        pytest.param(0x58465342, "mmap", id="XFS"),
    ],
)
def test_auto_chooses_by_the_file_system(passes: Callable[..., list[str]], magic: int, io: str) -> None:
    assert passes("auto", f"type:{magic:#x}") == [io, *[f"sum {SUM}"] * 3]


RELEASE = """
import sys, time
from streamrt._core import Mapping, Prefetcher

path, granule, idle, block = sys.argv[1], int(sys.argv[2]), sys.argv[3] == "idle", 2 << 20
with Mapping(path) as mapping, Prefetcher(mapping) as prefetcher:
    prefetcher.read_across(False)
    prefetcher.schedule([(i * block, block, False) for i in range(mapping.size // block)], block, granule)
    for i in range(mapping.size // block):
        prefetcher.wait(i)
        prefetcher.done(i)
    prefetcher.finish()
    give_up = time.monotonic() + 60
    while idle and mapping.resident() > 0 and time.monotonic() < give_up:
        time.sleep(0.001)
    if not idle:
        prefetcher.schedule([], 0, granule)
    print(mapping.resident())
"""


@pytest.mark.parametrize("granule", [PAGE, BLOCK])
def test_pages_that_a_fault_maps_again_are_released(
    make_file: MakeFile, run_python: RunPython, failing_io: Preload, granule: int
) -> None:
    """A fault maps cached pages around its own, also pages that the prefetch thread has just unmapped."""
    done = run_python(RELEASE, make_file(SIZE), granule, "", **failing_io("forget:0:0:3"))
    assert (done.stdout, done.stderr) == ("0\n", "failing_io: 3\n")


@pytest.mark.parametrize("granule", [PAGE, BLOCK])
@pytest.mark.parametrize("when", ["idle", "when the schedule changes"])
def test_pages_that_the_cache_kept_are_released_later(
    make_file: MakeFile, run_python: RunPython, failing_io: Preload, when: str, granule: int
) -> None:
    """All attempts of the last release fail. The thread tries again while it is idle, and when the schedule changes."""
    done = run_python(RELEASE, make_file(SIZE), granule, when, **failing_io(f"forget:{SIZE // BLOCK - 1}:0:8"))
    assert (done.stdout, done.stderr) == ("0\n", "failing_io: 8\n")


def test_releasing_tries_less_if_the_cache_keeps_everything(run_python: RunPython, failing_io: Preload) -> None:
    """On tmpfs the first release tries for 3 ms, with 7 naps. Each later release tries for 0.1 ms, with 2 naps."""
    path = Path("/dev/shm") / f"streamrt-test-{os.getpid()}"
    if not path.parent.is_dir():
        pytest.skip("no /dev/shm")
    path.write_bytes(content(0, SIZE))
    try:
        done = run_python(PASS, path, "mmap", BLOCK, "naps", **failing_io("naps"))
    finally:
        path.unlink()
    assert done.stdout.splitlines() == ["mmap", *[f"sum {SUM}"] * 3], done.stderr
    naps = re.search(r"failing_io: (\d+)", done.stderr)
    assert naps
    assert 7 < int(naps[1]) < 7 + 2 * 15
