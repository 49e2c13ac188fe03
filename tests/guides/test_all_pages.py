"""No page of the site, and no name of the package, is forgotten."""

from __future__ import annotations

import re
import runpy
import tomllib
from pathlib import Path

import pytest

import streamrt
from guides.pages import ROOT, blocks

#: Pages with commands that no test of this folder runs, each with the reason.
ELSEWHERE = {
    "CONTRIBUTING.md": "its commands are those of .ci/run, .ci/full and .ci/wheels",
    "bench/README.md": "its commands take hours; .ci/run runs each kind with small models",
}
_LANGUAGES = {"sh", "python", "console", "output", "text", "{toctree}", "{eval-rst}"}


@pytest.fixture(scope="module")
def pages() -> list[str]:
    patterns = runpy.run_path(str(ROOT / "docs" / "conf.py"))["include_patterns"]
    found = [str(path.relative_to(ROOT)) for pattern in patterns for path in ROOT.glob(pattern)]
    assert "docs/guides/quick-start.md" in found
    return found


def test_every_page_with_commands_runs(pages: list[str]) -> None:
    files = set(Path(__file__).parent.glob("test_*.py")) - {Path(__file__)}
    tests = "".join(path.read_text() for path in files)
    left_out = {page for page in pages if any(block.runs for block in blocks(page)) and f'"{page}"' not in tests}
    assert left_out == ELSEWHERE.keys()


def test_every_block_says_what_it_is(pages: list[str]) -> None:
    for page in pages:
        assert {block.language for block in blocks(page)} <= _LANGUAGES, page


def test_outputs_follow_the_commands_that_print_them(pages: list[str]) -> None:
    for page in pages:
        found = blocks(page)
        for before, block in zip([None, *found], found, strict=False):
            assert block.language != "output" or (before is not None and before.runs), f"{page}:{block.line}"


def test_extras_that_pages_install_exist(pages: list[str]) -> None:
    extras = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["optional-dependencies"]
    text = "".join((ROOT / page).read_text() for page in pages)
    named = re.findall(r"'(?:\.|streamrt)\[([\w,]+)\]'|extras? `(\w+)`", text)
    found = {extra for both in named for names in both for extra in names.split(",") if extra}
    assert found >= {"onnx", "serve", "completion"}
    assert found <= extras.keys()


def test_the_reference_has_every_public_name() -> None:
    text = (ROOT / "docs" / "api.md").read_text()
    named = set(re.findall(r"^\.\. auto(?:class|function|exception):: (\w+)$", text, re.MULTILINE))
    assert named == set(streamrt.__all__) - {"__version__"}
