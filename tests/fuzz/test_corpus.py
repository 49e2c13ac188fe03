"""What once failed does not fail again, and a short run of each hunt finds nothing."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

#: Cases of the short run: a few seconds.
HUNTS = {"headers": 1500, "protobufs": 600}


def run(folder: Path, *arguments: str) -> str:
    command = [sys.executable, "-P", str(Path(__file__).parent), *arguments]
    result = subprocess.run(command, cwd=folder, capture_output=True, text=True, timeout=120, check=False)
    assert result.returncode == 0, result.stdout + result.stderr
    return result.stdout


@pytest.mark.parametrize("hunt", HUNTS)
def test_what_once_failed(hunt: str, tmp_path: Path) -> None:
    run(tmp_path, hunt, "--corpus")


@pytest.mark.parametrize(("hunt", "count"), HUNTS.items())
def test_short_run(hunt: str, count: int, tmp_path: Path) -> None:
    run(tmp_path, hunt, "--count", str(count), "--seed", "1")
