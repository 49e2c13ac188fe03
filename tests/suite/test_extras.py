"""Every extra is installed by itself in .ci/full, and has a check."""

from __future__ import annotations

import re
import tomllib
from pathlib import Path


def test_every_extra_has_a_check(checkout: Path) -> None:
    declared = tomllib.loads((checkout / "pyproject.toml").read_text())["project"]["optional-dependencies"]
    (listed,) = re.findall(r"^extras=\((.*)\)$", (checkout / ".ci/full").read_text(), re.MULTILINE)
    assert sorted(listed.split()) == sorted(declared)
    for extra in declared:
        assert (checkout / "tests/packaging/extras" / f"{extra}.py").is_file(), extra
