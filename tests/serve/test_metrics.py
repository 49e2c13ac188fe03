"""The metrics: histograms of the stages of a request, and labels that stay few. An independent parser reads them."""

from __future__ import annotations

import json
import math
import sys
import threading
from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from markers import needs
from model import zoo
from serve import packing
from serve.process import TOKEN, Server
from streamrt import ModelPool
from streamrt.errors import InputError
from streamrt.serve.batching import Pass
from streamrt.serve.folder import check_name

pytestmark = pytest.mark.extras
needs("starlette", "uvicorn", "prometheus_client")

from prometheus_client.parser import text_string_to_metric_families  # noqa: E402

from streamrt.serve.metrics import MOST_MODELS, OTHERS, OUTCOMES, Metrics  # noqa: E402

STAGES = ("queue", "load", "read", "compute", "encode")
AUTHORIZED = {"Authorization": f"Bearer {TOKEN}"}
BODY = '{"a": [[1, 2]], "b": [[3, 4]]}'


@dataclass
class Found:
    """Metrics by name: the value for each model, or for the empty name; and buckets by name and model."""

    values: dict[str, dict[str, float]] = field(default_factory=lambda: defaultdict(dict))
    buckets: dict[tuple[str, str], list[tuple[float, float]]] = field(default_factory=lambda: defaultdict(list))
    types: dict[str, str] = field(default_factory=dict)

    def labels(self) -> set[str]:
        return {model for values in self.values.values() for model in values} - {""}


def parse(text: bytes) -> Found:
    """All metrics of a text. Counts by outcome are added up."""
    found = Found()
    for family in text_string_to_metric_families(text.decode()):
        assert family.documentation.endswith(".") or family.name.endswith("_created"), family
        found.types[family.name] = family.type
        for name, labels, value, *_ in family.samples:
            assert labels.keys() <= {"model", "outcome", "le"}, labels
            model = labels.get("model", "")
            if name.endswith("_bucket"):
                found.buckets[name.removesuffix("_bucket"), model].append((float(labels["le"]), value))
            else:
                found.values[name][model] = found.values[name].get(model, 0) + value
    return found


def ask(server: Server, name: str, body: str = BODY) -> int:
    return server.ask(f"/predictions/{name}", body)[0]


def test_histograms_keep_prometheus_conventions(repository: Path) -> None:
    with Server(repository, "--budget", "16MiB") as server:
        assert [ask(server, "two") for _ in range(3)] == [200] * 3
        assert ask(server, "mlp", json.dumps(np.zeros((2, 16)).tolist())) == 200
        assert ask(server, "two", "[]") == 400
        found = parse(server.ask("/metrics")[2])
    assert [found.types[f"streamrt_{stage}_seconds"] for stage in STAGES] == ["histogram"] * 5
    assert {
        (f"streamrt_{stage}_seconds", model) for stage in STAGES for model in ("two", "mlp")
    } <= found.buckets.keys()
    for (name, model), buckets in found.buckets.items():
        bounds, counts = zip(*buckets, strict=True)
        assert list(bounds) == sorted(set(bounds)), name
        assert bounds[-1] == math.inf
        assert list(counts) == sorted(counts), name
        assert counts[-1] == found.values[f"{name}_count"][model]
        assert 0 <= found.values[f"{name}_sum"][model] < 60 * max(1, counts[-1])
    for stage in STAGES:
        assert found.values[f"streamrt_{stage}_seconds_count"] == {"two": 3, "mlp": 1}, stage
    # The stages are parts of the time from the head of a request to its answer.
    seconds = sum(sum(found.values[f"streamrt_{stage}_seconds_sum"].values()) for stage in STAGES)
    assert 0 < seconds < found.values["streamrt_request_seconds_sum"][""]
    assert found.values["streamrt_compute_seconds_sum"]["mlp"] > 0


def test_a_stage_has_the_time_that_it_took(repository: Path) -> None:
    """A request is held back for 0.5 s: that is its time in the queue, and no time of another stage."""
    with Server(repository, "--budget", "16MiB", "--max-delay", "0.5") as server:
        assert ask(server, "two") == 200
        found = parse(server.ask("/metrics")[2])
    queue = found.values["streamrt_queue_seconds_sum"]["two"]
    assert 0.5 <= queue < found.values["streamrt_request_seconds_sum"][""]
    assert found.values["streamrt_read_seconds_sum"]["two"] == 0  # a model without weights


