"""`streamrt.ray` on a local Ray with two replicas: real HTTP, right answers, and each model stays on one replica."""

from __future__ import annotations

import importlib.util
import json
import os
import subprocess
import sys
import threading
import time
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import streamrt
from loadbalancer.client import Answer, Client, binary, free_ports, infer_path, output, wait_until
from model import zoo
from processes import marked
from serve import packing
from streamrt.graph import TYPES

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(importlib.util.find_spec("ray") is None, reason="ray is not installed"),
]

MODELS = [f"m{index}" for index in range(6)]
BUDGET = 7 << 20  # bytes of each replica: room for three of the six models of 2.3 MiB


class Cluster:
    """The driver's process, and its replicas behind a port."""

    def __init__(self, process: subprocess.Popen[str], port: int) -> None:
        self._process = process
        self.port = port

    def ask(self, *words: object) -> Any:
        """Send one command to the driver; returns its answer."""
        assert self._process.stdin
        print(*words, file=self._process.stdin, flush=True)
        return self.told()

    def told(self) -> Any:
        """The next answer of the driver. Other lines come from Ray, and are skipped."""
        assert self._process.stdout
        for line in self._process.stdout:
            try:
                return json.loads(line)
            except json.JSONDecodeError:
                continue
        raise AssertionError("the driver has ended")

    def stats(self) -> dict[str, Any]:
        """Statistics of the pools, by replica."""
        found: dict[str, Any] = self.ask("stats")
        return found


@contextmanager
def cluster(repository: Path, scratch: Path, models_per_replica: int, **environment: str) -> Iterator[Cluster]:
    """A local Ray that sends no statistics, has no dashboard, and writes no file outside of ``scratch``."""
    mark = uuid.uuid4().hex
    environment |= {"RAY_USAGE_STATS_ENABLED": "0", "HOME": str(scratch), "STREAMRT_TEST_MARK": mark}
    (port,) = free_ports(1)
    arguments = [repository, BUDGET, models_per_replica, port, scratch / "ray"]
    with (scratch / "driver.log").open("wb") as log:
        process = subprocess.Popen(
            [sys.executable, str(Path(__file__).with_name("driver.py")), *map(str, arguments)],
            env=os.environ | environment,
            cwd=scratch,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=log,
            text=True,
        )
    try:
        found = Cluster(process, port)
        assert found.told() == "ready", (scratch / "driver.log").read_text()
        yield found
        assert process.stdin
        process.stdin.close()
        assert found.told() == "ended"
        assert process.wait(60) == 0
        wait_until(lambda: not marked(mark), f"the end of {marked(mark)}")
    finally:
        process.kill()
        process.wait()
        for stream in (process.stdin, process.stdout):
            assert stream
            stream.close()


