"""``python -m bench serve`` from end to end, in the checkout, with streamrt's server and small models."""

from __future__ import annotations

from pathlib import Path

import pytest

from bench.process.job import TOLERANCE
from bench.record import read
from bench.serve.rows import WIRES
from suite.command import bench


@pytest.mark.extras
def test_streamrt_is_measured(checkout: Path, tmp_path: Path) -> None:
    for package in ("grpc", "onnx", "starlette", "uvicorn"):
        pytest.importorskip(package)
    rows = ("mlp-2x64", "4 models")
    options = ["--connections", "4", "--data", tmp_path / "data", "--results", tmp_path]
    done = bench(checkout, "serve", "--quick", "--servers", "streamrt", "--rows", *rows, *options)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "## Servers" in done.stdout
    timings = [line for line in read([tmp_path / "serve.jsonl"]) if line["kind"] == "timing"]
    assert {(line["row"], line["wire"], line["server"]) for line in timings} == {
        *((row, wire, "streamrt") for row in rows for wire in WIRES),
        *(("mlp-2x64", wire, "floor") for wire in WIRES),
    }
    assert all(line["status"] == "ok" for line in timings)
    for line in timings:
        if line["server"] == "streamrt":
            values = line["values"]
            assert 0 < values["error"] <= TOLERANCE
            assert values["count"] >= 20
            assert 0 < values["p50"] <= values["p99"]
            assert 1 <= values["batch"] <= 4
            assert values["memory"] > 1 << 20
