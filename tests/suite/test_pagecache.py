"""The bytes of a file in the page cache, and cold files."""

from __future__ import annotations

import errno
import mmap
import os
from pathlib import Path

import pytest

from bench.process import pagecache
from bench.process.pagecache import NotColdError, cached_bytes, make_cold

PAGE = mmap.PAGESIZE
SIZE = 1000 * PAGE + 1  # the last page is not full


@pytest.fixture
def file(disk: Path) -> Path:
    """A cold file. Only pages that a test reads enter the page cache."""
    path = disk / "weights"
    path.write_bytes(os.urandom(SIZE))
    make_cold([path])
    return path


def read(path: Path, offset: int, length: int) -> None:
    with path.open("rb", buffering=0) as source:
        os.posix_fadvise(source.fileno(), 0, 0, os.POSIX_FADV_RANDOM)  # no read-ahead
        os.pread(source.fileno(), length, offset)


def test_pages_that_were_read_are_counted(file: Path) -> None:
    assert cached_bytes([file]) == 0
    read(file, 10 * PAGE, 5 * PAGE)
    assert cached_bytes([file]) == 5 * PAGE
    read(file, SIZE - 1, 1)
    assert cached_bytes([file]) == 6 * PAGE
    file.read_bytes()
    assert cached_bytes([file]) == 1001 * PAGE


def test_files_are_summed_and_missing_files_count_as_0(file: Path) -> None:
    other = file.with_name("other")
    other.write_bytes(b"x" * PAGE)
    read(file, 0, PAGE)
    assert cached_bytes([file, other, file.with_name("missing")]) == 2 * PAGE


def test_cold_after_it_was_read(file: Path) -> None:
    file.read_bytes()
    make_cold([file, file.with_name("missing")])
    assert cached_bytes([file]) == 0


def test_cold_after_it_was_written(file: Path) -> None:
    """Dirty pages do not leave the page cache before they are written back."""
    content = os.urandom(SIZE)
    file.write_bytes(content)
    make_cold([file])
    assert cached_bytes([file]) == 0
    assert file.read_bytes() == content


def test_kernels_without_cachestat_count_the_same(file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    empty = file.with_name("empty")
    empty.touch()
    for offset, length in ((0, 0), (3 * PAGE, 7 * PAGE), (SIZE - 1, 1), (0, SIZE)):
        read(file, offset, length)
        told = cached_bytes([file, empty])
        with monkeypatch.context() as patched:
            patched.setattr(pagecache, "_CACHESTAT", -1)  # no system call has this number
            assert cached_bytes([file, empty]) == told
    assert told == 1001 * PAGE


def test_a_mapped_file_is_not_cold(file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pauses = []
    monkeypatch.setattr(pagecache.time, "sleep", pauses.append)
    with file.open("rb") as source, mmap.mmap(source.fileno(), 0, prot=mmap.PROT_READ) as pages:
        pages.madvise(mmap.MADV_RANDOM)  # no read-ahead: a single page is enough
        assert pages[5 * PAGE] in range(256)
        with pytest.raises(NotColdError, match=f"{PAGE} bytes of weights stay"):
            make_cold([file])
        assert len(pauses) > 3
        assert cached_bytes([file]) == PAGE
    make_cold([file])


def test_it_waits_for_a_process_that_is_ending(file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    source = file.open("rb")
    pages = mmap.mmap(source.fileno(), 0, prot=mmap.PROT_READ)
    assert pages[0] in range(256)
    monkeypatch.setattr(pagecache.time, "sleep", lambda seconds: pages.close())
    make_cold([file])
    assert pages.closed
    source.close()
    assert cached_bytes([file]) == 0


def test_an_error_of_the_fallback_is_raised(file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """With the kernel's error number. A count of 0 instead would pass for a cold file."""

    class Refusing:
        def syscall(self, *arguments: object) -> int:
            return -1

        def mincore(self, *arguments: object) -> int:
            pagecache.ctypes.set_errno(errno.EAGAIN)
            return -1

    monkeypatch.setattr(pagecache, "_libc", Refusing())
    with pytest.raises(OSError, match="mincore") as caught:
        cached_bytes([file])
    assert caught.value.errno == errno.EAGAIN
