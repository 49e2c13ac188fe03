"""Threads that wait for work run each piece of it by itself, and end when there is none."""

import os
import sys
import threading
import time
import weakref
from collections import deque
from pathlib import Path

import pytest

from streamrt.pool.workers import Workers


def ended(threads, seconds=60.0):
    """Whether the threads with these native ids end within some seconds. Threads of other tests do not matter."""
    until = time.monotonic() + seconds
    while living(threads) and time.monotonic() < until:
        time.sleep(0.005)
    return not living(threads)


def living(threads):
    """Those of the native ids whose threads exist."""
    return [thread for thread in threads if Path(f"/proc/self/task/{thread}").exists()]


def test_work_of_one_caller_runs_in_one_thread():
    workers, ran = Workers(), []
    for number in range(50):
        done = threading.Event()

        def work(number=number, done=done):
            ran.append((number, threading.get_ident()))
            done.set()

        workers.run(work)
        assert done.wait(10)
        time.sleep(0.001)  # the thread becomes idle
    assert [number for number, _ in ran] == list(range(50))
    assert len({thread for _, thread in ran}) < 25


def test_work_at_the_same_time_runs_in_several_threads():
    workers, together = Workers(), threading.Barrier(8)
    for _ in range(3):
        for _ in range(7):
            workers.run(together.wait)
        together.wait(10)  # fails unless all run at the same time


def test_threads_end_and_hold_nothing_while_they_wait():
    class Thing:
        pass

    thing, gone = Thing(), threading.Event()
    watched = weakref.ref(thing, lambda _: gone.set())
    patient = Workers(patience=3600)  # what its threads held would be freed after the test
    for _ in range(5):
        patient.run(lambda thing=thing: None)
    del thing
    assert gone.wait(60), watched()
    for _ in range(5):
        patient.run(sys.exit)  # ends a thread without a word

    workers, ran, last = Workers(patience=0.2), [], threading.Semaphore(0)
    for _ in range(5):
        workers.run(lambda: (ran.append(threading.get_native_id()), last.release()))
    for _ in range(5):
        assert last.acquire(timeout=60)
    assert ended(ran)


def test_all_work_runs_though_threads_end_all_the_time():
    workers, ran, last = Workers(patience=0.0005), [], threading.Semaphore(0)
    for number in range(2000):
        workers.run(lambda number=number: (ran.append(number), last.release()))
        time.sleep(0.0005 * (number % 3 == 0))
    for _ in range(2000):
        assert last.acquire(timeout=10)
    assert sorted(ran) == list(range(2000))


@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # a fork beside threads is the subject
def test_a_child_process_has_threads_of_its_own():
    workers, done = Workers(), threading.Event()
    workers.run(done.set)
    assert done.wait(10)
    time.sleep(0.01)
    child = os.fork()
    if child == 0:
        there = threading.Event()
        workers.run(there.set)
        os._exit(0 if there.wait(10) else 1)
    assert os.waitpid(child, 0)[1] == 0


def test_an_error_ends_the_thread_alone(monkeypatch):
    workers, met, done = Workers(), [], threading.Event()
    monkeypatch.setattr("sys.unraisablehook", lambda raised: (met.append(raised.exc_value), done.set()))

    def work():
        raise ValueError("broken")

    workers.run(work)
    assert done.wait(10)
    assert [str(error) for error in met] == ["broken"]
    after = threading.Event()
    workers.run(after.set)
    assert after.wait(10)


def test_work_given_to_a_thread_that_is_about_to_end_is_done():
    workers, late = Workers(patience=0.001), threading.Event()

    class Line(deque):
        def remove(self, worker):
            worker.give(late.set)
            raise ValueError

    workers._idle = Line()
    workers.run(lambda: None)
    assert late.wait(10)


def test_a_thread_for_which_there_is_no_memory_is_one_that_cannot_start(monkeypatch):
    def start(function, arguments):
        raise MemoryError

    monkeypatch.setattr("_thread.start_new_thread", start)
    with pytest.raises(RuntimeError, match="no memory for a new thread"):
        Workers().run(print)
