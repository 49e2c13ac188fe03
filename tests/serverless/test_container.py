"""The container file. No image is built: its steps that need no container are tried without one."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from serverless.function import EXAMPLE

pytestmark = pytest.mark.extras
FILE = EXAMPLE / "Dockerfile"
ROOT = EXAMPLE.parents[1]


def instructions() -> list[tuple[str, str]]:
    """Each instruction with its arguments, continued lines joined."""
    text = "\n".join(line for line in FILE.read_text().splitlines() if not line.startswith("#"))
    found = [line.partition(" ") for line in text.replace("\\\n", " ").splitlines() if line]
    return [(name, " ".join(arguments.split())) for name, _, arguments in found]


def test_it_starts_what_the_tests_start() -> None:
    found = dict(instructions())  # the last of each, which is the second image's
    assert json.loads(found["ENTRYPOINT"]) == ["python", "-m", "awslambdaric"]
    assert json.loads(found["CMD"]) == ["handler.handler"]
    assert found["WORKDIR"] == "/var/task"
    assert found["USER"].isdigit()


def test_it_copies_files_that_exist() -> None:
    copies = [arguments.split() for name, arguments in instructions() if name == "COPY"]
    sources = [each for words in copies for each in words[:-1] if not each.startswith("--")]
    assert len(sources) >= 6
    for source in sources:
        if source != "examples/serverless/model.safetensors":  # the user's
            assert list(ROOT.glob(source)), source


@pytest.mark.slow
def test_what_it_copies_is_enough_to_build_the_package(tmp_path: Path) -> None:
    first, _, _ = FILE.read_text().partition("RUN ")
    copies = [line.split()[1:] for line in first.splitlines() if line.startswith("COPY ")]
    for *sources, target in copies:
        for source in sources:
            if (ROOT / source).is_dir():
                shutil.copytree(ROOT / source, tmp_path / target, ignore=shutil.ignore_patterns("*.so", "_core.c"))
            else:
                shutil.copy(ROOT / source, tmp_path / target)
    command = [sys.executable, "-m", "pip", "wheel", "--no-deps", "--wheel-dir", tmp_path / "wheels", "."]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    (wheel,) = (tmp_path / "wheels").iterdir()
    assert wheel.name.startswith("streamrt-")
