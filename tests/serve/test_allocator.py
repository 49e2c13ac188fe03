"""The server bounds the free memory that glibc keeps, unless its user has set that."""

from __future__ import annotations

import json
import os
import subprocess
import sys

import pytest

#: Prints whether blocks of 2 and 8 MiB are mapped, and the heap's free bytes after blocks of 4 x 1 MiB and 16 x 1 MiB
#: were freed. Without mallinfo2 (other C libraries) it prints null.
PROGRAM = """
import ctypes, json
from streamrt.serve.allocator import keep_little
keep_little()
libc = ctypes.CDLL(None)
if not hasattr(libc, "mallinfo2"):
    print("null")
    raise SystemExit
names = ["arena", "ordblks", "smblks", "hblks", "hblkhd", "usmblks", "fsmblks", "uordblks", "fordblks", "keepcost"]
class Info(ctypes.Structure):
    _fields_ = [(name, ctypes.c_size_t) for name in names]
libc.mallinfo2.restype = Info
libc.malloc.restype = ctypes.c_void_p
libc.malloc.argtypes = [ctypes.c_size_t]
libc.free.argtypes = [ctypes.c_void_p]
libc.free.restype = None
def is_mapped(size):
    before = libc.mallinfo2().hblks
    block = libc.malloc(size)
    found = libc.mallinfo2().hblks > before
    libc.free(block)
    return found
def kept(count):
    blocks = [libc.malloc(1 << 20) for _ in range(count)]
    for block in blocks:
        libc.free(block)
    return libc.mallinfo2().keepcost
print(json.dumps([is_mapped(2 << 20), is_mapped(8 << 20), kept(4), kept(16)]))
"""


def told(**environment: str) -> list[int] | None:
    clean = {name: value for name, value in os.environ.items() if not name.startswith(("MALLOC_", "GLIBC_"))}
    command = [sys.executable, "-P", "-c", PROGRAM]
    ended = subprocess.run(command, env=clean | environment, capture_output=True, text=True, check=True)
    found: list[int] | None = json.loads(ended.stdout)
    return found


def test_blocks_below_4_mib_come_from_a_heap_that_keeps_at_most_8_mib() -> None:
    if (found := told()) is not None:
        middle, large, little, much = found
        assert (middle, large) == (False, True)
        assert little >= 4 << 20
        assert much <= 8 << 20


@pytest.mark.parametrize(
    "environment", [{"MALLOC_MMAP_THRESHOLD_": "1048576"}, {"GLIBC_TUNABLES": "glibc.malloc.mmap_threshold=1048576"}]
)
def test_a_users_own_values_stay(environment: dict[str, str]) -> None:
    if (found := told(**environment)) is not None:
        assert found[0] is True
