"""A limit of threads is a setting of the process. A forked child begins without the limits of calls in progress."""

from __future__ import annotations

import os
import types

import pytest
from threadpoolctl import threadpool_info

from streamrt.host import threads

PRELUDE = """
    import os, signal, threading, types
    import numpy as np
    from threadpoolctl import threadpool_info
    import streamrt._core as core
    from streamrt.host import threads

    def counts():
        return core.threads(), [pool["num_threads"] for pool in threadpool_info() if pool["user_api"] == "blas"]

    np.ones((64, 64), np.float32) @ np.ones((64, 64), np.float32)
    core.set_threads(2)
    before = counts()
    while_set = threading.Event()

    def forked(check):
        child = os.fork()
        if child == 0:
            signal.alarm(10)  # ends a child that hangs
            code = 1
            try:
                check()
                code = 0
            finally:
                os._exit(code)
        assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0

    def begins_anew():
        assert counts() == before, counts()
        with threads.limited(1):
            assert core.threads() == 1
        assert counts() == before, counts()

    class Patient(types.ModuleType):
        # The core, except that `while_set.slow` runs whenever threads are set.
        threads = staticmethod(core.threads)

        @staticmethod
        def set_threads(count):
            core.set_threads(count)
            while_set.set()
            while_set.slow(count)
"""


def test_blas_has_one_thread_in_each_of_several_processes_that_run_tests():
    """The limit is that of tests/conftest.py."""
    counts = [pool["num_threads"] for pool in threadpool_info() if "numpy" in pool["filepath"]]
    assert "PYTEST_XDIST_WORKER" not in os.environ or set(counts) <= {1}


@pytest.mark.parametrize(
    "case",
    [
        pytest.param(
            """
    entered, done = threading.Event(), threading.Event()

    def call():
        with threads.limited(1):
            entered.set()
            done.wait()

    caller = threading.Thread(target=call, daemon=True)
    caller.start()
    entered.wait()
    forked(begins_anew)
    assert core.threads() == 1
    done.set()
    caller.join()
""",
            id="a call of another thread",
        ),
        pytest.param(
            """
    import time
    while_set.slow = lambda count: time.sleep(0.3)
    threads._core = Patient("core")

    def call():
        with threads.limited(1):
            pass

    caller = threading.Thread(target=call, daemon=True)
    caller.start()
    while_set.wait()

    def check():
        threads._core = core
        begins_anew()

    forked(check)
    caller.join()
""",
            id="while another thread sets its limit",
        ),
        pytest.param(
            """
    while_set.slow = lambda count: children.append(os.fork()) if count == 1 and not children else None
    children = []
    threads._core = Patient("core")
    with threads.limited(1):  # as in a signal handler
        pass
    if children == [0]:
        signal.alarm(10)
        threads._core = core
        begins_anew()
        os._exit(0)
    assert os.waitstatus_to_exitcode(os.waitpid(children[0], 0)[1]) == 0
""",
            id="while the thread itself sets its limit",
        ),
        pytest.param(
            """
    libraries, children = threads._blas(), []
    threads._blas = lambda: (children.append(os.fork()) if not children else None, libraries)[1]
    with threads.limited(1):  # as in a signal handler
        pass
    if children == [0]:
        signal.alarm(10)
        begins_anew()
        os._exit(0)
    assert os.waitstatus_to_exitcode(os.waitpid(children[0], 0)[1]) == 0
""",
            id="while the thread itself sets the limit of BLAS",
        ),
        pytest.param(
            """
    with threads.limited(1):
        child = os.fork()
    if child == 0:
        begins_anew()
        os._exit(0)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
""",
            id="within a call of the thread itself",
        ),
    ],
)
def test_a_forked_child_has_the_threads_of_before(run_python, case):
    done = run_python(PRELUDE + case + "    assert counts() == before\n", OPENBLAS_NUM_THREADS="2")
    assert done.returncode == 0, done.stderr


class FakeBlas:
    """A BLAS library with a number of threads, and the numbers to which it was set."""

    def __init__(self, count: int) -> None:
        self.num_threads, self.calls = count, []
        self.lib_controllers = [self]

    def limit(self, *, limits):
        before = self.num_threads

        def restore():
            self.calls.append(before)
            self.num_threads = before

        self.calls.append(limits)
        self.num_threads = limits
        return types.SimpleNamespace(restore_original_limits=restore)


def test_blas_is_left_alone_if_it_has_the_threads(monkeypatch):
    blas = FakeBlas(2)
    monkeypatch.setattr(threads, "_blas", lambda: blas)
    with threads.limited(2):
        assert blas.num_threads == 2
        with threads.limited(2):
            pass
    assert blas.calls == []


def test_blas_is_left_alone_by_calls_that_do_not_use_it(monkeypatch):
    blas = FakeBlas(4)
    monkeypatch.setattr(threads, "_blas", lambda: blas)
    before = threads._core.threads()
    with threads.limited(1, blas=False):
        assert (threads._core.threads(), blas.num_threads) == (1, 4)
        with threads.limited(3):
            assert (threads._core.threads(), blas.num_threads) == (1, 3)
    assert (threads._core.threads(), blas.calls) == (before, [3, 4])


def test_a_limit_that_could_not_be_set_is_forgotten(monkeypatch):
    class Interrupted(types.ModuleType):
        threads = staticmethod(threads._core.threads)

        @staticmethod
        def set_threads(count):
            core.set_threads(count)
            if count == before + 1:
                raise KeyboardInterrupt

    core, before = threads._core, threads._core.threads()
    monkeypatch.setattr(threads, "_core", Interrupted("core"))
    with pytest.raises(KeyboardInterrupt):
        threads.limited(before + 1).__enter__()
    assert (core.threads(), threads._active) == (before, set())


def test_a_limit_whose_end_was_interrupted_does_not_stay():
    core, before = threads._core, threads._core.threads()
    limit = threads.limited(before + 1)
    limit.__enter__()
    threads._active.clear()  # the interrupt came before the settings were restored
    with threads.limited(before + 2):
        assert core.threads() == before + 2
    assert core.threads() == before


def test_blas_gets_the_lowest_limit_and_its_own_number_back(monkeypatch):
    blas = FakeBlas(4)
    monkeypatch.setattr(threads, "_blas", lambda: blas)
    with threads.limited(4):
        with threads.limited(2):
            with threads.limited(3):
                assert blas.num_threads == 2
            assert blas.num_threads == 2
        assert blas.num_threads == 4
    assert blas.num_threads == 4
    with threads.limited(1):
        assert blas.num_threads == 1
    assert blas.num_threads == 4
