"""The speeds of the machine. The speed of a disk is assumed until a pass has measured it.

Measured speeds live here, for the whole process: they survive a new budget, and closing and opening a model.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

from streamrt.host.caches import largest_cache

#: Bytes a second that a disk is assumed to deliver until it is measured: the speed of a fast SSD.
DISK = 2.5e9
#: Bytes a second from memory to all threads: assumed.
_MEMORY = 2e10
#: Floating-point operations a second of one thread: assumed, and rather too many. `Model.predict` then puts more
#: samples into a pass than necessary, which costs little. Too few samples would cost reading.
_OPERATIONS = 1e11

#: Treat measured speeds of reading within 25 % as the same.
_SAME = 1.25

_disks: dict[int, float] = {}  # measured bytes a second, by device number; each access is atomic


@dataclass(frozen=True, slots=True)
class Rates:
    """The speeds of the machine in units a second, measured or assumed, and the sizes that estimates need.

    Attributes:
        disk: bytes that it reads from the disk.
        memory: bytes that it reads from memory.
        flops: floating point operations of all threads.
        threads: their number.
        cache: bytes of the largest cache; infinity if that is not known.
    """

    disk: float
    memory: float
    flops: float
    threads: int = 1
    cache: float = math.inf


def rates_of(device: int, threads: int) -> Rates:
    """The rates for a file on the device of this number (``st_dev``), and for calls that compute with ``threads``."""
    return Rates(measured_speed(device, DISK), _MEMORY, _OPERATIONS * threads, threads, largest_cache())


def measured_speed(device: int, otherwise: float) -> float:
    """Bytes a second that passes have measured for a device; ``otherwise`` if none has."""
    return _disks.get(device, otherwise)


def remember_disk(device: int, speed: float) -> None:
    """Note the speed that a pass has measured for a device, in bytes a second."""
    _disks[device] = speed


def same_speed(one: float, other: float) -> bool:
    """Whether two measured speeds of reading differ by less than measurements do."""
    return other / _SAME < one < other * _SAME
