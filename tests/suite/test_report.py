"""Figures, tables and pictures from lines of results that are written by hand."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from bench import report
from bench.record import Record
from bench.report import headline, markdown, summary
from bench.report.summary import CaseTable
from bench.scenarios import SCENARIOS, Case
from markers import needs

needs("scipy")  # computes T*

pytestmark = pytest.mark.extras

MIB = 1 << 20
CASE = Case("passes", ("steady", "first"), "mlp-2x8", 1, 256 * MIB, "64MiB", cold=True)
SHARED: Record = {
    "at": "2026-01-02T03:04:05+00:00",
    "quick": False,
    "machine": {
        "processor": "A Processor",
        "cores": 2,
        "memory": 24 << 30,
        "kernel": "6.1",
        "filesystem": "ext4",
        "swap": 0,
        "virtual": True,
        "python": "3.11.7",
    },
    "versions": {"streamrt": "0.1.0", "numpy": "2.4.6"},
    "commit": "0123456789ab",
    "checkout_installed": True,
}


def line(kind: str, peer: str, status: str = "ok", *, case: Case | None = CASE, **fields: Any) -> Record:
    of_case = {"label": case.label, "case": json.loads(json.dumps(dataclasses.asdict(case)))} if case else {}
    common = {"kind": kind, "peer": peer, "status": status, "threads": 2, "reason": "", "values": {}}
    return SHARED | common | of_case | fields


def timing(
    peer: str,
    index: int,
    steady: float,
    first: float = 1.0,
    facts: Any = None,
    moments: Sequence[Sequence[float]] = (),
    **fields: Any,
) -> Record:
    passes = {"least": steady / 2, "median": steady, "most": steady * 2, "count": 3}
    values = {"steady": passes, "first": first, "opening": 0.25, "facts": {"bytes_read": 0} | (facts or {})}
    values["moments"] = moments
    return line("timing", peer, round=index, values=values, **fields)


def timings(**peers: list[float]) -> list[Record]:
    """Rounds of steady passes."""
    return [timing(peer, index, steady) for peer, times in peers.items() for index, steady in enumerate(times)]


def large(model: str, peer: str, seconds: float, peak: int | None, budget: int | None = None) -> list[Record]:
    """The time and the memory of a case of ``cnn-large``."""
    given = None if budget is None else f"{budget}MiB"
    of = Case("passes", ("steady",), model, 1, None if budget is None else 2 * budget * MIB, given, alone=bool(budget))
    facts = {"budget": None if budget is None else budget * MIB, "weights": 900 * MIB}
    memory = {"anonymous": 1, "file_pages": 1, "both": 2, "cgroup_peak": 3}
    memory |= {} if peak is None else {"resident": peak * MIB}
    return [
        timing(peer, 0, seconds, facts=facts if peer == "streamrt" else None, case=of),
        line("memory", peer, case=of, values=memory),
    ]


def table(records: list[Record]) -> CaseTable:
    (found,) = summary.tables(records)
    return found


def cells(text: str) -> list[list[str]]:
    """The cells of a Markdown table, row by row."""
    return [[cell.strip() for cell in row[1:-1].split("|")] for row in text.splitlines() if row.startswith("|")]


def test_median_least_and_most() -> None:
    found = table(timings(A=[5.0, 1.0, 2.0]))
    row = found.row("A")
    assert row
    assert row.spread("steady") == summary.Spread(median=2.0, least=0.5, most=10.0, count=3)  # of all passes
    assert row.spread("first") == summary.Spread(1.0, 1.0, 1.0, 3)
    assert row.spread("to_first_output") is None
    assert (found.label, found.threads, found.measures) == ("mlp-2x8, cap 256 MiB, batch 1", 2, ["steady", "first"])


def test_a_table_tells_how_far_apart_the_processors_were() -> None:
    """Without a round that ended badly, and without a way that could not be measured."""
    records = [timing("A", 0, 1.0, hops=[50e-9, 60e-9]), timing("A", 1, 1.0, hops=[190e-9, None])]
    records += [timing("B", 0, 2.0), line("timing", "B", "slow", round=1, hops=[1.0, 1.0])]
    header, _, *rows = cells(markdown._case(table(records)))
    column = header.index("core to core, ns")
    assert [row[column] for row in rows[:2]] == ["60 (50 - 190)", "-"]
    assert "core to core, ns" not in markdown._case(table(timings(A=[1.0])))


def test_a_ratio_is_that_of_the_times_in_its_row() -> None:
    """The machine's speed changes between rounds, so the brackets have the ratios of rounds."""
    found = table(timings(streamrt=[1.0, 10.0, 20.0], A=[2.0, 20.0, 2.0]))
    us, other = found.row("streamrt"), found.row("A")
    assert us
    assert other
    assert other.ratio(us, "steady") == summary.Spread(median=0.2, least=0.1, most=2.0, count=3)
    assert us.ratio(other, "steady") == summary.Spread(median=5.0, least=0.5, most=10.0, count=3)
    medians = [spread.median for row in (other, us) if (spread := row.spread("steady"))]
    assert medians[0] / medians[1] == 0.2


