"""The site of the documents in a headless Chromium, at the widths of a phone and of a desktop."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from browser.chromium import Browser
from markers import needs

pytestmark = pytest.mark.extras
needs("furo", "myst_parser", "ray", "sphinx")

ROOT = Path(__file__).parents[2]
#: Elements that are wider than the page, outside of those that scroll by themselves.
TOO_WIDE = """[...document.querySelectorAll('.content *')].filter(each =>
    each.getBoundingClientRect().right > document.documentElement.clientWidth + 1
    && !each.closest('pre, .table-wrapper')).map(each => each.outerHTML.slice(0, 100))"""

#: Pixels.
CODE_SIZES = "[...document.querySelectorAll('pre')].map(each => parseFloat(getComputedStyle(each).fontSize))"


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("site")
    command = [sys.executable, "-P", "-m", "sphinx", "-q", "-W", "-c", ROOT / "docs", ROOT, folder]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return folder


@pytest.mark.parametrize("width", [390, 1024, 1320, 1440])
def test_every_page_fits(site: Path, width: int) -> None:
    """It is as wide as the window, is complete without other sites, and its code can be read."""
    pages = sorted(path for path in site.rglob("*.html") if path.parent != site)
    assert len(pages) > 20
    with Browser(width=width) as browser:
        for page in pages:
            browser.open(page.as_uri())
            assert browser.value("document.documentElement.scrollWidth") <= width, page
            assert browser.value(TOO_WIDE) == [], page
            assert min(browser.value(CODE_SIZES), default=12) >= 11, page
        assert browser.complaints == []
        assert {address.partition(":")[0] for address in browser.asked} <= {"file", "data"}


def test_the_root_leads_to_the_guides(site: Path) -> None:
    with Browser() as browser:
        browser.open((site / "index.html").as_uri())
        browser.until("location.pathname.endsWith('/docs/index.html') && document.querySelector('h1')")
        assert browser.value("document.querySelector('h1').firstChild.data") == "Guides and reference"


def test_a_word_is_found(site: Path) -> None:
    """The search runs in the browser, with an index that is part of the site."""
    with Browser() as browser:
        browser.open((site / "search.html").as_uri() + "?q=min_budget")
        browser.until("document.querySelector('#search-results li a')")
        assert {address.partition(":")[0] for address in browser.asked} <= {"file", "data"}