@pytest.fixture(scope="module")
def repository(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("repository")
    for seed, name in enumerate(MODELS):
        zoo.mlp(folder, 64, 1024, 512, seed=seed).path.rename(folder / f"{name}.safetensors")
    return folder


@pytest.fixture(scope="module")
def expected(repository: Path) -> dict[str, Any]:
    """The results of `streamrt.Model` for one input, by model."""
    x = zoo.random_input(3, 64)
    found = {}
    for name in MODELS:
        with streamrt.Model(repository / f"{name}.safetensors") as model:
            found[name] = model(x)
    return found


@pytest.fixture(scope="module")
def two_replicas(repository: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    with cluster(repository, tmp_path_factory.mktemp("ray"), models_per_replica=100) as found:
        yield found


@pytest.fixture
def client(two_replicas: Cluster) -> Iterator[Client]:
    opened = Client(two_replicas.port)
    yield opened
    opened.close()


def ask(client: Client, model: str, *, header: bool = True) -> Answer:
    body, length = binary(zoo.random_input(3, 64))
    headers = {"serve_multiplexed_model_id": model} if header else {}
    return client.request("POST", infer_path(model), body, Inference_Header_Content_Length=length, **headers)


def total(cluster: Cluster, figure: str) -> int:
    return sum(stats[figure] for stats in cluster.stats().values())


def test_a_models_requests_go_to_one_replica(two_replicas: Cluster, client: Client, expected: dict[str, Any]) -> None:
    for name in MODELS:
        zoo.assert_close(output(ask(client, name)), expected[name])
        time.sleep(0.5)  # meanwhile the proxy learns which replica has the model
    assert total(two_replicas, "loads") == len(MODELS)
    assert all(stats["loads"] for stats in two_replicas.stats().values())
    before = {name: stats["requests"] for name, stats in two_replicas.stats().items()}
    for _ in range(10):
        zoo.assert_close(output(ask(client, MODELS[0])), expected[MODELS[0]])
    after = {name: stats["requests"] for name, stats in two_replicas.stats().items()}
    assert sorted(after[name] - before[name] for name in after) == [0, 10]
    for _ in range(5):
        for name in MODELS:
            ask(client, name)
    # Each replica loads each of its three models once, however many requests come.
    found = two_replicas.stats()
    assert all(stats["evictions"] == 0 for stats in found.values()), found
    assert sum(stats["loads"] for stats in found.values()) == len(MODELS)

    for _ in range(16):  # without the header any replica gets the request
        zoo.assert_close(output(ask(client, MODELS[0], header=False)), expected[MODELS[0]])
    assert total(two_replicas, "loads") > len(MODELS)


def test_concurrent_callers_get_their_own_answers_within_the_budget(
    two_replicas: Cluster, expected: dict[str, Any]
) -> None:
    failures: list[str] = []

    def work(seed: int) -> None:
        client, random = Client(two_replicas.port), np.random.default_rng(seed)
        try:
            for _ in range(30):
                name = MODELS[random.integers(len(MODELS))]
                zoo.assert_close(output(ask(client, name, header=bool(random.integers(2)))), expected[name])
        except Exception as error:
            failures.append(repr(error))
        finally:
            client.close()

    threads = [threading.Thread(target=work, args=(seed,)) for seed in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not failures
    for stats in two_replicas.stats().values():
        assert 0 < stats["held"] <= stats["peak"] <= stats["budget"] == BUDGET
        assert stats["bytes_loaded"] > BUDGET  # there was no room for all models


def test_replicas_see_new_files_without_a_restart(
    two_replicas: Cluster, client: Client, repository: Path, tmp_path: Path
) -> None:
    packed = zoo.mlp(tmp_path, 64, 1024, 512, seed=77)
    expected, whole = packed.answer(zoo.random_input(3, 64)), packed.path.read_bytes()
    new = repository / "new.safetensors"

    def statuses() -> set[int]:
        return {ask(client, "new", header=False).status for _ in range(8)}  # any replica gets each of them

    assert statuses() == {404}
    new.write_bytes(whole[: len(whole) // 2])
    time.sleep(2)
    assert statuses() == {404}
    new.write_bytes(whole)
    wait_until(lambda: statuses() == {200}, "both replicas serve the new file")
    zoo.assert_close(output(ask(client, "new")), expected)
    np.savez(tmp_path / "x.npz", input=zoo.random_input(3, 64))
    zoo.assert_close(np.array(two_replicas.ask("new", tmp_path / "x.npz")["output"][1], np.float32), expected)
    new.unlink()
    wait_until(lambda: statuses() == {404}, "no replica serves the file that is gone")
    wait_until(
        lambda: {stats["models"] for stats in two_replicas.stats().values()} == {len(MODELS)}, "its memory is free"
    )


HOSTILE = [
    ("POST", "/v2/models/..%2F..%2Fetc%2Fpasswd/infer", b"{}", {}, 404),
    ("POST", "/v2/models/%2Fetc%2Fpasswd/infer", b"{}", {}, 404),
    ("POST", "/v2/models/nobody/infer", b"{}", {}, 404),
    ("POST", "/v2/models/m0/infer", b"{", {}, 400),
    ("POST", "/v2/models/m0/infer", b"[" * 100_000, {}, 400),
    ("POST", "/v2/models/m0/infer", b"{}", {"Inference_Header_Content_Length": "99999999999"}, 400),
    (
        "POST",
        "/v2/models/m0/infer",
        b'{"inputs":[{"name":"input","datatype":"FP32","shape":[4611686018427387904,64],'
        b'"parameters":{"binary_data_size":0}}]}',
        {},
        400,
    ),
    ("POST", "/v2/models/m0/infer", b"{}", {"serve_multiplexed_model_id": "../../m0"}, 400),
    ("POST", "/v2/repository/index", b"", {}, 403),
    ("POST", "/models?url=m0.safetensors", b"", {}, 403),
    ("GET", "/nothing", None, {}, 404),
]


@pytest.mark.parametrize(("method", "path", "body", "headers", "status"), HOSTILE)
def test_hostile_requests_are_refused_without_naming_a_path(
    two_replicas: Cluster,
    client: Client,
    repository: Path,
    method: str,
    path: str,
    body: bytes | None,
    headers: dict[str, str],
    status: int,
) -> None:
    answer = client.request(method, path, body, **headers)
    assert answer.status == status, answer
    assert b".safetensors" not in answer.body
    assert str(repository).encode() not in answer.body
    assert len(two_replicas.stats()) == 2


def test_another_model_than_the_header_names_is_refused(client: Client) -> None:
    body, length = binary(zoo.random_input(3, 64))
    headers = {"serve_multiplexed_model_id": "m1", "Inference_Header_Content_Length": length}
    answer = client.request("POST", infer_path("m0"), body, **headers)
    assert answer.status == 400
    assert b"serve-multiplexed-model-id" in answer.body


def test_deployments_call_models_with_arrays(two_replicas: Cluster, expected: dict[str, Any], tmp_path: Path) -> None:
    right, wrong = tmp_path / "right.npz", tmp_path / "wrong.npz"
    np.savez(right, input=zoo.random_input(3, 64))
    np.savez(wrong, input=zoo.random_input(3, 65))
    dtype, values = two_replicas.ask("m2", right)["output"]
    assert dtype == "float32"
    zoo.assert_close(np.array(values, np.float32), expected["m2"])
    assert two_replicas.ask("m2", wrong)["cause"] == "InputError"
    assert two_replicas.ask("m2", right, "nothing")["cause"] == "InputError"
    assert two_replicas.ask("nobody", right)["cause"] == "UnknownModelError"


def test_inputs_and_outputs_of_all_types(
    two_replicas: Cluster, client: Client, repository: Path, tmp_path: Path
) -> None:
    path = repository / "types.safetensors"
    packing.types(repository)
    samples = {dtype: np.array([[1, 0], [7, 100]]).astype(dtype) for dtype in TYPES}
    samples["int64"] = samples["int64"] << 50
    np.savez(tmp_path / "x.npz", **samples)

    def found() -> set[int]:
        return {client.request("GET", "/v2/models/types").status for _ in range(8)}

    wait_until(lambda: found() == {200}, "both replicas serve the new file")
    told = two_replicas.ask("types", tmp_path / "x.npz")
    assert told == {f"{dtype}_out": [dtype, array.tolist()] for dtype, array in samples.items()}
    answer = client.request(
        "POST", "/predictions/types", json.dumps({dtype: array.tolist() for dtype, array in samples.items()}).encode()
    )
    assert answer.status == 200, answer
    assert json.loads(answer.body) == {f"{dtype}_out": array.tolist() for dtype, array in samples.items()}
    path.unlink()


def test_the_pool_unloads_models_that_ray_drops_and_loads_delay_no_request(
    repository: Path,
    expected: dict[str, Any],
    tmp_path_factory: pytest.TempPathFactory,
    slow_reads: Callable[[float], dict[str, str]],
) -> None:
    environment = slow_reads(4e6)  # bytes per second: reading a model takes 0.6 s
    with cluster(repository, tmp_path_factory.mktemp("ray"), models_per_replica=1, **environment) as found:
        client, other = Client(found.port), Client(found.port)
        answers: list[Answer] = []
        loading = threading.Thread(target=lambda: answers.extend(ask(client, name) for name in MODELS * 2))
        began = time.monotonic()
        loading.start()
        questions = 0
        while loading.is_alive():  # if the event loop waited for loads, it would answer 2 requests a second
            assert other.request("GET", "/v2/health/live").status == 200
            questions += 1
        seconds = time.monotonic() - began
        client.close()
        other.close()
        for name, answer in zip(MODELS * 2, answers, strict=True):
            zoo.assert_close(output(answer), expected[name])
        assert questions > 20 * seconds
        wait_until(lambda: total(found, "open") <= 2, "each replica has one model")
        assert total(found, "loads") > len(MODELS)


def test_a_dropped_handle_closes_no_leased_model(repository: Path, run_python: Any) -> None:
    done = run_python(
        """
        import sys, time
        import numpy as np
        import streamrt
        from streamrt.ray import Handle

        pool = streamrt.ModelPool("8MiB")
        pool.register("m0", sys.argv[1])
        x = np.ones((1, 64), np.float32)
        handle = Handle(pool, "m0")
        with pool.lease("m0") as model:
            before = model(x)
            handle.__del__()  # as Ray does, in a thread
            assert (model(x) == before).all()
            assert pool.stats().open == 1
        deadline = time.monotonic() + 20
        while pool.stats().held:
            assert time.monotonic() < deadline
        with pool.lease("m0") as model:
            assert (model(x) == before).all()
        del handle  # Python collects it, when Ray's table may have the model again
        assert pool.stats().open == 1
        ended = Handle(pool, "m0")
        pool.close()
        ended.__del__()
        Handle(pool, "unknown").__del__()
        """,
        repository / "m0.safetensors",
    )
    assert done.returncode == 0, done.stderr
    assert not done.stderr
