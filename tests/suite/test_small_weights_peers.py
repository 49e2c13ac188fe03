"""Contenders that store weights in fewer bytes answer within their tolerances, and with rounded weights."""

from __future__ import annotations

from pathlib import Path

import pytest

from bench.peers import TOLERANCES, peers
from bench.process import spawn
from bench.process.job import TOLERANCE, Job
from bench.scenarios import SCENARIOS
from markers import needs

needs("onnx", "onnxruntime", "openvino", "torch")

pytestmark = pytest.mark.extras

MODEL = "mlp-3x256"
ROUNDED = [name for name, peer in peers().items() if peer.tolerance > TOLERANCE]


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the model, and its answer to two samples."""
    folder = tmp_path_factory.mktemp("data")
    outcome = spawn.run(Job("source", data=str(folder), model=MODEL, batches=(2,)))
    assert outcome.status == "ok", outcome.reason
    return folder


def test_they_take_part() -> None:
    assert SCENARIOS["small-weights"].peers == frozenset({"streamrt", *ROUNDED})


@pytest.mark.parametrize("name", ROUNDED)
def test_answers(data: Path, name: str) -> None:
    files = spawn.run(Job("prepare", data=str(data), peer=name, model=MODEL))
    assert files.status == "ok", files.reason
    float32 = 3 * 256 * 256 * 4
    assert files.values["bytes"] < 0.6 * float32  # biases, and the zip archive of torch.save
    outcome = spawn.run(Job("check", data=str(data), peer=name, model=MODEL, batches=(2,), threads=1))
    assert outcome.status == "ok", outcome.reason
    error = outcome.values["error"]
    # In three layers weights of every type are far better than after the twelve of the scenario.
    assert 1e-5 < error < min(peers()[name].tolerance, 0.2)


def test_a_type_has_one_tolerance() -> None:
    assert {peers()[name].tolerance for name in ROUNDED} == set(TOLERANCES.values())


def test_files_are_prepared_anew_when_a_helper_changes(data: Path, tmp_path: Path) -> None:
    """The mark that makes them be used again has the code of the helper."""
    name = "onnxruntime int8"
    assert spawn.run(Job("prepare", data=str(data), peer=name, model=MODEL)).status == "ok"
    made_by = (data / MODEL / name.replace(" ", "-") / "prepared").read_text()
    (helper,) = peers()[name].helpers
    assert Path(helper).read_text() in made_by
