"""Steps of CI that run side by side: each tells what it said, a failure of one is a failure, and an end ends all."""

from __future__ import annotations

import os
import re
import signal
import subprocess
from pathlib import Path

import pytest

from model.zoo import eventually
from processes import marked

_STEPS = """
good() { echo said by good; }
bad() { echo said by bad; false; echo said after the failure; }
busy() { sleep 600; }
"""


@pytest.fixture
def script(checkout: Path, tmp_path: Path) -> Path:
    """The lines of .ci/run that start steps and end them, and some steps."""
    found = re.search(r"^scratch=.*?^side_by_side.*?^}\n", (checkout / ".ci/run").read_text(), re.MULTILINE | re.DOTALL)
    assert found
    path = tmp_path / "script"
    path.write_text(f"set -euo pipefail\n{found[0]}{_STEPS}side_by_side $*\necho the end\n")
    return path


def test_all_run_and_tell_what_they_said_in_order(script: Path) -> None:
    done = subprocess.run(["bash", script, "good", "good"], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    told = [line for line in done.stdout.splitlines() if not line.startswith("---")]
    assert told == ["said by good", "said by good", "the end"]


@pytest.mark.parametrize("steps", [("good", "bad"), ("bad", "good")])
def test_a_failure_of_one_ends_the_run(script: Path, steps: tuple[str, str]) -> None:
    done = subprocess.run(["bash", script, *steps], capture_output=True, text=True, check=False)
    assert done.returncode == 1
    assert "said by good" in done.stdout
    assert "said by bad" in done.stdout
    assert "said after the failure" not in done.stdout
    assert done.stdout.endswith("failed: bad\n")


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_an_interrupt_ends_all(script: Path, tmp_path: Path, number: signal.Signals) -> None:
    mark = str(tmp_path)
    environment = os.environ | {"TMPDIR": mark}
    process = subprocess.Popen(["bash", script, "busy", "busy"], env=environment, stdout=subprocess.DEVNULL)
    eventually(lambda: sum("sleep 600" in line for line in marked(mark).values()) == 2)
    process.send_signal(number)
    assert process.wait(60) != 0
    eventually(lambda: not marked(mark))
    assert sorted(path.name for path in tmp_path.iterdir()) == ["script"]  # its folder is removed
