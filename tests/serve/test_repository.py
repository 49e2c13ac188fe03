"""The repository folder: the files that may be served, and the models that are served."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

import streamrt
from model import zoo
from serve import packing
from streamrt.errors import FormatError, InputError, UnknownModelError
from streamrt.format import read_header
from streamrt.serve.catalog import Catalog, IndexEntry, NameTakenError
from streamrt.serve.folder import Folder, check_name, file_of, model_of

COLD = "its weights are read when it is asked for"


@pytest.mark.parametrize("name", ["a", "A1", "resnet-50", "v1.2_x", "9", "a" * 128])
def test_names(name: str) -> None:
    assert check_name(name) == name
    assert model_of(file_of(name)) == name


@pytest.mark.parametrize(
    "name",
    [
        *[
            "",
            ".",
            "..",
            ".hidden",
            "-x",
            "_x",
            "a/b",
            "a\\b",
            "/etc/passwd",
            "../up",
            "a b",
            "a\n",
            "\na",
            "a\0",
            "é",
            "%2e",
        ],
        *["a" * 129, "\u0130", "a\u0301", "\uff0e\uff0e", "~", "$HOME", "a:b", "a*", None, 7, ["a"], b"a"],
    ],
)
def test_invalid_names(name: object) -> None:
    with pytest.raises(InputError, match="expected a model name"):
        check_name(name)
    if isinstance(name, str):
        with pytest.raises(InputError):
            model_of(f"{name}.safetensors")


@pytest.mark.parametrize("file", ["", "a", "a.onnx", "a.safetensors/", "x/a.safetensors", "a.SAFETENSORS", None, 3])
def test_names_that_are_no_files_of_the_repository(file: object) -> None:
    with pytest.raises(InputError):
        model_of(file)


@pytest.fixture
def place(tmp_path: Path) -> Path:
    """A repository with two models, and files and links that must not be served."""
    outside = tmp_path / "outside"
    folder = tmp_path / "repository"
    for made in (outside, folder, folder / "folder.safetensors", folder / ".hidden", folder / "inner"):
        made.mkdir()
    zoo.mlp(outside, 4, 4)
    packing.two(folder)
    packing.kinds(folder)
    for link, target in (
        ("alias", folder / "two.safetensors"),
        ("relative", Path("two.safetensors")),
        ("outside", outside / "mlp.safetensors"),
        ("upwards", Path("../outside/mlp.safetensors")),
        ("inner", Path("inner/mlp.safetensors")),
        ("buried", Path(".hidden/mlp.safetensors")),
        ("veiled", Path(".veiled.safetensors")),
        ("device", Path("/dev/zero")),
        ("nowhere", Path("missing.safetensors")),
        ("circle", Path("circle.safetensors")),
        ("tree", folder),
    ):
        (folder / f"{link}.safetensors").symlink_to(target)
    for copy in (
        ".veiled.safetensors",
        ".hidden/mlp.safetensors",
        "inner/mlp.safetensors",
        "mlp.onnx",
        "a b.safetensors",
    ):
        (folder / copy).write_bytes((outside / "mlp.safetensors").read_bytes())
    os.mkfifo(folder / "pipe.safetensors")
    return folder


def test_only_files_of_the_folder_are_served(place: Path) -> None:
    folder = Folder(place)
    assert folder.models() == ["alias", "kinds", "relative", "two"]
    long = "a" * 128
    (place / f"{long}.safetensors").symlink_to("two.safetensors")
    assert folder.models()[0] == long
    assert folder.path("alias.safetensors") == place / "two.safetensors"
    for name in (
        "outside",
        "upwards",
        "inner",
        "buried",
        "veiled",
        "device",
        "nowhere",
        "circle",
        "tree",
        "pipe",
        "folder",
    ):
        with pytest.raises(UnknownModelError) as refused:
            folder.path(f"{name}.safetensors")
        assert str(refused.value) == f"the repository has no model named {name!r}"
    with pytest.raises(NotADirectoryError):
        Folder(place / "two.safetensors")
    with pytest.raises(FileNotFoundError):
        Folder(place / "missing")


@pytest.fixture
def pool() -> Iterator[streamrt.ModelPool]:
    with streamrt.ModelPool("4MiB") as opened:
        yield opened


@pytest.fixture
def catalog(place: Path, pool: streamrt.ModelPool) -> Catalog:
    found = Catalog(Folder(place), pool)
    assert found.register_all() == 4
    return found


def test_index_load_and_unload(catalog: Catalog, pool: streamrt.ModelPool, place: Path) -> None:
    assert catalog.index() == [IndexEntry(name, "READY", COLD) for name in ("alias", "kinds", "relative", "two")]
    catalog.unregister("kinds")
    catalog.unregister("alias")
    catalog.load("two")
    (place / "new.safetensors").write_bytes((place / "two.safetensors").read_bytes())
    assert catalog.index() == [
        IndexEntry("alias", "UNAVAILABLE", "unloaded"),
        IndexEntry("kinds", "UNAVAILABLE", "unloaded"),
        IndexEntry("new", "UNAVAILABLE", "unloaded"),
        IndexEntry("relative", "READY", COLD),
        IndexEntry("two", "READY", "" if pool.index()[-1].held else COLD),
    ]
    assert not catalog.has("kinds")
    for call in (catalog.spec, catalog.entry, catalog.status, catalog.unregister):
        with pytest.raises(UnknownModelError, match="no model named 'kinds' is served"):
            call("kinds")
    catalog.load("kinds")
    catalog.load("new")
    assert [entry.name for entry in catalog.index() if entry.state == "READY"] == ["kinds", "new", "relative", "two"]
    assert [spec.name for spec in catalog.spec("kinds").outputs] == ["positive", "above", "best"]
    with pytest.raises(UnknownModelError):
        catalog.load("outside")
    with pytest.raises(InputError):
        catalog.load("../outside/mlp")


def test_loading_a_model_again_takes_its_new_file(catalog: Catalog, pool: streamrt.ModelPool, place: Path) -> None:
    assert [spec.name for spec in catalog.spec("two").inputs] == ["a", "b"]
    catalog.load("two")
    packing.kinds(place).replace(place / "two.safetensors")
    assert [spec.name for spec in catalog.spec("two").inputs] == ["x"]
    catalog.load("two")
    with pool.lease("two") as model:
        assert [spec.name for spec in model.inputs] == ["x"]


def test_a_file_under_another_name(catalog: Catalog) -> None:
    assert catalog.register("two.safetensors", "second") == "second"
    assert ("second", "two.safetensors") in catalog.served()
    for file, name in (("two.safetensors", "second"), ("kinds.safetensors", None), ("two.safetensors", "kinds")):
        with pytest.raises(NameTakenError):
            catalog.register(file, name)
    catalog.unregister("kinds")
    with pytest.raises(NameTakenError, match="'kinds' is taken"):  # the name belongs to its own file
        catalog.register("two.safetensors", "kinds")
    for file, name in (("two", None), ("../x.safetensors", None), ("two.safetensors", "../x"), (None, None)):
        with pytest.raises(InputError):
            catalog.register(file, name)
    with pytest.raises(UnknownModelError):
        catalog.register("outside.safetensors", "mine")
    catalog.unregister("second")
    assert "second" not in [entry.name for entry in catalog.index()]


@pytest.fixture
def reads(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The names of files whose headers the catalog reads."""
    found: list[str] = []

    def read(path: Path) -> object:
        found.append(path.name)
        return read_header(path)

    monkeypatch.setattr("streamrt.serve.catalog.read_header", read)
    return found


