"""Parsed JSON takes at most the memory that `weigh` computed before. A text that would take too much is not parsed."""

from __future__ import annotations

import asyncio
import json
import threading
import tracemalloc
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import orjson
import pytest

from model import zoo
from serve.process import Server
from streamrt.format.marks import count_bytes
from streamrt.format.parsing import weigh
from streamrt.serve.access import Gate, OverloadedError
from streamrt.serve.jsontext import parse_json, weigh_json
from streamrt.serve.protocol import parse_request
from streamrt.serve.refusal import ProtocolError

SIZE = 100_000
MIB = 1 << 20


def items(*texts: str) -> str:
    """A list that repeats these items up to `SIZE` characters."""
    once = ",".join(texts)
    return f"[{','.join([once] * (SIZE // (len(once) + 1)))}]"


def keys(count: int, value: str, key: str = "%x") -> str:
    return "{" + ",".join(f'"{key % i}":{value}' for i in range(count)) + "}"


SHAPES = {
    "empty lists": items("[]"),
    "lists of one": items("[1]"),
    "lists of one of its own": items("[1.5]"),
    **{f"rows of {n}": items(f"[{','.join(['1.5'] * n)}]") for n in (2, 4, 5, 9, 17, 25, 33, 63)},
    **{f"short rows of {n}": items(f"[{','.join(['1'] * n)}]") for n in (2, 4, 5, 9, 17, 25, 33, 63)},
    "pixels": items("[12,255,0]"),
    "deep lists": items("[" * 500 + "]" * 500),
    "empty objects": items("{}"),
    "objects of one": items('{"":1}'),
    "objects of one of its own": items('{"ab":1.5}'),
    **{f"objects of {n}": items(keys(n, "1.5")) for n in (2, 5, 6, 10, 11, 21, 22, 43)},
    **{f"{n} keys": keys(n, "1.5") for n in (683, 1365, 1366, 5461, 5462, 10922, 10923)},
    **{f"{n} lists by key": keys(n, "[]") for n in (5461, 5462, 10923)},
    **{f"{n} wide keys": keys(n, "[]", "%x\U0001f600") for n in (5462, 10923)},
    "floats": items("1.5"),
    "exponents": items("1e9"),
    "zeros": items("0"),
    "bytes": items("12", "255", "7"),
    "numbers below Python's shared ones": items("-9"),
    "numbers above Python's shared ones": items("300"),
    "large numbers": items("9999999999"),
    "numbers of 300 digits": items("9" * 300),
    "true": items("true"),
    "spaced": items(" 1.5 "),
    "empty strings": items('""'),
    "strings": items('"ab"'),
    "strings and numbers": items('"ab"', "0", "0", "0"),
    "escapes": items(r'"\n\n"', r'"\u4e00a"'),
    "strings of latin": items('"aé"'),
    "strings of wide characters": items('"a層"', '"\U0001f600"'),
    "a long string": f'["{"a" * SIZE}"]',
    "a long string that is wide at its end": f'["{"a" * SIZE}\U0001f600"]',
    "a long string that grows": '["' + r"a\n" * SIZE + r'\ud83d\ude00"]',
}


def _peak(body: bytes) -> int:
    """The most bytes that were allocated at once while ``body`` was parsed."""
    tracemalloc.start()
    try:
        parse_json(weigh_json(body, MIB))
        return tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()


@pytest.mark.parametrize("before", ["", r'"\n",'], ids=["plain", "escaped"])  # an escape needs the other parser
@pytest.mark.parametrize("name", SHAPES)
def test_the_memory_of_parsing(name: str, before: str) -> None:
    body = f"[{before}{SHAPES[name]}]".encode()
    weight = weigh(body)
    limit = weight.total + 4096
    for _ in range(5):  # threads of other tests may allocate meanwhile, and only add to a measurement
        if (peak := _peak(body)) <= limit:
            break
    assert peak <= limit
    assert weight.values < weight.total


def test_the_memory_of_reading_a_request() -> None:
    """Nested lists become a flat list, then an array."""
    rows = 5000
    tensor = {"name": "x", "datatype": "FP32", "shape": [rows, 3], "data": [[0.25, 1.5, 3.75]] * rows}
    body = json.dumps({"inputs": [tensor]}, separators=(",", ":")).encode()
    tracemalloc.start()
    try:
        parse_request(weigh_json(body, MIB), memoryview(b""))
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert peak <= weigh(body).total


@pytest.mark.parametrize("number", ["0", "-9", "12", "255", "1.5", "-1.5", "0.123456789", "1e9", "300", "-1e-30"])
def test_flat_lists_of_any_numbers_are_accepted(number: str) -> None:
    count = (MIB - 100) // (len(number) + 1)
    data = ",".join([number] * count)
    body = f'{{"inputs":[{{"name":"層","shape":[{count}],"datatype":"FP32","data":[{data}]}}]}}'.encode()
    assert MIB - 200 < len(body) <= MIB
    assert parse_request(weigh_json(body, MIB), memoryview(b"")).inputs["層"].tolist() == [np.float32(number)] * count


