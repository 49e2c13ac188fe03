"""Names from files are printed without characters that control a terminal."""

from __future__ import annotations

import copy
import errno
import json
import pickle
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from format.attacks.make import ATTACKS, FOLDER, SUFFIX, Draft
from streamrt import Model, StreamrtError, cli
from streamrt import errors as kinds
from streamrt.errors import FormatError, UnsupportedModelError, WeightsIOError, printable, shortened

#: Colours the text, clears the line, ends it, and turns the direction of writing.
EVIL = "\x1b[31m\x9b2K\r\n\u202e|"
Output = pytest.CaptureFixture[str]


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("conv1 é 層 \N{GRINNING FACE}", "conv1 é 層 \N{GRINNING FACE}"),
        ("\x1b[31m", "\\x1b[31m"),
        ("a\r\nb\t", "a\\r\\nb\\t"),
        ("\u202e\ud800\U000e0001", "\\u202e\\ud800\\U000e0001"),
    ],
)
def test_printable(text: str, expected: str) -> None:
    assert printable(text) == expected


@pytest.mark.parametrize("text", ["x" * 500, "\x1b" * 500, "\u202e" * 90, "", "é" * 499])
def test_shortened_keeps_a_short_line(text: str) -> None:
    shown = shortened(text)
    assert shown == printable(text) or len(printable(text)) > 500
    assert len(shown) <= 500


@pytest.mark.parametrize("filling", ["x", "\x1b", "\n"])
def test_shortened_leaves_out_the_middle(filling: str) -> None:
    shown = shortened(f"node 'n': {filling * 1_000_000}: not a number")
    assert shown.startswith("node 'n': ")
    assert " ... (1000024 characters) ... " in shown
    assert shown.endswith(": not a number")
    assert len(shown) <= 500
    assert shown.isprintable()
    assert shortened(shown) == shown


OTHERS = ("BudgetError", "ModelTooLargeError", "PinError", "FormatError", "LimitError", "UnsupportedModelError")
SINGLE = [getattr(kinds, name) for name in kinds.__all__ if name not in OTHERS]


@pytest.mark.parametrize("again", [lambda error: error, copy.copy, lambda error: pickle.loads(pickle.dumps(error))])
def test_the_text_of_every_error(again: Any) -> None:
    text = f"the model 'a{EVIL}'{'x' * 10_000}: why"
    made = [kind(text) for kind in SINGLE] + [kinds.BudgetError(text, 7), kinds.ModelTooLargeError(text, 7)]
    made.append(kinds.PinError(text, 7, 5, 3))
    made += [kind(text.replace("\n", "")) for kind in (FormatError, kinds.LimitError)]  # these may have several lines
    made += [UnsupportedModelError(text)]
    for error in map(again, made):
        assert str(error).isprintable(), error
        assert len(str(error)) <= 500
        assert str(error).endswith(": why")


@pytest.mark.parametrize("again", [lambda error: error, copy.copy, lambda error: pickle.loads(pickle.dumps(error))])
def test_an_error_of_the_system_keeps_its_attributes(again: Any) -> None:
    error = again(WeightsIOError(errno.ENOENT, f"no{EVIL}", f"a{EVIL}"))
    assert (error.errno, error.strerror, error.filename) == (errno.ENOENT, f"no{EVIL}", f"a{EVIL}")
    assert str(error) == f"[Errno 2] {printable(f'no{EVIL}')}: {f'a{EVIL}'!r}"


def test_a_long_list_of_problems_is_cut() -> None:
    error = UnsupportedModelError([f"node {i}: {'x' * 600}" for i in range(4000)])
    assert len(error.problems) == 4000
    assert max(map(len, error.problems)) == 500
    head, *lines = str(error).split("\n")
    assert head == "4000 things are not supported:"
    assert len(lines) == 101
    assert lines[-1] == "  and 3900 more"
    again = pickle.loads(pickle.dumps(error))
    assert (again.problems, str(again)) == (error.problems, str(error))


def test_a_text_of_many_lines_is_cut() -> None:
    error = FormatError("\n".join([f"node {i}: {'x' * 600}" for i in range(4000)]))
    for text in (str(error), str(copy.copy(error))):
        lines = text.split("\n")
        assert len(lines) == 101
        assert lines[-1] == "and 3900 more"
        assert max(map(len, lines)) == 500


def test_names_of_files(tmp_path: Path) -> None:
    folder = tmp_path / f"a{EVIL}"
    folder.mkdir()
    (folder / "bad.safetensors").write_bytes(b"nothing of the kind")
    for path in (folder, folder / "none.safetensors", folder / "bad.safetensors"):
        with pytest.raises(StreamrtError) as caught:
            Model(path)
        assert str(caught.value).isprintable(), str(caught.value)
    with Model(evil_model(folder / "m.safetensors")) as model, pytest.raises(StreamrtError) as caught:
        model({f"none{EVIL}": np.ones((2, 3), np.float32)})
    assert str(caught.value).isprintable(), str(caught.value)


def renamed(value: Any, names: dict[str, str]) -> Any:
    """A JSON value in which the strings and keys among ``names`` are replaced."""
    if isinstance(value, dict):
        return {names.get(key, key): renamed(each, names) for key, each in value.items()}
    if isinstance(value, list):
        return [renamed(each, names) for each in value]
    return names.get(value, value) if isinstance(value, str) else value


