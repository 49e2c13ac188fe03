"""``python -m bench layers`` from end to end, in the checkout, with a model that is small."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from bench.process.job import TOLERANCE
from bench.record import read
from suite.command import bench


def run(checkout: Path, folder: Path, model: str, *peers: str) -> tuple[str, Path]:
    """The tables of the model with each number of threads, and the file of results."""
    options = ["--batch", "2", "--rounds", "1", "--threads", "all", "1", "--data", folder / "data"]
    done = bench(checkout, "layers", model, *options, "--peers", *peers, "--results", folder)
    assert done.returncode == 0, done.stderr
    return done.stdout, folder / f"layers-{model}.jsonl"


def test_a_small_model(checkout: Path, tmp_path: Path) -> None:
    pytest.importorskip("onnx")
    text, path = run(checkout, tmp_path, "mlp-3x64", "streamrt")
    lines = read([path])
    counts = list(dict.fromkeys((len(os.sched_getaffinity(0)), 1)))
    kinds = [(line["kind"], line["threads"], line["case"]["kind"]) for line in lines if line["kind"] == "timing"]
    assert kinds == [("timing", threads, kind) for threads in counts for kind in ("passes", "profile")]
    assert all(line["status"] == "ok" for line in lines if line["kind"] != "layers")
    assert not [line for line in lines if line["kind"] == "memory"]
    limits = [line for line in lines if line["kind"] == "limit"]
    assert [(line["peer"], line["threads"]) for line in limits] == [("fma", threads) for threads in counts]
    profiled = [line["values"] for line in lines if line["kind"] == "timing" and line["case"]["kind"] == "profile"]
    for values in profiled:
        assert values["error"] <= TOLERANCE
        assert sum(node["seconds"] > 0 for node in values["nodes"]) == 3
        assert values["between"] > 0
        assert sum(node["seconds"] for node in values["nodes"]) < values["steady"]["most"]
    assert text.startswith("# Layers of mlp-3x64, batch 2\n")
    assert text.count("\n| gemm") == 3 * len(counts)
    assert text.count("\n| gemm0 | Gemm + Relu | 2x64 |") == len(counts)


@pytest.mark.extras
def test_peers_have_the_same_layers(checkout: Path, tmp_path: Path) -> None:
    pytest.importorskip("onnxruntime")
    pytest.importorskip("openvino")
    # So wide that a layer takes longer than the microsecond in which OpenVINO counts.
    text, path = run(checkout, tmp_path, "mlp-3x1024", "onnxruntime", "openvino")
    timings = [line for line in read([path]) if line["kind"] == "timing"]
    assert {line["peer"] for line in timings} == {"streamrt", "onnxruntime", "openvino"}  # streamrt is always there
    rows = [[cell.strip() for cell in line.split("|")[1:-1]] for line in text.splitlines() if line.startswith("| ")]
    header, gemms = rows[0], [row for row in rows if row[0].startswith("gemm")]
    assert gemms
    for peer in ("onnxruntime", "openvino"):
        assert all(float(row[header.index(peer)]) > 0 for row in gemms), peer


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (["nothing"], "no model named nothing; choose mlp-LAYERSxWIDTH, or from vgg16"),
        (["vgg16", "--peers", "torch"], "no peer that tells times of layers named torch; choose from streamrt"),
    ],
)
def test_unknown_names(checkout: Path, tmp_path: Path, arguments: list[str], told: str) -> None:
    refused = bench(checkout, "layers", *arguments, "--data", tmp_path / "data", "--results", tmp_path)
    assert refused.returncode == 2
    assert told in refused.stderr
    assert not list(tmp_path.iterdir())
