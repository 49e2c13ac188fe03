"""How arguments of the command line are read; what is none of that form is wrong usage."""

from __future__ import annotations

import argparse
import math

from streamrt.errors import InputError
from streamrt.host.budget import parse_budget, parse_size


def budget(text: str) -> int | str | None:
    """A budget as `streamrt.Model` takes it; ``none`` is None."""
    if text.strip().lower() == "none":
        return None
    try:
        return parse_budget(text)
    except InputError as error:
        raise argparse.ArgumentTypeError(f"{error}, 'auto' or 'none'") from None


def size(text: str) -> int:
    """Bytes."""
    try:
        return parse_size(text)
    except InputError as error:
        raise argparse.ArgumentTypeError(str(error)) from None


def count(text: str) -> int:
    """A whole number above 0."""
    try:
        found = int(text)
    except ValueError:
        found = 0
    if not 1 <= found <= 2**31:
        raise argparse.ArgumentTypeError(f"{text!r:.40}: expected a whole number above 0")
    return found


def seconds(text: str) -> float:
    """Seconds, 0 or more, of which there may be parts."""
    try:
        found = float(text)
    except ValueError:
        found = math.nan
    if not 0 <= found <= 1e6:
        raise argparse.ArgumentTypeError(f"{text!r:.40}: expected a number of seconds")
    return found


def seconds_above_0(text: str) -> float:
    """Seconds, more than 0, of which there may be parts."""
    found = seconds(text)
    if not found:
        raise argparse.ArgumentTypeError(f"{text!r:.40}: expected a number of seconds above 0")
    return found


def port(text: str) -> int:
    """A TCP port; 0 is any that is free."""
    if not (text.isascii() and text.isdigit() and len(text) <= 5 and int(text) < 2**16):
        raise argparse.ArgumentTypeError(f"{text!r:.40}: expected a port, from 0 to 65535")
    return int(text)


def shape(text: str) -> tuple[str, tuple[int, ...]]:
    """The name of an input and its shape, ``NAME=N,C,H,W``."""
    name, found, extents = text.rpartition("=")
    try:
        sizes = tuple(int(extent) for extent in extents.split(","))
    except ValueError:
        sizes = (-1,)
    if not found or not name or min(sizes) < 0:
        raise argparse.ArgumentTypeError(f"{text!r:.80}: expected NAME=N,C,H,W")
    return name, sizes
