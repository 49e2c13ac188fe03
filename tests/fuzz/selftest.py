"""A hunt with faults on purpose, one of each sort, which shows that the frame finds them."""

from __future__ import annotations

import os
import random
import time
from collections.abc import Iterator

from fuzz.hunt import MIB, PASSED, Entry, Finding, Hunt

FAULTS = {
    b"crash": "SIGABRT",
    b"hang": "hang",
    b"memory": "memory of a case",
    b"untyped": "untyped ZeroDivisionError",
    b"wrong": "wrong answer",
    b"exit": "exit 3",
}


class _Selftest(Hunt):
    name = "selftest"
    seconds = 0.5
    memory = 64 * MIB
    cases = 50

    def make(self, rng: random.Random) -> bytes:
        return rng.choice([b"fine", b"refused", *FAULTS]) if rng.random() < 0.1 else b"fine"

    def check(self, data: bytes) -> str:
        match data:
            case b"crash":
                os.abort()
            case b"hang":
                time.sleep(60)
            case b"memory":
                bytearray(b"x") * (100 * MIB)
            case b"untyped":
                return str(1 // 0)
            case b"wrong":
                raise Finding("wrong answer", "41 instead of 42")
            case b"exit":
                os._exit(3)
            case b"refused":
                return "refused"
        return PASSED

    def corpus(self) -> Iterator[Entry]:
        for fault, kind in FAULTS.items():
            yield Entry(fault.decode(), kind, fault)


HUNT = _Selftest()
