"""Faults in the middle of a load: every answer is right or a typed error, and the server holds as much as before.

Fifty models need three times the budget, and 32 connections ask for them. The three models that are asked for most
often lose their files, or the disk gets slow, or a signal interrupts threads or ends one of two servers.
"""

from __future__ import annotations

import ctypes
import http.client
import os
import shutil
import signal
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from model import zoo
from serve.footprint import Footprint, at_rest, let_go
from serve.load import (
    CONNECTIONS,
    Client,
    Outcome,
    Served,
    anonymous,
    crowd,
    errors,
    make_models,
    outcomes,
    request,
    results,
)
from serve.process import Server

pytestmark = pytest.mark.extras

#: The models whose files are changed, which are asked for most often: 5.0, 2.8 and 1.7 MiB, more than ``GROWTH``.
VICTIMS = ("m4", "m3", "m2")
#: Bytes that a server at rest may have gained. It remembers the plans of fifty models for their last four budgets, at
#: about 20 KiB each, and has made only some of them before the load.
GROWTH = 50 * 4 * (20 << 10)
#: Bytes a second of the slow disk.
SLOW = 50e6
#: A request has no answer yet: try again later. ReplacedError: its file was replaced twice while it waited.
LATER = {(503, "PoolBusyError"), (503, "QueueFullError"), (503, "OverloadedError"), (503, "ReplacedError")}
FINE = {(200, ""), *LATER}
#: The file of a model cannot be read, or is not a weights file.
BROKEN = {(500, "WeightsIOError"), (500, "FormatError"), (500, "StaleHeaderError")}


@dataclass
class Place:
    """A repository with fifty models, and a folder aside on the same disk."""

    folder: Path
    aside: Path
    models: dict[str, Served]

    @property
    def budget(self) -> int:
        return sum(model.weights for model in self.models.values()) // 3

    def file(self, name: str) -> Path:
        return self.folder / f"{name}.safetensors"


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Place]:
    folder, aside = tmp_path_factory.mktemp("fifty"), tmp_path_factory.mktemp("aside")
    made = make_models(folder, aside)
    yield Place(folder, aside, {name: made.pop(name) for name in VICTIMS} | made)
    shutil.rmtree(folder)


@pytest.fixture
def kept(place: Place) -> Iterator[dict[str, Path]]:
    """Copies of the victims' files. Those that a test does not move back to their places are moved in the end."""
    copies = copies_of_victims(place)
    yield copies
    put_back(place, {name: copy for name, copy in copies.items() if copy.exists()})


def copies_of_victims(place: Place) -> dict[str, Path]:
    folder = Path(tempfile.mkdtemp(dir=place.aside))
    return {name: Path(shutil.copy(place.file(name), folder)) for name in VICTIMS}


def put_back(place: Place, copies: dict[str, Path]) -> None:
    for name, copy in copies.items():
        copy.replace(place.file(name))


@pytest.fixture(scope="module")
def switch(place: Place) -> Path:
    """While this file exists, the disk of ``server`` is slow."""
    return place.aside / "slow"


@pytest.fixture(scope="module")
def server(place: Place, switch: Path, slow_reads: Callable[..., dict[str, str]]) -> Iterator[Server]:
    with serve(place, environment=slow_reads(SLOW, switch)) as running:
        warm_up(running, place)
        yield running


def serve(place: Place, io: str = "mmap", **options: Any) -> Server:
    program = (str(Path(__file__).with_name("impatient.py")),)
    return Server(place.folder, "--budget", place.budget, "--io", io, program=program, **options)


def warm_up(server: Server, place: Place) -> None:
    """Bring a server to its usual size: buffers, threads, metrics and plans that are made once are there.

    Without the victims, other models get more of the budget and other plans. Memory that the allocator needed for
    making them stays with the process, free or not.
    """
    copies = copies_of_victims(place)
    with crowd([server.address], place.models) as clients:
        more(clients, 5)
        delete_victims(server, place, clients)
        more(clients, 3)
        put_back(place, copies)
        server.process.send_signal(signal.SIGHUP)
        more(clients, 5, is_right)
    ask_for_all(server, place)