def test_passes_that_wait_for_the_disk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, slow_reads: Any) -> None:
    """6 MiB at 20 MB/s, of which a budget of 2 MiB keeps less than 2: reading takes at least 0.2 s of each pass."""
    packed = zoo.mlp(tmp_path, 512, 1024, 1024)
    assert packed.weights > 6e6
    for name, value in slow_reads(20e6).items():
        monkeypatch.setenv(name, value)
    with Server(tmp_path, "--budget", "2MiB") as server:
        zoo.evict(packed.path)
        body = json.dumps(np.zeros((1, 512)).tolist())
        assert [ask(server, "mlp", body) for _ in range(2)] == [200] * 2
        found = parse(server.ask("/metrics")[2])
    assert found.values["streamrt_read_seconds_count"]["mlp"] == 2
    assert found.values["streamrt_read_seconds_sum"]["mlp"] > 0.4
    assert found.values["streamrt_model_leases_total"]["mlp"] == 2
    assert found.values["streamrt_model_hits_total"]["mlp"] == 0
    assert found.values["streamrt_model_weights_bytes"]["mlp"] >= packed.weights
    assert 0 < found.values["streamrt_model_held_bytes"]["mlp"] <= 2 << 20


def test_models_hold_what_the_pool_holds(repository: Path) -> None:
    """A model that was never asked for has no label, even if it is in memory. Its name is for the token alone."""
    with Server(repository, "--budget", "16MiB", token=TOKEN) as server:
        assert server.ask("/v2/repository/models/mlp/load", b"", AUTHORIZED)[0] == 200
        assert ask(server, "two") == 200
        found = parse(server.ask("/metrics")[2])
    assert found.labels() == {"two", OTHERS}
    held = found.values["streamrt_model_held_bytes"]
    assert held.keys() == {"two", OTHERS}
    assert held[OTHERS] > 10_000
    assert sum(held.values()) == found.values["streamrt_pool_held_bytes"][""]


def test_only_the_metrics_that_are_asked_for(server: Server) -> None:
    assert ask(server, "two") == 200
    status, headers, text = server.ask(
        "/metrics?name[]=streamrt_model_held_bytes&name[]=streamrt_pool_budget_bytes&name[]=x"
    )
    assert (status, headers["Content-Type"]) == (200, "text/plain; version=0.0.4; charset=utf-8")
    assert parse(text).values.keys() == {"streamrt_model_held_bytes", "streamrt_pool_budget_bytes"}
    assert server.ask("/metrics?name[]=x")[2] == b""


class World:
    """Metrics over a pool without files; ``served`` has the names of models that are served."""

    def __init__(self, pool: ModelPool) -> None:
        self.served: set[str] = set()
        self.metrics = Metrics(pool, lambda name: name in self.served, lambda: 0, lambda: 0)

    def use(self, name: str) -> None:
        self.served.add(name)
        self.metrics.passed(Pass(name, 2, [0.25, 0.5], load=0.01, read=0.02, compute=0.03))
        self.metrics.encoded(name, 0.001)
        self.metrics.answered(name, 200, 1.0)

    def found(self) -> Found:
        return parse(self.metrics.text())


@pytest.fixture
def world() -> Iterator[World]:
    with ModelPool("1MiB") as pool:
        yield World(pool)


def test_models_beyond_the_most_share_a_label(world: World) -> None:
    for index in range(3 * MOST_MODELS):
        world.use(f"m{index}")
    found = world.found()
    own = {f"m{index}" for index in range(MOST_MODELS)}
    assert found.labels() == own | {OTHERS}
    for name in ("streamrt_requests_total", "streamrt_compute_seconds_count", "streamrt_encode_seconds_count"):
        assert found.values[name] == dict.fromkeys(own, 1) | {OTHERS: 2 * MOST_MODELS}
    assert found.values["streamrt_queue_seconds_sum"][OTHERS] == 2 * MOST_MODELS * 0.75


def test_no_model_can_have_the_label_of_the_others(world: World) -> None:
    with pytest.raises(InputError):
        check_name(OTHERS)
    for index in range(MOST_MODELS - 1):
        world.use(f"m{index}")
    world.use("other")  # the last label
    world.use("one-more")
    values = world.found().values["streamrt_requests_total"]
    assert (values["other"], values[OTHERS]) == (1, 1)


