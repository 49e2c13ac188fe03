"""Failed requests: their memory is free once they are answered, and they do not fill the log."""

from __future__ import annotations

import asyncio
import gc
import json
import logging
import tracemalloc
from collections import OrderedDict
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any
from unittest.mock import ANY

import pytest

from markers import needs
from serve import packing
from streamrt.format import read_header, write
from streamrt.graph import Graph
from streamrt.serve import logs
from streamrt.serve.logs import JsonFormatter, log

pytestmark = pytest.mark.extras
needs("starlette", "prometheus_client")

from starlette.requests import Request  # noqa: E402

from serve.asgi import ask  # noqa: E402
from streamrt.serve.service import Service  # noqa: E402
from streamrt.serve.settings import Settings  # noqa: E402

MIB = 1 << 20


def unknown_operator(folder: Path) -> None:
    """``strange``: a well formed file with an operator that does not exist."""
    header = read_header(packing.two(folder))
    nodes = (replace(header.graph.nodes[0], op="Frobnicate"), *header.graph.nodes[1:])
    graph = Graph(header.graph.inputs, header.graph.outputs, nodes)
    write(folder / "strange.safetensors", graph, [])


@pytest.fixture
def service(tmp_path: Path) -> Iterator[Service]:
    unknown_operator(tmp_path)
    made = Service(Settings(tmp_path, budget="4MiB", max_body=4 * MIB, max_batch=1 << 20))
    made.catalog.register_all()
    yield made
    made.close()


@pytest.fixture
def lines(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[str]]:
    """Records that the server logs."""
    monkeypatch.setattr(logs, "_logged", OrderedDict())
    found: list[str] = []

    class Handler(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            found.append(JsonFormatter().format(record))

    handler, before = Handler(), log.level
    log.addHandler(handler)
    log.setLevel("INFO")
    yield found
    log.setLevel(before)
    log.removeHandler(handler)


def large(mebibytes: int) -> tuple[bytes, dict[str, str]]:
    """Body and headers of a request for ``two`` or ``strange`` whose inputs have this many MiB."""
    half = mebibytes * MIB // 2
    inputs = [
        {"name": name, "shape": [half // 8, 2], "datatype": "FP32", "parameters": {"binary_data_size": half}}
        for name in ("a", "b")
    ]
    head = json.dumps({"inputs": inputs}).encode()
    return head + bytes(2 * half), {"Inference-Header-Content-Length": str(len(head))}


@pytest.mark.parametrize("model", ["strange", "two"])
def test_a_failed_request_holds_nothing(service: Service, lines: list[str], model: str) -> None:
    """``strange`` cannot be loaded. The request for ``two`` arrives while no model can be leased in time."""
    if model == "two":
        service.batcher._timeout = 0.0
    gc.collect()
    gc.disable()  # an object then dies only when its last reference goes
    tracemalloc.start()

    async def run() -> list[tuple[int, bytes]]:
        found = []
        held = []
        for _ in range(6):
            found.append(await ask(service, f"/v2/models/{model}/infer", *large(2)))
            held.append(tracemalloc.get_traced_memory()[0])
        async with asyncio.timeout(60):  # the thread that gave the answer may not have ended its work yet
            while tracemalloc.get_traced_memory()[0] - held[0] >= MIB:
                await asyncio.sleep(0.01)
        return found

    try:
        answers = asyncio.run(run())
    finally:
        tracemalloc.stop()
        gc.enable()
    assert {status for status, _ in answers} == {500 if model == "strange" else 503}
    assert service.gate.held == 0


def test_a_failure_is_logged_once_with_its_traceback_and_then_in_one_line(service: Service, lines: list[str]) -> None:
    async def run() -> None:
        for _ in range(20):
            assert (await ask(service, "/v2/models/strange/infer", *large(1)))[0] == 500

    asyncio.run(run())
    failed = [json.loads(line) for line in lines if json.loads(line)["event"] == "failed"]
    assert len(failed) == 20
    assert {line["error"].partition(":")[0] for line in failed} == {"FormatError"}
    assert ["traceback" in line for line in failed] == [True] + [False] * 19
    assert "in check" in failed[0]["traceback"]  # where the load failed, in a thread of the pool
    assert "Frobnicate" in failed[0]["error"]
    assert all(len(line) < 2000 for line in lines[2:])
    assert len(lines) == 40


def test_the_last_failures_are_remembered_and_no_more(lines: list[str]) -> None:
    for index in [*range(logs._REMEMBERED), 0, logs._REMEMBERED, 0, 1]:
        logs.log_failure(ValueError(f"number {index} {'x' * 5000}"))
    found = [json.loads(line) for line in lines]
    first, again = found[: logs._REMEMBERED], found[logs._REMEMBERED :]
    assert all("traceback" in line for line in first)
    assert ["traceback" in line for line in again] == [False, True, False, True]
    assert len(logs._logged) == logs._REMEMBERED
    assert all(len(line["error"]) <= 1000 for line in found)


@pytest.mark.parametrize(
    ("path", "status"), [("/nowhere", 404), ("/v2/models/nobody", 404), ("/v2/models/strange", 200)]
)
def test_a_host_that_is_no_host(
    service: Service, lines: list[str], path: str, status: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    def url(request: Request) -> str:  # behaves as starlette before 1.0
        raise ValueError("Invalid IPv6 URL")

    monkeypatch.setattr(Request, "url", property(url))
    found, body = asyncio.run(ask(service, path, headers={"Host": "["}))
    assert (found, json.loads(body).get("type")) == (status, None if status == 200 else ANY)
    assert [json.loads(line)["status"] for line in lines] == [status]


class UnprintableError(Exception):
    def __str__(self) -> str:
        raise ValueError("no text")


def test_an_error_without_a_text_is_a_failure_like_others(
    service: Service, lines: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def spec(name: str, version: str | None = None) -> None:
        raise UnprintableError

    monkeypatch.setattr(service.catalog, "spec", spec)
    status, body = asyncio.run(ask(service, "/v2/models/two"))
    assert (status, json.loads(body)["type"]) == (500, "UnprintableError")
    assert [json.loads(line)["event"] for line in lines] == ["failed", "request"]


def test_an_error_outside_of_all_routes_is_answered_and_logged(
    service: Service, lines: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def has(name: str) -> bool:
        raise ValueError("unforeseen")

    async def send(message: dict[str, Any]) -> None:
        messages.append(message)

    messages: list[dict[str, Any]] = []
    monkeypatch.setattr(service.catalog, "has", has)
    with pytest.raises(ValueError, match="unforeseen"):  # uvicorn would log it, too
        asyncio.run(ask(service, "/v2/models/two", send=send))
    assert messages[0]["status"] == 500
    assert json.loads(messages[1]["body"])["type"] == "ValueError"
    assert [json.loads(line)["event"] for line in lines] == ["failed", "request"]
