"""What makes the test of a page fail."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from guides import pages, running

Run = Callable[..., None]


@pytest.fixture
def run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Run:
    """``run(text, without=...)`` runs a page with this text."""
    root, folder = tmp_path / "root", tmp_path / "folder"
    (root / "docs" / "guides").mkdir(parents=True)
    folder.mkdir()
    monkeypatch.setattr(pages, "ROOT", root)

    def run(text: str, **options: Any) -> None:
        (root / "docs" / "guides" / "page.md").write_text(text)
        running.run("docs/guides/page.md", folder, **options)

    return run


def test_blocks_run_in_one_shell(run: Run) -> None:
    run(
        "```sh\nx=1\nsleep 0.01 &\n```\n\n```python\nprint('between')\n```\n\n```output\nbetween\n```\n\n"
        "```sh\nwait %1\necho $x\n```\n\n```output\n1\n```\n\n```text\nexit 1\n```\n\n"
        "```console\n$ true\nexit 1\n```\n"
    )


def test_a_command_that_fails(run: Run) -> None:
    with pytest.raises(AssertionError, match="no such command"):
        run("```sh\necho no such command >&2; false\n```\n")


def test_a_snippet_that_fails(run: Run) -> None:
    with pytest.raises(AssertionError, match="ZeroDivisionError"):
        run("```python\n1 / 0\n```\n")


def test_a_record_whose_command_fails(run: Run) -> None:
    with pytest.raises(AssertionError):
        run("```console\n$ false\nanything\n```\n")


def test_another_output(run: Run) -> None:
    with pytest.raises(AssertionError, match=r"page\.md:1 printed"):
        run("```sh\necho a\n```\n\n```output\nb\n```\n")


def test_a_process_that_is_left_behind(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    """It is killed, though it has left the session of the shell."""
    monkeypatch.setattr(running, "PATIENCE", 0.5)
    began = time.monotonic()
    with pytest.raises(AssertionError, match="sleep 100"):
        run("```sh\nsetsid sleep 100 &\n```\n")
    assert time.monotonic() - began < 50


def test_blocks_that_are_left_out(run: Run) -> None:
    page = "```sh\nfalse 1\n```\n\n```output\nnothing\n```\n\n```sh\ntrue\n```\n"
    run(page, without={"false": "it fails"})


@pytest.mark.parametrize("words", ["missing", "true"])
def test_a_reason_for_no_block_or_for_two(run: Run, words: str) -> None:
    with pytest.raises(AssertionError):
        run("```sh\ntrue 1\n```\n\n```sh\ntrue 2\n```\n", without={words: "a reason"})
