"""The kernel reads ahead of the prefetch thread where all of a file stays in memory. No block of that is forgotten."""

from __future__ import annotations

import errno
import platform
from collections.abc import Callable
from subprocess import CompletedProcess

import pytest

from core.files import BLOCK, PAGE, MakeFile, opened
from core.test_prefetch import cut, one_pass
from streamrt._core import Mapping

RunPython = Callable[..., CompletedProcess[str]]
Preload = Callable[..., dict[str, str]]

BLOCKS = 8
#: Whether the kernel reads ahead in whole blocks. A block is a huge page only if pages have 4 KiB.
READS_AHEAD = tuple(map(int, platform.release().split(".")[:2])) >= (6, 14) and PAGE == 4096
PINNED = [(i * BLOCK, BLOCK, True) for i in range(BLOCKS)]
STREAMED = [(i * BLOCK, BLOCK, False) for i in range(BLOCKS)]

#: Gives a prefetcher, whose thread takes 0.2 s for a block, a schedule; when its first item is there, another schedule.
#: Prints the bytes in memory that are not held: before the other schedule, after it, and the most in a pass of it.
CODE = f"""
import os, sys, time
os.environ.pop("STREAMRT_TEST_POPULATE", None)  # a touch reads nothing ahead
from streamrt._core import Mapping, Prefetcher
path, first, then, window = sys.argv[1], *map(eval, sys.argv[2:])

def unheld():
    time.sleep(0.03)  # so that the kernel has read all that it has begun to read
    return mapping.resident() - prefetcher.held()

with Mapping(path) as mapping:
    with Prefetcher(mapping) as prefetcher:
        prefetcher.read_across(False)
        prefetcher.schedule(first, 0, {BLOCK})
        prefetcher.wait(0)
        print(max(unheld() for _ in range(5)))
        prefetcher.finish()
        if then is not None:
            prefetcher.schedule(then, window, {BLOCK})
        print(unheld())
        most = 0
        for i in range(len(then or [])):
            prefetcher.wait(i)
            most = max(most, unheld())
            prefetcher.done(i)
        print(most)
    time.sleep(0.03)
    print(mapping.resident())
"""

#: The thread cannot read a block. Prints the bytes that stay in the page cache.
FAILING = f"""
import os, sys, time
os.environ.pop("STREAMRT_TEST_POPULATE", None)
from streamrt._core import Mapping, Prefetcher
from streamrt.errors import WeightsIOError
path, first, failing = sys.argv[1], *map(int, sys.argv[2:])
with Mapping(path) as mapping:
    with Prefetcher(mapping) as prefetcher:
        prefetcher.schedule([(i * {BLOCK}, {BLOCK}, True) for i in range(first, {BLOCKS})], 0, {BLOCK})
        try:
            prefetcher.wait(failing)
        except WeightsIOError:
            pass
        else:
            sys.exit("the block was read")
    time.sleep(0.03)  # so that the kernel has read all that it has begun to read
    print(mapping.resident())
"""


@pytest.fixture
def unheld(make_file: MakeFile, run_python: RunPython, slow_reads: Preload) -> Callable[..., list[int]]:
    """Runs `CODE`; returns the printed numbers. The last one is of a time when the prefetcher is closed."""

    def run(first: object, then: object, window: int = 0) -> list[int]:
        done = run_python(CODE, make_file(BLOCKS * BLOCK), first, then, window, **slow_reads(BLOCK / 0.2))
        assert done.returncode == 0, done.stderr
        return [int(line) for line in done.stdout.split()]

    return run


@pytest.mark.parametrize(
    ("then", "window"),
    [
        pytest.param([], 0, id="nothing"),
        pytest.param(PINNED[:1], 0, id="the first block"),
        pytest.param(PINNED[:6], 0, id="all but the last blocks"),
        pytest.param(STREAMED, 2 * BLOCK, id="streams"),
    ],
)
def test_blocks_that_were_read_ahead_are_held_or_released(
    unheld: Callable[..., list[int]], then: object, window: int
) -> None:
    before, after, most, closed = unheld(PINNED, then, window)
    assert (before >= BLOCK) == READS_AHEAD
    assert after <= 0
    assert most <= 0
    assert closed == 0


