"""Files that appear, change and vanish are noticed without a restart, and no request in progress is lost."""

from __future__ import annotations

import errno
import json
import os
import shutil
import signal
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import CancelledError
from pathlib import Path
from typing import Any

import pytest

import streamrt
from markers import needs
from model import zoo
from serve import packing
from serve.process import TOKEN, Server
from streamrt.errors import FormatError, UnknownModelError
from streamrt.format import check_end, read_header
from streamrt.serve.catalog import Catalog, Changes
from streamrt.serve.folder import Folder
from streamrt.serve.refreshing import Refresher

pytestmark = pytest.mark.extras
needs("starlette", "uvicorn", "prometheus_client")

X = zoo.random_input(1, 64)
BODY = json.dumps({"inputs": [{"name": "input", "shape": [1, 64], "datatype": "FP32", "data": X[0].tolist()}]})


class Made:
    """Models with one interface and different answers, in a folder aside."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self.answers: dict[str, Any] = {}  # by version

    def file(self, seed: int, inner: int = 32) -> Path:
        packed = zoo.mlp(self._folder, 64, inner, 8, seed=seed)
        self.answers[read_header(packed.path).checksum] = packed.answer(X)
        return packed.path

    def give(self, folder: Path, name: str, seed: int, inner: int = 32) -> str:
        """Move a new file to its place; returns its version."""
        path = self.file(seed, inner)
        version = read_header(path).checksum
        path.replace(folder / f"{name}.safetensors")
        return version


@pytest.fixture
def made(tmp_path: Path) -> Made:
    (tmp_path / "aside").mkdir()
    return Made(tmp_path / "aside")


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    found = tmp_path / "repository"
    found.mkdir()
    return found


@pytest.fixture
def pool() -> Iterator[streamrt.ModelPool]:
    with streamrt.ModelPool("4MiB") as opened:
        yield opened


@pytest.fixture
def catalog(folder: Path, pool: streamrt.ModelPool, made: Made) -> Catalog:
    made.give(folder, "first", 0)
    made.give(folder, "second", 1)
    found = Catalog(Folder(folder), pool)
    found.register_all()
    return found


def served(catalog: Catalog) -> list[str]:
    return [name for name, _ in catalog.served()]


def call(pool: streamrt.ModelPool, made: Made, name: str) -> str:
    with pool.lease(name) as model:
        zoo.assert_close(model(X), made.answers[model.checksum])
        return model.checksum


def test_files_that_are_added_replaced_and_removed(
    catalog: Catalog, pool: streamrt.ModelPool, folder: Path, made: Made
) -> None:
    assert catalog.refresh() == Changes()
    made.give(folder, "third", 2)
    assert catalog.refresh() == Changes(added=["third"])
    assert served(catalog) == ["first", "second", "third"]
    call(pool, made, "third")
    version = made.give(folder, "third", 3)
    assert catalog.refresh() == Changes(replaced=["third"])
    zoo.eventually(lambda: next(line for line in pool.index() if line.name == "third").held == 0)
    assert call(pool, made, "third") == version
    assert catalog.refresh() == Changes()
    made.give(folder, "first", 4)  # it was never opened
    catalog.spec("second")
    version = made.give(folder, "second", 5)
    assert catalog.refresh() == Changes(replaced=["second"])
    assert catalog.spec("second").version == version
    (folder / "third.safetensors").unlink()
    (folder / "first.safetensors").unlink()
    assert catalog.refresh() == Changes(removed=["first", "third"])
    zoo.eventually(lambda: [line.name for line in pool.index()] == ["second"])
    with pytest.raises(UnknownModelError):
        catalog.spec("third")
    version = made.give(folder, "third", 6)
    zoo.eventually(lambda: catalog.refresh() == Changes(added=["third"]))  # once the model before it has ended
    assert call(pool, made, "third") == version


def test_a_model_that_was_unloaded_stays_unloaded_as_long_as_its_file_is_there(
    catalog: Catalog, folder: Path, made: Made
) -> None:
    catalog.unregister("first")
    assert catalog.refresh() == Changes()
    made.give(folder, "first", 7)
    assert catalog.refresh() == Changes()
    assert next(entry.reason for entry in catalog.index() if entry.name == "first") == "unloaded"
    (folder / "first.safetensors").unlink()
    assert catalog.refresh() == Changes()
    made.give(folder, "first", 8)
    assert catalog.refresh() == Changes(added=["first"])
    catalog.unregister("first")
    catalog.load("first")
    (folder / "first.safetensors").unlink()
    assert catalog.refresh() == Changes(removed=["first"])


def test_a_file_under_another_name(catalog: Catalog, folder: Path, made: Made) -> None:
    catalog.register("second.safetensors", "mine")
    made.give(folder, "mine", 9)  # the name is taken
    assert catalog.refresh() == Changes()
    (folder / "second.safetensors").unlink()
    removed = catalog.refresh()
    assert removed.removed == ["mine", "second"]
    added = removed.added  # unless the old model of this name was still ending
    while not added:
        added = catalog.refresh().added
    assert added == ["mine"]


def test_what_is_known_of_a_file_needs_no_reading_until_the_file_changes(
    catalog: Catalog, folder: Path, made: Made, tmp_path: Path
) -> None:
    assert catalog.known_spec("nobody") is None
    assert catalog.known_spec("first") is None  # its header was not read for this yet
    spec = catalog.spec("first")
    assert catalog.known_spec("first") is spec
    made.give(folder, "first", 2)
    assert catalog.known_spec("first") is None
    assert catalog.spec("first").version != spec.version
    path = folder / "first.safetensors"
    outside = made.file(3)
    path.unlink()
    path.symlink_to(outside)  # a link that leaves the folder
    assert catalog.known_spec("first") is None
    with pytest.raises(UnknownModelError):
        catalog.spec("first")
    path.unlink()
    assert catalog.known_spec("first") is None
    path.write_bytes(b"no weights")
    with pytest.raises(FormatError):
        catalog.spec("first")
    assert catalog.known_spec("first") is None


@pytest.mark.parametrize("part", ["nothing", "a part of the header", "a part of the data", "all but a byte", "a hole"])
def test_a_file_that_is_half_written_is_refused_until_it_is_complete(
    catalog: Catalog, pool: streamrt.ModelPool, folder: Path, made: Made, part: str
) -> None:
    source = made.file(3)
    whole, begin = source.read_bytes(), read_header(source).data_offset
    lengths = {"nothing": 0, "a part of the header": begin // 2, "a part of the data": (begin + len(whole)) // 2}
    file = folder / "new.safetensors"
    if part == "a hole":  # a writer that makes room first, such as rsync --preallocate
        file.write_bytes(whole[: (begin + len(whole)) // 2])
        os.truncate(file, len(whole))
    else:
        file.write_bytes(whole[: lengths.get(part, len(whole) - 1)])
    changes = catalog.refresh()
    ((name, text),) = changes.refused
    assert (name, changes.added, changes.left) == ("new", [], True)
    assert text.startswith("FormatError: ")
    assert served(catalog) == ["first", "second"]
    entry = next(entry for entry in catalog.index() if entry.name == "new")
    assert (entry.state, entry.reason) == ("UNAVAILABLE", "FormatError: it cannot be loaded")
    assert catalog.refresh() == Changes(left=True)  # told once
    file.write_bytes(whole)
    assert catalog.refresh() == Changes(added=["new"])
    call(pool, made, "new")
    file.unlink()
    file.write_bytes(whole[:-1])
    assert [name for name, _ in catalog.refresh().refused] == ["new"]  # it is served, and its file was replaced


def test_the_end_of_a_file(tmp_path: Path) -> None:
    path = zoo.mlp(tmp_path, 64, 32, 8).path
    check_end(read_header(path))
    data = bytearray(path.read_bytes())
    data[-1] ^= 1
    path.write_bytes(data)
    with pytest.raises(FormatError, match="damaged"):
        check_end(read_header(path))
    check_end(read_header(packing.two(tmp_path)))  # it has no data


def test_an_error_of_the_disk_removes_no_model(catalog: Catalog, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    real = Path.resolve

    def resolve(path: Path, strict: bool = False) -> Path:
        if path.name == "first.safetensors":
            raise OSError(errno.EIO, "Input/output error")
        return real(path, strict)

    with monkeypatch.context() as patched:
        patched.setattr(Path, "resolve", resolve)
        assert catalog.refresh().removed == []
    aside = folder.rename(folder.parent / "away")
    with pytest.raises(FileNotFoundError):
        catalog.refresh()
    assert served(catalog) == ["first", "second"]
    aside.rename(folder)
    assert catalog.refresh() == Changes()


def test_a_model_that_comes_back_while_it_ends_is_served_after_its_end(
    folder: Path, pool: streamrt.ModelPool, made: Made
) -> None:
    go_on = threading.Event()
    catalog = Catalog(Folder(folder), pool, lambda name: go_on.wait(60) and None)
    made.give(folder, "m", 0)
    catalog.register_all()
    (folder / "m.safetensors").unlink()
    assert catalog.refresh() == Changes(removed=["m"])
    version = made.give(folder, "m", 1)
    assert catalog.refresh() == Changes(left=True)  # it does not wait
    assert catalog.index()[0].state == "UNAVAILABLE"
    thread = threading.Thread(target=lambda: catalog.load("m"))  # a client who asks for it waits
    thread.start()
    thread.join(0.05)
    assert thread.is_alive()
    go_on.set()
    thread.join()
    assert call(pool, made, "m") == version


def test_a_refresher_runs_once_for_all_who_asked() -> None:
    runs: list[float] = []
    hold = threading.Event()
    results: list[Any] = [OSError("unreadable"), Changes()]

    def refresh() -> Changes:
        runs.append(time.monotonic())
        hold.wait(60)
        result = results.pop(0) if results else Changes()
        if isinstance(result, Exception):
            raise result
        return result

    refresher = Refresher(refresh, None)
    first = refresher.ask()
    zoo.eventually(lambda: len(runs) == 1)
    later = [refresher.ask() for _ in range(1000)]
    later[7].cancel()
    hold.set()
    with pytest.raises(OSError, match="unreadable"):
        first.result(60)
    for future in later:
        if not future.cancelled():
            assert future.result(60) is None
    zoo.eventually(lambda: len(runs) >= 2)
    time.sleep(0.05)
    assert len(runs) == 2
    refresher.close()
    refresher.close()
    with pytest.raises(CancelledError):
        refresher.ask().result(0)


def test_a_refresher_tries_again_and_from_time_to_time() -> None:
    runs = [0]

    def refresh() -> Changes:
        runs[0] += 1
        return Changes(left=runs[0] < 3)

    refresher = Refresher(refresh, None)
    time.sleep(0.1)
    assert runs == [0]
    refresher.ask().result(60)
    zoo.eventually(lambda: runs == [3])  # after 0.5 s and 1 s
    refresher.close()
    often = Refresher(refresh, 0.01)
    zoo.eventually(lambda: runs[0] > 20)
    often.close()


# ---- real servers


def infer(server: Server, made: Made, name: str) -> tuple[int, str]:
    """Status and version of an answer; its values are checked."""
    status, _, body = server.ask(f"/v2/models/{name}/infer", BODY)
    told = json.loads(body)
    if status != 200:
        return status, ""
    found = zoo.np.array(told["outputs"][0]["data"], zoo.np.float32).reshape(1, -1)
    zoo.assert_close(found, made.answers[told["model_version"]])
    return status, told["model_version"]


def index(server: Server) -> dict[str, str]:
    status, _, body = server.ask("/v2/repository/index", b"", {"Authorization": f"Bearer {TOKEN}"})
    assert status == 200
    return {entry["name"]: entry["state"] for entry in json.loads(body)}


def hang_up(server: Server) -> None:
    server.process.send_signal(signal.SIGHUP)


def by_index(server: Server) -> None:
    index(server)


@pytest.fixture
def server(folder: Path, made: Made) -> Iterator[Server]:
    made.give(folder, "m", 0)
    with Server(folder, "--budget", "4MiB", token=TOKEN) as running:
        yield running


@pytest.mark.parametrize("look", [hang_up, by_index])
def test_a_server_sees_new_files(server: Server, folder: Path, made: Made, look: Callable[[Server], None]) -> None:
    assert infer(server, made, "m")[0] == 200
    assert infer(server, made, "new")[0] == 404
    source = made.file(1)
    (folder / "new.safetensors").write_bytes(source.read_bytes()[:-100])
    look(server)
    zoo.eventually(lambda: bool(server.events("not served")))
    (refused,) = server.events("not served")
    assert (refused["model"], refused["error"].partition(":")[0]) == ("new", "FormatError")
    assert infer(server, made, "new")[0] == 404
    shutil.copy(source, folder / "new.safetensors")
    look(server)
    zoo.eventually(lambda: infer(server, made, "new") == (200, read_header(source).checksum))
    version = made.give(folder, "m", 2)
    look(server)
    assert infer(server, made, "m") == (200, version)
    (folder / "m.safetensors").unlink()
    look(server)
    zoo.eventually(lambda: infer(server, made, "m")[0] == 404)
    zoo.eventually(lambda: server.metric("pool_models") == 1)
    assert index(server) == {"new": "READY"}
    assert 'model="m"' not in server.ask("/metrics")[2].decode()


def test_requests_in_progress_of_a_removed_model_are_finished(
    folder: Path, made: Made, slow_reads: Callable[[float], dict[str, str]]
) -> None:
    made.give(folder, "m", 0, inner=8192)  # 2.3 MiB
    with Server(folder, "--budget", "1MiB", token=TOKEN, environment=slow_reads(1e6)) as server:
        found: list[tuple[int, str]] = []
        threads = [threading.Thread(target=lambda: found.append(infer(server, made, "m"))) for _ in range(4)]
        threads[0].start()
        zoo.eventually(lambda: server.metric("pool_leases") == 1)  # its pass has begun
        for thread in threads[1:]:
            thread.start()
        zoo.eventually(lambda: server.metric("queue_length") == 3)
        (folder / "m.safetensors").unlink()
        hang_up(server)
        zoo.eventually(lambda: infer(server, made, "m")[0] == 404)
        assert not found
        made.give(folder, "other", 1)
        assert index(server) == {"other": "READY"}  # it does not wait for the requests
        for thread in threads:
            thread.join()
        assert [status for status, _ in found] == [200] * 4
        zoo.eventually(lambda: server.metric("pool_models") == 1)
        assert server.metric("request_bytes") == 0


def test_a_storm_of_signals(server: Server, folder: Path, made: Made) -> None:
    over = threading.Event()
    found: list[tuple[int, str]] = []
    versions = {read_header(folder / "m.safetensors").checksum}

    def ask() -> None:
        while not over.is_set():
            found.append(infer(server, made, "m"))

    threads = [threading.Thread(target=ask) for _ in range(3)]
    for thread in threads:
        thread.start()
    for round_ in range(20):
        for _ in range(200):
            hang_up(server)
        versions.add(made.give(folder, "m", 10 + round_))
        made.give(folder, f"n{round_}", round_)
        time.sleep(0.02)
    over.set()
    for thread in threads:
        thread.join()
    assert found
    assert {status for status, _ in found} <= {200, 503}  # 503: its file was replaced while it waited, twice
    assert {version for status, version in found if status == 200} <= versions
    hang_up(server)
    zoo.eventually(lambda: infer(server, made, "n19")[0] == 200)
    assert len(index(server)) == 21
    assert not [line for line in server.log if line.get("level") == "error"]


def test_a_server_looks_from_time_to_time(folder: Path, made: Made) -> None:
    made.give(folder, "m", 0)
    with Server(folder, "--budget", "4MiB", "--rescan", "0.2") as server:
        made.give(folder, "new", 1)
        zoo.eventually(lambda: infer(server, made, "new")[0] == 200)
        (folder / "m.safetensors").unlink()
        zoo.eventually(lambda: infer(server, made, "m")[0] == 404)
        zoo.eventually(
            lambda: any(line.get("added_models") == ["new"] for line in server.events("the folder has changed"))
        )
