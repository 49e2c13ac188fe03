"""Every command and every snippet of the guides runs, and prints what the page shows."""

from __future__ import annotations

from pathlib import Path

import pytest

from format import version1
from guides import running
from guides.pages import ROOT


@pytest.mark.parametrize(
    "page",
    [
        "docs/guides/quick-start.md",
        "docs/guides/budget.md",
        "docs/guides/small-weights.md",
        "docs/how-it-works.md",
        "docs/pool.md",
    ],
)
def test_a_page(page: str, tmp_path: Path) -> None:
    running.run(page, tmp_path)


def test_upgrade_notes(tmp_path: Path) -> None:
    version1.convert(ROOT / "streamrt" / "data" / "digits_mlp.safetensors", tmp_path / "version1.safetensors")
    running.run("docs/upgrade.md", tmp_path, before="cp ../version1.safetensors old.safetensors")
