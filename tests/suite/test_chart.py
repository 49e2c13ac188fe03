"""Charts of time against memory, from lines of results that are written by hand."""

from __future__ import annotations

import dataclasses
import re
from pathlib import Path

import pytest

from bench import report
from bench.report import chart, summary
from bench.scenarios import Case
from markers import needs
from suite.test_report import MIB, large, line, timing, write

needs("scipy")  # computes T*

pytestmark = pytest.mark.extras


def test_the_chart_has_a_point_for_every_contender_and_budget() -> None:
    records = [
        *large("regnety_1280", "streamrt", 2.0, 1000),
        *large("regnety_1280", "A", 3.0, 2000),
        *large("regnety_1280", "B", 3.0, None),  # its memory was not measured
        *large("regnety_1280", "streamrt", 2.5, 120, 100),
        *large("regnety_1280", "A", 9.0, 150, 100),
    ]
    found = [(p.peer, p.says, p.memory // MIB, p.seconds.median) for p in chart.points(summary.tables(records))]
    assert found == [
        ("streamrt", "all in memory", 1000, 2.0),
        ("A", "A", 2000, 3.0),
        ("streamrt", "100 MiB", 120, 2.5),
        ("A", "A in 200 MiB", 150, 9.0),
    ]


def test_the_chart_is_a_small_picture_with_all_labels(tmp_path: Path) -> None:
    pytest.importorskip("matplotlib")
    records = [
        *large("regnety_1280", "streamrt", 2.0, 1000),
        *(record for peer in ("A", "B", "C") for record in large("regnety_1280", peer, 3.0, 2000)),
        *large("regnety_1280", "streamrt", 2.5, 120, 100),
        *large("convnext_xxlarge", "streamrt", 2.5, 120, 77),
    ]
    tables = summary.tables(records)
    path = chart.draw(tables, tmp_path / "chart.svg")
    text = path.read_text()
    assert len(text) < 100 << 10
    told = re.findall(r"<text[^>]*>([^<]*)</text>", text)
    for says in (
        "A",
        "B",
        "C",
        "streamrt, budgets in MiB",
        "100",
        "77",
        "all in memory",
        "regnety_1280: 0.88 GiB of weights",
    ):
        assert says in told
    assert chart.draw(tables, tmp_path / "again.svg").read_text() == text  # the same results give the same file
    with pytest.raises(ValueError, match="no case has a time"):
        chart.draw(summary.tables(large("regnety_1280", "A", 3.0, None)), path)


def test_the_giants_have_a_chart_among_the_results(tmp_path: Path) -> None:
    """Each way of streamrt is a point with its own budget. Cases of more samples are left out."""
    pytest.importorskip("matplotlib")
    of = Case("passes", ("steady",), "regnety_1280", 1, None, "1/16 of the file", alone=True)
    memory = {"anonymous": 1, "file_pages": 1, "both": 2, "resident": 200 * MIB, "cgroup_peak": 3}
    records = large("regnety_1280", "A", 3.0, 2000)
    for peer, budget in (("streamrt", 160), ("streamrt int8", 40)):
        facts = {"budget": budget * MIB, "weights": 900 * MIB, "least_workspace": MIB, "least_window": MIB}
        for case in (of, dataclasses.replace(of, batch=16)):
            records += [timing(peer, 0, 2.0, facts=facts, case=case), line("memory", peer, case=case, values=memory)]
    assert [point.says for point in chart.points(summary.tables(records))] == [
        "A", "160 MiB", "streamrt int8, 40 MiB",
    ]  # fmt: skip
    write(tmp_path / "giants.jsonl", records)
    assert tmp_path / "giants-memory.svg" in report.write(tmp_path, None)
    assert "![Time against memory](giants-memory.svg)" in (tmp_path / "README.md").read_text()
    told = re.findall(r"<text[^>]*>([^<]*)</text>", (tmp_path / "giants-memory.svg").read_text())
    assert {"A", "160", "streamrt int8, 40 MiB"} <= set(told)


def test_labels_of_the_chart_keep_their_distance() -> None:
    found = [chart.Point(name, name, 1, summary.Spread(s, s, s, 1)) for name, s in (("A", 5.0), ("B", 1.0), ("C", 5.1))]
    placed = chart._spread_out(found, 0.5)
    assert [(point.peer, height) for point, height in placed] == [("B", 1.0), ("A", 5.0), ("C", 5.5)]
