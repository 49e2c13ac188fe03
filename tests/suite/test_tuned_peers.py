"""Contenders as their experts would set them: right answers, from the files that they should read."""

from __future__ import annotations

from pathlib import Path

import pytest

from bench.peers import Setting, numpy_ahead, peers
from bench.process import pagecache, spawn
from bench.process.job import TOLERANCE, Job
from bench.scenarios import SCENARIOS
from markers import needs

needs("onnx", "onnxruntime", "openvino", "torch")

pytestmark = pytest.mark.extras

MIB = 1 << 20
MODEL = "mlp-3x2048"
#: Bytes of a layer's matrix, which is one piece.
PIECE = 4 * 2048 * 2048
AHEAD = "numpy.memmap ahead"
TUNED = (AHEAD, "onnxruntime lean", "onnxruntime saved", "openvino cached")


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the model, its answers to one and to five samples, and the files of all tuned contenders."""
    folder = tmp_path_factory.mktemp("data")
    outcome = spawn.run(Job("source", data=str(folder), model=MODEL, batches=(1, 5)))
    assert outcome.status == "ok", outcome.reason
    for name in TUNED:
        outcome = spawn.run(Job("prepare", data=str(folder), peer=name, model=MODEL))
        assert outcome.status == "ok", (name, outcome.reason)
    return folder


@pytest.mark.parametrize("name", TUNED)
@pytest.mark.parametrize("cap", [None, 1 * MIB])
def test_answers(data: Path, name: str, cap: int | None) -> None:
    """A cap changes how they are set. Here nothing enforces it."""
    for batch in (1, 5):
        job = Job("check", data=str(data), peer=name, model=MODEL, batches=(batch,), threads=1, cap=cap)
        outcome = spawn.run(job)
        assert outcome.status == "ok", outcome.reason
        assert 0 < outcome.values["error"] <= TOLERANCE


@pytest.mark.parametrize("pieces", [0, 1, 3])
def test_what_does_not_fit_is_released_behind(data: Path, disk: Path, pieces: int) -> None:
    """The kept pieces are the only ones in the page cache after a call, beside the biases."""
    weights = data / MODEL / "weights.bin"
    cap = numpy_ahead._BESIDE + (numpy_ahead._AHEAD + 1 + pieces) * PIECE
    assert numpy_ahead.kept(3, PIECE, cap) == pieces
    pagecache.make_cold([weights])
    outcome = spawn.run(Job("check", data=str(data), peer=AHEAD, model=MODEL, batches=(1,), threads=1, cap=cap))
    assert outcome.status == "ok", outcome.reason
    cached = pagecache.cached_bytes([weights])
    assert pieces * PIECE <= cached <= pieces * PIECE + 2 * MIB


def test_the_pieces_that_stay() -> None:
    assert numpy_ahead.kept(96, 32 * MIB, None) == 96
    assert numpy_ahead.kept(96, 32 * MIB, 300 * MIB) == 3
    assert numpy_ahead.kept(96, 32 * MIB, 1 << 40) == 96
    assert numpy_ahead.kept(96, 32 * MIB, MIB) == 0


def test_a_cached_model_is_not_compiled_again(data: Path) -> None:
    """The cache that opening reads is what is made cold, and opening adds nothing to it."""
    folder = data / MODEL / "openvino-cached"
    (blob,) = (folder / "cache").iterdir()
    assert blob.stat().st_size >= 3 * PIECE
    assert spawn.run(Job("prepare", data=str(data), peer="openvino cached", model=MODEL)).values["files"] == [str(blob)]
    made = blob.stat().st_mtime_ns
    job = Job("check", data=str(data), peer="openvino cached", model=MODEL, batches=(1,), threads=2)
    assert spawn.run(job).status == "ok"
    assert [(path, path.stat().st_mtime_ns) for path in (folder / "cache").iterdir()] == [(blob, made)]


def test_a_saved_model_has_its_weights_as_the_kernels_want_them(data: Path) -> None:
    """Beside those of the ONNX file, in a file that is mapped."""
    (file,) = spawn.run(Job("prepare", data=str(data), peer="onnxruntime saved", model=MODEL)).values["files"]
    assert Path(file).stat().st_size >= 6 * PIECE


def test_they_take_part_where_they_are_made_for() -> None:
    for name in TUNED:
        assert peers()[name].optional
    for name in ("mlp-capped", "mlp-callers"):
        assert SCENARIOS[name].also == {AHEAD, "onnxruntime lean", "onnxruntime saved"}
    assert SCENARIOS["cold-start-cnn"].also == {"onnxruntime saved", "openvino cached"}
    assert SCENARIOS["mlp-cold-start"].also == {AHEAD, "onnxruntime saved", "openvino cached"}
    large, memory = SCENARIOS["cnn-large"], {"onnxruntime saved", "torch compiled"}
    assert large.also == {"onnxruntime lean", "openvino cached", *memory}
    assert SCENARIOS["giants"].also == {"streamrt int8", *memory}
    for scenario in (large, SCENARIOS["giants"], SCENARIOS["serverless"]):
        assert scenario.peers >= scenario.also
    beside = [case for case in large.cases if case.cap and not case.alone]
    assert [(case.model, case.budget) for case in beside] == [
        ("regnety_1280", "1280MiB"), ("convnext_xxlarge", "1600MiB"),
    ]  # fmt: skip


def test_callers_share_the_threads() -> None:
    assert [Setting(1, 2, callers=count).threads_each for count in (1, 2, 8)] == [2, 1, 1]


@pytest.mark.parametrize("name", ["onnxruntime", "openvino", "torch"])
def test_two_callers_have_their_own_answers(data: Path, name: str) -> None:
    assert spawn.run(Job("prepare", data=str(data), peer=name, model=MODEL)).status == "ok"
    job = Job("passes", data=str(data), peer=name, model=MODEL, batches=(1,), threads=2, callers=2, seconds=0.0)
    outcome = spawn.run(job)
    assert outcome.status == "ok", outcome.reason
    assert 0 < outcome.values["error"] <= TOLERANCE


def test_a_contender_without_its_compiler_is_missing(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    found = spawn.run(Job("probe", data="")).values["peers"]
    assert found["torch compiled"] == {"missing": "g++"}
    assert "versions" in found["torch"]