def test_closing_in_the_middle_of_the_first_reading_releases_everything(unheld: Callable[..., list[int]]) -> None:
    before, _, _, closed = unheld(PINNED, None)
    assert (before >= BLOCK) == READS_AHEAD
    assert closed == 0


def test_the_first_blocks_of_a_file_may_be_missing(unheld: Callable[..., list[int]]) -> None:
    """For example those of a large header. The kernel reads only blocks after those that are requested."""
    _, after, _, closed = unheld(PINNED[2:], [])
    assert after == closed == 0


@pytest.mark.parametrize(
    "first",
    [
        pytest.param(PINNED[:-1], id="but the last block"),
        pytest.param(PINNED[:4] + PINNED[5:], id="but a block"),
    ],
)
def test_nothing_is_read_ahead_where_not_all_stays(unheld: Callable[..., list[int]], first: object) -> None:
    before, after, most, closed = unheld(first, first)
    assert before <= 0
    assert after <= 0
    assert most <= 0
    assert closed == 0


def test_a_block_that_is_being_read_is_released_too(make_file: MakeFile) -> None:
    path = make_file(BLOCKS * BLOCK)
    for _ in range(20):
        with opened(path) as (_, prefetcher):
            prefetcher.schedule(PINNED, 0, BLOCK)
            prefetcher.wait(0)
        with Mapping(path) as mapping:
            assert mapping.resident() <= PAGE


def test_a_pass_after_an_interrupted_reading_has_the_right_bytes(make_file: MakeFile) -> None:
    items = cut(BLOCKS * BLOCK, BLOCK, pinned=BLOCKS)
    with opened(make_file(BLOCKS * BLOCK)) as (mapping, prefetcher):
        for pinned in (BLOCKS, 3, BLOCKS, 0, BLOCKS):
            prefetcher.schedule(items, 0, BLOCK)
            prefetcher.wait(0)
            prefetcher.finish()
            few = [(at, length, i < pinned) for i, (at, length, _) in enumerate(items)]
            prefetcher.schedule(few, 2 * BLOCK, BLOCK)
            one_pass(prefetcher, mapping, few)
            assert prefetcher.held() <= (pinned + 2) * BLOCK


@pytest.mark.parametrize("first", [0, 2])
@pytest.mark.parametrize("failing", [0, 1, 3])
def test_blocks_after_one_that_cannot_be_read_are_released(
    make_file: MakeFile, run_python: RunPython, failing_io: Preload, first: int, failing: int
) -> None:
    """The kernel has requested them, though the call fails: twice for this block, and once for the next one."""
    wish = f"populated:{failing + 1}:{errno.EIO}:3"  # the first call learns whether the kernel can populate
    done = run_python(FAILING, make_file(BLOCKS * BLOCK), first, failing, **failing_io(wish))
    assert (done.stdout, done.stderr) == ("0\n", f"failing_io: {1 + 2 * READS_AHEAD}\n")


def test_blocks_after_one_that_is_read_at_the_second_attempt_are_released(
    make_file: MakeFile, run_python: RunPython, failing_io: Preload
) -> None:
    """Later blocks are in memory, as if the kernel had read them, when the one before them is not."""
    path = make_file(BLOCKS * BLOCK)
    with path.open("rb", buffering=0) as file:
        file.seek(BLOCK)
        file.read()
    done = run_python(FAILING, path, 0, 0, **failing_io(f"populate:1:{errno.EIO}:1"))
    left = 0 if READS_AHEAD else (BLOCKS - 1) * BLOCK
    assert (done.stdout, done.stderr) == (f"{left}\n", "failing_io: 1\n")
