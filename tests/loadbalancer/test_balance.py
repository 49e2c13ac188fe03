"""Hashing of a model's name compared with round robin, and an instance that dies under load."""

from __future__ import annotations

import http.client
import signal
import threading
import time
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import streamrt
from loadbalancer import farm
from loadbalancer.client import Client, binary, infer_path, output
from loadbalancer.farm import Instance
from model import zoo

pytestmark = farm.MARKS


@pytest.fixture(scope="module")
def expected(repository: Path) -> dict[str, Any]:
    """The answers of `streamrt.Model` to one input, by model."""
    found = {}
    for path in sorted(repository.glob("*.safetensors")):
        with streamrt.Model(path) as model:
            found[path.stem] = model(zoo.random_input(1, 64))
    return found


@dataclass
class Share:
    """The part of one instance in a load."""

    models: int
    requests: int
    hits: int


def shares(servers: list[Instance], port: int, expected: dict[str, Any], count: int) -> list[Share]:
    """The part of each instance, just started, in ``count`` requests for random models.

    A hit found all weights in memory.
    """
    client, random = Client(port), np.random.default_rng(5)
    body, length = binary(zoo.random_input(1, 64))
    names = list(expected)
    for _ in range(count):
        name = names[random.integers(len(names))]
        answer = client.request("POST", infer_path(name), body, Inference_Header_Content_Length=length)
        zoo.assert_close(output(answer), expected[name])
    client.close()
    found = []
    for server in servers:
        metrics = server.metrics()
        answered = [name for name, value in metrics.items() if name.startswith("streamrt_requests_total") and value]
        totals = [int(metrics[f"streamrt_pool_{name}_total"]) for name in ("requests", "hits")]
        found.append(Share(len(answered), *totals))
    assert sum(share.requests for share in found) == count
    return found


def test_hashing_finds_models_warm_where_turns_do_not(
    servers: list[Instance], expected: dict[str, Any], repository: Path
) -> None:
    sizes = [path.stat().st_size for path in repository.iterdir()]
    fitting = 5
    assert (fitting + 1) * max(sizes) <= 14 << 20, "an instance has room for five models and buffers"
    assert len(sizes) * min(sizes) > 14 << 20, "all models fit into one instance"

    def in_turn(text: str) -> str:
        assert text.count("hash $model consistent;") == 1
        return text.replace("hash $model consistent;", "")

    with farm.balancer(servers, in_turn) as port:
        turns = shares(servers, port, expected, 300)
    for server in servers:
        server.stop()
        server.start()
    with farm.balancer(servers) as port:
        hashing = shares(servers, port, expected, 300)
    print(f"hashing: {hashing}\nin turn: {turns}")
    assert [share.models for share in turns] == [len(expected)] * len(servers)
    assert sum(share.models for share in hashing) == len(expected), "every model has one instance"
    # Ports are part of what is hashed, so the number of models of an instance differs from run to run.
    for share in hashing:
        if share.models <= fitting:
            assert share.hits == share.requests - share.models, "a model was loaded twice"
    assert sum(share.hits for share in hashing) > sum(share.hits for share in turns)


def test_an_instance_that_dies_or_is_stopped_costs_no_answer(servers: list[Instance], expected: dict[str, Any]) -> None:
    """Its requests go to others, even those that it had when it died. Other models keep their instance.

    If a part of an answer was sent before the instance died, the answer is lost: at most one a connection.
    """
    bodies = binary(zoo.random_input(1, 64))
    done: Counter[str] = Counter()
    failures: list[str] = []
    ending = threading.Event()

    def work(seed: int, port: int) -> None:
        client, random = Client(port), np.random.default_rng(seed)
        names = list(expected)
        while not ending.is_set():
            name = names[random.integers(len(names))]
            try:
                answer = client.request("POST", infer_path(name), bodies[0], Inference_Header_Content_Length=bodies[1])
                zoo.assert_close(output(answer), expected[name])
                done["answers"] += 1
            except http.client.IncompleteRead:
                done["cut"] += 1
            except Exception as error:
                failures.append(repr(error)[:300])
        client.close()

    def wait_for(count: int) -> None:
        limit = done["answers"] + count
        farm.wait_until(lambda: done["answers"] >= limit or bool(failures), f"{count} more answers")

    def owners() -> dict[str, int]:
        """The live instance that has answered for each model. No model may have two."""
        found = {}
        for index, server in enumerate(servers):
            if server.process and server.process.poll() is None:
                for name, value in server.metrics().items():
                    if name.startswith("streamrt_requests_total") and 'outcome="ok"' in name and value:
                        model = name.partition('model="')[2].partition('"')[0]
                        assert model not in found, (model, index, found)
                        found[model] = index
        return found

    with farm.balancer(servers) as port:
        threads = [threading.Thread(target=work, args=(seed, port)) for seed in range(8)]
        for thread in threads:
            thread.start()
        try:
            wait_for(300)
            before = owners()
            victim = Counter(before.values()).most_common(1)[0][0]
            servers[victim].kill()
            wait_for(300)
            after = owners()
            assert after.keys() == before.keys()
            assert all(after[model] == owner for model, owner in before.items() if owner != victim)
            servers[victim].start()
            time.sleep(5)  # nginx tries the instance again after its fail_timeout
            farm.wait_until(
                lambda: servers[victim].metrics()["streamrt_pool_requests_total"] > 0 or bool(failures),
                "the instance gets requests again",
            )
            wait_for(300)
            for server in servers:  # as when the software is updated, which no client may notice
                server.stop()
                wait_for(50)
                server.start()
                time.sleep(5)
        finally:
            ending.set()
            for thread in threads:
                thread.join()
    assert not failures
    assert done["cut"] <= len(threads)


def test_an_instance_that_hangs_is_given_up(servers: list[Instance], expected: dict[str, Any]) -> None:
    """nginx gives up an instance when a request has waited for proxy_read_timeout, which the test shortens."""

    def impatient(text: str) -> str:
        assert text.count("proxy_read_timeout 60s;") == 1
        return text.replace("proxy_read_timeout 60s;", "proxy_read_timeout 2s;")

    body, length = binary(zoo.random_input(1, 64))
    stopped = servers[0].process
    assert stopped
    with farm.balancer(servers, impatient) as port:
        client = Client(port)
        for name in expected:
            client.request("POST", infer_path(name), body, Inference_Header_Content_Length=length)
        stopped.send_signal(signal.SIGSTOP)
        try:
            for name in expected:
                answer = client.request("POST", infer_path(name), body, Inference_Header_Content_Length=length)
                zoo.assert_close(output(answer), expected[name])
        finally:
            stopped.send_signal(signal.SIGCONT)
            client.close()
