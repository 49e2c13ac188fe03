"""The commands of the README of examples/serverless print what it says."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from markers import needs
from serverless.function import EXAMPLE

pytestmark = pytest.mark.extras
needs("awslambdaric")


def test_its_commands_run(tmp_path: Path) -> None:
    """In a copy, where they leave their files."""
    root = EXAMPLE.parents[1]
    folder = tmp_path / "examples" / "serverless"
    shutil.copytree(EXAMPLE, folder, ignore=shutil.ignore_patterns("model.safetensors", "__pycache__"))
    (tmp_path / "streamrt").mkdir()
    (tmp_path / "streamrt" / "data").symlink_to(root / "streamrt" / "data")
    blocks = re.findall(r"```sh\n(.*?)```", (EXAMPLE / "README.md").read_text(), re.DOTALL)
    assert [block.split()[0] for block in blocks] == ["cp", "echo", "docker"]  # there may be no daemon for the last
    commands = "".join(blocks[:2]).replace("/tmp/", f"{tmp_path}/")
    path = f"{Path(sys.executable).parent}:{os.environ['PATH']}"
    done = subprocess.run(
        ["bash", "-euo", "pipefail", "-c", commands],
        cwd=folder,
        env=os.environ | {"PATH": path},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    times, answers = zip(*(line.split(" s: ") for line in done.stdout.splitlines()), strict=True)
    assert all(float(seconds) > 0 for seconds in times)
    outputs = [json.loads(answer)["outputs"][0] for answer in answers]
    assert [output["shape"] for output in outputs] == [[1, 10]] * 3
    assert ["base64" in output for output in outputs] == [False, False, True]


def test_it_names_every_file() -> None:
    files = {path.name for path in EXAMPLE.iterdir() if path.is_file()} - {"README.md", "model.safetensors"}
    table = re.findall(r"^\| (`.*?) \|", (EXAMPLE / "README.md").read_text(), re.MULTILINE)
    assert {name.strip("`") for line in table for name in line.split(", ")} == files
