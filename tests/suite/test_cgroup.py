"""Memory cgroups: a limit that kills, the figures of a group, and the folders in which groups are made."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager
from pathlib import Path

import pytest

from bench.process import cgroup, spawn
from bench.process.cgroup import Cgroup, NoCgroupError, _delegating, _own_group
from bench.process.job import Job

MIB = 1 << 20
JOB = Job("test", data="/")

MakeChild = Callable[[str], None]
MakeGroup = Callable[[int | None], AbstractContextManager[Cgroup]]


def test_a_child_that_takes_more_than_the_limit_is_killed(child: MakeChild, memory_cgroup: MakeGroup) -> None:
    child("held = [b'x' * (1 << 20) for _ in range(256)]; answer({})")
    with memory_cgroup(64 * MIB) as group:
        outcome = spawn.run(JOB, group=group, limit=60)
        assert (outcome.status, outcome.values) == ("killed", {})
        assert "memory" in outcome.reason
        assert group.kills() == 1
        assert (peak := group.peak()) is None or 48 * MIB <= peak <= 64 * MIB
    assert not group.path.exists()


def test_a_child_within_the_limit(child: MakeChild, memory_cgroup: MakeGroup) -> None:
    child("held = [b'x' * (1 << 20) for _ in range(64)]; answer({'groups': open('/proc/self/cgroup').read()})")
    with memory_cgroup(256 * MIB) as group:
        outcome = spawn.run(JOB, group=group, limit=60)
        assert outcome.status == "ok"
        assert group.path.name in outcome.values["groups"]
        assert group.kills() == 0
        assert (peak := group.peak()) is None or 64 * MIB <= peak < 128 * MIB
    assert not group.path.exists()


def test_a_group_without_a_limit_only_counts(child: MakeChild, memory_cgroup: MakeGroup) -> None:
    child("held = [b'x' * (1 << 20) for _ in range(64)]; answer({})")
    with memory_cgroup(None) as group:
        assert spawn.run(JOB, group=group, limit=60).status == "ok"
        assert (peak := group.peak()) is None or 64 * MIB <= peak < 128 * MIB
    assert not group.path.exists()


def test_a_killed_child_does_not_mean_that_memory_was_missing(child: MakeChild, memory_cgroup: MakeGroup) -> None:
    child("os.kill(os.getpid(), 9)")
    with memory_cgroup(256 * MIB) as group:
        outcome = spawn.run(JOB, group=group, limit=60)
    assert (outcome.status, outcome.reason) == ("error", "ended by SIGKILL")


def test_the_group_goes_when_the_test_fails(memory_cgroup: MakeGroup) -> None:
    with pytest.raises(ZeroDivisionError), memory_cgroup(64 * MIB) as group:  # noqa: PT012
        assert group.path.exists()
        raise ZeroDivisionError
    assert not group.path.exists()


ROOT = "23 1 254:0 / / rw - ext4 /dev/root rw\n24 23 0:21 / /run rw - tmpfs  rw\n"  # the second without a source
V1 = "36 31 0:33 {root} /sys/fs/cgroup/memory rw,relatime shared:9 - cgroup cgroup rw,memory\n"
CPU = "33 31 0:30 / /sys/fs/cgroup/cpu rw,relatime - cgroup cgroup rw,cpu,cpuacct\n"
V2 = "30 23 0:26 {root} {point} rw,nosuid - cgroup2 cgroup2 rw,nsdelegate\n"


def v1(root: str = "/") -> str:
    return ROOT + CPU + V1.format(root=root)


def v2(root: str = "/", point: str = "/sys/fs/cgroup") -> str:
    return ROOT + V2.format(root=root, point=point)


@pytest.mark.parametrize(
    ("own", "mounts", "found"),
    [
        pytest.param("5:cpu,cpuacct:/c\n4:memory:/a/b\n", v1(), (1, "/sys/fs/cgroup/memory/a/b"), id="v1"),
        pytest.param("4:cpu,memory:/a:b\n", v1(), (1, "/sys/fs/cgroup/memory/a:b"), id="v1, together, colon"),
        pytest.param("0::/user.slice/x\n", v2(), (2, "/sys/fs/cgroup/user.slice/x"), id="v2"),
        pytest.param("0::/\n", v2(), (2, "/sys/fs/cgroup"), id="v2, top"),
        pytest.param("4:memory:/a\n0::/b\n", v2() + v1(), (1, "/sys/fs/cgroup/memory/a"), id="hybrid"),
        pytest.param("1:name=systemd:/a\n0::/b\n", CPU + v2(), (2, "/sys/fs/cgroup/b"), id="hybrid, memory in v2"),
        pytest.param("4:memory:/docker/1/a\n", v1("/docker/1"), (1, "/sys/fs/cgroup/memory/a"), id="part is mounted"),
        pytest.param("4:memory:/elsewhere\n", v1("/docker/1"), (1, "/sys/fs/cgroup/memory"), id="outside the mount"),
        pytest.param("0::/../a\n", v2(), (2, "/sys/fs/cgroup"), id="above the namespace"),
        pytest.param("0::/a\n", v2(point="/mnt/my\\040groups"), (2, "/mnt/my groups/a"), id="space"),
    ],
)
def test_the_group_of_this_process(own: str, mounts: str, found: tuple[int, str]) -> None:
    assert _own_group(own, mounts) == (found[0], Path(found[1]))


@pytest.mark.parametrize(
    ("own", "mounts"),
    [
        pytest.param("4:memory:/a\n", CPU, id="not mounted"),
        pytest.param("5:cpu:/a\n", CPU, id="no memory controller"),
        pytest.param("4:memory:/a\n0::/b\n", CPU + v2(), id="hybrid: v1 has the controller but is not mounted"),
    ],
)
def test_no_hierarchy(own: str, mounts: str) -> None:
    with pytest.raises(NoCgroupError, match="mounted"):
        _own_group(own, mounts)


def test_a_group_of_v2_is_made_where_children_have_the_memory_controller(tmp_path: Path) -> None:
    own = tmp_path / "user.slice" / "session"
    own.mkdir(parents=True)
    (own / "cgroup.subtree_control").write_text("")
    (own.parent / "cgroup.subtree_control").write_text("pids\n")
    (tmp_path / "cgroup.subtree_control").write_text("cpu memory pids\n")
    assert _delegating(own) == tmp_path
    (tmp_path / "cgroup.subtree_control").write_text("cpu\n")
    with pytest.raises(NoCgroupError, match="not enabled"):
        _delegating(own)


def test_the_peak_of_the_own_group(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def own(own: str, mounts: str) -> tuple[int, Path]:
        return 2, tmp_path

    def none(own: str, mounts: str) -> tuple[int, Path]:
        raise NoCgroupError("no hierarchy")

    monkeypatch.setattr(cgroup, "_own_group", own)
    assert cgroup.own_peak() is None  # a kernel that does not tell
    (tmp_path / "memory.peak").write_text("4096\n")
    assert cgroup.own_peak() == 4096
    monkeypatch.setattr(cgroup, "_own_group", none)
    assert cgroup.own_peak() is None
