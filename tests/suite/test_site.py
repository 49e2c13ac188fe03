"""The check of the built site finds what is wrong with one."""

from __future__ import annotations

import runpy
from pathlib import Path

import pytest


@pytest.fixture
def site(tmp_path: Path) -> Path:
    """A site of two pages without a fault."""
    (tmp_path / "docs").mkdir()
    (tmp_path / "index.html").write_text(
        '<link rel="stylesheet" href="style.css?v=1"><a href="docs/a%20page.html#end">x</a><a href="#">x</a>'
        '<a href="https://example.org/">x</a><img src="data:image/png;base64,AA"><p id="here"><a href="#here">x</a>'
    )
    (tmp_path / "docs" / "a page.html").write_text('<h2 id="end"></h2><a href="../index.html#here">x</a>')
    (tmp_path / "style.css").write_text("p { background: url(docs/../style.css) } @import 'style.css';")
    return tmp_path


def faults(checkout: Path, site: Path) -> list[str]:
    found: list[str] = runpy.run_path(str(checkout / "docs" / "check_site.py"))["faults"](site)
    return found


def test_a_good_site(checkout: Path, site: Path) -> None:
    assert faults(checkout, site) == []


@pytest.mark.parametrize(
    ("file", "text", "reason"),
    [
        ("b.html", '<a href="missing.html">', "no such file"),
        ("b.html", '<a href="docs">', "no such file"),
        ("b.html", '<a href="index.html#nowhere">', "no such anchor"),
        ("b.html", '<a href="#nowhere">', "no such anchor"),
        ("b.html", '<img src="missing.png">', "no such file"),
        ("b.html", '<script src="https://example.org/a.js"></script>', "from elsewhere"),
        ("b.html", '<link rel="stylesheet" href="//example.org/a.css">', "from elsewhere"),
        ("b.html", '<img srcset="style.css 1x, https://example.org/a.png 2x">', "from elsewhere"),
        ("b.html", '<p style="background: url(https://example.org/a.png)">', "from elsewhere"),
        ("b.html", '<style>@import "https://example.org/a.css";</style>', "from elsewhere"),
        ("b.css", "@font-face { src: url('https://example.org/a.woff2') }", "from elsewhere"),
        ("b.css", "p { background: url(missing.png) }", "no such file"),
    ],
)
def test_a_fault(checkout: Path, site: Path, file: str, text: str, reason: str) -> None:
    (site / file).write_text(text)
    (fault,) = faults(checkout, site)
    assert fault.startswith(f"{file}: ")
    assert reason in fault


def test_a_folder_without_a_site(checkout: Path, tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        faults(checkout, tmp_path)
