"""The README's rows of the pool and of the server, from lines of results that are written by hand."""

from __future__ import annotations

from typing import Any

import pytest

from bench.record import Record
from bench.report import headline
from markers import needs

needs("scipy")  # computes T*

pytestmark = pytest.mark.extras


def pool(kind: str, **fields: Any) -> Record:
    return {"kind": kind, "set": "small", "commit": "0123456"} | fields


def play(peer: str, index: int, seconds: float, **fields: Any) -> Record:
    of = {"weights": "float32", "trace": "zipf 0.9", "peer": peer, "round": index, "status": "ok"} | fields
    return pool("timing", **of, values={"seconds": seconds})


def test_a_pool_is_compared_with_an_lru_of_whole_models() -> None:
    records = [
        pool("set", models=200, requests=5000),
        play("streamrt adaptive", 0, 2.0),
        play("whole-model LRU", 0, 4.0),
        play("streamrt adaptive", 1, 3.0),
        play("whole-model LRU", 1, 12.0),
        play("streamrt adaptive", 2, 10.0),
        play("whole-model LRU", 2, 5.0),
        play("streamrt adaptive", 0, 99.0, trace="bursty"),
    ]
    (row,) = headline.of_pools(records)
    assert row.label == "Many models under one budget: 200 small models, zipf 0.9, 5000 requests"
    assert row.ours
    assert row.theirs
    assert row.ratio
    assert (row.ours.median, row.theirs.median) == (3.0, 5.0)
    assert (row.ratio.median, row.ratio.least, row.ratio.most) == (0.6, 0.25, 2.0)  # of the times in the row
    assert row.peer == "LRU of whole models"
    assert row.record["commit"] == "0123456"
    assert list(headline.of_pools(records[:2])) == []


def serve(server: str, index: int, p50: float, **fields: Any) -> Record:
    of = {"row": "resnet50", "wire": "binary", "connections": 8, "server": server, "round": index, "status": "ok"}
    return {"kind": "timing", "values": {"p50": p50}} | of | fields


def test_a_server_is_compared_with_the_fastest_other() -> None:
    described = {"kind": "row", "row": "resnet50", "status": "ok", "commit": "0123456"}
    packages = [{"kind": "environment", "server": name, "packages": {}} for name in ("slow", "fast")]
    records = [
        described,
        *packages,
        serve("streamrt", 0, 0.2),
        serve("slow", 0, 0.5),
        serve("fast", 0, 0.8),
        serve("floor", 0, 0.1, values={"call": 0.1}),
        serve("mlserver", 0, 0.0, status="lacks", values={}, reason="not over HTTP"),
        serve("streamrt", 0, 9.0, connections=1),
        *(serve("streamrt", index, p50) for index, p50 in ((1, 0.1), (2, 0.9))),
        *(serve("fast", index, p50) for index, p50 in ((1, 0.4), (2, 0.3))),
    ]
    (row,) = headline.of_servers(records)
    assert row.label == "A server: resnet50, binary tensors, 8 connections, median of requests"
    assert row.peer == "fast"
    assert row.ours
    assert row.theirs
    assert row.ratio
    assert (row.ours.median, row.theirs.median, row.ratio.median) == (0.2, 0.4, 0.5)
    assert (row.ratio.least, row.ratio.most) == (0.25, 3.0)
    assert row.record is described
    assert list(headline.of_servers(records[:4])) == []
