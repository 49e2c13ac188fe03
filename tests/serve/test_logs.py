"""The log is written by a thread of its own: a reader that is slow, blocked or gone delays no request."""

from __future__ import annotations

import json
import logging
import os
import queue
import signal
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from itertools import islice
from pathlib import Path
from typing import Any

import pytest

from markers import needs
from model import zoo
from serve.process import Server
from streamrt.serve import logs
from streamrt.serve.logs import log, logging_to

pytestmark = pytest.mark.extras
needs("starlette", "uvicorn")

PING = b"GET /ping HTTP/1.1\r\nHost: x\r\n\r\n"


def ping(server: Server, times: int) -> None:
    """Send many requests over one connection; all are answered."""
    with server.connect() as connection:
        for _ in range(0, times, 50):
            connection.sendall(PING * 50)
            found = b""
            while found.count(b"healthy!") < 50:
                chunk = connection.recv(1 << 16)
                assert chunk
                found += chunk


def test_requests_are_answered_while_nobody_reads_the_log(repository: Path) -> None:
    with Server(repository, "--budget", "16MiB") as server:
        server.reading.clear()
        ping(server, 6000)
        lost = server.metric("lost_log_lines_total")
        assert lost > 0
        ping(server, 50)
        server.reading.set()

        def accounted() -> int:
            pings = sum(line.get("route") == "/ping" for line in server.log)
            return pings + sum(line["count"] for line in server.events("lines of the log were lost"))

        zoo.eventually(lambda: accounted() >= 6050)
        assert accounted() <= 6052  # requests for the metrics may be lost, too
        told = sum(line["count"] for line in server.events("lines of the log were lost"))
        assert told == server.metric("lost_log_lines_total") >= lost
        assert not server.events("not JSON")
        ping(server, 50)
        zoo.eventually(lambda: accounted() >= 6100)


def test_a_server_ends_although_nobody_reads_its_log(repository: Path) -> None:
    server = Server(repository, "--budget", "16MiB", "--grace", "1")
    try:
        server.reading.clear()
        ping(server, 1000)
        server.process.send_signal(signal.SIGTERM)
        assert server.process.wait(60) == 0
    finally:
        server.process.kill()
        server.wait()


@pytest.fixture
def writing() -> Callable[[], bool]:
    """Whether a thread of a log that the test began is alive."""
    before = set(threading.enumerate())

    def found() -> bool:
        names = [thread.name for thread in set(threading.enumerate()) - before]
        return any("_monitor" in name or name.startswith("streamrt-serve-log") for name in names)

    return found


@pytest.fixture
def pipe() -> Iterator[tuple[int, int]]:
    ends = os.pipe()
    yield ends
    for end in ends:
        os.close(end)


def lines(reader: int) -> Iterator[dict[str, Any]]:
    """The lines of a log, as they come."""
    rest = b""
    while True:
        *whole, rest = (rest + os.read(reader, 1 << 20)).split(b"\n")
        yield from map(json.loads, whole)


def within(seconds: float, work: Callable[[], None]) -> None:
    """Run ``work`` in a thread, and fail if it takes longer: it may be blocked for ever."""
    ended = threading.Event()

    def run() -> None:
        work()
        ended.set()

    threading.Thread(target=run, daemon=True).start()
    assert ended.wait(seconds)


@pytest.mark.parametrize("blocking", [True, False])
def test_lines_wait_in_order_and_those_without_room_are_counted(
    pipe: tuple[int, int], blocking: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(logs, "_WAITING", 20 * (logs._BESIDE + 100_000))
    reader, writer = pipe
    os.set_blocking(writer, blocking)
    found = lines(reader)

    def fill() -> None:
        for number in range(50):
            log.info("long", extra={"fields": {"number": number, "text": "x" * 100_000}})

    with logging_to(writer, "info") as written:
        log.info("first")
        assert next(found)["event"] == "first"
        within(30, fill)
        assert 25 <= written.lost <= 30  # one or two are being written
        log.debug("not logged")
        kept, told = [], 0
        while len(kept) + told < 50:
            line = next(found)
            if line["event"] == "long":
                kept.append(line["number"])
            else:
                assert (line["event"], line["level"]) == ("lines of the log were lost", "warning")
                told += line["count"]
        assert kept == sorted(kept)
        assert told == written.lost
        log.info("last")
        assert next(found)["event"] == "last"


def test_other_loggers_go_the_same_way_and_all_is_as_before_at_the_end(
    pipe: tuple[int, int], writing: Callable[[], bool], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(logs, "_FLUSH", 60.0)
    reader, writer = pipe
    names = ("", "streamrt", "uvicorn")
    before = [(logging.getLogger(name).handlers[:], logging.getLogger(name).level) for name in names]
    with logging_to(writer, "error"):
        logging.getLogger("asyncio").warning("of asyncio: %d", 7)
        logging.getLogger("asyncio").info("not logged")
        log.warning("not logged")
        logging.getLogger("uvicorn.error").error("of uvicorn")
        try:
            raise ValueError("why")
        except ValueError:
            log.exception("failed")
    found = [*islice(lines(reader), 3)]  # all was written when the context ended
    assert [line["event"] for line in found] == ["of asyncio: 7", "of uvicorn", "failed"]
    assert "ValueError: why" in found[2]["traceback"]
    assert [(logging.getLogger(name).handlers[:], logging.getLogger(name).level) for name in names] == before
    assert not writing()


def test_the_end_does_not_wait_for_a_blocked_reader(
    pipe: tuple[int, int], writing: Callable[[], bool], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(logs, "_FLUSH", 0.3)
    reader, writer = pipe
    seconds = []

    def work() -> None:
        with logging_to(writer, "info"):
            for _ in range(100):
                log.info("long", extra={"fields": {"text": "x" * 100_000}})
            began = time.monotonic()
        seconds.append(time.monotonic() - began)

    within(30, work)
    assert 0.2 < seconds[0] < 20
    os.set_blocking(reader, False)

    def drained() -> bool:
        """Read until the thread that was blocked has ended."""
        with suppress(BlockingIOError):
            os.read(reader, 1 << 20)
        return not writing()

    zoo.eventually(drained)


def test_a_log_that_has_no_reader_any_more(writing: Callable[[], bool], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(logs, "_FLUSH", 60.0)
    reader, writer = os.pipe()
    os.close(reader)
    with logging_to(writer, "info") as written:
        for _ in range(100):
            log.info("for nobody")
        zoo.eventually(lambda: written.handler.queue.empty())
    os.close(writer)
    assert not writing()


def test_the_queue_counts_bytes() -> None:
    waiting = logs._Lines(10_000)
    line = "x" * 4_900
    waiting.put_nowait(line)
    waiting.put_nowait(line)
    with pytest.raises(queue.Full):
        waiting.put_nowait(line)
    assert waiting.get() is line
    waiting.put_nowait(None)
    assert waiting.get() is line
    assert waiting.get() is None
    with pytest.raises(queue.Empty):
        waiting.get_nowait()
