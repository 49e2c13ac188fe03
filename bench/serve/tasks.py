"""The work of the processes that the driver starts: making models, being the client, and the floor."""

from __future__ import annotations

import json
import random
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

from bench.pool.inside import percentiles
from bench.process.job import TOLERANCE, Job
from bench.serve import client, models, rpc, wire
from bench.serve.process import metrics
from bench.serve.rows import GRPC, PATIENCE, SAMPLES, Row

_SEED = 3
#: Requests of one model and another before the order begins anew.
_ORDER = 10_000
_ALPHA = 0.9


@dataclass(frozen=True, slots=True)
class Client:
    """What a client is told.

    Attributes:
        port: of the server.
        server: its name.
        wire: the form of the tensors.
        row: the fields of the row.
        connections: how many.
        seconds, least: see `bench.serve.rows.Options`.
        metrics: the path of the metrics; empty if there is none.
        rpc: the server's port for gRPC, 0 for other forms.
    """

    port: int
    server: str
    wire: str
    row: dict[str, Any]
    connections: int
    seconds: float
    least: int
    metrics: str
    rpc: int = 0

    def to_json(self) -> str:
        return json.dumps(asdict(self))

    @classmethod
    def from_json(cls, text: str) -> Self:
        found = json.loads(text)
        return cls(**{each.name: found[each.name] for each in fields(cls)})


def make(job: Job) -> dict[str, Any]:
    """Make the files of a row; ``file`` has its fields."""
    assert job.file
    row = Row(**json.loads(Path(job.file).read_text()))
    models.make(row, Path(job.data))
    return {"bytes": models.weights(row, Path(job.data))}


def ask(job: Job) -> dict[str, Any]:
    """Compare the server's answers with float64, and then time requests."""
    assert job.file
    told = Client.from_json(Path(job.file).read_text())
    row, data = Row(**told.row), Path(job.data)
    x = models.source(row.model, data).input(SAMPLES)
    requests = [
        wire.request(told.server, told.wire, name, x[sample : sample + 1])
        for name in row.names
        for sample in range(SAMPLES)
    ]
    error = _check(told, requests, models.answers(row, data))
    if error > TOLERANCE:
        return {"error": error}
    before = _batches(told)
    played = (rpc if told.wire == GRPC else client).play(
        told.rpc or told.port,
        client.in_turn(requests, _order(row.models)),
        told.connections,
        told.seconds,
        least=told.least,
        patience=told.seconds * PATIENCE,
    )
    after = _batches(told)
    found = {"error": error, "count": len(played.times), "failed": played.failed, "seconds": played.seconds}
    if not played.times:
        return found
    found |= {"rate": played.rate, "client": played.busy / played.seconds}
    if before and after and after[1] > before[1]:
        found["batch"] = (after[0] - before[0]) / (after[1] - before[1])
    return found | percentiles(played.times)


def floor(job: Job) -> dict[str, Any]:
    """Time calls of the model by itself."""
    from bench.serve import floor

    assert job.file
    row = Row(**json.loads(Path(job.file).read_text()))
    return floor.floor(row, Path(job.data), job.batches, job.seconds)


TASKS: dict[str, Callable[[Job], dict[str, Any]]] = {"serve-models": make, "serve-client": ask, "serve-floor": floor}


def _check(told: Client, requests: list[bytes], wanted: list[NDArray[np.float64]]) -> float:
    """The largest error, relative to the largest output of the model.

    Raises:
        ValueError: an answer has another status than 200, or another form.
    """
    worst = 0.0
    for index, y in enumerate(_answers(told, requests)):
        model, sample = divmod(index, SAMPLES)
        right = wanted[model][sample].ravel()
        if y.shape != right.shape or not np.isfinite(y).all():
            return float("inf")
        worst = max(worst, float(np.abs(y - right).max() / np.abs(wanted[model]).max()))
    return worst


def _answers(told: Client, requests: list[bytes]) -> Iterator[NDArray[np.float32]]:
    """The first output of each answer, see `_check`."""
    if told.wire == GRPC:
        for body in rpc.ask(told.rpc, requests):
            yield wire.answer(told.server, told.wire, {}, body)
        return
    with client.Connection(told.port) as connection:
        for request in requests:
            got = connection.ask(request)
            if got.status != 200:
                raise ValueError(f"a request is answered with {got.status}: {got.body[:200]!r}")
            yield wire.answer(told.server, told.wire, got.headers, got.body)


def _order(count: int) -> list[int]:
    """The requests of a stretch: models by Zipf's law, and the samples in turn, whichever the model."""
    r = random.Random(_SEED)
    ranks = [*range(count)]
    r.shuffle(ranks)
    chosen = r.choices(ranks, [(k + 1) ** -_ALPHA for k in range(count)], k=_ORDER)
    return [model * SAMPLES + at % SAMPLES for at, model in enumerate(chosen)]


def _batches(told: Client) -> tuple[float, float] | None:
    """Samples and passes so far, if the server tells them."""
    if not told.metrics:
        return None
    found = metrics(told.port, told.metrics)
    return found["streamrt_batch_samples_sum"], found["streamrt_batch_samples_count"]
