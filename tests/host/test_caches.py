"""The largest cache, as the system describes it."""

from __future__ import annotations

import math
import os
from pathlib import Path

import pytest

from streamrt.host.caches import largest_cache


def write(folder: Path, cpu: int, *sizes: str) -> None:
    for index, size in enumerate(sizes):
        cache = folder / f"cpu{cpu}" / "cache" / f"index{index}"
        cache.mkdir(parents=True)
        (cache / "size").write_text(size)


@pytest.mark.parametrize(
    ("sizes", "largest"),
    [
        (("48K\n", "32K\n", "1024K\n", "32768K\n"), 32 << 20),
        (("32K\n", "2M\n"), 2 << 20),
        (("1G\n",), 1 << 30),
        (("512\n",), 512),
        (("64K\n", "unknown\n", "\n"), 64 << 10),
        (("0K\n",), math.inf),
        ((), math.inf),
    ],
)
def test_sizes(tmp_path: Path, sizes: tuple[str, ...], largest: float) -> None:
    write(tmp_path, min(os.sched_getaffinity(0)), *sizes)
    assert largest_cache(tmp_path) == largest


def test_other_processors_do_not_count(tmp_path: Path) -> None:
    write(tmp_path, min(os.sched_getaffinity(0)), "64K\n")
    write(tmp_path, 10**6, "64M\n")
    assert largest_cache(tmp_path) == 64 << 10


def test_this_machine() -> None:
    assert largest_cache() >= 16 << 10
