"""``streamrt run --labels``: files of labels, and probabilities."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from streamrt.cli import labels
from streamrt.cli.labels import load_labels, ranking
from streamrt.errors import InputError

NAMES = [f"class {index}" for index in range(6)]


def test_numbers_go_through_a_softmax() -> None:
    values = np.float32([[0, 1, 2, 3, 4, 5], [900, 0, 0, 0, 0, 0]])
    first, second = ranking({"logits": values}, NAMES)
    assert [each.index for each in first] == [5, 4, 3, 2, 1]
    assert [each.label for each in first] == ["class 5", "class 4", "class 3", "class 2", "class 1"]
    powers = np.exp(np.arange(6.0))
    np.testing.assert_allclose([each.share for each in first], (powers / powers.sum())[:0:-1], rtol=1e-6)
    assert second[0].share == pytest.approx(1)


def test_probabilities_stay_as_they_are() -> None:
    values = np.float16([[0.1, 0.2, 0.3, 0.25, 0.1, 0.05]])
    (found,) = ranking({"p": values[:, :, None, None]}, NAMES)
    np.testing.assert_allclose([each.share for each in found], [0.3, 0.25, 0.2, 0.1, 0.1], atol=1e-3)
    assert [each.index for each in found] == [2, 3, 1, 0, 4]  # of equal values the first


def test_all_samples_have_probabilities_or_none_has() -> None:
    first, second = ranking({"y": np.float32([[0.5, 0.5], [3, 1]])}, NAMES[:2])
    assert first[0].share == pytest.approx(0.5)
    assert second[0].share == pytest.approx(1 / (1 + np.exp(-2)), rel=1e-5)


@pytest.mark.parametrize("row", [[0.1, 0.2, 0.3], [1.2, -0.1, -0.1], [0, 0, 0], [1, 1, 1]])
def test_numbers_that_are_no_probabilities(row: list[float]) -> None:
    (found,) = ranking({"y": np.float32([row])}, NAMES[:3])
    assert sum(each.share for each in found) == pytest.approx(1)
    assert max(each.share for each in found) < 0.7


def test_the_output_with_as_many_classes() -> None:
    outputs = {"features": np.zeros((1, 9), np.float32), "y": np.float32([[0, 9]])}
    ((best, _),) = ranking(outputs, ["no", "yes"])
    assert best.label == "yes"


@pytest.mark.parametrize(
    ("outputs", "reason"),
    [
        ({"y": np.zeros((1, 5), np.float32)}, r"expected one output of \(samples, 6\), .* found y \(1, 5\)"),
        ({"y": np.zeros(6, np.float32)}, "expected one output"),
        ({"y": np.zeros((1, 6, 2), np.float32)}, "expected one output"),
        ({"y": np.zeros((1, 6), np.float32), "z": np.zeros((1, 6), np.float32)}, "expected one output"),
        ({"y": np.float32([[0, 0, np.nan, 0, 0, 0]])}, "output 'y' has values that are not finite"),
        ({"y": np.float32([[0, 0, np.inf, 0, 0, 0]])}, "output 'y' has values that are not finite"),
    ],
)
def test_outputs_that_cannot_be_ranked(outputs: dict[str, np.ndarray], reason: str) -> None:
    with pytest.raises(InputError, match=reason):
        ranking(outputs, NAMES)


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        (b"cat\ndog\n", ["cat", "dog"]),
        (b"cat\r\ndog", ["cat", "dog"]),
        ("\ufeffK\u00e4fer\n\n\u00fc\u2028x\n".encode(), ["K\u00e4fer", "", "\u00fc\u2028x"]),
        (b"", []),
    ],
)
def test_a_line_is_a_label(tmp_path: Path, content: bytes, expected: list[str]) -> None:
    (tmp_path / "labels").write_bytes(content)
    assert load_labels(tmp_path / "labels") == expected


def test_files_that_are_no_labels(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "labels").write_bytes(b"caf\xe9\n")
    with pytest.raises(InputError, match="expected labels in UTF-8"):
        load_labels(tmp_path / "labels")
    monkeypatch.setattr(labels, "_MOST_BYTES", 4)
    with pytest.raises(InputError, match="expected labels of at most 4 B"):
        load_labels(tmp_path / "labels")
    with pytest.raises(OSError, match="No such file"):
        load_labels(tmp_path / "missing")
    with pytest.raises(OSError, match="a directory, expected a file"):
        load_labels(tmp_path)
