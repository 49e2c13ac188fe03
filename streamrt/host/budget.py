"""Memory budgets and sizes as people write them, in bytes."""

from __future__ import annotations

import math
import re
from numbers import Integral, Real
from pathlib import Path

from streamrt.errors import InputError
from streamrt.host import memory
from streamrt.host.cgroups import PROC

__all__ = ["format_size", "parse_budget", "parse_size"]

#: The values that `parse_budget` takes.
Budget = int | float | str | None

_UNITS = {"": 1, "B": 1}
for _power, _letter in enumerate("KMGT", start=1):
    _UNITS[f"{_letter}B"] = 1000**_power
    _UNITS[f"{_letter}IB"] = 1024**_power

_SIZE = re.compile(r"([0-9]{1,20})(?:\.([0-9]{0,20}))?\s*([A-Za-z]*)")
#: The largest size in bytes: above any machine's memory, and within a signed integer of 64 bits.
_MAX_SIZE = 2**62

#: ``"auto"`` leaves 1/16 of the free memory, at least 32 MiB, for memory that a budget does not count: inputs, returned
#: arrays, BLAS buffers (two threads of OpenBLAS take up to 32 MiB), readahead in flight, and growth of the rest of the
#: process.
_LEAST_RESERVE = 32 * 2**20
_RESERVE_SHARE = 16


def parse_size(text: str) -> int:
    """Bytes from text such as ``"4096"``, ``"512MiB"``, ``"1.5 GiB"`` or ``"300MB"``, rounded down to whole bytes.

    ``KiB MiB GiB TiB`` are powers of 1024 and ``KB MB GB TB`` powers of 1000, in upper or lower case. Without a unit
    the number is bytes.

    Raises:
        InputError: the text has another form, or means less than 1 byte or more than 2**62 bytes.
    """
    match = _SIZE.fullmatch(text.strip())
    unit = _UNITS.get(match[3].upper()) if match else None
    if match is None or unit is None:
        raise InputError(
            f"size {text!r:.60}: expected a number and a unit, such as 4096, 512MiB, 1.5GiB or 300MB "
            "(units: B, KiB, MiB, GiB, TiB, KB, MB, GB, TB)"
        )
    decimals = match[2] or ""
    scale: int = 10 ** len(decimals)
    size = int(match[1] + decimals) * unit // scale
    if not 1 <= size <= _MAX_SIZE:
        raise InputError(f"size {text!r:.60}: expected from 1 byte to 2**62 bytes")
    return size


def parse_budget(budget: Budget, *, held: int = 0, proc: Path = PROC) -> int | None:
    """The bytes that ``budget`` stands for.

    * an int is bytes;
    * a str is read by `parse_size`, or is ``"auto"``: the memory that this process can still take now
      (`streamrt.host.memory.available`), less a reserve of 1/16 and at least 32 MiB;
    * a float is that fraction of the memory limit (`streamrt.host.memory.limit`);
    * None is no budget: None.

    Args:
        budget: one of these values.
        held: bytes of anonymous memory that the budget covers and that are taken already. ``"auto"`` counts them as
            free.
        proc: the folder where the proc filesystem is mounted.

    Raises:
        InputError: any other type, a size below 1 byte, a fraction outside ``0 < f <= 1``, text that is not a size.
        OSError: ``"auto"`` or a fraction, and the proc filesystem cannot be read.
    """
    if budget is None:
        return None
    if isinstance(budget, bool):
        raise _unexpected(budget)
    if isinstance(budget, str):
        return _auto(proc, held) if budget.strip().lower() == "auto" else parse_size(budget)
    if isinstance(budget, Integral):
        if not 1 <= budget <= _MAX_SIZE:
            raise _unexpected(budget)
        return int(budget)
    if isinstance(budget, Real):
        share = float(budget)
        if not (math.isfinite(share) and 0 < share <= 1):
            raise _unexpected(budget)
        return max(1, int(memory.limit(proc) * share))
    raise _unexpected(budget)


def format_size(size: int) -> str:
    """``size`` bytes for people, in binary units with three significant digits: ``"1.50 MiB"``."""
    if size < 1000:
        return f"{size} B"
    value, power = size / 1024, 1
    while value >= 1000 and power < 4:
        value, power = value / 1024, power + 1
    return f"{value:.{2 if value < 10 else 1 if value < 100 else 0}f} {'KMGT'[power - 1]}iB"


def _auto(proc: Path, held: int) -> int:
    room = memory.available(proc) + held
    # At least 1 byte, so that a model raises an error with the budget that it needs.
    return max(1, room - max(_LEAST_RESERVE, room // _RESERVE_SHARE))


def _unexpected(budget: object) -> InputError:
    return InputError(
        f"budget {budget!r:.60}: expected a whole number of bytes above 0, a size such as '512MiB', "
        "a float above 0 and at most 1 (a fraction of the memory limit), 'auto' or None"
    )