@pytest.mark.parametrize("row", ["[0.1234,0.5678,0.9012]", "[0.12345678]", "[" + ",".join(["12"] * 32) + "]"])
def test_nested_lists_of_numbers_are_accepted(row: str) -> None:
    body = f"[{','.join([row] * ((MIB - 2) // (len(row) + 1)))}]".encode()
    assert len(parse_json(weigh_json(body, MIB))) > 1000


@pytest.mark.parametrize("one", ["[]", "{}", "[1]", '{"":1}', '""', '{"a":[]}'])
def test_a_text_that_would_take_too_much_is_not_parsed(one: str) -> None:
    body = f'{{"inputs":[{",".join([one] * ((2 * MIB - 50) // (len(one) + 1)))}]}}'.encode()
    tracemalloc.start()
    try:
        with pytest.raises(ProtocolError, match=r"at most 26214400 bytes once parsed \(12 times --max-json") as refused:
            weigh_json(body, 2 * MIB)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert str(weigh(body).values) in str(refused.value)
    assert peak < len(body) + 100_000


def test_small_texts_are_never_refused() -> None:
    for text in SHAPES.values():
        weigh_json(text.encode()[:14_000], 14_000)


def test_a_parsed_text_is_counted_with_the_bodies() -> None:
    gate = Gate(200 << 10)
    with gate.hold() as held, gate.also(1 << 30):  # `also` has no limit
        assert gate.held == (64 << 10) + (1 << 30)
        with pytest.raises(OverloadedError):
            held.add(1)
    assert gate.held == 0


extras = pytest.mark.extras


@extras
def test_large_texts_are_parsed_one_at_a_time(tmp_path: Path) -> None:
    pytest.importorskip("starlette")
    pytest.importorskip("prometheus_client")
    from streamrt.serve.service import Service
    from streamrt.serve.settings import Settings

    service = Service(Settings(tmp_path, budget="16MiB", timeout=0.1))

    async def run() -> None:
        async with service.parsing(100 * MIB):
            assert service.gate.held == 100 * MIB
            async with service.parsing(MIB):  # a small text does not wait
                assert service.gate.held == 101 * MIB
            with pytest.raises(OverloadedError):
                async with service.parsing(100 * MIB):
                    pass
        assert service.gate.held == 0
        with pytest.raises(KeyError):
            async with service.parsing(100 * MIB):
                raise KeyError
        async with service.parsing(100 * MIB):
            pass

    try:
        asyncio.run(run())
    finally:
        service.close()


@extras
@pytest.mark.parametrize("path", ["/v2/models/mlp/infer", "/predictions/mlp"])
def test_the_memory_of_a_request_is_counted_while_it_is_parsed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, path: str
) -> None:
    pytest.importorskip("starlette")
    pytest.importorskip("prometheus_client")
    from serve.asgi import ask
    from streamrt.serve.service import Service
    from streamrt.serve.settings import Settings

    zoo.mlp(tmp_path, 16, 8)
    held = []
    loads: Callable[[bytes], Any] = orjson.loads

    def parse(text: bytes) -> Any:
        held.append(service.gate.held)
        return loads(text)

    tensor = {"name": "input", "shape": [500, 16], "datatype": "FP32", "data": [0.5] * 8000}
    body = json.dumps({"inputs": [tensor]} if "v2" in path else [[0.5] * 16] * 500).encode()
    service = Service(Settings(tmp_path, budget="16MiB", max_batch=1000))
    service.catalog.register_all()
    try:
        monkeypatch.setattr(orjson, "loads", parse)
        status, _ = asyncio.run(ask(service, path, body))
        assert status == 200
        assert held == [len(body) + (64 << 10) + weigh(body).total]
        assert service.gate.held == 0
    finally:
        service.close()


@extras
def test_a_server_stays_small(tmp_path: Path) -> None:
    pytest.importorskip("starlette")
    zoo.mlp(tmp_path, 16, 8)
    body = b'{"inputs":[' + b"[]," * 2_700_000 + b"[]]}"
    statuses = []
    with Server(tmp_path, "--budget", "16MiB") as server:

        def peak() -> int:
            status = Path(f"/proc/{server.process.pid}/status").read_text().splitlines()
            (line,) = [line for line in status if line.startswith("VmHWM:")]
            return int(line.split()[1]) << 10

        server.ask("/v2/models/mlp/infer", b"{}")
        before = peak()
        threads = [
            threading.Thread(target=lambda: statuses.append(server.ask("/v2/models/mlp/infer", body)[0]))
            for _ in range(3)
        ]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert statuses == [400] * 3
        assert peak() - before < 100 * MIB  # three bodies of 8 MiB, each held twice at most; one parsed takes 170 MiB


@pytest.mark.parametrize("size", [0, 1, (64 << 10) - 1, 64 << 10, (64 << 10) + 1, 200_001])
def test_bytes_of_short_and_long_texts_are_counted(size: int) -> None:
    text = np.random.default_rng(size).choice(np.frombuffer(b'{[:,"]}-01', np.uint8), size).tobytes()
    assert count_bytes(text, b"{,-") == [text.count(b"{"), text.count(b","), text.count(b"-")]
