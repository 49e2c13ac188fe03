"""Files that lose pages while they are mapped: an error that names the file, never the end of the process."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable
from subprocess import CompletedProcess

import numpy as np
import pytest

from core.files import BLOCK, PAGE, MakeFile, content
from streamrt._core import Mapping, Prefetcher
from streamrt.errors import WeightsIOError

RunPython = Callable[..., CompletedProcess[str]]
SIZE = 4 * BLOCK


@pytest.mark.parametrize("granule", [PAGE, BLOCK])
@pytest.mark.parametrize("pinned", [False, True])
def test_truncation_before_reading_is_an_error_of_the_wait(make_file: MakeFile, granule: int, pinned: bool) -> None:
    path = make_file(SIZE)
    items = [(at, BLOCK, pinned) for at in range(0, SIZE, BLOCK)]
    with Mapping(path) as mapping, Prefetcher(mapping) as prefetcher:
        os.truncate(path, 2 * BLOCK)
        prefetcher.schedule(items, BLOCK, granule)
        for i in range(2):
            prefetcher.wait(i)
            with memoryview(mapping) as view:
                assert view[i * BLOCK : (i + 1) * BLOCK] == content(i * BLOCK, BLOCK)
            prefetcher.done(i)
        for i in (2, 3, 2):
            with pytest.raises(WeightsIOError, match=rf"{BLOCK} bytes at {2 * BLOCK}.*has {2 * BLOCK}") as caught:
                prefetcher.wait(i)
            assert caught.value.filename == str(path)
        prefetcher.rewind()
        prefetcher.wait(0)
        prefetcher.finish()  # the next pass fails as well
        for i in range(2):
            prefetcher.wait(i)
            prefetcher.done(i)
        with pytest.raises(WeightsIOError):
            prefetcher.wait(2)
        with pytest.raises(WeightsIOError):
            mapping.check()


def test_an_error_leaves_nothing_behind(make_file: MakeFile) -> None:
    path = make_file(SIZE)
    with Mapping(path) as mapping, Prefetcher(mapping) as prefetcher:
        os.truncate(path, BLOCK)
        prefetcher.schedule([(0, SIZE, False)], SIZE, BLOCK)
        for _ in range(3):
            with pytest.raises(WeightsIOError):
                prefetcher.wait(0)
            assert prefetcher.held() == 0
            assert mapping.resident() == 0
            prefetcher.rewind()


def test_a_file_that_came_back_can_be_read_again(make_file: MakeFile) -> None:
    """Populating reports a missing page before anything reads it, so only one pass is lost."""
    path = make_file(SIZE)
    with Mapping(path) as mapping, Prefetcher(mapping) as prefetcher:
        os.truncate(path, BLOCK)
        prefetcher.schedule([(BLOCK, BLOCK, False)], BLOCK, BLOCK)
        with pytest.raises(WeightsIOError):
            prefetcher.wait(0)
        os.truncate(path, SIZE)
        prefetcher.rewind()
        prefetcher.wait(0)
        with memoryview(mapping) as view:
            assert view[BLOCK : 2 * BLOCK] == bytes(BLOCK)
        with pytest.raises(WeightsIOError, match="modified"):
            mapping.check()


def test_reading_bytes_that_were_cut_off_gives_zeros_and_is_remembered(make_file: MakeFile) -> None:
    path = make_file(SIZE)
    with Mapping(path) as mapping, Prefetcher(mapping) as prefetcher:
        array = np.frombuffer(memoryview(mapping), np.uint8)
        prefetcher.schedule([(0, SIZE, False)], SIZE, BLOCK)
        prefetcher.wait(0)
        os.truncate(path, PAGE)
        assert int(array.sum()) == sum(content(0, PAGE))  # all other bytes read as zeros
        for use in (mapping.check, lambda: prefetcher.wait(0)):
            with pytest.raises(WeightsIOError, match=f"expected {SIZE} bytes, the file now has {PAGE}"):
                use()
        os.truncate(path, SIZE)
        prefetcher.rewind()
        with pytest.raises(WeightsIOError):  # for ever, because a pass may have used the zeros
            prefetcher.wait(0)
        with pytest.raises(WeightsIOError):
            mapping.check()
        del array


def test_only_the_mapping_that_was_cut_is_poisoned(make_file: MakeFile) -> None:
    paths = [make_file(3 * PAGE, name=f"weights{i}") for i in range(300)]
    mappings = [Mapping(path) for path in paths]
    for i in range(0, 300, 3):  # makes holes in the guard's table and fills them again
        mappings[i].close()
        mappings[i] = Mapping(paths[i])
    victims = {0, 7, 150, 299}
    for i in victims:
        os.truncate(paths[i], PAGE)
        with memoryview(mappings[i]) as view:
            assert view[2 * PAGE] == 0
            assert view[0] == content(0, 1)[0]
    for i, mapping in enumerate(mappings):
        if i in victims:
            with pytest.raises(WeightsIOError):
                mapping.check()
        else:
            mapping.check()
        mapping.close()
    with Mapping(paths[1]) as mapping:  # takes the table's entry of a poisoned mapping
        mapping.check()


FOREIGN = """
import mmap, os, sys, signal
{before}
from streamrt._core import Mapping
path, ours = sys.argv[1:3]
mapping = Mapping(ours)
os.truncate(ours, 1)
assert memoryview(mapping)[5000] == 0  # the guard is at work
with open(path, "r+b") as file:
    theirs = mmap.mmap(file.fileno(), 8192)
