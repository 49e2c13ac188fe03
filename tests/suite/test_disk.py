"""The file with which the disk is measured, and the setting of the kernel that passes depend on."""

from __future__ import annotations

import os
from pathlib import Path

from bench import machine
from bench.limits import disk as limits
from bench.process import spawn
from bench.process.job import Job

MIB = 1 << 20


def test_the_file_is_made_once_and_does_not_compress(tmp_path: Path) -> None:
    file = tmp_path / "disk.bin"
    job = Job("disk", data=str(tmp_path), file=str(file), sizes=(17 * MIB,))
    assert spawn.run(job).status == "ok"
    data = file.read_bytes()
    assert len(data) == 17 * MIB
    assert len({data[at : at + 4096] for at in range(0, len(data), 4096)}) == len(data) // 4096
    made = file.stat().st_mtime_ns
    assert spawn.run(job).status == "ok"
    assert file.stat().st_mtime_ns == made
    file.write_bytes(b"cut short")
    limits.make(file, 17 * MIB)
    assert file.read_bytes() == data
    assert list(tmp_path.iterdir()) == [file]


def test_reading_ahead_is_that_of_the_disk(tmp_path: Path) -> None:
    """A partition has the setting of its disk. A filesystem without a block device has none."""
    device = tmp_path.stat().st_dev
    devices, link = tmp_path / "devices", f"{os.major(device)}:{os.minor(device)}"
    (devices / "disk" / "queue").mkdir(parents=True)
    (devices / "disk" / "part").mkdir()
    assert machine.read_ahead_kb(tmp_path, devices) is None
    (devices / "disk" / "queue" / "read_ahead_kb").write_text("4096\n")
    for folder in ("disk", "disk/part"):
        (devices / link).symlink_to(devices / folder)
        assert machine.read_ahead_kb(tmp_path, devices) == 4096
        (devices / link).unlink()
    assert machine.describe(tmp_path)["read_ahead_kb"] == machine.read_ahead_kb(tmp_path)
