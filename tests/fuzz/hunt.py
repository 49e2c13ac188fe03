"""The base of hunts: a hunt makes an input from random numbers, and checks how the package handles it."""

from __future__ import annotations

import json
import os
import random
from abc import ABC, abstractmethod
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache
from io import FileIO
from pathlib import Path
from typing import ClassVar

CORPUS = Path(__file__).parent / "corpus"
MIB = 1 << 20
#: No memory is measured under a sanitizer: its allocator reserves terabytes and keeps freed blocks.
SANITIZED = any(name in os.environ.get("LD_PRELOAD", "") for name in ("libasan", "libtsan"))
#: Outcome of a case that got as far as a pass, through everything that the hunt attacks.
PASSED = "passed"


class Finding(Exception):  # noqa: N818 - it is no error of the hunt
    """A fault of the package. ``kind`` is one line, and equal for equal faults: it has no numbers that vary."""

    def __init__(self, kind: str, detail: str = "") -> None:
        super().__init__(f"{kind}: {detail}" if detail else kind)
        self.kind = kind


@dataclass(frozen=True)
class Entry:
    """An input of the corpus. It must not fail again."""

    name: str
    reason: str  # the fault that it found
    data: bytes


class Hunt(ABC):
    """A hunt. Its module in this folder ends with ``HUNT = <class>()``; it is forked, so it must start no thread."""

    #: Name of the module.
    name: ClassVar[str]
    #: Seconds after which a case counts as hanging.
    seconds: ClassVar[float] = 5.0
    #: Bytes by which a case may raise the peak of resident memory; None for any.
    memory: ClassVar[int | None] = None
    #: Bytes of address space that a worker may add after `start`; None for any.
    space: ClassVar[int | None] = 4096 * MIB
    #: Cases after which another process takes over; 1 gives each case its own process.
    cases: ClassVar[int] = 2000
    #: The share of cases that must get as far as a pass.
    share: ClassVar[float] = 0.2

    def start(self) -> None:  # noqa: B027 - most hunts need nothing here
        """Prepare the worker process. The current folder is empty, lies in memory, and is removed with the worker."""

    @abstractmethod
    def make(self, rng: random.Random) -> bytes:
        """Make the input of a case. It depends only on ``rng``, and not on earlier cases."""

    @abstractmethod
    def check(self, data: bytes) -> str:
        """Give an input to the package; returns the outcome, which is `PASSED` if it got as far as a pass.

        Raises:
            Finding: The answer is wrong, or a bound does not hold.
            Exception: Any other is a finding, too: an untyped error.
        """

    def corpus(self) -> Iterator[Entry]:
        """Inputs that once failed: the files of ``corpus/<name>``. A hunt may add inputs that functions make."""
        folder = CORPUS / self.name
        if folder.is_dir():
            for file, reason in json.loads((folder / "reasons.json").read_text()).items():
                yield Entry(file, reason, (folder / file).read_bytes())


@contextmanager
def bounded(limit: int, action: str) -> Iterator[None]:
    """A context that raises a `Finding` if over ``limit`` bytes of resident memory are added at any moment."""
    before = reset_peak()
    yield
    check_peak(before, limit, action)


def check_text(text: str) -> None:
    """Raise a `Finding` if a message has control characters, which a terminal would obey."""
    if not text.replace("\n", "").isprintable():
        raise Finding("a message that is not printable", repr(text)[:500])


def reset_peak() -> int:
    """Reset the peak of resident memory; returns the bytes that are resident now."""
    _proc("clear_refs", "wb").write(b"5")
    return _resident("VmRSS")


def check_peak(before: int, limit: int, action: str) -> None:
    """Raise a `Finding` if more than ``limit`` bytes beyond ``before`` were resident since `reset_peak`."""
    taken = _resident("VmHWM") - before
    if taken > limit and not SANITIZED:
        raise Finding(f"memory of {action}", f"{taken / MIB:.0f} MiB, at most {limit / MIB:.0f}")


def _resident(key: str) -> int:
    text = _proc("status", "rb").read(4096)
    at = text.index(key.encode()) + len(key) + 1
    return int(text[at : text.index(b"kB", at)]) << 10


@cache
def _opened(_pid: int, name: str, mode: str) -> FileIO:
    return FileIO(f"/proc/self/{name}", mode)


def _proc(name: str, mode: str) -> FileIO:
    """An open file of /proc/self, at its start. A child opens its own: an inherited one is about the parent."""
    file = _opened(os.getpid(), name, mode)
    file.seek(0)
    return file
