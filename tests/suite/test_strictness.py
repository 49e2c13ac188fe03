"""What CI demands of tests. A warning is an error there, and not for a newcomer, whose packages may be newer."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from contextlib import nullcontext
from pathlib import Path
from types import SimpleNamespace

import pytest

_WARNS = """
import warnings

import pytest


def test_warns():
    warnings.warn("of a new version", DeprecationWarning)


@pytest.mark.filterwarnings("ignore:of a new version")
def test_expects_the_warning():
    warnings.warn("of a new version", DeprecationWarning)
"""


@pytest.mark.parametrize(
    ("script", "outcome"), [(None, "2 passed"), (".ci/run", "1 failed, 1 passed"), (".ci/full", "1 failed, 1 passed")]
)
def test_only_ci_fails_for_a_warning(checkout: Path, tmp_path: Path, script: str | None, outcome: str) -> None:
    (tmp_path / "test_one.py").write_text(_WARNS)
    environment = {name: value for name, value in os.environ.items() if not name.startswith("PYTEST_")}
    if script:
        (options,) = re.findall(r'^export PYTEST_ADDOPTS="([^"]*)"', (checkout / script).read_text(), re.MULTILINE)
        environment["PYTEST_ADDOPTS"] = options
    command = [sys.executable, "-P", "-m", "pytest", "-q", "-n", "0", "-c", checkout / "pyproject.toml", "test_one.py"]
    done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, check=False)
    assert done.stdout.splitlines()[-1].startswith(outcome), done.stdout


@pytest.mark.parametrize("text", ["@pytest.mark.slow", "@minutes"])
def test_ci_finds_each_slow_test(checkout: Path, request: pytest.FixtureRequest, tmp_path: Path, text: str) -> None:
    """By a text of its file, because it does not collect the tests of other files."""
    found = request.config.pluginmanager.get_plugin(str(checkout / "tests/conftest.py"))
    path = tmp_path / "test_one.py"
    path.write_text(text)
    request.node.add_marker("slow")
    item = SimpleNamespace(path=path, get_closest_marker=request.node.get_closest_marker)
    with nullcontext() if "mark.slow" in text else pytest.raises(pytest.UsageError, match=r"test_one\.py: a slow test"):
        found.pytest_collection_modifyitems([item])