def test_the_spread_of_a_ratio_is_of_the_rounds_that_both_have() -> None:
    records = timings(streamrt=[1.0, 2.0, 4.0], A=[3.0])
    records.append(timing("A", 2, 8.0))
    found = table(records)
    ratio = found.row("A").ratio(found.row("streamrt"), "steady")
    assert ratio == summary.Spread(2.75, 2.0, 3.0, 2)
    apart = table([timing("streamrt", 0, 1.0), timing("A", 1, 1.0)])
    assert apart.row("A").ratio(apart.row("streamrt"), "steady") is None


def test_contenders_that_did_not_end_well_stay_in_the_table() -> None:
    records = [
        line("check", "B", "wrong", case=None, model="mlp-2x8", batch=1, error=0.5),
        line("check", "other batch", "wrong", case=None, model="mlp-2x8", batch=8, error=0.5),
        line("timing", "C", "killed", round=0, reason="no memory", ended={"seconds": 1.5, "cgroup_peak": 300 * MIB}),
        line("timing", "D", "slow", round=0, reason="given up after 180 s", ended={"seconds": 180.0}),
        line("timing", "E", "error", round=0, reason="OSError: no"),
        line("timing", "F", "killed", round=0, reason="as older lines tell it"),
        timing("G", 0, 0.5),
        line("timing", "G", "wrong", round=1),
        timing("G", 2, 0.5),
        *timings(streamrt=[1.0, 1.0]),
    ]
    found = table(records)
    assert {row.peer: row.status for row in found.rows} == {
        "streamrt": "ok", "C": "killed", "D": "slow", "E": "error", "F": "killed", "B": "wrong", "G": "wrong",
    }  # fmt: skip
    assert found.rows[0].peer == "streamrt"  # G gave a wrong answer, so its other times do not count
    text = markdown._case(found)
    shown = {row[0]: row[1] for row in cells(text)}
    assert shown["B"] == "wrong"
    assert shown["C"] == "killed after 1.5 s with 300 MiB"
    assert shown["D"] == "slow after 180 s"
    assert shown["E"] == "error"
    assert shown["F"] == "killed"
    assert "C killed after 1.5 s with 300 MiB" in markdown.overview({"mlp-capped": [found]})
    for told in ("B: its answer has an error of 5.0e-01.", "D: given up after 180 s.", "E: OSError: no."):
        assert told in text


@pytest.mark.parametrize("bad", [0, 1, 2])
def test_a_bad_round_does_not_erase_the_others(bad: int) -> None:
    records = timings(streamrt=[1.0, 1.0, 4.0], A=[2.0, 3.0, 4.0])
    ended = line("timing", "A", "slow", round=bad, reason="given up after 60 s", ended={"seconds": 60.0})
    records[3 + bad] = ended
    found = table(records)
    row = found.row("A")
    assert row
    rest = [(2.0, 1.0), (3.0, 1.0), (4.0, 4.0)]
    del rest[bad]
    spread = row.spread("steady")
    assert spread
    assert (row.status, spread.count, spread.median) == ("ok", 2, sum(steady for steady, _ in rest) / 2)
    ratio = row.ratio(found.row("streamrt"), "steady")
    assert (ratio.least, ratio.most) == (min(a / b for a, b in rest), max(a / b for a, b in rest))
    assert f"A: without round {bad + 1}, slow after 60 s: given up after 60 s." in markdown._case(found)
    assert cells(markdown.overview({"mlp-capped": [found]}))[2][-1] == "-"


