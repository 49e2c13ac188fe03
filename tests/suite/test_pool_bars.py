"""The bars of pools and their tables, from lines that are written by hand."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from bench import report
from bench.pool import table
from bench.pool.bars import OVER_EARLIER, TRACE_BARS, Bar, bars
from bench.pool.contenders import DEFAULT, EARLIER, WHOLE, floor_of
from bench.pool.figures import figures
from bench.pool.traces import TRACES
from bench.record import Record, Recorder
from bench.report.summary import Spread

MIB = 1 << 20
SET: Record = {
    "kind": "set", "set": "small", "models": 200, "least": MIB, "most": 8 * MIB, "requests": 5000, "budget": 100 * MIB,
}  # fmt: skip
BESIDE = {"registering": 0.1, "charged": None, "imported": MIB, "registered": MIB, "requested": MIB}
MACHINE: dict[str, Any] = {
    "processor": "A Processor", "cores": 2, "memory": 24 << 30, "kernel": "6.1", "filesystem": "ext4", "swap": 0,
    "virtual": True, "python": "3.11.7",
}  # fmt: skip


def simulated(trace: str, ours: int, lru: int, weights: str = "float32") -> Record:
    return {
        "kind": "simulated", "set": "small", "trace": trace, "weights": weights, "loaded": {DEFAULT: ours, WHOLE: lru},
    }  # fmt: skip


def timing(
    peer: str, index: int, seconds: float, p50: float = 1e-3, p99: float = 1e-2, trace: str = "cyclic",
    weights: str = "float32", status: str = "ok",
) -> Record:  # fmt: skip
    values = {"seconds": seconds, "p50": p50, "p99": p99} if status == "ok" else {}
    return {
        "kind": "timing", "set": "small", "trace": trace, "weights": weights, "peer": peer, "round": index,
        "status": status, "reason": "why", "values": values,
    }  # fmt: skip


def row(name: str, index: int = 0, status: str = "ok", count: int = 200, **values: Any) -> Record:
    return {
        "kind": "hits", "set": "small", "row": name, "registered": count, "round": index,
        "weights": "float32", "status": status, "reason": "why", "values": values,
    }  # fmt: skip


def found(records: list[Record]) -> dict[str, Bar]:
    (of,) = figures([SET, *records])
    return {bar.name: bar for bar in bars(of)}


def test_every_trace_has_a_bar() -> None:
    assert OVER_EARLIER.keys() == TRACES.keys()


def test_bars_of_a_trace() -> None:
    records = [simulated("cyclic", 80, 100)]
    for index, slow in enumerate((1.0, 10.0, 4.0)):  # the machine's speed changes between rounds
        records += [
            timing(EARLIER, index, 2.0 * slow),
            timing(WHOLE, index, 1.25 * slow, p50=1e-3, p99=1e-2 * slow),
            timing(DEFAULT, index, 1.0 * slow, p50=1.02e-3, p99=0.5e-2 * slow),
            timing(floor_of(DEFAULT), index, 0.5 * slow),
        ]
    by = found(records)
    assert list(by) == list(TRACE_BARS)
    earlier, over, p50, p99, floor = by.values()
    assert (earlier.limit, earlier.measured, earlier.verdict) == (0.85, Spread(0.5, 0.5, 0.5, 3), "met")
    assert over.limit == pytest.approx(0.85)
    assert over.measured
    assert over.measured.median == pytest.approx(0.8)
    assert p50.limit == 30e-6
    assert p50.measured
    assert p50.measured.median == pytest.approx(20e-6)
    assert (p99.limit, p99.verdict) == (1.0, "met")
    assert p99.measured
    assert p99.measured.median == pytest.approx(0.5)
    assert (floor.limit, floor.measured, floor.verdict) == (1.5, Spread(2.0, 2.0, 2.0, 3), "missed")


def test_a_ratio_is_that_of_the_times_in_the_row_and_its_spread_that_of_rounds_that_both_have() -> None:
    records = [simulated("zipf 0.9", 1, 1), timing(DEFAULT, 0, 3.0, trace="zipf 0.9")]
    records += [timing(DEFAULT, 1, 1.0, trace="zipf 0.9"), timing(WHOLE, 1, 2.0, trace="zipf 0.9")]
    records += [timing(WHOLE, 0, 1.0, trace="zipf 0.9", status="killed")]
    by = found(records)
    assert by["time ÷ LRU"].measured == Spread(1.0, 0.5, 0.5, 1)
    assert by["p99 ÷ LRU's"].limit == 0.85
    assert by["time ÷ earlier LRU"].verdict == "not measured"
    assert by["time ÷ earlier LRU"].limit == 0.75


def test_bars_of_hits() -> None:
    memory = {"interpreter": 30 * MIB, "imported": 1, "registered": 1, "requested": 1, "held": 90 * MIB}
    one, four = {"median": 9e-6, "p99": 101e-6}, {"median": 11e-6, "p99": 100e-6}
    by = found(
        [
            row("hit", cost=29e-6, registering=2.0, charged=1, **memory),
            row("hit", cost=31e-6, count=10_000, registering=0.5, charged=200 * MIB, **memory),
            row("lock", **{"1": one, "4": four}),
            row("callers", throughput=0.95, raised=1.1e-3),
            row("callers", 1, throughput=0.8, raised=0.5e-3),
            row("callers", 2, throughput=1.5, raised=0.1e-3),
        ]
    )
    assert {name: bar.verdict for name, bar in by.items()} == {
        "a hit over a call, 200 registered": "met",
        "a hit over a call, 10000 registered": "missed",
        "registering 10000 models": "met",
        "memory beside the budget and an interpreter with NumPy, 10000 registered": "missed",  # 80 MiB
        "the lock is held, median, 200 registered, 1 caller": "met",
        "the lock is held, 99 %, 200 registered, 1 caller": "missed",
        "the lock is held, median, 200 registered, 4 callers": "missed",
        "the lock is held, 99 %, 200 registered, 4 callers": "met",
        "4 callers' hits ÷ calls of a model each": "met",
        "a caller's misses raise others' 99 %": "met",
    }


def test_a_row_that_failed_is_not_measured() -> None:
    by = found([row("hit", status="killed")])
    assert by["a hit over a call, 200 registered"].verdict == "not measured"


def lines() -> list[Record]:
    records = [SET, simulated("cyclic", 80, 100), simulated("cyclic", 80, 100, "int8")]
    for index in range(2):
        records += [timing(WHOLE, index, 1.0), timing(DEFAULT, index, 1.5), timing(floor_of(DEFAULT), index, 1.2)]
        records += [timing(WHOLE, index, 1.0, weights="int8"), timing(DEFAULT, index, 0.75, weights="int8")]
        records += [row("hit", index, cost=20e-6, **BESIDE)]
    skip = {"kind": "skip", "set": "small", "peer": EARLIER, "weights": "int8", "reason": "no int8"}
    return [*records, skip, row("lock", status="killed")]


def test_the_tables_have_times_losses_verdicts_and_reasons() -> None:
    text = table.report(lines())
    assert "200 models of 1 to 8 MiB in float32, under 100 MiB" in text
    assert "| cyclic | 1 s (1 s - 1 s) | 1.5 s (1.5 s - 1.5 s) | **1.50 (1.50 - 1.50)** | 1.25 (1.25 - 1.25) |" in text
    assert "| cyclic | 1.00 (1.00 - 1.00) | 0.50 (0.50 - 0.50) |" in text  # int8 ÷ float32
    assert "1.25 (1.25 - 1.25) ≤ 1.50 met" in text
    assert "1.50 (1.50 - 1.50) ≤ 0.85 **missed**" in text
    assert "| a hit over a call, 200 registered | 20 us (20 us - 20 us) | ≤ 30 us | met |" in text
    assert "| registering 200 models | 100 ms (100 ms - 100 ms) | ≤ 1 s | met |" in text
    memory = "memory beside the budget and an interpreter with NumPy, 200 registered"
    assert f"| {memory} | 3.0 MiB (3.0 MiB - 3.0 MiB) | ≤ 64.0 MiB | met |" in text
    assert "no int8" in text
    assert "lock, 200: killed: why" in text


def test_without_runs_there_is_no_table() -> None:
    with pytest.raises(ValueError, match="no run"):
        table.report([SET, simulated("cyclic", 1, 1)])
    with pytest.raises(ValueError, match="no run"):
        table.report([SET, simulated("cyclic", 1, 1), timing(WHOLE, 0, 1.0, status="killed")])


def test_the_report_has_the_tables_of_pools(tmp_path: Path) -> None:
    shared = {
        "machine": MACHINE, "versions": {"numpy": "2"}, "commit": "0123456789ab", "checkout_installed": True,
        "quick": False,
    }  # fmt: skip
    with Recorder(tmp_path / "pool-small.jsonl", shared) as recorder:
        for record in lines():
            recorder.write(**record)
    assert report.write(tmp_path, None) == [tmp_path / "README.md"]
    text = (tmp_path / "README.md").read_text()
    assert "A Processor, 2 cores" in text
    assert "## Pool, small models" in text
    assert "**missed**" in text
    with Recorder(tmp_path / "pool-small.jsonl", shared) as recorder:
        recorder.write(**SET)
    report.write(tmp_path, None)
    assert "## Pool" not in (tmp_path / "README.md").read_text()
