"""Runs commands in the process of the tests, and the files that come with the package."""

from __future__ import annotations

from importlib import resources
from pathlib import Path

import pytest

from streamrt import cli

Output = pytest.CaptureFixture[str]
DATA = Path(str(resources.files("streamrt.data")))
MLP = DATA / "digits_mlp.safetensors"


def run(*args: object) -> int:
    return cli.main([str(arg) for arg in args])


def error_line(captured: Output) -> str:
    """The only line on stderr, without its prefix; nothing may be on stdout."""
    out, err = captured.readouterr()
    assert out == ""
    assert err.count("\n") == 1
    assert err.startswith("streamrt: error: ")
    return err.removeprefix("streamrt: error: ").rstrip()