def test_openings_and_first_passes_have_a_table_of_wins_and_losses() -> None:
    """Each time has its own fastest peer."""
    records = [
        *[timing("streamrt", index, 1.0, first) for index, first in enumerate((3.0, 4.0, 8.0))],
        *[timing("A", index, 2.0, 2.0) for index in range(3)],
        *[timing("B", index, 0.5, 9.0) for index in range(3)],
        timing("C", 0, 0.1, 0.1, case=dataclasses.replace(CASE, batch=8, measures=("steady",))),
        timing("D", 0, 0.1, 0.1, threads=1),
    ]
    (row,) = cells(markdown.openings({"mlp-capped": summary.tables(records)}))[2:]
    title = SCENARIOS["mlp-capped"].title
    assert row == [
        f"{title}: {CASE.label}",
        "first pass",
        "4 s (3 s - 8 s)",
        "2 s (2 s - 2 s) (A)",
        "2.00 (1.50 - 4.00)",
    ]
    assert markdown.openings({"mlp-capped": summary.tables(timings(streamrt=[1.0]))}) == ""


def test_the_fastest_is_first_and_contenders_without_a_time_are_last() -> None:
    killed = line("timing", "A", "killed", round=0)
    found = table([killed, *timings(B=[3.0, 3.0, 0.1], streamrt=[2.0, 2.0, 9.0], C=[1.0, 8.0, 1.0])])
    assert [row.peer for row in found.rows] == ["C", "streamrt", "B", "A"]
    assert [row[0] for row in cells(markdown._case(found))[2:]] == ["C", "streamrt", "B", "A"]


def test_streamrt_in_another_way_is_no_peer() -> None:
    records = [timing(peer, 0, steady) for peer, steady in (("streamrt numpy", 0.5), ("streamrt", 1.0), ("A", 2.0))]
    best = table(records).best_peer()
    assert best
    assert best.peer == "A"


def test_each_case_and_number_of_threads_has_its_own_table() -> None:
    other = dataclasses.replace(CASE, batch=8)
    records = [timing("A", 0, 1.0), timing("A", 0, 2.0, case=other), timing("A", 0, 3.0, threads=1)]
    found = [(t.case["batch"], t.threads, t.row("A").spread("steady").median) for t in summary.tables(records)]
    assert found == [(1, 2, 1.0), (8, 2, 2.0), (1, 1, 3.0)]


def test_memory_is_from_processes_that_were_not_timed() -> None:
    memory = {"anonymous": 10 * MIB, "file_pages": 20 * MIB, "both": 25 * MIB, "cgroup_peak": None}
    records = [*timings(streamrt=[1.0], A=[2.0]), line("memory", "streamrt", values=memory)]
    records.append(line("memory", "A", "killed", values=memory))
    header, _, *rows = cells(markdown._case(table(records)))
    assert header[-3:] == ["anonymous, MiB", "file pages, MiB", "both at once, MiB"]
    assert [row[-3:] for row in rows] == [["10", "20", "25"], ["-", "-", "-"]]


def resident(steady: float, layers: list[list[Any]]) -> Record:
    values = {"steady": {"least": steady, "median": 9.0}, "facts": {"layers": layers}}
    return line("limit", "compute", round=0, values=values)


