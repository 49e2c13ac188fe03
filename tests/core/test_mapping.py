"""Mapping: the bytes of a file, opening and closing, and files that change."""

from __future__ import annotations

import errno
import os
from collections.abc import Callable
from pathlib import Path
from subprocess import CompletedProcess

import numpy as np
import pytest

from core.files import PAGE, MakeFile, content
from streamrt._core import Mapping, Prefetcher
from streamrt.errors import ModelClosedError, WeightsIOError

RunPython = Callable[..., CompletedProcess[str]]


@pytest.mark.parametrize("size", [1, PAGE - 1, PAGE, PAGE + 1, 300_001])
def test_a_mapping_has_the_bytes_of_its_file(make_file: MakeFile, size: int) -> None:
    path = make_file(size)
    with Mapping(path) as mapping:
        assert (mapping.path, mapping.size, len(mapping)) == (str(path), size, size)
        with memoryview(mapping) as view:
            assert view.readonly
            assert view == content(0, size)


@pytest.mark.parametrize("kind", [str, os.fsencode, Path])
def test_paths_of_all_kinds(make_file: MakeFile, kind: Callable[[Path], object]) -> None:
    path = make_file(10)
    with Mapping(kind(path)) as mapping:  # type: ignore[arg-type]
        assert mapping.path == str(path)


def test_arrays_share_the_memory_of_a_mapping_and_cannot_write(make_file: MakeFile) -> None:
    with Mapping(make_file(2 * PAGE)) as mapping:
        a, b = (np.frombuffer(memoryview(mapping), np.uint8) for _ in range(2))
        assert np.shares_memory(a, b)
        with pytest.raises(ValueError, match="read-only"):
            a[0] = 1
        del a, b


def test_closing_is_refused_while_an_array_lives(make_file: MakeFile) -> None:
    mapping = Mapping(make_file(PAGE))
    array = np.frombuffer(memoryview(mapping), np.uint8)
    with pytest.raises(BufferError, match="still in use by 1"):
        mapping.close()
    assert array.tobytes() == content(0, PAGE)
    del array
    mapping.close()


def test_closing_twice_is_allowed_and_using_it_afterwards_is_not(make_file: MakeFile) -> None:
    mapping = Mapping(make_file(PAGE))
    assert not mapping.closed
    mapping.close()
    mapping.close()
    assert mapping.closed
    for use in (mapping.check, mapping.resident, mapping.__enter__, lambda: memoryview(mapping)):
        with pytest.raises(ModelClosedError):
            use()


def test_a_retired_mapping_closes_when_the_last_user_is_gone(make_file: MakeFile) -> None:
    mapping = Mapping(make_file(PAGE))
    array, prefetcher = np.frombuffer(memoryview(mapping), np.uint8), Prefetcher(mapping)
    mapping.retire()
    assert not mapping.closed
    prefetcher.close()
    assert not mapping.closed
    assert array.tobytes() == content(0, PAGE)
    del array
    assert mapping.closed
    mapping.retire()
    mapping.close()


def test_a_retired_mapping_that_nobody_uses_closes_at_once(make_file: MakeFile) -> None:
    mapping = Mapping(make_file(PAGE))
    mapping.retire()
    assert mapping.closed


def test_identity_is_that_of_the_file_when_it_was_opened(make_file: MakeFile) -> None:
    path = make_file(PAGE)
    then = path.stat()
    with Mapping(path) as mapping:
        os.truncate(path, 2 * PAGE)
        assert mapping.identity == (then.st_dev, then.st_ino, PAGE, then.st_mtime_ns)


def test_forgetting_to_close_warns(make_file: MakeFile) -> None:
    mapping = Mapping(make_file(PAGE))
    with pytest.warns(ResourceWarning, match="unclosed <Mapping"):
        del mapping


def _nothing(path: Path) -> None:
    pass


@pytest.mark.parametrize(
    ("make", "reason"),
    [
        (_nothing, "No such file"),
        (Path.mkdir, "not a regular file"),
        (os.mkfifo, "not a regular file"),
        (Path.touch, "empty"),
        (lambda path: path.symlink_to(path), os.strerror(errno.ELOOP)),
    ],
    ids=["missing", "folder", "fifo", "empty", "loop"],
)
def test_paths_that_cannot_be_mapped_are_errors(tmp_path: Path, make: Callable[[Path], None], reason: str) -> None:
    path = tmp_path / "thing"
    make(path)
    with pytest.raises(WeightsIOError, match=reason) as caught:
        Mapping(path)
    assert caught.value.filename == str(path)
    assert caught.value.errno