def evil_model(path: Path) -> Path:
    """A model that runs, with escapes in every name."""
    draft = Draft()
    names = {name: name + EVIL for name in ("x", "w", "b", "h", "y", "N", "dense", "relu")}
    draft.graph, draft.tensors = renamed(draft.graph, names), renamed(draft.tensors, names)
    path.write_bytes(draft.build())
    return path


def check(text: str) -> None:
    assert all(line.isprintable() for line in text.split("\n")), text


def test_every_command(tmp_path: Path, capsys: Output) -> None:
    model = evil_model(tmp_path / f"model\x1b[31m{SUFFIX}")
    x, y = tmp_path / "x.npy", tmp_path / "y.npy"
    np.save(x, np.ones((2, 3), np.float32))
    assert cli.main(["inspect", str(model)]) == 0
    assert cli.main(["inspect", str(model), "--json"]) == 0
    assert cli.main(["run", str(model), str(x), str(y), "--stats", "--layers"]) == 0
    assert cli.main(["verify", "-q", str(model)]) == 0
    out, err = capsys.readouterr()
    assert "dense\\x1b[31m" in out
    assert err == ""
    check(out)
    np.save(x, np.ones((2, 4), np.float32))
    assert cli.main(["run", str(model), str(x), str(y)]) == 1
    assert cli.main(["inspect", str(tmp_path / f"none{EVIL}")]) == 1
    out, err = capsys.readouterr()
    assert err.count("\n") == 2
    check(err)


def test_a_table_of_layers(tmp_path: Path) -> None:
    with Model(evil_model(tmp_path / "model.safetensors")) as model:
        model(np.ones((2, 3), np.float32))
        assert model.stats is not None
        table = model.stats.to_markdown()
    check(table)
    assert table.count("\n") == 4


def strings(value: Any, at: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    """The place of every string and key in a JSON value. The place of a key ends with None."""
    for key, each in value.items() if isinstance(value, dict) else enumerate(value):
        if isinstance(key, str):
            yield (*at, key, None)
        if isinstance(each, str):
            yield (*at, key)
        elif isinstance(each, (dict, list)):
            yield from strings(each, (*at, key))


def spoilt(value: Any, place: tuple[Any, ...]) -> Any:
    """``value`` with escapes added to the string or key at ``place``."""
    value = copy.deepcopy(value)
    *way, last = place
    inner = value
    for key in way[:-1] if last is None else way:
        inner = inner[key]
    if last is None:
        inner[way[-1] + EVIL] = inner.pop(way[-1])
    else:
        inner[last] += EVIL
    return value


GRAPH = {
    **Draft().graph,
    "nodes": [
        *Draft().graph["nodes"],
        {
            "name": "norm",
            "op": "Reshape",
            "inputs": ["y"],
            "outputs": ["z"],
            "attrs": {"shape": [0, -1]},
            "activation": {"op": "Gelu", "attrs": {"approximate": "tanh"}},
        },
    ],
}


@pytest.mark.parametrize("place", list(strings(GRAPH)), ids=lambda place: json.dumps(place))
def test_errors_of_a_graph(tmp_path: Path, place: tuple[Any, ...]) -> None:
    path = tmp_path / "model.safetensors"
    path.write_bytes(Draft(graph=json.dumps(spoilt(GRAPH, place))).build())
    told = ""
    try:
        with Model(path, budget=None) as model:
            model(np.ones((2, 5), np.float32))
    except StreamrtError as error:
        told = str(error)
    assert told.isprintable(), told


@pytest.mark.parametrize("place", list(strings(Draft().header())), ids=lambda place: json.dumps(place)[:60])
def test_errors_of_a_header(tmp_path: Path, place: tuple[Any, ...]) -> None:
    header = spoilt(Draft().header(), place)
    draft = Draft()
    draft.header = lambda: header  # type: ignore[method-assign]
    path = tmp_path / "model.safetensors"
    path.write_bytes(draft.build())
    with pytest.raises(StreamrtError) as caught, Model(path, budget=None) as model:
        model(np.ones((2, 5), np.float32))
    assert str(caught.value).isprintable(), str(caught.value)


@pytest.mark.parametrize("name", ATTACKS)
def test_errors_of_attacks(name: str) -> None:
    with pytest.raises(StreamrtError) as caught:
        Model(FOLDER / f"{name}{SUFFIX}")
    assert str(caught.value).isprintable()


def test_problems_of_a_source(monkeypatch: pytest.MonkeyPatch, capsys: Output, tmp_path: Path) -> None:
    error = UnsupportedModelError([f"node 'a{EVIL}': no", "node 'b': no"])
    assert error.problems == ["node 'a\\x1b[31m\\x9b2K\\r\\n\\u202e|': no", "node 'b': no"]

    def pack(*args: Any, **kwargs: Any) -> None:
        raise error

    monkeypatch.setattr("streamrt.cli.commands.pack", pack)
    assert cli.main(["pack", "a.onnx", str(tmp_path / "a.safetensors")]) == 1
    err = capsys.readouterr().err
    check(err)
    assert err.count("\n") == 3