def test_t_star_takes_the_best_speed_of_disk_and_computing() -> None:
    facts = {"budget": 350e6, "least_workspace": 50e6, "least_window": 100e6}
    records = [
        timing("streamrt", 0, 1.6, facts=facts),
        line("limit", "disk, pread", round=0, values={"value": 0.5e9}),
        line("limit", "disk, mapped", round=0, values={"value": 1e9}),
        line("limit", "DRAM", round=0, values={"value": 99e9}),
        resident(0.9, [["a", 500e6, 8.0], ["b", 500e6, 8.0]]),
        resident(0.6, [["a", 500e6, 8.0], ["b", 500e6, 8.0]]),
    ]
    found = table(records)
    assert found.budget == 350e6
    assert found.limits["steady"] == pytest.approx(0.8)  # 1 GB at 1 GB/s, less the 200 MB that can stay
    assert found.limits["first"] == pytest.approx(1.0)
    header, _, us, *limits = cells(markdown._case(found))
    assert us[header.index("÷ T*")] == "2.00"
    assert [row[0] for row in limits] == ["T*, steady pass", "T*, first pass"]
    # With a fast disk the layers are the limit, in the fastest pass that had all weights in memory.
    records.append(line("limit", "disk, O_DIRECT", round=1, values={"value": 9e9}))
    assert table(records).limits["steady"] == pytest.approx(0.6)
    # If a pass of streamrt reads faster than every limit, its speed is the disk's.
    fast = timing("streamrt", 1, 0.1, facts=facts | {"bytes_read": 0.2e9})
    assert table([*records[:2], fast, *records[4:6]]).limits["steady"] == pytest.approx(0.6)
    # Without the time of computing, or the speed of the disk, there is no T*.
    assert table([record for record in records if record["peer"] != "compute"]).limits == {}
    records[0]["values"]["steady"] = None
    assert table([record for record in records if not record["peer"].startswith("disk")]).limits == {}


def test_t_star_of_the_moment_takes_the_disks_speed_around_the_pass() -> None:
    facts = {"budget": 350e6, "least_workspace": 50e6, "least_window": 100e6}
    records = [
        timing("streamrt", 0, 1.6, facts=facts, moments=[[0.8, 1.0e9], [2.0, 0.5e9]]),
        timing("streamrt", 1, 1.6, facts=facts, moments=[[2.4, 0.5e9]]),
        timing("A", 0, 1.6),
        line("limit", "disk, mapped", round=0, values={"value": 2e9}),
        resident(0.6, [["a", 500e6, 8.0], ["b", 500e6, 8.0]]),
    ]
    found = table(records)
    assert found.limits["steady"] == pytest.approx(0.6)
    assert found.then
    assert (found.then.least, found.then.median, found.then.most) == pytest.approx((1.0, 1.25, 1.5))
    assert "streamrt's steady pass ÷ T* of the moment: 1.25 (1.00 - 1.50)." in markdown._case(found)
    assert cells(markdown.overview({"mlp-capped": [found]}))[2][4:] == ["2.67", "1.25", "-"]
    del records[0]["values"]["moments"], records[1]["values"]["moments"]
    assert table(records).then is None
    header, _, us = cells(markdown.overview({"mlp-capped": [table(records)]}))
    assert "/ T* of the moment" not in header
    assert us[4:] == ["2.67", "-"]


def test_each_way_of_streamrt_has_its_own_t_star() -> None:
    """From the bytes and the computing of its own weights. A way without a budget reads nothing, and has none."""
    facts = {"budget": 350e6, "least_workspace": 50e6, "least_window": 100e6}
    small = {"budget": 100e6, "least_workspace": 50e6, "least_window": 10e6}
    records = [
        timing("streamrt", 0, 1.6, facts=facts, moments=[[1.6, 1.0e9]]),
        timing("streamrt int8", 0, 0.5, facts=small, moments=[[0.5, 1.0e9]]),
        timing("streamrt int4", 0, 0.5, facts={"budget": None}),
        timing("A", 0, 1.6),
        line("limit", "disk, mapped", round=0, values={"value": 1e9}),
        resident(0.6, [["a", 500e6, 8.0], ["b", 500e6, 8.0]]),
        resident(0.1, [["a", 125e6, 8.0], ["b", 125e6, 8.0]]) | {"peer": "compute, streamrt int8"},
        resident(0.1, [["a", 62e6, 8.0], ["b", 62e6, 8.0]]) | {"peer": "compute, streamrt int4"},
    ]
    found = table(records)
    limits = {row.peer: row.limits.get("steady") for row in found.rows}
    assert limits == {
        "streamrt": pytest.approx(0.8), "streamrt int8": pytest.approx(0.21), "streamrt int4": None, "A": None,
    }  # fmt: skip
    text = markdown._case(found)
    shown = {row[0]: row for row in cells(text)}
    column = shown["contender"].index("÷ T*")
    assert [shown[peer][column] for peer in ("streamrt", "streamrt int8", "A")] == ["2.00", "2.38", "2.00"]
    assert shown["T* of streamrt int8, steady pass"][1] == "210 ms"
    assert "streamrt's steady pass ÷ T* of the moment: 2.00." in text
    assert "streamrt int8's steady pass ÷ T* of the moment: 2.38." in text
    assert [key[0] for key in summary.resident(records)] == ["streamrt", "streamrt int8", "streamrt int4"]