def test_a_path_with_a_null_character_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="null character"):
        Mapping(str(tmp_path / "weights\0.bin"))


def test_resident_counts_the_pages_in_the_page_cache(make_file: MakeFile) -> None:
    size = 10 * PAGE + 100
    with Mapping(make_file(size)) as mapping, memoryview(mapping) as view:
        before = mapping.resident()
        assert before <= PAGE  # opening reads one page to learn whether the kernel can populate
        assert view[5 * PAGE] == content(5 * PAGE, 1)[0]
        assert mapping.resident(5 * PAGE, PAGE) == PAGE
        assert mapping.resident(5 * PAGE + 1000, 100) == 100
        assert mapping.resident(5 * PAGE - 100, PAGE) == PAGE - 100
        assert mapping.resident() == before + PAGE  # no readahead
        assert view[size - 1] == content(size - 1, 1)[0]
        assert mapping.resident(10 * PAGE) == 100
        assert mapping.resident(size) == 0
        assert mapping.resident(3, 0) == 0


@pytest.mark.parametrize("span", [(-1, 1), (0, PAGE + 1), (PAGE + 1, None), (1, PAGE), (0, -1), (2**64, 1)])
def test_resident_refuses_bytes_outside_the_file(make_file: MakeFile, span: tuple[int, int | None]) -> None:
    with Mapping(make_file(PAGE)) as mapping, pytest.raises(ValueError, match="not within"):
        mapping.resident(*span)


def _grow(path: Path) -> None:
    os.truncate(path, path.stat().st_size + 1)


def _write(path: Path) -> None:
    with path.open("r+b") as file:
        file.write(b"x")
    os.utime(path)  # the clock of a file system ticks slowly


@pytest.mark.parametrize(
    ("harm", "reason"),
    [
        (lambda path: os.truncate(path, 5), "expected 8192 bytes, the file now has 5"),
        (_grow, "modified"),
        (_write, "modified"),
    ],
    ids=["truncated", "grown", "written"],
)
def test_check_notices_that_the_file_changed(make_file: MakeFile, harm: Callable[[Path], None], reason: str) -> None:
    path = make_file(2 * PAGE)
    with Mapping(path) as mapping:
        mapping.check()
        harm(path)
        with pytest.raises(WeightsIOError, match=reason):
            mapping.check()


def test_a_new_file_under_the_same_name_does_no_harm(make_file: MakeFile) -> None:
    path = make_file(2 * PAGE)
    with Mapping(path) as mapping:
        make_file(PAGE, name="other").rename(path)
        mapping.check()
        assert bytes(mapping) == content(0, 2 * PAGE)


def mapped_bytes(path: Path) -> int:
    """Bytes of the file in the page tables of this process."""
    found, inside = 0, False
    for line in Path("/proc/self/smaps").read_text().splitlines():
        if "-" in line.split()[0]:
            inside = line.endswith(str(path))
        elif inside and line.startswith("Rss:"):
            found += int(line.split()[1]) << 10
    return found


def test_pages_that_were_read_can_be_unloaded(make_file: MakeFile) -> None:
    path = make_file(64 * PAGE)
    with Mapping(path) as mapping:
        mapping.read_ahead()
        with memoryview(mapping) as view:
            assert bytes(view) == content(0, 64 * PAGE)
            assert mapped_bytes(path) == 64 * PAGE
            mapping.unload()
            assert mapped_bytes(path) == 0
            assert bytes(view) == content(0, 64 * PAGE)
            mapping.unload()
            os.truncate(path, PAGE)
            assert bytes(view) == content(0, PAGE) + bytes(63 * PAGE)
            with pytest.raises(WeightsIOError):
                mapping.check()
    for call in (mapping.read_ahead, mapping.unload):
        with pytest.raises(ModelClosedError):
            call()


def test_read_ahead_and_unload_are_allowed_with_pread(make_file: MakeFile) -> None:
    with Mapping(make_file(PAGE), io="pread") as mapping:
        mapping.read_ahead()
        mapping.unload()


@pytest.mark.parametrize(("mode", "works"), [("read", True), ("touch", True), ("Touch", False), ("", False)])
def test_the_switch_for_tests_accepts_only_known_modes(run_python: RunPython, mode: str, works: bool) -> None:
    result = run_python("import streamrt._core", STREAMRT_TEST_POPULATE=mode)
    assert (result.returncode == 0) == works
    assert works or "ImportError: STREAMRT_TEST_POPULATE is" in result.stderr
