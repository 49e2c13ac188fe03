"""Measures the layers of one model: the driver of scenarios times all passes, with and without a profile."""

from __future__ import annotations

from typing import Any

from bench.driver import Options, Run
from bench.peers import peers
from bench.process import spawn
from bench.process.job import Job
from bench.record import Recorder
from bench.scenarios import Case, Scenario
from bench.ways import US


def profilers() -> list[str]:
    """The names of the contenders that tell the times of their nodes."""
    return [name for name, peer in peers().items() if peer.profile]


def scenario(model: str, batch: int) -> Scenario:
    """A scenario about one model, with all weights in memory."""
    cases = tuple(Case(kind, ("steady",), model, batch) for kind in ("passes", "profile"))
    return Scenario(
        name=f"layers-{model}",
        title=f"Layers of {model}",
        says="Times of every layer, all weights in memory.",
        cases=cases,
        quick=cases,
        patience=300.0,  # the first pass of 3 GiB of weights reads them, and ONNX Runtime copies them
        limits=False,
        peak=True,
        weigh=False,
        peers=frozenset(profilers()),
    )


def run(model: str, batch: int, options: Options, installed: dict[str, Any], recorder: Recorder) -> int:
    """Measure the contenders and describe the layers; returns how many steps failed."""
    measured = scenario(model, batch)
    failures = Run(measured, options, installed, recorder).run()
    outcome = spawn.run(Job("layers", data=str(options.data), peer=US, model=model, batches=(batch,)))
    if outcome.status != "ok":
        print(f"the layers of {model} are not known: {outcome.reason}")
        return failures + 1
    recorder.write("layers", scenario=measured.name, model=model, batch=batch, layers=outcome.values["layers"])
    return failures