def test_labels_do_not_grow_while_models_come_and_go(world: World) -> None:
    most = 0
    for index in range(40 * MOST_MODELS):
        world.use(f"m{index}")
        if index >= 3:
            gone = f"m{index - 3}"
            world.served.discard(gone)
            world.metrics.forget(gone)
        if index % MOST_MODELS == 0:
            most = max(most, len(world.found().labels()))
    assert most <= 4 + 1
    assert world.found().labels() - {OTHERS} == {f"m{40 * MOST_MODELS - index}" for index in (1, 2, 3)}
    assert world.metrics.labelled() == world.served


def test_a_label_that_a_late_request_brings_back_goes(world: World) -> None:
    """A request whose model was unregistered may end after its metrics were forgotten."""
    for index in range(2 * MOST_MODELS):
        name = f"m{index}"
        world.use(name)
        world.served.discard(name)
        world.metrics.forget(name)
        world.metrics.encoded(name, 0.001)
    assert world.found().labels() == {OTHERS}
    world.use("new")
    assert "new" in world.found().labels()


def test_all_outcomes_begin_at_0(world: World) -> None:
    """From a series that begins at 1, Prometheus would not count the first failure."""
    world.use("m")
    lines = world.metrics.text().decode().splitlines()
    counts = [line for line in lines if line.startswith('streamrt_requests_total{model="m"')]
    assert sorted(counts) == sorted(
        f'streamrt_requests_total{{model="m",outcome="{outcome}"}} {float(outcome == "ok")}' for outcome in OUTCOMES
    )


def test_a_pass_that_failed_has_no_time(world: World) -> None:
    world.metrics.passed(Pass("m", 1, [0.1], load=0.2, read=0.0, compute=0.0))
    world.served.add("m")
    values = world.found().values
    assert values["streamrt_queue_seconds_count"] == values["streamrt_load_seconds_count"] == {"m": 1}
    assert values["streamrt_read_seconds_count"] == values["streamrt_compute_seconds_count"] == {"m": 0}
    assert values["streamrt_batch_requests_count"][""] == 1


def test_names_of_any_characters_survive(world: World) -> None:
    names = ['<script>alert("1")</script>', 'a"b', "a\\b", "a\nb", "a\\nb", "{x}", "ä\u202e", "le"]
    for name in names:
        world.use(name)
    assert world.found().labels() == {*names, OTHERS}


def test_threads_lose_no_count(world: World) -> None:
    def work(index: int) -> None:
        for count in range(200):
            world.use(f"m{(index + count) % (MOST_MODELS + 10)}")

    threads = [threading.Thread(target=work, args=(index,)) for index in range(4)]
    for thread in threads:
        thread.start()
    while any(thread.is_alive() for thread in threads):
        world.metrics.text()
    values = world.found().values
    assert sum(values["streamrt_requests_total"].values()) == 800
    assert sum(values["streamrt_queue_seconds_count"].values()) == 1600
    assert len(values["streamrt_requests_total"]) == MOST_MODELS + 1


def test_a_request_costs_few_calls(world: World) -> None:
    """The metrics of the stages take 42 calls of functions a request: no label is looked up, and nothing is written."""
    world.use("m")
    done, calls = Pass("m", 1, [0.001], load=0.01, read=0.02, compute=0.03), 0

    def count(frame: object, event: str, argument: object) -> None:
        nonlocal calls
        calls += event in ("call", "c_call")

    sys.setprofile(count)
    try:
        world.metrics.passed(done)
        world.metrics.encoded("m", 0.001)
    finally:
        sys.setprofile(None)
    assert calls <= 80


def test_many_models_on_a_server(tmp_path: Path) -> None:
    """Clients decide which models are asked for, and yet the text stays short."""
    path = packing.two(tmp_path)
    for index in range(MOST_MODELS + 5):
        (tmp_path / f"copy{index}.safetensors").write_bytes(path.read_bytes())
    with Server(tmp_path, "--budget", "16MiB") as server:
        for index in range(MOST_MODELS + 5):
            assert ask(server, f"copy{index}") == 200
        text = server.ask("/metrics")[2]
        found = parse(text)
    assert len(found.labels()) == MOST_MODELS + 1
    assert found.values["streamrt_requests_total"][OTHERS] == 5
    assert found.values["streamrt_compute_seconds_count"][OTHERS] == 5
    assert len(text) < 500_000
