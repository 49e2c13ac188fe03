"""The benchmark of servers: the bytes of a request, the client, figures and bars. No measured server is started."""

from __future__ import annotations

import json
import re
import socket
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from bench.process.cgroup import Cgroup, NoCgroupError
from bench.process.spawn import Outcome
from bench.record import Record, Recorder, read
from bench.serve import bars, client, driver, process, servers, table, wire
from bench.serve.figures import figures
from bench.serve.rows import BINARY, FLOOR, GRPC, JSON, QUICK_ROWS, ROWS, WIRES, Options, Row
from bench.serve.servers import LACKS, LITSERVE, MLSERVER, SERVERS, US, Start

X = np.arange(6, dtype=np.float32).reshape(1, 2, 3) / 7


class Handler(BaseHTTPRequestHandler):
    """Answers with the number of bytes that it got; every third answer of ``/busy`` is a refusal."""

    protocol_version = "HTTP/1.1"
    asked = 0

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers["content-length"]))
        type(self).asked += 1
        text = json.dumps({"bytes": len(body)}).encode()
        self.send_response(503 if self.path == "/busy" and self.asked % 3 == 0 else 200)
        self.send_header("Content-Length", str(len(text)))
        self.end_headers()
        self.wfile.write(text)

    def log_message(self, *arguments: object) -> None:
        pass


class Server(ThreadingHTTPServer):
    daemon_threads = True

    def handle_error(self, *arguments: object) -> None:
        """Say nothing: a stretch ends with requests that are not answered."""


