"""Pinned models of a server: by option and by control call, over replaced files and restarts of files."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from markers import needs
from model import zoo
from serve.process import TOKEN, Server

pytestmark = pytest.mark.extras
needs("starlette", "uvicorn", "prometheus_client")

AUTHORIZED = {"Authorization": f"Bearer {TOKEN}"}
KIB = 1 << 10
X = zoo.random_input(1, 64)
BODY = json.dumps({"inputs": [{"name": "input", "shape": [1, 64], "datatype": "FP32", "data": X[0].tolist()}]})


def give(folder: Path, name: str, inner: int = 1024, seed: int = 0) -> Any:
    """A model of ``inner`` times 0.5 KiB; returns its answer. The default has 0.5 MiB."""
    (folder.parent / "aside").mkdir(exist_ok=True)
    packed = zoo.mlp(folder.parent / "aside", 64, inner, 64, seed=seed)
    packed.path.replace(folder / f"{name}.safetensors")
    return packed.answer(X)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    found = tmp_path / "repository"
    found.mkdir()
    for name in ("a", "b", "c"):
        give(found, name)
    return found


@pytest.fixture
def server(folder: Path) -> Iterator[Server]:
    """Room for all weights of two of the three models."""
    with Server(folder, "--budget", "1300KiB", "--policy", "lru", "--pin", "a", token=TOKEN) as running:
        yield running


def control(server: Server, name: str, what: str, headers: dict[str, str] = AUTHORIZED) -> tuple[int, Any]:
    status, _, body = server.ask(f"/v2/repository/models/{name}/{what}", b"", headers)
    return status, json.loads(body)


def described(server: Server, name: str) -> Any:
    return json.loads(server.ask(f"/models/{name}", headers=AUTHORIZED)[2])


def use(server: Server, *names: str) -> None:
    for name in names:
        assert server.ask(f"/v2/models/{name}/infer", BODY)[0] == 200


def whole(server: Server, name: str) -> bool:
    """Whether all weights of a model are in memory."""
    told = described(server, name)
    return told["weights"] is not None and told["workers"][0]["memoryUsage"] >= told["weights"]


def test_a_model_is_pinned_by_an_option_and_by_a_call(server: Server) -> None:
    zoo.eventually(lambda: whole(server, "a"))
    assert described(server, "a")["pinned"]
    use(server, *"bcbcbcbc")
    assert whole(server, "a")
    assert server.metric("pool_pinned_models") == 1
    for headers, status in (({}, 401), ({"Authorization": "Bearer wrong-token-0123456789"}, 401)):
        for what in ("pin", "unpin"):
            assert control(server, "b", what, headers)[0] == status
    assert control(server, "b", "pin") == (200, {})
    assert whole(server, "b")
    assert server.metric("pool_pinned_models") == 2
    assert server.metric("pool_pinned_bytes") >= 1024 * KIB
    status, told = control(server, "c", "pin")
    assert (status, told["type"]) == (507, "PinError")
    assert "bytes, and" in told["error"]
    assert not described(server, "c")["pinned"]
    use(server, *"ccccabcc")  # c streams
    assert whole(server, "a")
    assert whole(server, "b")
    assert control(server, "b", "unpin") == (200, {})
    assert control(server, "c", "pin") == (200, {})
    assert whole(server, "c")
    assert not described(server, "b")["pinned"]
    assert control(server, "nobody", "pin")[0] == 404
    assert control(server, "nobody", "unpin")[0] == 404
    assert control(server, ".hidden", "pin")[0] == 400


def test_without_control_nobody_pins(folder: Path) -> None:
    with Server(folder, "--budget", "2MiB") as server:
        for what in ("pin", "unpin"):
            assert control(server, "a", what)[0] == 403


def test_a_pinned_model_is_pinned_by_its_new_file(server: Server, folder: Path) -> None:
    def replace(inner: int) -> Any:
        answer = give(folder, "a", inner, seed=inner)
        server.process.send_signal(signal.SIGHUP)
        zoo.eventually(lambda: described(server, "a")["modelVersion"] != version)
        return answer

    def infer() -> Any:
        told = json.loads(server.ask("/v2/models/a/infer", BODY)[2])
        return zoo.np.array(told["outputs"][0]["data"], zoo.np.float32).reshape(1, -1)

    zoo.eventually(lambda: whole(server, "a"))
    assert control(server, "b", "pin") == (200, {})
    version = described(server, "a")["modelVersion"]
    expected = replace(900)
    zoo.eventually(lambda: whole(server, "a") and described(server, "a")["pinned"])  # without a request
    zoo.assert_close(infer(), expected)
    version = described(server, "a")["modelVersion"]
    expected = replace(2000)  # 1 MiB does not fit beside b
    zoo.eventually(lambda: bool(server.events("not served") or server.events("not pinned")))
    (told,) = server.events("not pinned")
    assert (told["model"], told["error"].partition(":")[0]) == ("a", "PinError")
    zoo.assert_close(infer(), expected)
    assert not described(server, "a")["pinned"]
    assert whole(server, "b")
    version = described(server, "a")["modelVersion"]
    expected = replace(1000)
    zoo.eventually(lambda: whole(server, "a") and described(server, "a")["pinned"])
    zoo.assert_close(infer(), expected)


def test_a_pinned_model_whose_file_goes_and_comes_back(server: Server, folder: Path) -> None:
    zoo.eventually(lambda: whole(server, "a"))
    (folder / "a.safetensors").unlink()
    server.process.send_signal(signal.SIGHUP)
    zoo.eventually(lambda: server.metric("pool_models") == 2)
    assert server.metric("pool_pinned_models") == 0
    give(folder, "a", seed=5)
    server.process.send_signal(signal.SIGHUP)
    zoo.eventually(lambda: server.metric("pool_models") == 3)
    zoo.eventually(lambda: whole(server, "a"))
    assert control(server, "a", "unload") == (200, {})  # a client's word is the last
    assert control(server, "a", "load") == (200, {})
    assert not described(server, "a")["pinned"]


def test_a_pin_while_others_are_used(server: Server) -> None:
    over = threading.Event()

    def ask(name: str) -> None:
        while not over.is_set():
            use(server, name)

    threads = [threading.Thread(target=ask, args=(name,)) for name in "bc"]
    for thread in threads:
        thread.start()
    for _ in range(5):
        assert control(server, "b", "pin") == (200, {})
        assert whole(server, "b")
        assert control(server, "b", "unpin") == (200, {})
        assert control(server, "c", "pin") == (200, {})
        assert control(server, "b", "pin")[0] == 507
        assert control(server, "c", "unpin") == (200, {})
    over.set()
    for thread in threads:
        thread.join()
    assert whole(server, "a")
    assert server.metric("pool_held_bytes_max") <= 1300 * KIB


@pytest.mark.parametrize(
    ("pins", "error"),
    [
        (["a", "b", "c"], "to be pinned, the model 'c' needs"),
        (["nobody"], "the repository has no model named 'nobody'"),
        (["broken"], "too few for a safetensors file"),
        (["../a"], "expected a model name"),
    ],
)
def test_a_server_that_cannot_pin_does_not_start(folder: Path, pins: list[str], error: str) -> None:
    (folder / "broken.safetensors").write_bytes(b"broken")
    options = [option for name in pins for option in ("--pin", name)]
    command = [sys.executable, "-m", "streamrt", "serve", str(folder), "--port", "0", "--budget", "1300KiB", *options]
    done = subprocess.run(command, capture_output=True, text=True, cwd=folder, timeout=120, check=False)
    assert done.returncode == 1
    assert error in done.stderr
    assert "Traceback" not in done.stderr
