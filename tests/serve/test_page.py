"""The page at ``/``: its headers, and its file, which has no data and nothing from elsewhere.

`tests/browser` opens it in a browser.
"""

from __future__ import annotations

import base64
import hashlib
import re
from importlib import resources
from pathlib import Path

import pytest

from markers import needs
from serve.process import TOKEN, Server

pytestmark = pytest.mark.extras
needs("starlette", "uvicorn", "prometheus_client")

TEXT = resources.files("streamrt.serve").joinpath("page.html").read_text()


def policy(headers: object) -> dict[str, str]:
    directives = headers["Content-Security-Policy"].split("; ")  # type: ignore[index]
    return {name: sources for name, _, sources in (directive.partition(" ") for directive in directives)}


def test_the_page_is_served(server: Server) -> None:
    status, headers, body = server.ask("/")
    assert (status, headers["Content-Type"]) == (200, "text/html; charset=utf-8")
    assert body.decode() == TEXT
    status, heads, nothing = server.ask("/", method="HEAD")
    assert (status, nothing, heads["Content-Length"]) == (200, b"", str(len(body)))
    assert heads["Content-Security-Policy"] == headers["Content-Security-Policy"]
    status, headers, _ = server.ask("/", b"", method="POST")
    assert (status, headers["Allow"]) == (405, "GET, HEAD")
    assert server.ask("/page.html")[0] == server.ask("//")[0] == 404


def test_the_policy_allows_this_script_and_this_style_alone(server: Server) -> None:
    _, headers, body = server.ask("/")
    found = policy(headers)
    for tag, directive in (("script", "script-src"), ("style", "style-src")):
        (text,) = re.findall(f"<{tag}>(.*?)</{tag}>", body.decode(), re.DOTALL)
        digest = base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()
        assert found.pop(directive) == f"'sha256-{digest}'"
    nothing = dict.fromkeys(("default-src", "base-uri", "form-action", "frame-ancestors"), "'none'")
    others = {"connect-src": "'self'", "img-src": "data:", "require-trusted-types-for": "'script'"}
    assert found == nothing | others
    assert headers["X-Content-Type-Options"] == "nosniff"
    assert headers["Referrer-Policy"] == "no-referrer"


def test_a_server_without_the_page(repository: Path) -> None:
    with Server(repository, "--budget", "16MiB", "--no-page") as plain:
        assert plain.ask("/")[0] == plain.ask("/", method="HEAD")[0] == 404
        assert plain.ask("/metrics")[0] == 200
    logged = [(line["method"], line["status"]) for line in plain.log if line["event"] == "request"]
    assert logged == [("GET", 404), ("HEAD", 404), ("GET", 200)]


def test_the_page_itself_has_no_data(server: Server, repository: Path) -> None:
    """It is the same file for every server, with a token or without. So it tells nothing that the metrics do not."""
    with Server(repository, "--budget", "16MiB") as plain:
        assert plain.ask("/")[2] == server.ask("/")[2]
    assert server.ask("/", headers={"Authorization": f"Bearer {TOKEN}"})[2] == server.ask("/")[2]


def test_nothing_is_from_elsewhere() -> None:
    addresses = set(re.findall(r"[a-z]+://[^\s\"'`]+", TEXT))
    assert addresses == {"http://www.w3.org/2000/svg"}  # the name of a kind of elements, which no browser fetches
    assert re.findall(r"<(?:link|a) [^>]*href=\"([^\"]*)\"", TEXT) == ["data:,", "metrics", "metrics"]
    assert not re.search(r"\bsrc=|@import|url\(|\bimport\b|<iframe|<object|<base", TEXT)


def test_names_cannot_become_markup() -> None:
    ways = r"innerHTML|outerHTML|insertAdjacent|document\.write|DOMParser|createContextualFragment|eval\(|Function\("
    assert not re.search(ways, TEXT)
    assert not re.search(r"\son\w+=", TEXT)
    assert "localStorage" not in TEXT  # the token is kept in memory only
    assert "sessionStorage" not in TEXT
    assert "cookie" not in TEXT


def test_the_metrics_of_the_page_exist(server: Server) -> None:
    assert server.ask("/predictions/two", '{"a": [[1, 2]], "b": [[3, 4]]}')[0] == 200
    served = set(re.findall(r"^(\w+)", server.ask("/metrics")[2].decode(), re.MULTILINE))
    (wanted,) = re.findall(r"const WANTED = \[(.*?)\]", TEXT, re.DOTALL)
    names = {f"streamrt_{name}" for name in re.findall(r'"(\w+)"', wanted)}
    assert len(names) == 15
    assert names <= served
    used = {f"streamrt_{name}" for name in re.findall(r'value\("(\w+)"\)', TEXT)} - {
        "streamrt_requests",
        "streamrt_failed",
    }
    assert used <= names


def test_the_page_is_small() -> None:
    assert len(TEXT) < 32_000
    assert all(len(line) <= 120 for line in TEXT.splitlines())
