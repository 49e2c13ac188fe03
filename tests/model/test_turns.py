"""Turns, without a model: which thread serves which requests and when. No request waits for ever."""

import signal
import threading
from types import SimpleNamespace

import numpy as np
import pytest

from model.zoo import eventually
from streamrt.engine import turns
from streamrt.engine.turns import Request, Turns
from streamrt.errors import StreamrtError
from streamrt.graph import TensorSpec

WAIT = 120  # seconds, after which a test has failed


def graph(output="y"):
    return SimpleNamespace(inputs=(TensorSpec("x", ("N", 4)),), outputs=(TensorSpec(output, ("N", 4)),))


def request(value=1.0, samples=1, width=4, output="y"):
    return Request(graph(output), {"x": np.full((samples, width), value, np.float32)})


class Worker:
    """Doubles the inputs of requests, and remembers which requests it served together. A closed ``gate`` stops it."""

    def __init__(self):
        self.turns = Turns()
        self.groups = []
        self.gate = threading.Event()
        self.gate.set()
        self.entered = threading.Event()
        self.fails = lambda group: None

    def run(self, group):
        self.groups.append([float(r.arrays["x"][0, 0]) for r in group])
        self.entered.set()
        assert self.gate.wait(WAIT)
        if error := self.fails(group):
            raise error
        for r in group:
            r.results = {"y": r.arrays["x"] * 2}

    def call(self, *requests, most=1000):
        self.turns.serve(requests, lambda _: most, self.run)
        return [r.results["y"] for r in requests]

    def start(self, *requests, most=1000):
        """Call in a thread of its own; returns when the requests are queued, or being served."""
        waiting = len(self.turns._waiting)
        idle = self.turns._owner is None
        self.entered.clear()
        outcome = SimpleNamespace(results=None, error=None)

        def work():
            try:
                outcome.results = self.call(*requests, most=most)
            except BaseException as error:
                outcome.error = error

        outcome.thread = threading.Thread(target=work, daemon=True)
        outcome.thread.start()
        if idle:
            assert self.entered.wait(WAIT)
        else:
            eventually(lambda: len(self.turns._waiting) == waiting + len(requests))
        return outcome


def join(*outcomes):
    for outcome in outcomes:
        outcome.thread.join(WAIT)
        assert not outcome.thread.is_alive()


def test_requests_that_wait_during_a_pass_are_served_together():
    worker = Worker()
    worker.gate.clear()
    calls = [worker.start(request(i)) for i in range(6)]
    worker.gate.set()
    join(*calls)
    assert worker.groups == [[0], [1, 2, 3, 4, 5]]
    for i, call in enumerate(calls):
        assert (call.results[0] == 2 * i).all()


def test_only_like_requests_that_gain_by_it_are_served_together_the_oldest_first():
    worker = Worker()
    worker.gate.clear()
    calls = [
        worker.start(request(0)),
        worker.start(request(1, width=5)),
        worker.start(request(2)),
        worker.start(request(3, output="z")),
        worker.start(request(4, samples=7)),
    ]
    worker.gate.set()
    join(*calls)
    assert worker.groups == [[0], [1], [2, 4], [3]]

    worker = Worker()
    worker.gate.clear()
    calls = [worker.start(request(i), most=1) for i in range(4)]
    worker.gate.set()
    join(*calls)
    assert worker.groups == [[0], [1], [2], [3]]


def test_a_pass_serves_no_more_samples_than_it_may():
    worker = Worker()
    worker.gate.clear()
    calls = [worker.start(request(i, samples=n), most=6) for i, n in enumerate([1, 2, 5, 3, 9, 1, 1])]
    worker.gate.set()
    join(*calls)
    assert worker.groups == [[0], [1, 3, 5], [2, 6], [4]]


def test_several_requests_of_one_caller_are_served_together():
    worker = Worker()
    found = worker.call(*map(request, range(5)))
    assert worker.groups == [[0, 1, 2, 3, 4]]
    assert [y[0, 0] for y in found] == [0, 2, 4, 6, 8]
    assert worker.call() == []


def test_an_error_reaches_only_the_caller_whose_request_failed():
    worker = Worker()
    worker.fails = lambda group: ValueError("three") if any(r.arrays["x"][0, 0] == 3 for r in group) else None
    worker.gate.clear()
    calls = [worker.start(request(i)) for i in range(6)]
    worker.gate.set()
    join(*calls)
    assert worker.groups == [[0], [1, 2, 3, 4, 5], [1], [2], [3], [4], [5]]
    for i, call in enumerate(calls):
        if i == 3:
            assert str(call.error) == "three"
        else:
            assert (call.results[0] == 2 * i).all()


