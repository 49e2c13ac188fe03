"""What the machine does in a second: assumed until passes have told, and then remembered for the process."""

from __future__ import annotations

from dataclasses import dataclass

#: Bytes from the disk and from memory, and operations of one thread. Rather too many of these: `Model.predict` then
#: puts more samples into a pass than it need, which costs little, where too few would cost reading.
_DISK, _MEMORY, _OPERATIONS = 2.5e9, 2e10, 1e11

_disks: dict[int, float] = {}  # measured, by device number: the one place of the process; each access is atomic


@dataclass(frozen=True, slots=True)
class Rates:
    """What the machine does in a second, as far as is known: bytes from the disk and from memory, and operations."""

    disk: float
    memory: float
    flops: float


def rates_of(device: int, threads: int) -> Rates:
    """The rates for a file on this device (``st_dev``), and calls that compute with so many threads."""
    return Rates(disk=disk_speed(device, _DISK), memory=_MEMORY, flops=_OPERATIONS * threads)


def disk_speed(device: int, otherwise: float) -> float:
    """Bytes a second that passes have measured of a device, or ``otherwise``."""
    return _disks.get(device, otherwise)


def remember_disk(device: int, speed: float) -> None:
    """A pass has told the speed of a device, in bytes a second."""
    _disks[device] = speed
