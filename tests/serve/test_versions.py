"""A version is the checksum of a file. A new file is served at once, and each answer has its own file's version."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from markers import needs
from model import zoo
from serve.process import Server
from streamrt.format import read_header

pytestmark = pytest.mark.extras
needs("starlette", "uvicorn")

X = zoo.random_input(1, 16)
BODY = json.dumps({"inputs": [{"name": "input", "datatype": "FP32", "shape": [1, 16], "data": X[0].tolist()}]})


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    made = tmp_path / "repository"
    made.mkdir()
    return made


@pytest.fixture
def server(folder: Path) -> Iterator[Server]:
    replace(folder, 0)
    started = Server(folder)
    yield started
    started.stop()


def replace(folder: Path, seed: int) -> tuple[str, Any]:
    """Replace the file of the model by one with other weights; returns its version and its answer."""
    aside = folder.parent / "aside"
    aside.mkdir(exist_ok=True)
    packed = zoo.mlp(aside, 16, 64, 10, seed=seed)
    packed.path.rename(folder / "m.safetensors")
    return read_header(folder / "m.safetensors").checksum, packed.answer(X)


def infer(server: Server, version: str | None = None) -> tuple[int, str, Any]:
    """Status, version and values of an answer."""
    path = "/v2/models/m" + (f"/versions/{version}" if version else "") + "/infer"
    status, _, body = server.ask(path, BODY)
    told = json.loads(body)
    if status != 200:
        return status, "", told["error"]
    return status, told["model_version"], np.array(told["outputs"][0]["data"], np.float32).reshape(1, -1)


def test_a_file_that_is_replaced_is_another_version(server: Server, folder: Path) -> None:
    old = read_header(folder / "m.safetensors").checksum
    assert infer(server, old)[:2] == (200, old)
    new, expected = replace(folder, 1)
    for asked in (None, new):
        status, version, answer = infer(server, asked)
        assert (status, version) == (200, new)
        zoo.assert_close(answer, expected)
    for path in ("", "/ready", "/infer"):
        status, _, body = server.ask(f"/v2/models/m/versions/{old}{path}", BODY if path == "/infer" else None)
        assert status == 404
        assert new in json.loads(body)["error"]
    assert json.loads(server.ask("/v2/models/m")[2])["versions"] == [new]
    back, expected = replace(folder, 0)  # the same content is the same version
    assert back == old
    zoo.assert_close(infer(server, old)[2], expected)


def test_a_link_that_is_switched_is_another_version(folder: Path) -> None:
    link, versions = folder / "m.safetensors", {}
    for seed, file in enumerate(("first", "second")):
        versions[file] = replace(folder, seed)
        link.rename(folder / f"{file}.safetensors")
    link.symlink_to("first.safetensors")
    with Server(folder) as server:
        for file in ("first", "second", "first"):
            aside = folder / "aside"
            aside.symlink_to(f"{file}.safetensors")
            aside.rename(link)
            status, version, answer = infer(server)
            assert (status, version) == (200, versions[file][0]), answer
            zoo.assert_close(answer, versions[file][1])
        outside = folder.parent / "outside.safetensors"
        outside.write_bytes((folder / "second.safetensors").read_bytes())
        link.unlink()
        link.symlink_to(outside)
        assert infer(server)[0] == 404


def test_no_answer_has_the_version_of_another_file(server: Server, folder: Path) -> None:
    answers = dict(replace(folder, seed) for seed in range(4))
    found: list[tuple[int, str, Any]] = []
    ending = threading.Event()

    def work() -> None:
        while not ending.is_set():
            found.append(infer(server))

    threads = [threading.Thread(target=work) for _ in range(4)]
    for thread in threads:
        thread.start()
    for seed in [*range(4)] * 8:
        replace(folder, seed)
        ending.wait(0.05)
    ending.set()
    for thread in threads:
        thread.join()
    for status, version, answer in found:
        assert status in (200, 503), answer
        if status == 200:
            zoo.assert_close(answer, answers[version])
    assert len({version for _, version, _ in found} - {""}) > 1


def test_requests_over_open_connections_are_served_to_the_end(folder: Path) -> None:
    import http.client

    _, expected = replace(folder, 0)
    server = Server(folder)
    connections = [http.client.HTTPConnection(server.address, timeout=60) for _ in range(4)]
    statuses: list[int] = []

    def work(connection: http.client.HTTPConnection) -> None:
        while True:
            try:
                connection.request("POST", "/v2/models/m/infer", BODY)
                response = connection.getresponse()
                statuses.append(response.status)
                response.read()
                if response.will_close:
                    return
            except (http.client.RemoteDisconnected, ConnectionError):
                return  # between two requests

    threads = [threading.Thread(target=work, args=(connection,)) for connection in connections]
    for thread in threads:
        thread.start()
    zoo.assert_close(infer(server)[2], expected)
    assert server.stop() == 0
    for thread, connection in zip(threads, connections, strict=True):
        thread.join()
        connection.close()
    assert statuses
    assert set(statuses) == {200}