def test_the_overview() -> None:
    large = dataclasses.replace(CASE, batch=64)
    records = [
        *timings(slower=[0.5, 0.5], streamrt=[0.1, 0.5], faster=[0.2, 0.2]),
        line("timing", "C", "killed", round=0),
        timing("streamrt", 0, 1.0, case=large),
        timing("streamrt", 0, 1.0, threads=1),
    ]
    _, _, *rows = cells(markdown.overview({"mlp-capped": summary.tables(records)}))
    assert rows == [
        [
            "A model larger than memory: " + CASE.label,
            "300 ms",
            "200 ms (faster)",
            "1.50 (0.50 - 2.50)",
            "-",
            "C killed",
        ],
        ["A model larger than memory: " + large.label, "1 s", "-", "-", "-", "-"],
    ]


def test_the_overview_without_streamrt_or_without_peers() -> None:
    lonely = cells(markdown.overview({"mlp-capped": summary.tables(timings(streamrt=[1.0]))}))[2]
    assert lonely[1:] == ["1 s", "-", "-", "-", "-"]
    killed = [line("timing", "streamrt", "killed", round=0), *timings(A=[1.0])]
    assert cells(markdown.overview({"mlp-capped": summary.tables(killed)}))[2][1:] == [
        "killed", "1 s (A)", "-", "-", "streamrt killed",
    ]  # fmt: skip


def test_weights_in_fewer_bytes_are_compared_in_one_table(tmp_path: Path) -> None:
    """With their errors. The table of all cases leaves them out, because its streamrt has float32."""
    other, alone = dataclasses.replace(CASE, batch=8), dataclasses.replace(CASE, batch=8, cap=None, alone=True)
    check = {"case": None, "model": "mlp-2x8", "tolerance": 0.2}
    records = [
        line("check", "streamrt", batch=1, error=1e-6, arithmetic="float32", **check),
        line("check", "streamrt int8", batch=1, error=0.01, arithmetic="float32", **check),
        line("check", "A int8", batch=1, error=0.02, arithmetic="int8", **check),
        line("check", "A int8", batch=8, error=0.03, arithmetic="int8", **check),
        line("check", "B int8", "wrong", batch=8, error=0.5, arithmetic="float32", **check),
        line("check", "C int8", batch=1, error=0.1, arithmetic="float32", **check),  # not timed in any case
        *[timing("streamrt", index, steady) for index, steady in enumerate((2.0, 4.0))],
        *[timing("streamrt int8", index, steady) for index, steady in enumerate((1.0, 1.0))],
        timing("A int8", 0, 3.0),
        timing("A int8", 0, 3.0, case=other),
        timing("streamrt", 0, 2.0, case=alone),  # not for B, whose answer is wrong at this batch
        line("memory", "A int8", values={"resident": 10 * MIB, "cgroup_peak": None}),
        line("memory", "A int8", case=other, values={"resident": 30 * MIB, "cgroup_peak": 7 * MIB}),
    ]
    write(tmp_path / "small-weights.jsonl", records)
    report.write(tmp_path, None)
    text = (tmp_path / "README.md").read_text()
    assert cells(text.partition("## All cases")[2].partition("##")[0])[2:] == []
    section = text.partition("`small-weights`")[2]
    compared, first, second, third = (cells(part) for part in section.split("\n### "))
    assert compared[0][-3:] == [CASE.label, other.label, alone.label]
    assert compared[2:] == [
        ["streamrt", "float32", "1.0e-06", "-", "-", "1.00", "", "1.00"],
        ["streamrt int8", "float32", "1.0e-02", "-", "-", "0.33", "", ""],
        ["A int8", "int8", "3.0e-02", "30", "7", "1.00", "-", ""],  # streamrt has no time in the other case
        ["B int8", "float32", "5.0e-01", "-", "-", "", "wrong", ""],
    ]
    assert first[0][-2:] == ["error", "computes in"]
    assert [row[:1] + row[-2:] for row in first[2:]] == [
        ["streamrt int8", "1.0e-02", "float32"], ["streamrt", "1.0e-06", "float32"], ["A int8", "2.0e-02", "int8"],
    ]  # fmt: skip
    assert [row[0] for row in third[2:]] == ["streamrt"]
    assert second[-1][:2] + second[-1][-2:] == ["B int8", "wrong", "5.0e-01", "float32"]


