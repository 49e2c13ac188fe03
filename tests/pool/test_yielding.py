"""Loads give up the interpreter's lock while other threads call models."""

import threading
from collections import Counter

import pytest

import streamrt
from model import zoo
from streamrt.engine.planner import Planner
from streamrt.engine.programs import Programs
from streamrt.format import read_header
from streamrt.host import yielding
from streamrt.host.rates import Rates
from streamrt.host.yielding import calling, give_way, guest


class Clock:
    """A clock that moves when a thread sleeps, and counts the sleeps of each thread."""

    def __init__(self, monkeypatch):
        self.now = 0.0
        self.slept = Counter()
        monkeypatch.setattr(yielding, "perf_counter", lambda: self.now)
        monkeypatch.setattr(yielding, "sleep", self.sleep)

    def sleep(self, seconds):
        self.now += seconds
        self.slept[threading.get_ident()] += 1

    @property
    def count(self):
        return sum(self.slept.values())


@pytest.fixture
def clock(monkeypatch):
    return Clock(monkeypatch)


@pytest.fixture
def caller():
    """Another thread is in a call."""
    calling.threads.add(-1)
    yield
    calling.threads.discard(-1)


def test_a_guest_gives_way_once_in_a_while(clock, caller):
    with guest:
        give_way()
        assert clock.count == 0  # it has just begun
        for _ in range(3):
            clock.now += 2 * yielding._STRETCH
            give_way()
            give_way()
    assert clock.count == 3


def test_a_guest_within_a_guest(clock, caller):
    with guest:
        with guest:
            pass
        clock.now += 1
        give_way()
    assert clock.count == 1
    clock.now += 1
    give_way()  # this thread is no longer a guest
    assert clock.count == 1


def test_a_guest_gives_way_only_to_other_threads_that_call(clock):
    with guest:
        clock.now += 1
        give_way()
        with calling:
            clock.now += 1
            give_way()
    assert clock.count == 0
    assert not calling.threads


def test_a_thread_that_is_no_guest_never_gives_way(clock, caller, files):
    clock.now = 1e9
    with streamrt.Model(files["m160"].path, "4MiB") as model:
        model(zoo.random_input(1, 160))
    assert clock.count == 0


def test_every_part_of_a_load_gives_way(clock, caller, files, monkeypatch):
    monkeypatch.setattr(yielding, "_STRETCH", -1.0)
    found = []
    with guest:
        file = read_header(files["m160"].path)
        found.append(clock.count)
        planner = Planner(Programs(file), 4 << 20, Rates(2e9, 2e10, 1e11))
        planner.check()
        found.append(clock.count)
        prepared = planner.prepare_usual()
        found.append(clock.count)
        with streamrt.Model(files["m160"].path, 4 << 20) as model:
            before = clock.count
            model._engine.activate(prepared)
            found.append(clock.count - before + found[-1])
    assert sorted(set(found)) == found
    assert found[0] > 0


def test_a_pool_loads_as_a_guest_and_hits_never_give_way(clock, caller, files, monkeypatch):
    monkeypatch.setattr(yielding, "_STRETCH", -1.0)
    with streamrt.ModelPool("8MiB") as pool:
        pool.register("m160", files["m160"].path)
        with pool.lease("m160") as model:
            assert set(clock.slept) - {threading.get_ident()}  # the threads that read the header and opened it
            model(zoo.random_input(1, 160))  # plans, and binds
            before = clock.slept[threading.get_ident()]
            assert before > 0
            model(zoo.random_input(1, 160))
            assert clock.slept[threading.get_ident()] == before


@pytest.mark.parametrize("form", ["call", "call_together", "predict"])
def test_every_form_of_a_call_is_counted_as_calling(form, files, monkeypatch):
    counted = []
    with streamrt.Model(files["m64"].path, None) as model:
        run = model._engine._run_together
        monkeypatch.setattr(
            model._engine, "_run_together", lambda requests: counted.append(set(calling.threads)) or run(requests)
        )
        x = zoo.random_input(1, 64)
        forms = {"call": lambda: model(x), "call_together": lambda: model.call_together([x, x])}
        forms["predict"] = lambda: list(model.predict([x]))
        forms[form]()
    assert counted
    assert all(threads == {threading.get_ident()} for threads in counted)
    assert not calling.threads
