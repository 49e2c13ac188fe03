"""The knee, what binds, and the text of a result."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest

from streamrt.tuning.result import Tuning, TuningPoint, bound_by, knee_of

MIB = 1 << 20


def point(budget: int, seconds: float | None = None, predicted: float = 1.0) -> TuningPoint:
    measured = seconds is not None
    return TuningPoint(
        budget=budget,
        predicted=predicted,
        seconds=seconds,
        fastest=seconds and seconds * 0.9,
        slowest=seconds and seconds * 1.5,
        calls=3 * measured,
        stall=seconds and seconds / 2,
        read_seconds=seconds,
        bytes_streamed=10 * MIB,
        bytes_read=9 * MIB if measured else None,
        pinned=3 * MIB,
        window=6 * MIB,
        workspace=1000,
        micro_batch=0,
        bound_by="disk" if measured else None,
    )


TUNING = Tuning(
    path="folder/a model.safetensors",
    weights=64 * MIB,
    shapes={"x": (1, 3, 224, 224)},
    io="mmap",
    disk=1e9,
    within=0.1,
    everything=64 * MIB,
    points=(point(4 * MIB, 2.0), point(16 * MIB, 1.05), point(32 * MIB, None, 1.04), point(64 * MIB, 1.0)),
    counted=True,
    notes=("Weights came from the disk. " * 5 + "The end.",),
)


@pytest.mark.parametrize(
    ("times", "within", "knee"),
    [
        ({1: 10.0, 2: 1.1, 4: 1.0}, 0.1, 2),
        ({1: 10.0, 2: 1.1, 4: 1.0}, 0.09, 4),
        ({1: 1.0, 2: 1.0}, 0.0, 1),
        ({1: 5.0, 2: 1.0, 4: 1.2}, 0.1, 2),  # a larger budget may be slower
        ({4: 1.0}, 0.1, None),
        ({}, 0.1, None),
    ],
)
def test_the_knee_is_the_smallest_budget_within_a_share_of_the_best(
    times: dict[int, float], within: float, knee: int | None
) -> None:
    assert knee_of(times, within) == knee


def test_the_knee_is_a_measured_point() -> None:
    assert TUNING.knee == TUNING.points[1]
    assert replace(TUNING, points=(point(MIB, None, 1.0), point(4 * MIB, 1.0))).knee is None


@pytest.mark.parametrize(
    ("seconds", "stall", "reading", "from_device", "expected"),
    [
        (1.0, 0.05, 1.0, True, "computing"),
        (1.0, 0.0, 0.0, True, "computing"),
        (1.0, 0.5, 0.95, True, "disk"),
        (1.0, 0.5, 0.95, False, "page cache"),
        (1.0, 0.4, 0.6, True, "window"),
        (1.0, 0.4, 0.6, False, "window"),
    ],
)
def test_what_binds(seconds: float, stall: float, reading: float, from_device: bool, expected: str) -> None:
    assert bound_by(seconds, stall, reading, from_device) == expected


def test_text_has_a_table_bars_and_the_knee() -> None:
    head, tabular, drawn, end = TUNING.to_text().split("\n\n")
    assert head == "model   folder/a model.safetensors: 64.0 MiB of weights\ninputs  x (1, 3, 224, 224)"
    title, *rows = tabular.split("\n")
    assert title.split("  ")[-1] == "bound by"
    assert len(rows) == 4
    assert "1.05 s    945 ms - 1.58 s" in rows[1]
    assert rows[2].endswith("not measured")
    assert {len(row) for row in rows if row.endswith("disk")} == {len(rows[0])}
    *bars, legend = drawn.split("\n")
    assert legend == "# measured, | predicted"
    lengths = [bar.count("#") for bar in bars]
    assert lengths[0] == max(lengths)
    assert lengths[2] == 0  # not measured
    assert [bar.endswith("<- knee") for bar in bars] == [False, True, False, False]
    longest = lengths[0] + 1  # the mark of the predicted time takes the place of a #
    assert bars[0].index("|") - len("4.00 MiB ") == round(longest / 2)  # predicted: 1 s, measured: 2 s
    knee, note = end.split("\n")
    assert knee == "* The knee is 16.0 MiB (16777216 bytes): 1.05 s, at most 10% slower than the best."
    assert note.startswith("* Weights")
    assert end.endswith("The end.")


@pytest.mark.parametrize("width", [60, 80, 100, 140])
def test_text_fits_into_a_terminal(width: int) -> None:
    text = TUNING.to_text(width)
    assert max(map(len, text.split("\n"))) <= width
    assert "bound by" in text
    assert ("pinned" in text) == (width >= 140)
    assert "The end." in " ".join(text.split())


def test_json() -> None:
    found = json.loads(json.dumps(TUNING.to_json()))
    assert found["knee"] == 16 * MIB
    assert [each["seconds"] for each in found["points"]] == [2.0, 1.05, None, 1.0]
    assert found["points"][0]["bound_by"] == "disk"
    assert found["shapes"] == {"x": [1, 3, 224, 224]}