def delete_victims(server: Server, place: Place, clients: Sequence[Client]) -> float:
    """Delete the victims' files, and wait until clients and server know. Returns when they were gone."""
    for name in VICTIMS:
        place.file(name).unlink()
    gone = time.monotonic()
    more(clients, 3)
    server.process.send_signal(signal.SIGHUP)
    zoo.eventually(lambda: server.metric("pool_models") == len(place.models) - len(VICTIMS))
    return gone


def more(clients: Sequence[Client], count: int, wanted: Callable[[Outcome], bool] = lambda outcome: True) -> None:
    """Wait until each victim has ``count`` more outcomes of requests that begin from now on."""
    began = time.monotonic()

    def enough() -> bool:
        time.sleep(0.02)  # the clients are threads of this process
        assert errors(clients) == []
        found = Counter(outcome.name for outcome in outcomes(clients, began) if wanted(outcome))
        return all(found[name] >= count for name in VICTIMS)

    zoo.eventually(enough)


def is_right(outcome: Outcome) -> bool:
    return outcome.status == 200


def kinds(found: Sequence[Outcome]) -> set[tuple[int, str]]:
    return {(outcome.status, outcome.kind) for outcome in found}


def of_victims(found: Sequence[Outcome]) -> list[Outcome]:
    return [outcome for outcome in found if outcome.name in VICTIMS]


def of_others(found: Sequence[Outcome]) -> list[Outcome]:
    return [outcome for outcome in found if outcome.name not in VICTIMS]


def ask_for_all(server: Server, place: Place) -> None:
    """Every model answers, with the numbers of the file that is there now."""
    connection = http.client.HTTPConnection(server.address, timeout=60)
    for name, model in place.models.items():
        last = list(model.answers)[-1]

        def asked(name: str = name, model: Served = model, last: str = last) -> bool:
            answer, body = request(connection, name, model.x)
            assert answer.status in (200, 503), body
            if answer.status == 200:
                version, y = results(answer, body)
                assert version == last
                zoo.assert_close(y.reshape(model.answers[last].shape), model.answers[last])
            return answer.status == 200

        zoo.eventually(asked)
    connection.close()


@contextmanager
def back_to_where_it_was(server: Server, place: Place) -> Iterator[None]:
    """A block after which a server answers for all models, and holds as much as before."""
    before, memory = at_rest(server, place.folder)
    assert before.mapped == 0
    yield
    ask_for_all(server, place)
    assert server.metric("pool_held_bytes_max") <= place.budget
    let_go(server, place.folder)
    zoo.eventually(lambda: Footprint.of(server.process.pid) == before)
    assert anonymous(server.process.pid) <= memory + GROWTH


def test_files_that_are_replaced(server: Server, place: Place) -> None:
    with back_to_where_it_was(server, place):
        with crowd([server.address], place.models) as clients:
            more(clients, 3, is_right)
            new = {
                name: place.models[name].make(place.file(name), place.aside, seed=100 + seed)
                for seed, name in enumerate(VICTIMS)
            }
            done = time.monotonic()
            more(clients, 5, is_right)
        assert errors(clients) == []
        assert kinds(outcomes(clients)) <= FINE
        late = [outcome for outcome in of_victims(outcomes(clients, done)) if is_right(outcome)]
        assert {(outcome.name, outcome.version) for outcome in late} == set(new.items())


def test_files_that_are_cut_short(server: Server, place: Place, kept: dict[str, Path]) -> None:
    cut_short(server, place, kept)


def test_files_that_are_cut_short_and_read_without_a_mapping(place: Place, kept: dict[str, Path]) -> None:
    with serve(place, io="pread") as server:
        warm_up(server, place)
        cut_short(server, place, kept)