@pytest.fixture
def port() -> Iterator[int]:
    server = Server(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    yield server.server_port
    server.shutdown()
    thread.join()
    server.server_close()


def post(path: str, size: int) -> bytes:
    return f"POST {path} HTTP/1.1\r\nhost: a\r\ncontent-length: {size}\r\n\r\n".encode() + bytes(size)


# -------------------------------------------------------------------- bytes


def parts(request: bytes) -> tuple[str, dict[str, str], bytes]:
    head, _, body = request.partition(b"\r\n\r\n")
    first, *lines = head.decode().split("\r\n")
    headers = dict(line.split(": ", 1) for line in lines)
    assert int(headers["content-length"]) == len(body)
    return first, headers, body


def test_json_has_every_float32() -> None:
    first, _, body = parts(wire.request(US, JSON, "m", X))
    assert first == "POST /v2/models/m/infer HTTP/1.1"
    (given,) = json.loads(body)["inputs"]
    assert given["shape"] == [1, 2, 3]
    assert np.array_equal(np.array(given["data"], np.float32), X.ravel())
    assert wire.request(MLSERVER, JSON, "m", X) == wire.request(US, JSON, "m", X)


def test_binary_tensors() -> None:
    _, headers, body = parts(wire.request(US, BINARY, "m", X))
    length = int(headers["inference-header-content-length"])
    assert json.loads(body[:length])["parameters"] == {"binary_data_output": True}
    assert body[length:] == X.tobytes()


def test_a_form_names_the_model_and_has_the_tensor() -> None:
    first, headers, body = parts(wire.request(LITSERVE, BINARY, "m", X))
    assert first == "POST /predict HTTP/1.1"
    boundary = headers["content-type"].partition("boundary=")[2].encode()
    sections = body.split(b"--" + boundary)
    assert len(sections) == 5
    assert sections[3].endswith(b"\r\n\r\n" + X.tobytes() + b"\r\n")
    assert sections[4] == b"--\r\n"


def test_answers() -> None:
    output: dict[str, Any] = {"name": "y", "shape": [6], "datatype": "FP32"}
    text = json.dumps({"outputs": [output | {"data": X.ravel().tolist()}]}).encode()
    assert np.array_equal(wire.answer(US, JSON, {}, text), X.ravel())
    head = json.dumps({"outputs": [output | {"parameters": {"binary_data_size": X.nbytes}}]}).encode()
    headers = {"inference-header-content-length": str(len(head))}
    assert np.array_equal(wire.answer(US, BINARY, headers, head + X.tobytes()), X.ravel())
    assert np.array_equal(wire.answer(LITSERVE, BINARY, {}, X.tobytes()), X.ravel())


# -------------------------------------------------------------------- the client


def test_one_request(port: int) -> None:
    with client.Connection(port) as connection:
        for size in (0, 3_000_000):  # more than a socket takes at once
            got = connection.ask(post("/", size))
            assert got.status == 200
            assert json.loads(got.body) == {"bytes": size}
            assert got.headers["content-length"] == str(len(got.body))


@pytest.mark.parametrize("connections", [1, 5])
def test_a_stretch(port: int, connections: int) -> None:
    requests = client.in_turn([post("/", 10), post("/", 1_000_000)], [0, 1, 1])
    found = client.play(port, requests, connections, 0.1, least=20, patience=20)
    assert len(found.times) >= 20
    assert found.failed == {}
    assert all(0 < seconds < found.seconds + 1 for seconds in found.times)
    assert found.seconds >= 0.1
    cycles = [cycle for of_one in found.cycles.values() for cycle in of_one]
    assert len(found.cycles) == connections
    assert len(cycles) == len(found.times)
    assert sum(found.times) <= sum(cycles) <= (found.seconds + 1) * connections


def test_refusals_are_counted(port: int) -> None:
    found = client.play(port, client.in_turn([post("/busy", 1)], [0]), 1, 0.05, least=10, patience=20)
    assert set(found.failed) == {503}
    assert found.failed[503] >= 4


def test_a_stretch_ends_when_its_patience_does(port: int) -> None:
    found = client.play(port, client.in_turn([post("/", 1)], [0]), 1, 0.02, least=10**9, patience=0.1)
    assert 0.1 <= found.seconds < 5


def test_a_closed_connection_is_an_error() -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:

        def close() -> None:
            listener.accept()[0].close()

        thread = threading.Thread(target=close)
        thread.start()
        with client.Connection(listener.getsockname()[1]) as connection, pytest.raises(ConnectionError):
            connection.ask(post("/", 1))
        thread.join()


# -------------------------------------------------------------------- processes of a server

CODE = """
import http.server, sys
class Handler(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        self.send_response(200)
        self.end_headers()
        self.wfile.write(b"# HELP a\\na 1.5\\nb{c=\\"d\\"} 2\\n")
http.server.HTTPServer(("127.0.0.1", int(sys.argv[1])), Handler).serve_forever()
"""


def test_a_server_is_weighed_and_ended() -> None:
    port = process.free_port()
    start = Start([sys.executable, "-c", CODE, str(port)], ["/", "/"])
    with process.serving(start, port, group=None, threads=1, limit=60) as server:
        assert process.metrics(port, "/") == {"a": 1.5}
        assert process.processes(server.session) == [server.session]
        assert 1 << 20 < server.memory() < 1 << 30
    assert process.processes(server.session) == []


def test_a_server_that_does_not_start_has_a_reason() -> None:
    start = Start([sys.executable, "-c", "import sys; print('more'); raise ImportError('no module')"], ["/"])
    with (
        pytest.raises(process.NotServingError, match="status 1: ImportError: no module"),
        process.serving(start, process.free_port(), group=None, threads=1, limit=60),
    ):
        pass


def test_a_server_that_is_never_ready_is_given_up() -> None:
    start = Start([sys.executable, "-c", "import time; time.sleep(60)"], ["/"])
    with (
        pytest.raises(process.NotServingError, match="not ready in time: it wrote nothing"),
        process.serving(start, process.free_port(), group=None, threads=1, limit=0.2),
    ):
        pass


def test_a_server_without_memory_is_killed(
    memory_cgroup: Callable[[int | None], AbstractContextManager[Cgroup]],
) -> None:
    code = "x = bytearray(1 << 28); x[::4096] = bytes([1]) * (1 << 16)"
    start = Start([sys.executable, "-c", f"import time; {code}; time.sleep(60)"], ["/"])
    with (
        memory_cgroup(64 << 20) as group,
        pytest.raises(process.KilledError, match="no memory was left"),
        process.serving(start, process.free_port(), group=group, threads=1, limit=60),
    ):
        pass


# -------------------------------------------------------------------- rows and starts


def test_rows() -> None:
    """What the issue asks for: three networks, a slow one, and 50 models at three times the budget."""
    assert [row.model for row in ROWS[:4]] == ["mlp-4x1024", "mobilenet_v2", "resnet50", "vgg16"]
    assert [(row.model, row.models, row.over, row.capped) for row in ROWS[4:]] == [
        ("mlp-4x1024", 50, 3, False),
        ("mlp-4x1024", 50, 3, True),
    ]
    places = {row.name: [(wire, many) for wire in WIRES for many in (1, 8, 64) if row.has(wire, many)] for row in ROWS}
    assert places.pop("vgg16") == [(BINARY, 8)]
    assert {len(found) for found in places.values()} == {9}
    assert driver.FULL.connections == (1, 8, 64)
    assert driver.FULL.wires == WIRES
    for row in (*ROWS, *QUICK_ROWS):
        assert len(set(row.names)) == row.models


@pytest.mark.parametrize(("connections", "batch"), [(1, None), (8, 8), (64, 32)])
def test_peers_batch_where_several_connections_ask_one_model(
    tmp_path: Path, connections: int, batch: int | None
) -> None:
    for row in (Row("one", "mlp-2x64"), Row("two", "mlp-2x64", models=2)):
        scratch = tmp_path / row.name
        for server in (MLSERVER, LITSERVE):
            (scratch / server).mkdir(parents=True)
            servers.start(
                server,
                row,
                JSON,
                connections,
                port=1,
                data=tmp_path,
                scratch=scratch / server,
                python=Path("/p/python"),
            )
        model = json.loads((scratch / MLSERVER / row.names[0] / "model-settings.json").read_text())
        assert model.get("max_batch_size") == (batch if row.models == 1 else None)
        told = json.loads((scratch / LITSERVE / "settings.json").read_text())
        assert told["batching"].get("max_batch_size") == batch
        assert set(told["models"]) == set(row.names)


# -------------------------------------------------------------------- the driver

ROW = Row("one", "mlp-2x64")


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> list[Any]:
    """What a driver without processes measures, in its order."""
    found: list[Any] = []

    def served(run: object, row: Row, begun: Start, told: Any) -> Outcome:
        assert bool(told.rpc) == (told.wire == GRPC)
        assert told.server != US or ("--grpc-port" in begun.command) == (told.wire == GRPC)
        found.append((told.server, told.wire, told.connections, told.least))
        return Outcome("ok", VALUES)

    def spawned(run: object, kind: str, told: dict[str, Any], **fields: Any) -> Outcome:
        if kind == "serve-floor":
            found.append((FLOOR, fields["batches"]))
        return Outcome("ok", {"bytes": 9, "call": 1.0, "rates": {"1": 1.0}})

    monkeypatch.setattr(driver.environments, "interpreter", lambda *arguments: Path("/p/python"))
    monkeypatch.setattr(driver.environments, "versions", lambda python: {})
    monkeypatch.setattr(driver.spawn, "run", lambda *arguments, **options: Outcome("ok"))
    monkeypatch.setattr(driver.Run, "_served", served)
    monkeypatch.setattr(driver.Run, "_spawn", spawned)
    return found


VALUES = {
    "rate": 10.0,
    "p50": 0.1,
    "p99": 0.2,
    "memory": 1 << 20,
    "batch": 3.4,
    "client": 0.1,
    "count": 5,
    "failed": {},
}


def test_servers_take_turns_and_the_floor_follows(asked: list[Any], tmp_path: Path) -> None:
    options = Options((ROW,), SERVERS, wires=(JSON,), connections=(8,), rounds=3)
    with Recorder(tmp_path / "serve.jsonl", {"quick": True}) as recorder:
        assert driver.run(options, tmp_path, recorder, None) == 0
    order = [name for name, *_ in asked]
    assert order == [US, FLOOR, MLSERVER, LITSERVE, MLSERVER, LITSERVE, US, FLOOR, LITSERVE, US, FLOOR, MLSERVER]
    assert asked[1] == (FLOOR, (3,))
    assert "## Servers" in table.report(read([tmp_path / "serve.jsonl"]))


def test_a_row_may_have_one_form_and_one_number_of_connections(asked: list[Any], tmp_path: Path) -> None:
    one = Row("one", "mlp-2x64", wire=BINARY, connections=8, least=7)
    with Recorder(tmp_path / "serve.jsonl", {"quick": True}) as recorder:
        assert driver.run(Options((one, ROW), (US,), rounds=1, least=9), tmp_path, recorder, None) == 0
    places = [found[1:] for found in asked if found[0] == US]
    assert places == [(BINARY, 8, 7), *((wire, connections, 9) for wire in WIRES for connections in (1, 8, 64))]


@pytest.mark.parametrize(("server", "form"), LACKS)
def test_a_form_that_a_server_lacks_is_a_row(asked: list[Any], tmp_path: Path, server: str, form: str) -> None:
    options = Options((ROW,), SERVERS, wires=(form,), connections=(1,), rounds=1)
    with Recorder(tmp_path / "serve.jsonl", {"quick": True}) as recorder:
        assert driver.run(options, tmp_path, recorder, None) == 0
    assert {name for name, *_ in asked} == {*SERVERS, FLOOR} - {server}
    text = table.report(read([tmp_path / "serve.jsonl"]))
    assert f"| {server} | {form} | 1 | lacks |" in text
    assert LACKS[server, form] in text


def test_without_a_cgroup_only_capped_rows_are_skipped(
    asked: list[Any], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    def none(limit: int | None) -> None:
        raise NoCgroupError("no hierarchy")

    monkeypatch.setattr(driver, "memory_cgroup", none)
    with Recorder(tmp_path / "a.jsonl", {}) as recorder, driver.ExitStack() as stack:
        run = driver.Run(driver.QUICK, tmp_path, recorder)
        run._bytes = {"capped": 1}
        assert run._group(stack, ROW) is None
        with pytest.raises(NoCgroupError):
            run._group(stack, Row("capped", "mlp-2x64", models=2, over=3, capped=True))


def test_a_killed_server_tells_after_how_long_and_with_how_much_memory(
    memory_cgroup: Callable[[int | None], AbstractContextManager[Cgroup]],
    asked: list[Any],
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
) -> None:
    def answered(run: driver.Run, row: Row, begun: Start, told: Any) -> Outcome:
        with memory_cgroup(64 << 20) as group:
            code = "x = bytearray(1 << 28); x[::4096] = bytes([1]) * (1 << 16)"
            return run._answered(Start([sys.executable, "-c", code], ["/"]), told, group)

    served = driver.Run._served
    monkeypatch.setattr(
        driver.Run, "_served", lambda run, *given: (answered if given[2].server != US else served)(run, *given)
    )
    options = Options((ROW,), (US, MLSERVER), wires=(JSON,), connections=(1,), rounds=1)
    with Recorder(tmp_path / "serve.jsonl", {"quick": True}) as recorder:
        assert driver.run(options, tmp_path, recorder, None) == 0
    records = read([tmp_path / "serve.jsonl"])
    (killed,) = (record for record in records if record.get("status") == "killed")
    assert killed["ended"]["seconds"] > 0
    assert 63 << 20 <= killed["ended"]["cgroup_peak"] <= 65 << 20
    assert re.search(r"\| mlserver \| json \| 1 \| killed after [0-9.]+ m?s with 6[345] MiB \|", table.report(records))


def test_wrong_and_refused_answers_do_not_count() -> None:
    wrong = driver._judged(Outcome("ok", {"error": 0.5}), {})
    assert (wrong.status, wrong.reason) == ("wrong", "the error of its answers is 5.0e-01")
    refused = driver._judged(Outcome("ok", VALUES | {"failed": {503: 2}}), {})
    assert (refused.status, refused.reason) == ("error", "5 answers in time; refused: 2 with 503")
    assert driver._judged(Outcome("ok", VALUES), {"memory": 1}).status == "ok"


# -------------------------------------------------------------------- bars


def lines(timings: dict[tuple[str, int], tuple[str, dict[str, Any]]], model: str, wire: str, many: int) -> list[Record]:
    """The lines of one place. ``timings`` has status and values by server and round."""
    row = {"kind": "row", "row": "r", "status": "ok", "model": model, "models": 1, "weights": 1, "budget": None}
    of = {"kind": "timing", "row": "r", "wire": wire, "connections": many, "quick": False}
    return [
        {"quick": False} | row,
        *(
            of | {"server": server, "round": index, "status": status, "reason": "why", "values": values}
            for (server, index), (status, values) in timings.items()
        ),
    ]


def verdicts(found: list[bars.Bar]) -> dict[str, str]:
    return {f"{bar.name} {bar.peer}".strip(): bar.verdict for bar in found}


def test_ahead_of_a_peer() -> None:
    slower = VALUES | {"rate": 5.0, "p50": 0.05}
    records = lines({(US, 0): ("ok", VALUES), (MLSERVER, 0): ("ok", slower)}, "mlp-2x64", JSON, 8)
    assert verdicts(bars.bars(figures(records))) == {
        "rate mlserver": "met",
        "p50 mlserver": "missed",
        "p99 mlserver": "met",
        "memory mlserver": "met",
    }


@pytest.mark.parametrize(("counts", "star"), [((99, 500), True), ((100, 500), False)])
def test_a_percentile_of_few_answers_has_a_star(counts: tuple[int, int], star: bool) -> None:
    timings = {(US, index): ("ok", VALUES | {"count": count}) for index, count in enumerate(counts)}
    assert ("200 ms) * |" in table.report(lines(timings, "mlp-2x64", JSON, 8))) is star


def test_a_killed_peer_is_behind_and_one_that_lacks_a_form_is_not_measured() -> None:
    for status, verdict in (("killed", "killed"), ("lacks", "not measured"), ("error", "not measured")):
        records = lines({(US, 0): ("ok", VALUES), (MLSERVER, 0): (status, {})}, "mlp-2x64", JSON, 8)
        assert set(verdicts(bars.bars(figures(records))).values()) == {verdict}
    for ours in ({(US, 0): ("error", {})}, {(US, 0): ("ok", VALUES), (US, 1): ("wrong", {})}):
        records = lines(ours | {(MLSERVER, 0): ("killed", {})}, "mlp-2x64", JSON, 8)
        assert set(verdicts(bars.bars(figures(records))).values()) == {"not measured"}
    rounds = {(server, at): ("ok", VALUES) for server in (US, MLSERVER) for at in range(2)}
    records = lines(rounds | {(US, 1): ("killed", {})}, "mlp-2x64", JSON, 8)
    assert set(verdicts(bars.bars(figures(records))).values()) == {"not measured"}


def test_only_a_peer_that_was_killed_in_each_round_is_behind() -> None:
    ours: dict[tuple[str, int], tuple[str, dict[str, Any]]] = {(US, at): ("ok", VALUES) for at in range(2)}
    ends: dict[tuple[str, int], tuple[str, dict[str, Any]]] = {
        (MLSERVER, 0): ("error", {}), (MLSERVER, 1): ("killed", {}),
        (LITSERVE, 0): ("killed", {}), (LITSERVE, 1): ("killed", {}),
    }  # fmt: skip
    records = lines(ours | ends, "mlp-2x64", JSON, 8)
    by = {bar.peer: bar.verdict for bar in bars.bars(figures(records)) if bar.name == "rate"}
    assert by == {MLSERVER: "not measured", LITSERVE: "killed"}
    text = " ".join(table.report(records).split())
    assert "0 are met, 4 met because the peer was killed, 0 missed, 0 not judged, 4 not measured" in text
    assert "| mlserver | error, killed |" in text


def test_the_rate_is_that_of_all_connections() -> None:
    assert client.Played(cycles={3: [0.1, 0.3], 4: [0.5]}).rate == pytest.approx(7.0)
    assert client.Played(cycles={3: [0.1] * 8}).rate == pytest.approx(10.0)  # others got no answer


@pytest.mark.parametrize(("p50", "verdict"), [(0.1007, "met"), (0.1009, "missed")])
def test_over_a_call_with_one_connection(p50: float, verdict: str) -> None:
    floor = {"call": 0.1, "rates": {"1": 10.0}}
    timings = {(US, 0): ("ok", VALUES | {"p50": p50}), (FLOOR, 0): ("ok", floor)}
    assert verdicts(bars.bars(figures(lines(timings, "resnet50", BINARY, 1)))) == {
        "p50 over a call of the model": verdict
    }
    assert bars.bars(figures(lines(timings, "mlp-4x1024", BINARY, 1))) == []
    assert bars.bars(figures(lines(timings, "resnet50", JSON, 1))) == []


@pytest.mark.parametrize(("rate", "verdict"), [(9.5, "met"), (9.4, "missed")])
def test_part_of_the_batches_that_form(rate: float, verdict: str) -> None:
    floor = {"call": 0.1, "rates": {"1": 7.0, "3": 10.0}}
    timings = {(US, 0): ("ok", VALUES | {"rate": rate}), (FLOOR, 0): ("ok", floor)}
    name = "rate ÷ the model's in such batches"
    assert verdicts(bars.bars(figures(lines(timings, "resnet50", BINARY, 8)))) == {name: verdict}
    assert bars.bars(figures(lines(timings, "resnet50", BINARY, 64))) == []


@pytest.mark.parametrize(("rate", "call", "cell"), [
    (9.4, 0.0199, "0.94, not judged: 19.9 ms a sample |"),
    (9.5, 0.0199, "0.95, not judged: 19.9 ms a sample |"),
    (9.4, 0.02, "0.94 ≥ 0.95 **missed** |"),
])  # fmt: skip
def test_the_part_is_shown_where_a_sample_is_too_short_to_judge_it(rate: float, call: float, cell: str) -> None:
    floor = {"call": call, "rates": {"1": 7.0, "3": 10.0}}
    records = lines({(US, 0): ("ok", VALUES | {"rate": rate}), (FLOOR, 0): ("ok", floor)}, "resnet50", BINARY, 8)
    (bar,) = bars.bars(figures(records))
    assert (bar.verdict == "not judged") == (call < 0.02)
    text = table.report(records)
    assert cell in text
    assert f"{int(call < 0.02)} not judged, 0 not measured" in " ".join(text.split())


def test_nothing_measured_has_no_table() -> None:
    with pytest.raises(ValueError, match="no run"):
        table.report(lines({(US, 0): ("error", {})}, "mlp-2x64", JSON, 1))
