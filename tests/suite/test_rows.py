"""The README's rows: their results, commits and machines, and whether the code has changed since."""

from __future__ import annotations

import hashlib
import json
import re
from pathlib import Path
from typing import get_args

import pytest

from bench import machine, report
from bench.machine import Kind
from bench.record import Record
from bench.report import age
from bench.report.headline import Headline
from bench.scenarios import SCENARIOS
from markers import needs

needs("scipy")  # computes T*

pytestmark = pytest.mark.extras

KINDS: tuple[Kind, ...] = get_args(Kind)
BEGIN, END = "<!-- benchmarks: begin -->\n", "\n<!-- benchmarks: end -->"


@pytest.fixture
def results(checkout: Path) -> Path:
    return checkout / "bench" / "results"


def test_the_readme_has_the_rows_of_the_results(checkout: Path, results: Path) -> None:
    """If this fails: ``python -m bench report --readme README.md``."""
    text = (checkout / "README.md").read_text().partition(BEGIN)[2].partition(END)[0]
    assert text == report.rows(results)


def test_rows_of_older_code_are_kept_knowingly(results: Path) -> None:
    """If this fails, measure again, or say in `age.KEPT` why rows are kept.

    ``python -m bench run --headlines`` measures the rows, ``python -m bench run cnn-large`` the chart.
    """
    shown = [*report.headlines(results), *report.charted(results)]
    assert age.problems(shown, age.kept(results), machine.code_digest) == []


def test_the_readme_says_the_commit_of_its_chart(checkout: Path, results: Path) -> None:
    above = (checkout / "README.md").read_text().partition(BEGIN)[0]
    (record,) = (row.record for row in report.charted(results))
    assert f"`{record['commit'][:7]}`" in above
    assert record["checkout_installed"], "another build was measured"


def test_the_chart_has_a_row_for_each_state_of_the_code(tmp_path: Path) -> None:
    assert report.charted(tmp_path) == []
    lines = [
        {"kind": "timing", "commit": commit, "code": code} for commit, code in (("1", "a"), ("2", "a"), ("3", "b"))
    ]
    (tmp_path / f"{report.CHARTED}.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    found = report.charted(tmp_path)
    assert [(row.record["commit"], row.kind) for row in found] == [("2", "models"), ("3", "models")]
    assert len(age.problems(found, {}, lambda kind: "b")) == 1


def test_each_row_says_its_commit_date_and_machine(results: Path) -> None:
    text = " ".join(report.rows(results).split())
    rows = report.headlines(results)
    assert len(rows) >= sum(len(scenario.headlines) for scenario in SCENARIOS.values())
    kept = age.kept(results)
    for record in (row.record for row in rows):
        commit = record["commit"][:7]
        assert f"| `{commit}` |" in text
        older = ", older than the code" if commit in kept else ""
        processor = re.escape(record["machine"]["processor"])
        assert re.search(rf"`{commit}` of {record['at'][:10]}{older}(, `[^:]*)?: {processor}", text)


def row(label: str, commit: str, code: str | None, kind: Kind = "models") -> Headline:
    record: Record = {"commit": commit} | ({"code": code} if code else {})
    return Headline(label, None, "ok", "", None, None, record, kind)


def now(kind: Kind) -> str:
    return f"{kind} now"


def test_an_older_row_is_a_problem_unless_its_commit_is_kept() -> None:
    silent = row("silent", "3333333cccc", None)  # as before digests were recorded
    rows = [row("new", "1111111aaaa", "models now"), row("old", "2222222bbbb", "then"), silent]
    assert age.problems(rows, {}, now) == [
        "old: the code has changed since 2222222",
        "silent: the code has changed since 3333333",
    ]
    assert age.problems(rows, {"2222222": "why", "3333333": "why"}, now) == []
    assert age.problems(rows, {"2222222": "why", "3333333": "why", "1111111": "why"}, now) == [
        "1111111 is kept, and no row of it is older than the code"
    ]


def test_a_row_is_compared_with_the_code_of_its_kind() -> None:
    rows = [row(kind, f"111111{index}", "pool now", kind) for index, kind in enumerate(KINDS)]
    assert age.problems(rows, {}, now) == [
        "models: the code has changed since 1111110",
        "server: the code has changed since 1111112",
    ]


def test_rows_know_what_was_measured(results: Path) -> None:
    of_pools = [row.kind for row in report.headlines(results) if row.label.startswith("Many models")]
    of_servers = [row.kind for row in report.headlines(results) if row.label.startswith("A server")]
    assert (of_pools, of_servers) == (["pool"], ["server"])
    assert {row.kind for row in report.headlines(results)} == set(KINDS)


def test_a_kept_commit_has_a_reason(tmp_path: Path) -> None:
    assert age.kept(tmp_path) == {}
    (tmp_path / age.KEPT).write_text("1111111\tnobody has measured it again\n")
    assert age.kept(tmp_path) == {"1111111": "nobody has measured it again"}
    for text in ("1111111\n", "1111111\t\n", "\twhy\n"):
        (tmp_path / age.KEPT).write_text(text)
        with pytest.raises(ValueError, match="a line has a commit, a tab and a reason"):
            age.kept(tmp_path)


#: A file that a digest may cover, and whether it does for models, a pool and a server.
COVERED = {
    "src/io/a.c": (True, True, True),
    "src/b.txt": (False, False, False),
    "streamrt/engine/c.py": (True, True, True),
    "streamrt/format/d.py": (True, True, True),
    "streamrt/host/e.py": (True, True, True),
    "streamrt/pool/f.py": (False, True, True),
    "streamrt/serve/rpc/g.py": (False, False, True),
    "streamrt/cli/h.py": (False, False, False),
}


@pytest.fixture
def code(tmp_path: Path) -> Path:
    """A checkout with these files."""
    for name in COVERED:
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text("1")
    return tmp_path


@pytest.mark.parametrize("name", COVERED)
def test_a_digest_is_of_the_code_that_decides_a_time(code: Path, name: str) -> None:
    before = [machine.code_digest(kind, code) for kind in KINDS]
    (code / name).write_text("2")
    after = [machine.code_digest(kind, code) for kind in KINDS]
    assert tuple(old != new for old, new in zip(before, after, strict=True)) == COVERED[name]
    (code / name).write_text("1")
    (code / name).rename((code / name).with_stem("renamed"))
    renamed = [machine.code_digest(kind, code) for kind in KINDS]
    assert tuple(old != new for old, new in zip(before, renamed, strict=True)) == COVERED[name]


def test_kinds_have_different_digests(tmp_path: Path) -> None:
    """Of the same files, too: a line of one kind is never taken for one of another."""
    assert len({machine.code_digest(kind, tmp_path) for kind in KINDS}) == len(KINDS)


def test_a_digest_of_fewer_folders_is_older(code: Path) -> None:
    """As it is in lines from before kinds were told apart, although none of this code has changed since."""
    digest = hashlib.sha256()
    for folder in ("src", "streamrt/engine", "streamrt/ops", "streamrt/plan", "streamrt/program"):
        for path in sorted((code / folder).rglob("*")):
            if path.suffix in {".c", ".py"}:
                digest.update(str(path.relative_to(code)).encode() + b"\0" + path.read_bytes() + b"\0")
    rows = [row(kind, "1111111aaaa", digest.hexdigest(), kind) for kind in KINDS]
    assert len(age.problems(rows, {}, lambda kind: machine.code_digest(kind, code))) == len(KINDS)