def cut_short(server: Server, place: Place, kept: dict[str, Path]) -> None:
    with back_to_where_it_was(server, place):
        with crowd([server.address], place.models) as clients:
            more(clients, 3, is_right)
            for name in VICTIMS:
                os.truncate(place.file(name), place.file(name).stat().st_size // 2)
            cut = time.monotonic()
            more(clients, 3)
            broken = of_victims(outcomes(clients, cut))
            put_back(place, kept)
            more(clients, 3, is_right)
        assert errors(clients) == []
        assert kinds(of_others(outcomes(clients))) <= FINE
        assert kinds(of_victims(outcomes(clients))) <= FINE | BROKEN
        assert kinds(broken) <= LATER | BROKEN


def test_files_that_are_deleted(server: Server, place: Place, kept: dict[str, Path]) -> None:
    with back_to_where_it_was(server, place):
        with crowd([server.address], place.models) as clients:
            more(clients, 3, is_right)
            gone = delete_victims(server, place, clients)
            more(clients, 3)
            missing = of_victims(outcomes(clients, gone))
            put_back(place, kept)
            server.process.send_signal(signal.SIGHUP)
            more(clients, 3, is_right)
        assert errors(clients) == []
        assert kinds(of_others(outcomes(clients))) <= FINE
        assert kinds(of_victims(outcomes(clients))) <= {(404, "UnknownModelError"), *FINE, *BROKEN}
        assert kinds(missing) <= {(404, "UnknownModelError"), *LATER}


def test_a_disk_that_gets_slow(server: Server, place: Place, switch: Path) -> None:
    slow_down(server, place, switch)


def test_a_disk_that_gets_slow_and_is_read_without_a_mapping(
    place: Place, switch: Path, slow_reads: Callable[..., dict[str, str]]
) -> None:
    with serve(place, io="pread", environment=slow_reads(SLOW, switch)) as server:
        warm_up(server, place)
        slow_down(server, place, switch)


def slow_down(server: Server, place: Place, switch: Path) -> None:
    with back_to_where_it_was(server, place):
        with crowd([server.address], place.models) as clients:
            more(clients, 3, is_right)
            switch.touch()
            try:
                began, loaded = time.monotonic(), server.metric("pool_loaded_bytes_total")
                more(clients, 8, is_right)
                loaded = server.metric("pool_loaded_bytes_total") - loaded
                # Beside the disk's bytes: those that came before, and that the pool counts when their leases end.
                assert 0 < loaded <= SLOW * (time.monotonic() - began) + place.budget
            finally:
                switch.unlink()
            more(clients, 3, is_right)
        assert errors(clients) == []
        assert kinds(outcomes(clients)) == {(200, "")}  # in time: each waits for some MiB, and not for 30 s


def test_threads_that_are_interrupted(server: Server, place: Place) -> None:
    """A signal that arrives at a thread ends its system call early."""
    tgkill, process = ctypes.CDLL(None).tgkill, server.process.pid
    with back_to_where_it_was(server, place):
        with crowd([server.address], place.models) as clients:
            more(clients, 3, is_right)
            for _ in range(100):
                for thread in Path(f"/proc/{process}/task").iterdir():
                    if int(thread.name) != process:
                        tgkill(process, int(thread.name), signal.SIGHUP)  # fails if the thread has ended
                time.sleep(0.01)
            more(clients, 3, is_right)
        assert errors(clients) == []
        assert kinds(outcomes(clients)) <= FINE


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGKILL])
def test_one_of_two_servers_that_ends(server: Server, place: Place, number: signal.Signals) -> None:
    """Its clients go to the other server. If it is asked to end, all that it has answered reaches its clients."""
    with ended(serve(place)) as victim, back_to_where_it_was(server, place):
        with crowd([victim.address, server.address], place.models) as clients:
            more(clients, 3, lambda outcome: outcome.address == victim.address)
            victim.process.send_signal(number)
            code = victim.wait()
            more(clients, 3, is_right)
        assert errors(clients) == []
        assert kinds([outcome for outcome in outcomes(clients) if outcome.address == server.address]) <= FINE
        found = [outcome for outcome in outcomes(clients) if outcome.address == victim.address]
        answered = [outcome for outcome in found if outcome.status]
        assert kinds(answered) <= FINE
        assert len(found) <= len(answered) + CONNECTIONS  # each connection ends once
        if number == signal.SIGKILL:
            assert code == -signal.SIGKILL
        else:
            assert code == {signal.SIGTERM: 0, signal.SIGINT: 130}[number]
            told = [line["status"] for line in victim.events("request")]
            assert Counter(told) == Counter(outcome.status for outcome in answered)


@contextmanager
def ended(server: Server) -> Iterator[Server]:
    """A server that the block ends. If the block fails before, it is killed."""
    try:
        yield server
    finally:
        if server.process.poll() is None:
            server.process.kill()
            server.wait()
