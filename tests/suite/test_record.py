"""The file of results: each line is complete by itself, and written as soon as it is known."""

from __future__ import annotations

import json
from pathlib import Path

from bench.record import Recorder, read
from bench.scenarios import Case

SHARED = {"commit": "0123456789ab", "versions": {"numpy": "2"}}


def test_lines_are_in_the_file_at_once(tmp_path: Path) -> None:
    whole = tmp_path / "new" / "made.jsonl"
    with Recorder(whole, SHARED) as recorder:
        path = recorder.partial
        recorder.write("skip", peer="A", reason="not installed")
        (first,) = read([path])
        assert SHARED.items() <= first.items()
        assert (first["kind"], first["peer"], first["reason"]) == ("skip", "A", "not installed")
        case = Case("passes", ("steady",), "mlp-2x8", 8, 64 << 20)
        recorder.write("timing", case=case, values={"error": float("inf")})
        _, second = read([path])
        assert second["label"] == case.label == "mlp-2x8, cap 64 MiB, batch 8"
        assert second["case"] == {
            "kind": "passes", "measures": ["steady"], "model": "mlp-2x8", "batch": 8, "cap": 64 << 20, "budget": None,
            "cold": False, "callers": 1, "verify": False, "alone": False,
        }  # fmt: skip
        assert second["values"] == {"error": float("inf")}
    assert read([whole]) == [first, second]
    assert not path.exists()


def test_a_run_replaces_an_earlier_run_only_when_it_is_complete(tmp_path: Path) -> None:
    path = tmp_path / "made.jsonl"
    for peer in "AB":
        with Recorder(path, SHARED) as recorder:
            recorder.write("skip", peer=peer)
    recorder = Recorder(path, SHARED)
    recorder.write("skip", peer="C")
    recorder.__exit__(KeyboardInterrupt, KeyboardInterrupt(), None)
    assert [line["peer"] for line in read([path])] == ["B"]
    assert [line["peer"] for line in read([recorder.partial])] == ["C"]


def test_a_last_line_that_was_cut_short_is_left_out(tmp_path: Path) -> None:
    whole, cut = tmp_path / "whole.jsonl", tmp_path / "cut.jsonl"
    lines = [json.dumps({"kind": "timing", "round": index}) + "\n" for index in range(3)]
    whole.write_text("".join(lines))
    for length in range(1, len(lines[2]) - 1):
        cut.write_text(lines[0] + lines[1] + lines[2][:length])
        assert [line["round"] for line in read([cut, whole])] == [0, 1, 0, 1, 2]
    cut.write_text("")
    assert read([cut]) == []
