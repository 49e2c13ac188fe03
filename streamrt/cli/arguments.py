"""Readers of the arguments of the command line. Text of the wrong form is wrong usage, which argparse reports."""

from __future__ import annotations

import argparse
import math

from streamrt.errors import InputError
from streamrt.host.budget import parse_budget, parse_size


def budget(text: str) -> int | str | None:
    """A budget as `streamrt.Model` takes it: bytes, ``"auto"``, or None for ``none``."""
    if text.strip().lower() == "none":
        return None
    try:
        return parse_budget(text)
    except InputError as error:
        raise argparse.ArgumentTypeError(f"{error}; or 'auto' or 'none'") from None


def size(text: str) -> int:
    """A size with or without a unit, in bytes."""
    try:
        return parse_size(text)
    except InputError as error:
        raise argparse.ArgumentTypeError(str(error)) from None


def named(text: str) -> tuple[str, str]:
    """``NAME=TYPE``. The name may have further equals signs."""
    name, equals, value = text.rpartition("=")
    if not (name and equals and value):
        raise argparse.ArgumentTypeError(f"{text!r:.80}: expected NAME=TYPE, such as head.weight=float16")
    return name, value


def extents(text: str) -> tuple[str, tuple[int | str, ...]]:
    """The name of an input and its extents, from text such as ``NAME=Nx3x640x640``. A name of an extent has no x."""
    name, _, found = text.rpartition("=")
    parts = found.split("x")
    if not (name and all(parts)):
        raise argparse.ArgumentTypeError(f"{text!r:.80}: expected NAME=EXTENTS, such as images=Nx3x640x640")
    return name, tuple(int(part) if part.isascii() and part.isdigit() and len(part) < 16 else part for part in parts)


def count(text: str) -> int:
    """A whole number above 0."""
    try:
        found = int(text)
    except ValueError:
        found = 0
    if not 1 <= found <= 2**31:
        raise argparse.ArgumentTypeError(f"{text!r:.40}: expected a whole number from 1 to 2**31")
    return found


def seconds(text: str) -> float:
    """Seconds, from 0 to 1,000,000; fractions are allowed."""
    try:
        found = float(text)
    except ValueError:
        found = math.nan
    if not 0 <= found <= 1e6:
        raise argparse.ArgumentTypeError(f"{text!r:.40}: expected seconds, a number from 0 to 1000000")
    return found


def seconds_above_0(text: str) -> float:
    """Seconds, above 0 and up to 1,000,000; fractions are allowed."""
    found = seconds(text)
    if not found:
        raise argparse.ArgumentTypeError(f"{text!r:.40}: expected seconds, a number above 0 and up to 1000000")
    return found


def port(text: str) -> int:
    """A TCP port; 0 stands for any free port."""
    if not (text.isascii() and text.isdigit() and len(text) <= 5 and int(text) < 2**16):
        raise argparse.ArgumentTypeError(f"{text!r:.40}: expected a port, from 0 to 65535")
    return int(text)


def shape(text: str) -> tuple[str, tuple[int, ...]]:
    """The name of an input and its shape, from text such as ``NAME=N,C,H,W``."""
    name, found, extents = text.rpartition("=")
    try:
        sizes = tuple(int(extent) for extent in extents.split(","))
    except ValueError:
        sizes = (-1,)
    if not found or not name or min(sizes) < 0:
        raise argparse.ArgumentTypeError(
            f"{text!r:.80}: expected the name and the shape of an input, such as image=1,3,224,224"
        )
    return name, sizes
