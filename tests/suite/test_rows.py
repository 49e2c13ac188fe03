"""The README's rows: their results, commits and machines, and whether the code has changed since."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from bench import machine, report
from bench.record import Record
from bench.report import age
from bench.report.headline import Headline
from bench.scenarios import SCENARIOS
from markers import needs

needs("scipy")  # computes T*

pytestmark = pytest.mark.extras

BEGIN, END = "<!-- benchmarks: begin -->\n", "\n<!-- benchmarks: end -->"


@pytest.fixture
def results(checkout: Path) -> Path:
    return checkout / "bench" / "results"


def test_the_readme_has_the_rows_of_the_results(checkout: Path, results: Path) -> None:
    """If this fails: ``python -m bench report --readme README.md``."""
    text = (checkout / "README.md").read_text().partition(BEGIN)[2].partition(END)[0]
    assert text == report.rows(results)


def test_rows_of_older_code_are_kept_knowingly(results: Path) -> None:
    """If this fails: ``python -m bench run --headlines`` measures them again, or `age.KEPT` says why they are kept."""
    assert age.problems(report.headlines(results), age.kept(results), machine.code_digest()) == []


def test_each_row_says_its_commit_date_and_machine(results: Path) -> None:
    text = " ".join(report.rows(results).split())
    rows = report.headlines(results)
    assert len(rows) >= sum(len(scenario.headlines) for scenario in SCENARIOS.values())
    kept = age.kept(results)
    for record in (row.record for row in rows):
        commit = record["commit"][:7]
        assert f"| `{commit}` |" in text
        older = ", older than the code" if commit in kept else ""
        assert re.search(
            rf"`{commit}` of {record['at'][:10]}{older}(, `[^:]*)?: {record['machine']['processor']}", text
        )


def row(label: str, commit: str, code: str | None) -> Headline:
    record: Record = {"commit": commit} | ({"code": code} if code else {})
    return Headline(label, None, "ok", "", None, None, record)


def test_an_older_row_is_a_problem_unless_its_commit_is_kept() -> None:
    silent = row("silent", "3333333cccc", None)  # as before digests were recorded
    rows = [row("new", "1111111aaaa", "now"), row("old", "2222222bbbb", "then"), silent]
    assert age.problems(rows, {}, "now") == [
        "old: the code has changed since 2222222",
        "silent: the code has changed since 3333333",
    ]
    assert age.problems(rows, {"2222222": "why", "3333333": "why"}, "now") == []
    assert age.problems(rows, {"2222222": "why", "3333333": "why", "1111111": "why"}, "now") == [
        "1111111 is kept, and no row of it is older than the code"
    ]


def test_a_kept_commit_has_a_reason(tmp_path: Path) -> None:
    assert age.kept(tmp_path) == {}
    (tmp_path / age.KEPT).write_text("1111111\tnobody has measured it again\n")
    assert age.kept(tmp_path) == {"1111111": "nobody has measured it again"}
    for text in ("1111111\n", "1111111\t\n", "\twhy\n"):
        (tmp_path / age.KEPT).write_text(text)
        with pytest.raises(ValueError, match="a line has a commit, a tab and a reason"):
            age.kept(tmp_path)


def test_the_digest_is_of_the_code_that_a_pass_runs(tmp_path: Path) -> None:
    for name in ("src/io/a.c", "streamrt/engine/b.py", "streamrt/plan/c.py", "streamrt/cli/d.py", "src/e.txt"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text("1")
    first = machine.code_digest(tmp_path)
    for name, counts in {"src/io/a.c": 1, "streamrt/plan/c.py": 1, "streamrt/cli/d.py": 0, "src/e.txt": 0}.items():
        (tmp_path / name).write_text("2")
        assert (machine.code_digest(tmp_path) != first) == counts, name
        (tmp_path / name).write_text("1")
    (tmp_path / "streamrt/engine/b.py").rename(tmp_path / "streamrt/engine/f.py")
    assert machine.code_digest(tmp_path) != first
