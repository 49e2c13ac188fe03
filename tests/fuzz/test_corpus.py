"""What once failed does not fail again, and a short run of each hunt finds nothing."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

#: Cases of the short run: a few seconds.
HUNTS: dict[str, int] = {"histories": 200, "requests": 150, "interrupts": 10, "callers": 30}


def run(folder: Path, *arguments: str) -> str:
    command = [sys.executable, "-P", str(Path(__file__).parent), *arguments]
    result = subprocess.run(command, cwd=folder, capture_output=True, text=True, timeout=120, check=False)
    assert result.returncode == 0, result.stdout + result.stderr
    return result.stdout


@pytest.mark.parametrize("hunt", _ALL)
def test_what_once_failed(hunt: str, tmp_path: Path) -> None:
    _require(hunt)
    run(tmp_path, hunt, "--corpus")


@pytest.mark.parametrize("hunt", _ALL)
def test_short_run(hunt: str, tmp_path: Path) -> None:
    _require(hunt)
    run(tmp_path, hunt, "--count", str(HUNTS[hunt]), "--seed", "1")


def _require(hunt: str) -> None:
    for module in ("starlette", "uvicorn", "prometheus_client") * (hunt in _SERVERS):
        pytest.importorskip(module)
