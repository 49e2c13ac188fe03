"""What a hunt is: it makes an input from random numbers, and checks what the package does with it."""

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
#: The allocator of a sanitizer reserves terabytes and keeps freed blocks: no memory is measured beside one.
SANITIZED = any(name in os.environ.get("LD_PRELOAD", "") for name in ("libasan", "libtsan"))
#: Outcome of a case that got as far as a pass, through whatever the hunt attacks.
PASSED = "passed"


class Finding(Exception):  # noqa: N818 - it is no error of the hunt
    """The package did wrong. ``kind`` is the same for the same fault: one line, without numbers that vary."""

    def __init__(self, kind: str, detail: str = "") -> None:
        super().__init__(f"{kind}: {detail}" if detail else kind)
        self.kind = kind


@dataclass(frozen=True)
class Entry:
    """An input of the corpus. It must not fail again."""

    name: str
    reason: str  # why it is there: the fault it found
    data: bytes


class Hunt(ABC):
    """A hunt. Its module in this folder ends with ``HUNT = <class>()``; it is forked, so it must start no thread."""

    #: Name of the module.
    name: ClassVar[str]
    #: Seconds of a case; one that takes longer hangs.
    seconds: ClassVar[float] = 5.0
    #: Bytes that a case may hold beyond those held before it, by the high-water mark of resident memory. None: any.
    memory: ClassVar[int | None] = None
    #: Bytes of address space that a worker gets beside what it has after `start`. None: any.
    space: ClassVar[int | None] = 4096 * MIB
    #: Cases of a worker, then another process takes over. 1 gives each case a process of its own.
    cases: ClassVar[int] = 2000
    #: The least part of all cases that must get as far as a pass.
    share: ClassVar[float] = 0.2

    def start(self) -> None:  # noqa: B027 - most hunts need nothing here
        """Prepare the worker process; the current folder is empty, in memory, and goes with the worker."""

    @abstractmethod
    def make(self, rng: random.Random) -> bytes:
        """The input of a case. It depends on nothing but ``rng``, not even on cases before it."""

    @abstractmethod
    def check(self, data: bytes) -> str:
        """Do with an input all that is under attack; return the outcome, `PASSED` if it came as far as a pass.

        Raises:
            Finding: The answer is wrong, or a bound does not hold.
            Exception: Any other is a finding, too: an untyped error.
        """

    def corpus(self) -> Iterator[Entry]:
        """Inputs that once failed: the files of ``corpus/<name>``. A hunt may add some that a function makes."""
        folder = CORPUS / self.name
        if folder.is_dir():
            for file, reason in json.loads((folder / "reasons.json").read_text()).items():
                yield Entry(file, reason, (folder / file).read_bytes())


@contextmanager
def bounded(limit: int, action: str) -> Iterator[None]:
    """Hold that what is done inside takes at most ``limit`` bytes of resident memory at once, beyond those held."""
    before = reset_peak()
    yield
    check_peak(before, limit, action)


def check_text(text: str) -> None:
    """Raise a `Finding` when a message has characters that a terminal would obey."""
    if not text.replace("\n", "").isprintable():
        raise Finding("a message that is not printable", repr(text)[:500])


def reset_peak() -> int:
    """Start measuring the peak of resident memory anew; the bytes that are resident now."""
    _proc("clear_refs", "wb").write(b"5")
    return _resident("VmRSS")


def check_peak(before: int, limit: int, action: str) -> None:
    """Raise a `Finding` when more than ``limit`` bytes beyond ``before`` were resident since `reset_peak`."""
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
    """A file of this process, kept open, at its begin. A child must open its own: an inherited one is the parent's."""
    file = _opened(os.getpid(), name, mode)
    file.seek(0)
    return file
