"""``python -m bench run serverless`` from end to end, in the checkout, with a small model, and its table."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from bench.process.job import TOLERANCE
from bench.record import read
from bench.scenarios import SCENARIOS
from markers import needs
from suite.command import bench

pytestmark = pytest.mark.extras
needs("awslambdaric", "onnx", "onnxruntime", "matplotlib")

#: Contenders that map their weights, which are more than the cap.
HELD = ("streamrt", "onnxruntime lean", "onnxruntime no-prepack", "onnxruntime saved")


def test_streamrt_and_onnx_runtime_are_measured(checkout: Path, disk: Path) -> None:
    results = disk / "results"
    done = bench(checkout, "run", "--quick", "serverless", "--data", disk / "data", "--results", results)
    assert done.returncode == 0, done.stdout + done.stderr
    lines = read([results / "serverless.jsonl"])
    assert {line["peer"] for line in lines if line["kind"] == "check"} == {*HELD, "onnxruntime"}
    timings = {line["peer"]: line for line in lines if line["kind"] == "timing"}
    assert timings["onnxruntime"]["status"] == "killed"  # it copies the weights, which are more than the cap
    cap = SCENARIOS["serverless"].quick[0].cap
    for peer in HELD:
        assert timings[peer]["status"] == "ok", timings[peer]["reason"]
        values = timings[peer]["values"]
        assert 0 < values["error"] <= TOLERANCE
        assert 0 < values["opening"] < values["to_first_output"]
        assert 0 < values["steady"]["least"] <= values["steady"]["median"]
    memory = {line["peer"]: line["values"] for line in lines if line["kind"] == "memory"}
    assert set(memory) == set(HELD)
    for values in memory.values():
        assert values["anonymous"] > 1 << 20
        assert values["file_pages"] > 1 << 20
        assert values["cgroup_peak"] is None or values["cgroup_peak"] <= cap
    assert bench(checkout, "report", "--results", results).returncode == 0
    text = (results / "README.md").read_text()
    assert "## A serverless function: `serverless`" in text
    assert re.search(rf"\| onnxruntime \| killed after [0-9.]+ m?s with {cap >> 20} MiB \|", text)
