"""``python -m bench run`` from end to end, in the checkout, with small models."""

from __future__ import annotations

import os
from collections import Counter
from pathlib import Path

import pytest

from bench import machine
from bench.limits import LIMITS, OF_A_WAY
from bench.process.cgroup import NoCgroupError, memory_cgroup
from bench.process.job import TOLERANCE
from bench.record import Record, read
from bench.scenarios import SCENARIOS
from suite.command import bench

PEERS = ("streamrt", "numpy.memmap", "safetensors")
CASES = SCENARIOS["mlp-capped"].quick


@pytest.fixture(scope="module")
def lines(tmp_path_factory: pytest.TempPathFactory, checkout: Path) -> list[Record]:
    """The lines that a run of three contenders wrote."""
    pytest.importorskip("onnx")
    pytest.importorskip("safetensors")
    folder = tmp_path_factory.mktemp("run")
    if machine.describe(folder)["filesystem"] in ("tmpfs", "ramfs"):
        pytest.skip("temporary files are in memory")
    options = ["--data", folder / "data", "--results", folder / "results"]
    done = bench(checkout, "run", "--quick", "mlp-capped", "--peers", *PEERS, *options)
    assert done.returncode == 0, done.stderr
    path = folder / "results" / "mlp-capped.jsonl"
    assert done.stdout.splitlines()[-1] == str(path)
    return read([path])


@pytest.fixture(scope="module")
def caps() -> None:
    try:
        with memory_cgroup(None):
            pass
    except NoCgroupError as error:
        pytest.skip(str(error))


def of_kind(lines: list[Record], kind: str) -> list[Record]:
    return [line for line in lines if line["kind"] == kind]


def test_answers_are_right(lines: list[Record]) -> None:
    checks = of_kind(lines, "check")
    assert [(line["peer"], line["batch"]) for line in checks] == [(p, case.batch) for p in PEERS for case in CASES]
    assert all(line["status"] == "ok" and 0 < line["error"] <= TOLERANCE for line in checks)


def test_limits(lines: list[Record]) -> None:
    limits = of_kind(lines, "limit")
    expected = dict.fromkeys(LIMITS.keys() - OF_A_WAY.keys(), 1) | {"compute": len(CASES)}
    assert Counter(line["peer"] for line in limits) == expected
    assert all(line["status"] == "ok" for line in limits)
    assert all(line["values"]["value"] > 1e6 for line in limits if line["peer"] != "compute")
    for line in limits:
        if line["peer"] == "compute":
            facts = line["values"]["facts"]
            assert len(facts["layers"]) == 12
            assert facts["bytes_read"] == 0  # all weights are in memory


@pytest.mark.usefixtures("caps")
def test_timings(lines: list[Record]) -> None:
    timings = of_kind(lines, "timing")
    assert [(line["case"]["batch"], line["peer"]) for line in timings] == [(c.batch, p) for c in CASES for p in PEERS]
    for line in timings:
        assert line["status"] == "ok", line["reason"]
        values = line["values"]
        steady = values["steady"]
        assert 0 < steady["least"] <= steady["median"] <= steady["most"]
        assert steady["count"] >= 2
        assert 0 < values["first"] < values["to_first_output"]
        assert values["error"] <= TOLERANCE
        if line["peer"] == "streamrt":
            facts = values["facts"]
            assert facts["budget"] == 48 << 20
            assert facts["bytes_read"] > 0
            assert len(values["moments"]) >= 2
            assert all(seconds > 0 and speed > 1e6 for seconds, speed in values["moments"])
        else:
            assert not values["moments"]  # only streamrt has the budget that T* is for


@pytest.mark.usefixtures("caps")
def test_memory(lines: list[Record]) -> None:
    memory = of_kind(lines, "memory")
    assert len(memory) == len(CASES) * len(PEERS)
    for line in memory:
        assert line["status"] == "ok", line["reason"]
        values, cap = line["values"], line["case"]["cap"]
        assert values["anonymous"] > 1 << 20
        # A pass read 192 MiB of weights. Some of them were in the page cache, and never more than the cap allows.
        assert 0 < values["file_pages"] <= cap
        assert values["cgroup_peak"] is None or values["anonymous"] <= values["cgroup_peak"] <= cap


def test_lines_describe_their_measurement(lines: list[Record]) -> None:
    for line in lines:
        assert line["scenario"] == "mlp-capped"
        assert line["quick"]
        assert {"streamrt", "numpy", "safetensors"} <= line["versions"].keys()
        assert line["machine"]["cores"] == len(os.sched_getaffinity(0))
        assert "commit" in line
        assert isinstance(line["checkout_installed"], bool)
