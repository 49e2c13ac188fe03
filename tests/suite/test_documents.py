"""The documents: their lines, their links, and the README's code."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest

_ROOT = Path(__file__).parents[2]
DOCUMENTS = sorted(
    str(path.relative_to(_ROOT))
    for pattern in ("*.md", "bench/*.md", "docs/*.md", "docs/*/*.md", "examples/*/*.md", "tests/*/*.md")
    for path in _ROOT.glob(pattern)
)


def anchors(text: str) -> set[str]:
    """The anchors that GitHub gives to the headings of a document."""
    headings = re.findall(r"^#+ (.*)$", text, re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


@pytest.mark.parametrize("name", DOCUMENTS)
def test_lines_have_at_most_120_columns(checkout: Path, name: str) -> None:
    text = (checkout / name).read_text()
    text = re.sub(r"<!-- benchmarks: begin -->.*<!-- benchmarks: end -->", "", text, flags=re.DOTALL)
    assert [line for line in text.splitlines() if len(line) > 120] == []


@pytest.mark.parametrize("name", DOCUMENTS)
def test_links_lead_somewhere(checkout: Path, name: str) -> None:
    path = checkout / name
    for target in re.findall(r"\]\(([^)\s]+)\)", path.read_text()):
        if target.startswith("https://"):
            continue
        file, _, anchor = target.partition("#")
        found = path.parent / file if file else path
        assert found.exists(), target
        assert not anchor or anchor in anchors(found.read_text()), target


def test_sizes_of_documents(checkout: Path) -> None:
    """A newcomer reads all of the README, and a contributor all of the design."""
    assert len((checkout / "README.md").read_text().splitlines()) <= 150
    assert len((checkout / "docs/design.md").read_text().splitlines()) <= 300


def test_the_readme_has_its_two_commands(checkout: Path) -> None:
    commands = re.findall(r"^python3 -m venv .*$", (checkout / "README.md").read_text(), re.MULTILINE)
    assert [command.rpartition("/")[2] for command in commands] == ["streamrt demo", "pytest"]


def test_the_code_of_the_readme_runs(checkout: Path, tmp_path: Path) -> None:
    """With smaller layers and a smaller budget, and output of the form that the README shows."""
    found = re.search(r"```python\n(.*?)```\n\n```text\n(.*?)```", (checkout / "README.md").read_text(), re.DOTALL)
    assert found
    code, shown = found.groups()
    small = code.replace("4096", "256").replace("32MiB", "1MiB")
    assert small.count("256") == 3
    assert "1MiB" in small
    command = [sys.executable, "-P", "-c", small]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    form = r"\(1, \d+\): \d+\.\d\d s, at most \d+ MiB of weights at once\n"
    assert re.fullmatch(form, shown)
    assert re.fullmatch(form, done.stdout)
