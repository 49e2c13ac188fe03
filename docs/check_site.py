"""Check the built site: ``python docs/check_site.py FOLDER``.

Every link and every anchor within the site leads somewhere, and a page loads nothing from elsewhere: no script, style,
font or picture. Links that a reader may click can lead to other sites; these are not followed.
"""

from __future__ import annotations

import re
import sys
from html.parser import HTMLParser
from pathlib import Path
from urllib.parse import unquote, urlsplit

#: Attributes with an address. A browser loads all of them but the `href` of an `a`.
_ADDRESSES = {"action", "data", "href", "poster", "src"}


class _Page(HTMLParser):
    """The anchors of a page, and the addresses in it: those that a reader may click, and those that are loaded."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.anchors = {"", "top"}
        self.clicked: set[str] = set()
        self.loaded: set[str] = set()
        self.feed(text)
        self.loaded |= _in_styles(" ".join(re.findall(r"<style[^>]*>(.*?)</style>", text, re.DOTALL)))

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        for name, value in attrs:
            if name in ("id", "name") and value:
                self.anchors.add(value)
            elif name in _ADDRESSES and value is not None:
                (self.clicked if tag == "a" else self.loaded).add(value)
            elif name == "srcset" and value:
                self.loaded |= {part.split()[0] for part in value.split(",")}
            elif name == "style" and value:
                self.loaded |= _in_styles(value)


def faults(folder: Path) -> list[str]:
    """One line for each link that leads nowhere, and for each file that a page or a style would load from elsewhere.

    Raises:
        FileNotFoundError: ``folder`` has no page ``index.html``.
    """
    (folder / "index.html").stat()
    pages = {path: _Page(path.read_text()) for path in sorted(folder.rglob("*.html"))}
    named = [(path, address, False) for path, page in pages.items() for address in sorted(page.clicked)]
    named += [(path, address, True) for path, page in pages.items() for address in sorted(page.loaded)]
    styles = sorted(folder.rglob("*.css"))
    named += [(path, address, True) for path in styles for address in sorted(_in_styles(path.read_text()))]
    reasons = ((path, address, _fault(path, address, pages, loaded=loaded)) for path, address, loaded in named)
    return [f"{path.relative_to(folder)}: {address}: {reason}" for path, address, reason in reasons if reason]


def _in_styles(text: str) -> set[str]:
    """The addresses that a style loads."""
    named = re.findall(r"url\(\s*['\"]?(.*?)['\"]?\s*\)|@import\s+['\"](.*?)['\"]", text)
    return {first or second for first, second in named}


def _fault(path: Path, address: str, pages: dict[Path, _Page], *, loaded: bool) -> str:
    """What is wrong with an address in the file at ``path``; empty if nothing is."""
    parts = urlsplit(address)
    if parts.scheme == "data":
        return ""
    if parts.scheme or parts.netloc:
        return "is loaded from elsewhere" if loaded else ""
    target = (path.parent / unquote(parts.path)).resolve() if parts.path else path
    if not target.is_file():
        return "there is no such file"
    anchor = unquote(parts.fragment)
    return "there is no such anchor" if target in pages and anchor not in pages[target].anchors else ""


if __name__ == "__main__":
    (name,) = sys.argv[1:]
    found = faults(Path(name).resolve())
    sys.exit("\n".join(found) if found else 0)