def test_headlines_are_at_most_eight_cases_that_exist() -> None:
    assert sum(len(scenario.headlines) for scenario in SCENARIOS.values()) <= 8
    for scenario in SCENARIOS.values():
        assert set(scenario.headlines) <= {case.label for case in scenario.cases}
        assert not scenario.headlines or scenario.peers is None  # every row has a peer to lose to


def test_headlines_have_the_spread_the_commit_and_the_machine() -> None:
    (label,) = SCENARIOS["mlp-capped"].headlines
    shown = next(case for case in SCENARIOS["mlp-capped"].cases if case.label == label)
    records = [
        timing("streamrt", 0, 1.0, case=shown),
        timing("streamrt", 1, 2.0, case=shown),
        timing("A", 0, 2.0, case=shown),
        timing("A", 1, 2.0, case=shown),
        timing("B", 0, 1.25, case=shown),
        timing("B", 1, 1.25, case=shown),
        timing("streamrt", 0, 9.0, case=shown, threads=1),
        *timings(streamrt=[1.0]),  # no headline
    ]
    text = markdown.headlines(headline.of_scenarios({"mlp-capped": records}, {"mlp-capped": summary.tables(records)}))
    assert "lower is better" in text
    assert "`0123456` of 2026-01-02: A Processor, 2 cores" in " ".join(text.split())
    assert cells(text)[2:] == [
        [
            f"A model larger than memory: {label}",
            "1.5 s (500 ms - 4 s)",
            "B: 1.25 s (625 ms - 2.5 s)",
            "1.20 (0.80 - 1.60)",
            "`0123456`",
        ]
    ]


@pytest.mark.parametrize("status", ["killed", "wrong"])
def test_headlines_show_how_streamrt_failed(status: str) -> None:
    (label,) = SCENARIOS["mlp-callers"].headlines
    shown = next(case for case in SCENARIOS["mlp-callers"].cases if case.label == label)
    records = [line("timing", "streamrt", status, case=shown, round=0), timing("A", 0, 1.0, case=shown)]
    rows = headline.of_scenarios({"mlp-callers": records}, {"mlp-callers": summary.tables(records)})
    (row,) = cells(markdown.headlines(rows))[2:]
    assert row[1:4] == [status, "A: 1 s", "-"]


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (123.4, "123 s"),
        (99.96, "100 s"),
        (1.234, "1.23 s"),
        (0.9996, "1 s"),
        (0.9994, "999 ms"),
        (0.01234, "12.3 ms"),
        (0.0009996, "1 ms"),
        (0.0009994, "999 us"),
        (1.234e-5, "12.3 us"),
    ],
)
def test_seconds(value: float, text: str) -> None:
    assert markdown.seconds(value) == text


