"""Every command of the README runs, at its full size."""

from __future__ import annotations

from pathlib import Path

import pytest

from guides import running

#: An environment with what the README installs there. Steps of .ci/run and .ci/full install it in fresh ones.
_INSTALLED = """
mkdir -p .venv/bin
ln -s "$(command -v streamrt)" .venv/bin/streamrt
ln -s /bin/true .venv/bin/pip
"""


@pytest.mark.slow
def test_readme(tmp_path: Path) -> None:
    without = {
        "python3 -m venv .venv && .venv/bin/pip install . ": ".ci/run installs the wheel and runs the demo",
        "python3 -m venv .venv && .venv/bin/pip install '.[test]'": ".ci/run runs this command",
    }
    running.run("README.md", tmp_path, before=_INSTALLED, without=without)