def test_a_broken_files_header_is_not_read_for_every_request(
    catalog: Catalog, place: Path, reads: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    now = [1000.0]
    monkeypatch.setattr("streamrt.serve.catalog.monotonic", lambda: now[0], raising=False)
    file, good = place / "kinds.safetensors", (place / "kinds.safetensors").read_bytes()
    file.write_bytes(b"no model")

    def ask() -> FormatError:
        with pytest.raises(FormatError) as caught:
            catalog.spec("kinds")
        return caught.value

    errors = [ask() for _ in range(10)]
    assert reads == ["kinds.safetensors"]
    assert len({str(error) for error in errors}) == 1
    assert len({id(error) for error in errors}) == 10
    assert catalog.entry("kinds").state == "UNAVAILABLE"
    for pause in (0.5, 1.0, 2.0):  # the file may be good: perhaps only the disk failed
        now[0] += pause - 0.1
        ask()
        assert reads == ["kinds.safetensors"]
        now[0] += 0.1
        ask()
        ask()
        assert reads == ["kinds.safetensors"] * 2
        reads.pop()
    with pytest.raises(FormatError):
        catalog.load("kinds")
    ask()
    assert reads == ["kinds.safetensors"] * 2  # the caller of `load` may have mended it
    file.write_bytes(good)
    assert [spec.name for spec in catalog.spec("kinds").inputs] == ["x"]  # a replaced file is read at once


def test_one_file_does_not_hide_the_others_whatever_its_error(
    catalog: Catalog, monkeypatch: pytest.MonkeyPatch
) -> None:
    def read(path: Path) -> object:
        if path.name == "kinds.safetensors":
            raise RecursionError("unforeseen")
        return read_header(path)

    monkeypatch.setattr("streamrt.serve.catalog.read_header", read)
    assert [entry.state for entry in catalog.index()] == ["READY", "UNAVAILABLE", "READY", "READY"]
    assert catalog.index()[1].reason == "RecursionError: it cannot be loaded"


def test_files_that_cannot_be_used(catalog: Catalog, pool: streamrt.ModelPool, place: Path) -> None:
    (place / "kinds.safetensors").write_bytes(b"no model")
    (place / "two.safetensors").unlink()
    found = {entry.name: entry for entry in catalog.index()}
    assert found["kinds"] == IndexEntry("kinds", "UNAVAILABLE", "FormatError: it cannot be loaded")
    assert found["two"] == IndexEntry("two", "UNAVAILABLE", "UnknownModelError: it cannot be loaded")
    with pytest.raises(FormatError):
        catalog.spec("kinds")
    with pytest.raises(FormatError):
        catalog.load("kinds")
    assert catalog.entry("kinds").state == "UNAVAILABLE"
    with pytest.raises(UnknownModelError):
        catalog.load("two")


@pytest.mark.parametrize("header", [True, False], ids=["a broken header", "broken weights"])
@pytest.mark.parametrize("background", [True, False], ids=["prefetch", "load"])
def test_a_model_that_failed_is_ready_when_its_file_is_mended(place: Path, header: bool, background: bool) -> None:
    file = place / "kinds.safetensors"
    good = file.read_bytes()
    broken = b"no model" if header else good[:-1] + bytes([good[-1] ^ 1])
    with streamrt.ModelPool("4MiB", verify="open") as pool:
        catalog = Catalog(Folder(place), pool)
        catalog.register_all()
        file.write_bytes(broken)
        for _ in range(4):  # each failure lengthens the pause before the next try
            with pytest.raises(FormatError):
                catalog.prefetch("kinds").result() if background else catalog.load("kinds")
        assert catalog.entry("kinds") == IndexEntry("kinds", "UNAVAILABLE", "FormatError: it cannot be loaded")
        assert catalog.entry("kinds").state == "UNAVAILABLE"  # asking changes nothing
        file.write_bytes(good)
        assert [entry.state for entry in catalog.index()] == ["READY"] * 4
        assert catalog.entry("kinds").state == "READY"
        with pool.lease("kinds"):  # it can be used, too
            pass


def test_a_mended_model_can_be_loaded_at_once(place: Path) -> None:
    file = place / "kinds.safetensors"
    good = file.read_bytes()
    with streamrt.ModelPool("4MiB", verify="open") as pool:
        catalog = Catalog(Folder(place), pool)
        catalog.register_all()
        file.write_bytes(good[:-1] + bytes([good[-1] ^ 1]))
        for _ in range(4):
            with pytest.raises(FormatError):
                catalog.load("kinds")
        file.write_bytes(good)
        catalog.load("kinds")
        assert catalog.entry("kinds") == IndexEntry("kinds", "READY")