os.truncate(path, 4096)
print("reading", flush=True)
{act}
print("survived", flush=True)
"""

#: Installs a handler before the guard. It is in C, because Python's handlers run only between two byte codes.
HANDLER = """
import ctypes
{flags}
class Action(ctypes.Structure):
    _fields_ = [("handler", ctypes.c_void_p), ("mask", ctypes.c_ubyte * 128), ("flags", ctypes.c_long)]
    _fields_.append(("restorer", ctypes.c_void_p))
libc = ctypes.CDLL(None)
exit_code = ctypes.cast(libc._exit, ctypes.c_void_p).value  # as a handler: exits with the number of the signal
assert libc.sigaction(signal.SIGBUS, ctypes.byref(Action(handler=exit_code, flags=FLAGS)), None) == 0
"""
READ = "theirs[5000]"


@pytest.mark.parametrize(
    ("before", "act", "code"),
    [
        ("", READ, -signal.SIGBUS),
        ("signal.signal(signal.SIGBUS, signal.SIG_IGN)", READ, -signal.SIGBUS),
        ("", "os.kill(os.getpid(), signal.SIGBUS); signal.pause()", -signal.SIGBUS),
        (HANDLER.format(flags="FLAGS = 0"), READ, signal.SIGBUS),
        (HANDLER.format(flags="FLAGS = 4  # SA_SIGINFO"), READ, signal.SIGBUS),
    ],
    ids=["no handler", "ignored", "sent by kill", "plain handler", "handler with siginfo"],
)
def test_a_foreign_signal_has_the_same_effect_as_without_the_guard(
    make_file: MakeFile, run_python: RunPython, before: str, act: str, code: int
) -> None:
    result = run_python(
        FOREIGN.format(before=before, act=act), make_file(8192, name="theirs"), make_file(8192, name="ours")
    )
    assert (result.stdout, result.returncode) == ("reading\n", code), result.stderr


def test_faulthandler_enabled_earlier_still_reports(make_file: MakeFile, run_python: RunPython) -> None:
    code = FOREIGN.format(before="import faulthandler; faulthandler.enable()", act=READ)
    result = run_python(code, make_file(8192, name="theirs"), make_file(8192, name="ours"))
    assert result.returncode == -signal.SIGBUS
    assert "Fatal Python error: Bus error" in result.stderr
