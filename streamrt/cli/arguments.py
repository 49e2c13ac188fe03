"""Readers of the arguments of the command line. Text of the wrong form is wrong usage, which argparse reports."""

from __future__ import annotations

import argparse
import math

from streamrt.errors import InputError
from streamrt.host.budget import parse_budget, parse_size

#: Mean and standard deviation of the channels of ImageNet's pictures, of values from 0 to 1. Most classifiers were
#: trained with them.
IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)


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


def budgets(text: str) -> list[int | str | None]:
    """Budgets with commas between them."""
    return [budget(part) for part in text.split(",")]


def percent(text: str) -> float:
    """A share of 1, from text such as ``10`` or ``10%``: a number from 0 to below 100."""
    try:
        found = float(text.removesuffix("%"))
    except ValueError:
        found = math.nan
    if not 0 <= found < 100:
        raise argparse.ArgumentTypeError(f"{text!r:.40}: expected percent, a number from 0 to below 100")
    return found / 100


def picture_size(text: str) -> tuple[int, int]:
    """Height and width, from ``HEIGHTxWIDTH``, or from one number for both; each from 1 to 65535."""
    height, _, width = text.partition("x")
    parts = (height, width if "x" in text else height)
    if not all(part.isascii() and part.isdigit() and len(part) <= 5 and 0 < int(part) < 2**16 for part in parts):
        raise argparse.ArgumentTypeError(f"{text!r:.40}: expected HEIGHTxWIDTH, such as 224x224")
    return int(parts[0]), int(parts[1])


def _channels(text: str, imagenet: tuple[float, ...], above_0: bool) -> tuple[float, ...]:
    if text == "imagenet":
        return imagenet
    try:
        found = tuple(float(part) for part in text.split(","))
    except ValueError:
        found = ()
    if len(found) not in (1, 3) or not all(math.isfinite(part) and (part > 0 or not above_0) for part in found):
        what = "numbers above 0" if above_0 else "numbers"
        raise argparse.ArgumentTypeError(
            f"{text!r:.60}: expected 1 or 3 {what} with commas between them, or 'imagenet'"
        )
    return found


def mean(text: str) -> tuple[float, ...]:
    """The mean of each channel, of values from 0 to 1: one or three numbers, or ``imagenet``."""
    return _channels(text, IMAGENET_MEAN, above_0=False)


def std(text: str) -> tuple[float, ...]:
    """The standard deviation of each channel: as `mean`, above 0."""
    return _channels(text, IMAGENET_STD, above_0=True)


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
