"""Inputs that once failed do not fail again, and a short run of each hunt finds nothing."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

#: Cases of the short run: a few seconds.
HUNTS = {"headers": 1500, "protobufs": 600, "histories": 200, "callers": 30, "requests": 150, "interrupts": 10}
_SERVERS = ("requests", "interrupts")  # need the server's packages
_ALL = [pytest.param(hunt, marks=[pytest.mark.extras] * (hunt in _SERVERS)) for hunt in HUNTS]


def run(folder: Path, *arguments: str) -> str:
    command = [sys.executable, "-P", str(Path(__file__).parent), *arguments]
    result = subprocess.run(command, cwd=folder, capture_output=True, text=True, timeout=600, check=False)
    assert result.returncode == 0, result.stdout + result.stderr
    return result.stdout


@pytest.mark.parametrize("hunt", _ALL)
def test_inputs_that_once_failed(hunt: str, tmp_path: Path) -> None:
    _require(hunt)
    run(tmp_path, hunt, "--corpus")


@pytest.mark.parametrize("hunt", _ALL)
def test_short_run(hunt: str, tmp_path: Path) -> None:
    _require(hunt)
    run(tmp_path, hunt, "--count", str(HUNTS[hunt]), "--seed", "1")


def _require(hunt: str) -> None:
    for module in ("starlette", "uvicorn", "prometheus_client") * (hunt in _SERVERS):
        pytest.importorskip(module)
