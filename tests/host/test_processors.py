"""The quota of processors that cgroups give, and the threads of the kernels under it."""

from __future__ import annotations

import math
import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from streamrt.host.cgroups import group_folders
from streamrt.host.processors import quota


class Groups:
    """A folder that looks like /proc, and the folders of two hierarchies of cgroups with processors."""

    def __init__(self, folder: Path) -> None:
        self.proc, self.v1, self.v2 = folder / "proc", folder / "v1", folder / "v2"
        (self.proc / "self").mkdir(parents=True)
        (self.proc / "self" / "cgroup").write_text("5:cpu,cpuacct:/pod/job\n3:memory:/other\n0::/pod/job\n")
        (self.proc / "self" / "mountinfo").write_text(
            f"30 1 0:30 / {self.v1} rw - cgroup cgroup rw,cpu,cpuacct\n32 1 0:32 / {self.v2} rw - cgroup2 cgroup2 rw\n"
        )

    def limit_v1(self, group: str, quota: int | str, period: int | str = 100_000) -> None:
        self._write(self.v1 / group, {"cpu.cfs_quota_us": quota, "cpu.cfs_period_us": period})

    def limit_v2(self, group: str, text: str) -> None:
        self._write(self.v2 / group, {"cpu.max": text})

    def _write(self, folder: Path, values: dict[str, int | str]) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        for name, value in values.items():
            (folder / name).write_text(f"{value}\n")


@pytest.fixture
def groups(tmp_path: Path) -> Groups:
    return Groups(tmp_path)


def test_no_limit(groups: Groups) -> None:
    assert quota(groups.proc) == math.inf
    groups.limit_v1("pod/job", -1)
    groups.limit_v2("pod/job", "max 100000")
    assert quota(groups.proc) == math.inf


def test_v1(groups: Groups) -> None:
    groups.limit_v1("pod/job", 150_000)
    assert quota(groups.proc) == 1.5
    groups.limit_v1("pod/job", 20_000, 50_000)
    assert quota(groups.proc) == 0.4


def test_v2(groups: Groups) -> None:
    groups.limit_v2("pod/job", "250000 100000")
    assert quota(groups.proc) == 2.5


def test_the_lowest_quota_of_all_groups_counts(groups: Groups) -> None:
    groups.limit_v1("", -1)
    groups.limit_v1("pod", 100_000)
    groups.limit_v1("pod/job", 300_000)
    groups.limit_v2("pod", "350000 100000")
    assert quota(groups.proc) == 1


@pytest.mark.parametrize("text", ["", "max", "x y", "100000 0", "-5 100000", "1 2 3"])
def test_a_file_of_another_form_is_no_limit(groups: Groups, text: str) -> None:
    groups.limit_v2("pod/job", text)
    groups.limit_v1("pod/job", "x", "y")
    assert quota(groups.proc) == math.inf


@contextmanager
def processor_group(share: float) -> Iterator[Path]:
    """The file that a process enters a real group by; the group has a quota of ``share`` processors."""
    for version, own in group_folders("cpu"):
        group = own / f"streamrt-test-{os.getpid()}"
        try:
            group.mkdir()
            try:
                if version == 1:
                    (group / "cpu.cfs_quota_us").write_text(str(int(share * 100_000)))
                else:
                    (group / "cpu.max").write_text(f"{int(share * 100_000)} 100000")
                yield group / "cgroup.procs"
            finally:
                group.rmdir()
            return
        except (PermissionError, FileNotFoundError):
            continue
    pytest.skip("no group with a quota of processors can be made")


@pytest.mark.parametrize("share", [0.5, 1.5, 2.0])
def test_a_real_group(share: float) -> None:
    program = """
        import os, sys
        open(sys.argv[1], "w").write(str(os.getpid()))
        from streamrt import _core
        first = _core.threads()
        from streamrt.host import processors
        print(processors.quota(), processors.usable_threads(), first)
    """
    program = "\n".join(line.strip() for line in program.splitlines())
    with processor_group(share) as procs:
        run = subprocess.run([sys.executable, "-P", "-c", program, str(procs)], capture_output=True, text=True)
    assert run.returncode == 0, run.stderr
    found, threads, used = run.stdout.split()
    most = min(math.ceil(share), len(os.sched_getaffinity(0)))
    assert float(found) == share
    assert int(threads) == int(used) == most