BEGIN, END = "<!-- benchmarks: begin -->", "<!-- benchmarks: end -->"


def test_a_readme_changes_between_the_marks_only(tmp_path: Path) -> None:
    readme = tmp_path / "README.md"
    before, after = "# A title\n\nÄ | b\n", "\n\nThe rest.\n"
    readme.write_text(f"{before}{BEGIN}\nold\n{END}{after}")
    for table in ("| new |", "| newer |"):
        markdown.replace_table(readme, table)
        assert readme.read_text() == f"{before}{BEGIN}\n{table}\n{END}{after}"


@pytest.mark.parametrize("text", ["", f"{BEGIN}\n", f"{END}\n", f"{END}\n{BEGIN}\n"])
def test_a_readme_without_marks_is_refused(tmp_path: Path, text: str) -> None:
    readme = tmp_path / "README.md"
    readme.write_text(text)
    with pytest.raises(ValueError, match=r"README\.md has no lines"):
        markdown.replace_table(readme, "| new |")
    assert readme.read_text() == text


def write(path: Path, records: list[Record]) -> None:
    path.write_text("".join(json.dumps(record) + "\n" for record in records))


def test_the_report_and_its_pictures(tmp_path: Path) -> None:
    pytest.importorskip("matplotlib")
    opening = Case("open", ("seconds",), "mlp-2x8")
    opened = {"seconds": 0.5, "importing": 0.25, "anonymous": MIB, "mapped": 2 * MIB}
    capped = [
        line("skip", "E", "skipped", case=None, reason="not installed: e"),
        line("limit", "disk, pread", round=0, values={"value": 1.5e9}),
        line("timing", "D", "killed", round=0),
        *timings(streamrt=[1.0, 1.25], A=[2.0, 2.0]),
    ]
    write(tmp_path / "mlp-capped.jsonl", capped)
    with (tmp_path / "mlp-capped.jsonl").open("a") as file:
        file.write('{"kind": "timing", "peer": "cut sho')
    importing = Case("import", ("seconds",))
    write(
        tmp_path / "import.jsonl",
        [line("timing", "streamrt", round=0, case=of, values=opened) for of in (opening, importing)],
    )
    write(tmp_path / "cnn-capped.jsonl", [line("timing", "A", "skipped", round=0, reason="no cgroup")])
    readme = tmp_path / "other.md"
    readme.write_text(f"{BEGIN}\n{END}\n")

    written = report.write(tmp_path, readme)
    pictures = {tmp_path / "mlp-capped.png", tmp_path / "import.png"}  # a scenario without times has no picture
    assert set(written) == pictures | {tmp_path / "README.md", readme}
    for picture in pictures:
        assert picture.read_bytes().startswith(b"\x89PNG\r\n")
    text = (tmp_path / "README.md").read_text()
    for told in (
        "A Processor, 2 cores, 24 GiB, Linux 6.1, ext4, Python 3.11.7.",
        "numpy 2.4.6, streamrt 0.1.0.",
        "Commit `0123456789ab`, 2026-01-02.",
        "(mlp-capped.png)",
        "(import.png)",
        "Not measured: E: not installed: e.",
        "| disk, pread | mlp-2x8's file | 2 | 1.50 (1.50 - 1.50) GB/s |",
        "| streamrt | 1.12 s (500 ms - 2.5 s) | 1.00 (1.00 - 1.00) |",
        "| A | 2 s (1 s - 4 s) | 1.78 (1.60 - 2.00) |",
        "| D | killed |",
        "A: no cgroup.",
    ):
        assert told in text
    assert "cnn-capped.png" not in text
    assert text.count("A Processor") == 1
    assert "cut sho" not in text
    assert [row[0] for row in cells(text.partition("## All cases")[2].partition("##")[0])[2:]] == [
        f"A model larger than memory: {CASE.label}",
        f"Image networks larger than memory: {CASE.label}",
        "Importing and opening: open mlp-2x8",
        "Importing and opening: import",
    ]
    assert [row[0] for row in cells(readme.read_text())[2:]] == ["Importing and opening: import"]


