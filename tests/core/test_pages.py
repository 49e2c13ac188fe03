"""Pages of 16 and 64 KiB, which a preloaded library simulates."""

from __future__ import annotations

from collections.abc import Callable
from subprocess import CompletedProcess

import pytest

from core.files import MakeFile

STREAM = """
import mmap, os, sys
from streamrt._core import Mapping, Prefetcher
from streamrt.errors import WeightsIOError

path, io, page, block = sys.argv[1], sys.argv[2], int(sys.argv[3]), 2 << 20
assert mmap.PAGESIZE == page
data = open(path, "rb").read()
size = len(data)
items = [(at, min(100_000, size - at), at % 3 == 0) for at in range(0, size, 100_000)]


def check(mapping, i):
    with memoryview(mapping) as view:
        at, length, _ = items[i]
        assert view[at : at + length] == data[at : at + length]


with Mapping(path, io) as mapping, Prefetcher(mapping) as prefetcher:
    for bad in (4096, 2 * page):
        try:
            prefetcher.schedule(items, block, bad)
        except ValueError as error:
            assert f"{page} or {block}" in str(error)
        else:
            raise AssertionError(bad)
    for granule, window in ((page, 5 * page), (block, block), (page, 200_000)):
        prefetcher.schedule(items, window, granule)
        pinned = {g for at, n, pin in items if pin for g in range(at // granule, (at + n - 1) // granule + 1)}
        most = sum(min(granule, size - g * granule) for g in pinned) + max(window, 100_000 + 2 * granule)
        for _ in range(2):
            for i in range(len(items)):
                prefetcher.wait(i)
                check(mapping, i)
                assert prefetcher.held() <= most
                prefetcher.done(i)
            prefetcher.finish()
        assert prefetcher.peak() <= most
    maps = open("/proc/self/smaps").read().split("VmFlags:")
    flags = [part.split("\\n")[0].split() for part in maps]
    areas = [flag for part, flag in zip(maps, flags[1:]) if path in part]
    assert all("hg" not in flag for flag in areas)  # with such pages a huge page is larger than a block
    prefetcher.schedule([(10, 5, True), (3 * page - 1, 2, True), (size - 1, 1, True)], 0, page)
    for i in range(3):
        prefetcher.wait(i)
    assert prefetcher.held() == 3 * page + (size - 1) % page + 1
    assert 0 < mapping.resident() <= size or io == "pread"
    if io == "mmap":
        os.truncate(path, page)
        with memoryview(mapping) as view:
            assert view[4 * page + 5] == 0
        try:
            mapping.check()
        except WeightsIOError:
            print("guarded")
print("done")
"""


@pytest.mark.parametrize("page", [16384, 65536])
@pytest.mark.parametrize("io", ["mmap", "pread"])
def test_items_stream_in_larger_pages(
    make_file: MakeFile,
    run_python: Callable[..., CompletedProcess[str]],
    page_size: Callable[[int], dict[str, str]],
    io: str,
    page: int,
) -> None:
    path = make_file((5 << 20) + 4096)  # weights files are multiples of 4096 bytes, not of the page
    result = run_python(STREAM, path, io, page, **page_size(page))
    assert result.stdout == ("guarded\ndone\n" if io == "mmap" else "done\n"), result.stderr
