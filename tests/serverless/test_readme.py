"""The README of examples/serverless. tests/guides runs its commands."""

from __future__ import annotations

import re

import pytest

from markers import needs
from serverless.function import EXAMPLE

pytestmark = pytest.mark.extras
needs("awslambdaric")


def test_it_names_every_file() -> None:
    files = {path.name for path in EXAMPLE.iterdir() if path.is_file()} - {"README.md", "model.safetensors"}
    table = re.findall(r"^\| (`.*?) \|", (EXAMPLE / "README.md").read_text(), re.MULTILINE)
    assert {name.strip("`") for line in table for name in line.split(", ")} == files