def test_headlines_come_from_their_own_run_if_there_is_one(tmp_path: Path) -> None:
    readme = tmp_path / "other.md"
    readme.write_text(f"{BEGIN}\n{END}\n")
    (tmp_path / "headlines").mkdir()
    runs = [("mlp-warm", "1111111", ""), ("mlp-callers", "2222222", ""), ("mlp-warm", "3333333", "headlines")]
    for name, commit, folder in runs:
        label = SCENARIOS[name].headlines[0]
        shown = next(case for case in SCENARIOS[name].cases if case.label == label)
        write(tmp_path / folder / f"{name}.jsonl", [timing("streamrt", 0, 1.0, case=shown) | {"commit": commit}])
    report.write(tmp_path, readme)
    assert [row[-1] for row in cells(readme.read_text())[2:]] == ["`2222222`", "`3333333`"]
    assert "3333333" not in (tmp_path / "README.md").read_text()


def test_the_report_draws_the_chart_beside_the_readme(tmp_path: Path) -> None:
    pytest.importorskip("matplotlib")
    (tmp_path / "docs").mkdir()
    readme = tmp_path / "README.md"
    readme.write_text(f"{BEGIN}\n{END}\n")
    results = tmp_path / "results"
    results.mkdir()
    write(results / "cnn-large.jsonl", large("regnety_1280", "streamrt", 2.0, 1000))
    written = report.write(results, readme)
    assert tmp_path / "docs" / report.CHART in written
    assert (tmp_path / "docs" / report.CHART).read_text().startswith("<?xml")
    assert "(cnn-large.png)" in (results / "README.md").read_text()
    write(results / "cnn-large.jsonl", [line("timing", "A", "skipped", round=0, reason="no cgroup")])
    assert tmp_path / "docs" / report.CHART not in report.write(results, readme)  # nothing to draw


def test_scenarios_of_several_machines_each_name_theirs(tmp_path: Path) -> None:
    other = SHARED["machine"] | {"processor": "Another Processor"}
    write(tmp_path / "mlp-capped.jsonl", timings(streamrt=[1.0]))
    write(tmp_path / "mlp-cold-start.jsonl", [record | {"machine": other} for record in timings(streamrt=[1.0])])
    report.write(tmp_path, None)
    preface, _, *sections = (tmp_path / "README.md").read_text().split("\n## ")
    assert "A Processor, 2 cores" in preface
    assert "Another Processor, 2 cores" in preface
    assert ["Another Processor, 2 cores" in section for section in sections] == [False, True]
    assert [section.count(" Processor, 2 cores") for section in sections] == [1, 1]


def test_scenarios_of_several_commits_each_name_theirs(tmp_path: Path) -> None:
    """Beside their machine, even if it is the same. So do sections that are made elsewhere: of pools and servers."""
    write(tmp_path / "mlp-capped.jsonl", timings(streamrt=[1.0]))
    write(
        tmp_path / "mlp-cold-start.jsonl", [record | {"commit": "fedcba987654"} for record in timings(streamrt=[1.0])]
    )
    report.write(tmp_path, None)
    preface, _, *sections = (tmp_path / "README.md").read_text().split("\n## ")
    assert "A Processor, 2 cores" in preface
    assert "Commit" not in preface
    machine = markdown.machines([SHARED])[0]
    for section, commit in zip(sections, ("0123456789ab", "fedcba987654"), strict=True):
        assert f"\n\n{machine} Commit `{commit}`, 2026-01-02.\n\n" in section
    other = [record | {"commit": "fedcba987654"} for record in timings(streamrt=[1.0])]
    assert report._section("## Servers\n\nText.", other, True) == (
        f"\n## Servers\n\n{machine} Commit `fedcba987654`, 2026-01-02.\n\nText.\n"
    )
    assert report._section("## Servers\n\nText.", other, False) == "\n## Servers\n\nText.\n"


def test_nothing_measured(tmp_path: Path) -> None:
    (tmp_path / "mlp-capped.jsonl").touch()
    with pytest.raises(FileNotFoundError, match="no measurements"):
        report.write(tmp_path, None)
