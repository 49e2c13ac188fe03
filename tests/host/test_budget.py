"""Budgets as people write them, and the memory that /proc and the cgroups report."""

from __future__ import annotations

import mmap
import subprocess
import sys
from collections.abc import Callable
from contextlib import AbstractContextManager
from pathlib import Path

import numpy as np
import pytest

from bench.process.cgroup import Cgroup
from streamrt.errors import InputError
from streamrt.host import memory
from streamrt.host.budget import Budget, format_size, parse_budget, parse_size

MIB = 2**20
GIB = 2**30


@pytest.mark.parametrize(
    ("text", "size"),
    [
        ("4096", 4096),
        ("1B", 1),
        ("512MiB", 512 * MIB),
        (" 512 mib ", 512 * MIB),
        ("1.5GiB", 3 * GIB // 2),
        ("1.GiB", GIB),
        ("0.1KiB", 102),
        ("300MB", 300_000_000),
        ("2kb", 2000),
        ("3GB", 3_000_000_000),
        ("1TB", 10**12),
        ("1TiB", 2**40),
        ("9007199254740993", 9007199254740993),  # 2**53 + 1, which no float has
    ],
)
def test_sizes(text: str, size: int) -> None:
    assert parse_size(text) == size
    assert parse_budget(text) == size


@pytest.mark.parametrize(
    "text",
    [
        "",
        " ",
        "0",
        "0.0001KiB",
        "-1",
        "+1",
        "MiB",
        "12XB",
        "512M",
        "1e9",
        "nan",
        "inf",
        "0x10",
        "1 2",
        "1,5GiB",
        "1..5GiB",
        "٣MiB",
        "9999999999TiB",
        "1" * 5000,
    ],
)
def test_text_that_is_not_a_size(text: str) -> None:
    with pytest.raises(InputError, match=r"size .*: expected"):
        parse_budget(text)


@pytest.mark.parametrize("budget", [1, 4096, 2**40, np.int64(77), np.uint8(9)])
def test_an_integer_is_bytes(budget: int) -> None:
    result = parse_budget(budget)
    assert result == budget
    assert type(result) is int


@pytest.mark.parametrize(
    "budget",
    [0, -1, True, False, 0.0, -0.5, 1.5, float("nan"), float("inf"), np.float32(2), 2**63, np.bool_(True), [1]],
)
def test_values_that_are_no_budget(budget: Budget) -> None:
    with pytest.raises(InputError, match=r"budget .*: expected a whole number of bytes above 0"):
        parse_budget(budget)


def test_none_stays_none() -> None:
    assert parse_budget(None) is None


@pytest.mark.parametrize(
    ("size", "text"),
    [
        (0, "0 B"),
        (999, "999 B"),
        (1536, "1.50 KiB"),
        (64 * MIB, "64.0 MiB"),
        (1000 * MIB, "0.98 GiB"),
        (2**50, "1024 TiB"),
    ],
)
def test_sizes_for_people(size: int, text: str) -> None:
    assert format_size(size) == text


class Machine:
    """A folder that looks like /proc and the mounts of cgroup filesystems."""

    def __init__(self, folder: Path) -> None:
        self.proc = folder / "proc"
        self.v1 = folder / "cgroup" / "memory"
        self.v2 = folder / "cgroup with space"
        (self.proc / "self").mkdir(parents=True)
        self.meminfo(total=16 * GIB, available=8 * GIB)

    def meminfo(self, total: int, available: int) -> None:
        (self.proc / "meminfo").write_text(
            f"MemTotal:       {total // 1024} kB\nMemFree:  12 kB\nMemAvailable:   {available // 1024} kB\n"
        )

    def process(self, v1: str | None = None, v2: str | None = None, v1_root: str = "/", v2_root: str = "/") -> None:
        """Put the process into these groups; ``*_root`` is the group that the mount shows as its top."""
        memberships = ["3:cpuset:/elsewhere"]
        mounts = ["20 1 0:19 / /proc rw - proc proc rw", "30 1 0:30 / /sys/fs/cgroup/cpu rw - cgroup cgroup rw,cpu"]
        if v1 is not None:
            memberships.append(f"4:hugetlb,memory:{v1}")
            mounts.append(f"31 1 0:31 {v1_root} {self.v1} rw shared:9 master:1 - cgroup cgroup rw,memory,hugetlb")
        if v2 is not None:
            memberships.append(f"0::{v2}")
            point = str(self.v2).replace(" ", r"\040")
            mounts.append(f"32 1 0:32 {v2_root} {point} rw - cgroup2 cgroup2 rw,nsdelegate")
        (self.proc / "self" / "cgroup").write_text("\n".join(memberships) + "\n")
        (self.proc / "self" / "mountinfo").write_text("\n".join(mounts) + "\n")

    def group_v1(self, path: str, limit: int, usage: int = 0, file: int = 0) -> None:
        folder = self.v1 / path
        folder.mkdir(parents=True, exist_ok=True)
        (folder / "memory.limit_in_bytes").write_text(f"{limit}\n")
        (folder / "memory.usage_in_bytes").write_text(f"{usage}\n")
        # Without total_ a line counts the group alone, not its children.
        (folder / "memory.stat").write_text(
            f"active_file 7\ninactive_file 7\ntotal_active_file {file // 4}\ntotal_inactive_file {file - file // 4}\n"
        )

    def group_v2(self, path: str, limit: int | str, usage: int = 0, file: int = 0, high: int | str = "max") -> None:
        folder = self.v2 / path
        folder.mkdir(parents=True, exist_ok=True)
        (folder / "memory.max").write_text(f"{limit}\n")
        (folder / "memory.high").write_text(f"{high}\n")
        (folder / "memory.current").write_text(f"{usage}\n")
        (folder / "memory.stat").write_text(f"file 999\nactive_file {file // 4}\ninactive_file {file - file // 4}\n")


@pytest.fixture
def machine(tmp_path: Path) -> Machine:
    return Machine(tmp_path)


def test_without_cgroups_the_machine_decides(machine: Machine) -> None:
    assert memory.groups(machine.proc) == []
    assert memory.limit(machine.proc) == 16 * GIB
    assert memory.available(machine.proc) == 8 * GIB
    assert parse_budget("auto", proc=machine.proc) == 8 * GIB - 512 * MIB
    assert parse_budget(0.25, proc=machine.proc) == 4 * GIB


def test_v1_counts_file_cache_as_free(machine: Machine) -> None:
    machine.process(v1="/job")
    machine.group_v1("", 2**63 - 4096)
    machine.group_v1("job", 300 * MIB, usage=290 * MIB, file=200 * MIB)
    assert memory.limit(machine.proc) == 300 * MIB
    assert memory.available(machine.proc) == 210 * MIB
    assert parse_budget("AUTO", proc=machine.proc) == (210 - 32) * MIB
    assert parse_budget(0.5, proc=machine.proc) == 150 * MIB


def test_v2_takes_the_lower_of_max_and_high(machine: Machine) -> None:
    machine.process(v2="/job")
    machine.group_v2("job", 2 * GIB, usage=GIB, file=GIB // 2, high=GIB)
    assert memory.limit(machine.proc) == GIB
    assert memory.available(machine.proc) == GIB // 2
    assert parse_budget("auto", proc=machine.proc) == GIB // 2 - 32 * MIB


@pytest.mark.parametrize("version", [1, 2])
def test_the_tightest_ancestor_wins(machine: Machine, version: int) -> None:
    machine.process(**{f"v{version}": "/slice/pod/container"})
    group = machine.group_v1 if version == 1 else machine.group_v2
    group("slice", 4 * GIB, usage=3 * GIB + 900 * MIB)
    group("slice/pod", 1 * GIB, usage=100 * MIB, file=50 * MIB)
    group("slice/pod/container", 3 * GIB, usage=90 * MIB)
    assert [g.path.name for g in memory.groups(machine.proc)] == ["container", "pod", "slice"]
    assert memory.limit(machine.proc) == GIB
    assert memory.available(machine.proc) == 124 * MIB


def test_both_hierarchies_count(machine: Machine) -> None:
    machine.process(v1="/a", v2="/b")
    machine.group_v1("a", 2 * GIB)
    machine.group_v2("b", 1 * GIB)
    assert memory.limit(machine.proc) == GIB


@pytest.mark.parametrize(
    ("membership", "root"),
    [("/docker/abc", "/docker/abc"), ("/docker/abc", "/kubepods/x"), ("/../../other", "/")],
    ids=["top of the mount", "outside the mount", "above the namespace"],
)
def test_inside_a_container(machine: Machine, membership: str, root: str) -> None:
    machine.process(v1=membership, v1_root=root)
    machine.group_v1("", 500 * MIB)
    (machine.v1.parent / "other").mkdir()
    assert [g.path for g in memory.groups(machine.proc)] == [machine.v1]
    assert memory.limit(machine.proc) == 500 * MIB


def test_a_group_without_a_limit_or_files_is_passed_over(machine: Machine) -> None:
    machine.process(v1="/gone", v2="/free")
    machine.group_v2("free", "max", usage=GIB)
    assert memory.groups(machine.proc) == []


def test_a_full_group_leaves_one_byte_not_none(machine: Machine) -> None:
    machine.process(v2="/full")
    machine.group_v2("full", 100 * MIB, usage=120 * MIB)
    assert memory.available(machine.proc) == 0
    assert parse_budget("auto", proc=machine.proc) == 1


def test_the_machine_itself_may_be_tighter_than_the_group(machine: Machine) -> None:
    machine.process(v2="/roomy")
    machine.group_v2("roomy", 64 * GIB)
    machine.meminfo(total=4 * GIB, available=GIB)
    assert memory.limit(machine.proc) == 4 * GIB
    assert memory.available(machine.proc) == GIB


def test_this_process() -> None:
    before = memory.anonymous_bytes()
    # Not from malloc, which may still have memory that other tests used.
    with mmap.mmap(-1, 64 * MIB, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS) as block:
        for page in range(0, len(block), 4096):
            block[page] = 1
        assert 60 * MIB < memory.anonymous_bytes() - before < 68 * MIB
    budget = parse_budget("auto")
    assert budget is not None
    assert 0 < budget < memory.limit()


def test_a_real_group(memory_cgroup: Callable[[int], AbstractContextManager[Cgroup]]) -> None:
    program = (
        "import os, sys; from streamrt.host import memory; from streamrt.host.budget import parse_budget\n"
        "open(sys.argv[1], 'w').write(str(os.getpid()))\n"
        "own = memory.groups()[0]\n"
        "print(own.path, own.limit, memory.limit(), memory.available(), parse_budget('auto'), parse_budget(0.5))\n"
    )
    with memory_cgroup(256 * MIB) as group:
        run = subprocess.run(
            [sys.executable, "-c", program, str(group.procs)], capture_output=True, text=True, check=False
        )
    assert run.returncode == 0, run.stderr
    path, *numbers = run.stdout.split()
    own, limit, available, auto, half = map(int, numbers)
    assert path == str(group.path)
    assert own == limit == 256 * MIB
    assert 150 * MIB < available <= 256 * MIB
    assert 100 * MIB < auto <= available - 32 * MIB
    assert half == 128 * MIB