def test_after_an_interrupt_another_thread_serves_the_other_requests():
    worker = Worker()
    worker.gate.clear()
    first = worker.start(request(0))
    interrupted = worker.start(request(1))
    others = [worker.start(request(i)) for i in (2, 3)]
    stops = iter([KeyboardInterrupt()])
    worker.fails = lambda group: next(stops, None) if len(group) > 1 else None
    worker.gate.set()
    join(first, interrupted, *others)
    errors = [call.error for call in (interrupted, *others) if call.error]
    assert [type(error) for error in errors] == [KeyboardInterrupt]  # of the thread that had the turn
    served = [call for call in (interrupted, *others) if not call.error]
    assert len(served) == 2
    assert all(call.results for call in served)


def test_a_caller_served_by_another_need_not_wait_for_the_next_pass():
    worker = Worker()
    worker.gate.clear()
    first = worker.start(request(0))
    pair = [worker.start(request(1)), worker.start(request(2))]
    slow = worker.start(request(9, width=5))
    release = threading.Event()
    worker.fails = lambda group: None if group[0].arrays["x"].shape[1] == 4 else assert_set(release)
    worker.gate.set()
    join(first, *pair)  # they end though the last call is still running
    assert slow.thread.is_alive()
    release.set()
    join(slow)


def assert_set(event):
    assert event.wait(WAIT)


def test_one_thread_has_the_turn_at_a_time():
    queue, inside, most = Turns(), [], []

    def work():
        for _ in range(200):
            with queue.hold():
                inside.append(1)
                most.append(len(inside))
                inside.pop()

    threads = [threading.Thread(target=work) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(WAIT)
    assert max(most) == 1
    assert len(most) == 1600


def test_a_turn_within_a_turn_is_refused_and_does_not_end_it():
    queue = Turns()
    with queue.hold():
        with pytest.raises(StreamrtError, match="middle of a call"), queue.hold():
            pass
        assert queue.is_mine
    assert not queue.is_mine


@pytest.fixture
def alarm():
    """Calls a function in the main thread a moment later, as a signal handler."""
    before = signal.getsignal(signal.SIGALRM)

    def ring(function):
        signal.signal(signal.SIGALRM, lambda *_: function())
        signal.setitimer(signal.ITIMER_REAL, 0.05)

    yield ring
    signal.setitimer(signal.ITIMER_REAL, 0)
    signal.signal(signal.SIGALRM, before)


def test_an_interrupt_while_waiting_takes_the_request_back(alarm):
    worker = Worker()
    worker.gate.clear()
    first = worker.start(request(0))

    def interrupt():
        raise KeyboardInterrupt

    def call():
        alarm(interrupt)
        worker.call(request(1))

    with pytest.raises(KeyboardInterrupt):
        call()
    worker.gate.set()
    join(first)
    worker.call(request(2))
    assert worker.groups == [[0], [2]]


def test_a_signal_handler_may_call_while_its_thread_waits(alarm):
    worker = Worker()
    worker.gate.clear()
    first = worker.start(request(0))

    def nested():
        worker.gate.set()
        found.append(worker.call(request(2)))

    found = []
    alarm(nested)
    found.append(worker.call(request(1)))
    join(first)
    assert sorted(y[0][0, 0] for y in found) == [2, 4]


def test_one_request_more_than_in_the_last_pass_is_not_left_behind(monkeypatch):
    """Otherwise it would have a pass of its own, then the others would have a pass, and so on."""
    monkeypatch.setattr(turns, "_PATIENCE", 0.5)
    monkeypatch.setattr(turns, "_PATIENCE_SHARE", 1e9)
    monkeypatch.setattr(turns, "_QUIET_SHARE", 1.0)
    worker = Worker()
    worker.call(*map(request, range(2)))
    threads = [threading.Thread(target=worker.call, args=(request(i),)) for i in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(WAIT)
    assert [len(group) for group in worker.groups] == [2, 3]


def test_a_pass_waits_for_callers_that_come_back_at_once(monkeypatch):
    monkeypatch.setattr(turns, "_PATIENCE", 1.0)
    monkeypatch.setattr(turns, "_PATIENCE_SHARE", 1e9)
    worker = Worker()
    worker.gate.clear()

    def keep_calling():
        for _ in range(20):
            worker.call(request())

    threads = [threading.Thread(target=keep_calling) for _ in range(4)]
    for thread in threads:
        thread.start()
    eventually(lambda: len(worker.turns._waiting) == 3)
    worker.gate.set()
    for thread in threads:
        thread.join(WAIT)
    assert sum(map(len, worker.groups)) == 80
    assert len(worker.groups) <= 36  # 40 if served callers always come too late, 21 if none does
