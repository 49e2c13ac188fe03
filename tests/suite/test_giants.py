"""The scenario of giants: its budgets, its networks, and a run with a small network."""

from __future__ import annotations

from pathlib import Path

import pytest

from bench import models
from bench.models import vision
from bench.peers.streamrt import SIXTEENTH
from bench.process import spawn
from bench.process.job import Job
from bench.scenarios import SCENARIOS
from markers import needs

needs("onnx", "timm", "torch")

pytestmark = pytest.mark.extras

GIANTS = SCENARIOS["giants"]
MODEL = "mlp-3x2048"


def test_cases() -> None:
    """Each network with one sample and with sixteen, for streamrt alone; and one with all weights in memory."""
    capped = [case for case in GIANTS.cases if case.budget == SIXTEENTH]
    names = {"regnety_1280", "convnext_xxlarge", "vit_huge_patch14_224"}
    assert {(case.model, case.batch) for case in capped} == {(name, batch) for name in names for batch in (1, 16)}
    assert all(case.alone and case.cold for case in capped)
    (beside,) = [case for case in GIANTS.cases if case.budget is None]
    assert (beside.model, beside.batch, beside.alone) == ("regnety_1280", 1, False)


@pytest.mark.parametrize(
    ("name", "least"), [("regnety_1280", 640), ("convnext_xxlarge", 840), ("vit_huge_patch14_224", 630)]
)
def test_networks_are_giants(tmp_path: Path, name: str, least: int) -> None:
    """Millions of parameters. Here they have no memory."""
    source = models.source(name, tmp_path)
    network = vision.module(source, meta=True)
    assert sum(parameter.numel() for parameter in network.parameters()) / 1e6 == pytest.approx(least, rel=0.02)
    assert source.shape[1:] == (vision.TIMM[name],) * 2


@pytest.mark.parametrize("peer", ["streamrt", "streamrt int8"])
def test_the_budget_is_a_part_of_the_contenders_own_file(tmp_path: Path, peer: str) -> None:
    job = Job("source", data=str(tmp_path), model=MODEL, batches=(1,))
    assert spawn.run(job).status == "ok"
    (file,) = spawn.run(Job("prepare", data=str(tmp_path), peer=peer, model=MODEL)).values["files"]
    job = Job("passes", data=str(tmp_path), peer=peer, model=MODEL, batches=(1,), budget=SIXTEENTH, seconds=0.0)
    outcome = spawn.run(job)
    assert outcome.status == "ok", outcome.reason
    assert outcome.values["facts"]["budget"] == Path(file).stat().st_size // 16
