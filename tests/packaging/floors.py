"""Prints pip's constraints for the lowest versions that pyproject.toml allows, one a line: ``python floors.py``.

Packages of torch are left out: their wheels take gigabytes.
"""

from __future__ import annotations

import re
import tomllib
from pathlib import Path

_PROJECT = Path(__file__).parents[2] / "pyproject.toml"
_LEFT_OUT = {"torch", "onnxscript"}


def floors() -> dict[str, str]:
    """The lowest version of each package that has one."""
    table = tomllib.loads(_PROJECT.read_text())
    project, build = table["project"], table["build-system"]["requires"]
    lists = [build, project["dependencies"], *project["optional-dependencies"].values()]
    found = {}
    for requirement in (requirement for requirements in lists for requirement in requirements):
        if (match := re.fullmatch(r"([\w-]+)(?:\[.*\])?>=([\d.]+)", requirement)) and match[1] not in _LEFT_OUT:
            found.setdefault(match[1], match[2])
    return found


if __name__ == "__main__":
    print("\n".join(f"{name}=={version}" for name, version in floors().items()))
