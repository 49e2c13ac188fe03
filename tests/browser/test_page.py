"""The page at ``/`` in a headless Chromium: what it shows, hostile names, widths, colours, and life without scripts."""

from __future__ import annotations

import json
import re
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from importlib import resources
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest

from browser.chromium import CHROMIUM, Browser
from markers import needs
from model import zoo
from serve import packing
from serve.process import TOKEN, Server

pytestmark = [pytest.mark.extras, pytest.mark.skipif(CHROMIUM is None, reason="Chromium is not installed")]
needs("starlette", "uvicorn", "prometheus_client")

from streamrt import ModelPool  # noqa: E402
from streamrt.serve.batching import Pass  # noqa: E402
from streamrt.serve.metrics import OTHERS, Metrics  # noqa: E402

BODY = '{"a": [[1, 2]], "b": [[3, 4]]}'
HOSTILE = [
    "<script>window.hit = 1</script>",
    '"><img src=x onerror="window.hit = 1">',
    "</script><svg onload=window.hit=1>",
    "</td></tr></table><h1>another page</h1>",
    "javascript:window.hit=1",
    "&lt;b&gt; &amp;",
    'a"b\\c\\"d\\',
    "two\nlines",
    "a\\nb",
    'x"} 5\nstreamrt_pool_budget_bytes 1',
    "${window.hit = 1}",
    "\u202egnp.exe",
    "constructor",
    "__proto__",
    "hasOwnProperty",
    "w" * 500,
]

#: What the table shows: for each row its name, its state, and the texts of its other cells.
ROWS = """[...document.querySelectorAll('#models tr')].map(row => [
    row.querySelector('.name').firstChild.data, row.querySelector('.name small').textContent,
    row.querySelector('.holds small').textContent, ...[...row.querySelectorAll('.count span')].map(e => e.textContent),
    row.querySelector('.bar div').getBoundingClientRect().width / row.querySelector('.bar').clientWidth])"""


def text(browser: Browser, name: str) -> str:
    return str(browser.value(f"document.getElementById({json.dumps(name)}).textContent"))


def loaded(browser: Browser, address: str) -> None:
    browser.open(f"http://{address}/")
    browser.until("!document.getElementById('main').hidden")


def ask(server: Server, name: str, body: str = BODY) -> None:
    assert server.ask(f"/predictions/{name}", body)[0] == 200


@pytest.fixture
def repository(tmp_path: Path) -> Path:
    """``two`` and ``kinds`` without weights, and ``mlp`` with 20 KiB."""
    zoo.mlp(tmp_path, 16, 64, 32, 10)
    packing.two(tmp_path)
    packing.kinds(tmp_path)
    return tmp_path


def test_the_page_shows_models_memory_and_requests(repository: Path) -> None:
    with Server(repository, "--budget", "1MiB") as server, Browser() as browser:
        ask(server, "two")
        loaded(browser, server.address)
        assert [row[0] for row in browser.value(ROWS)] == ["two"]
        assert "2 more models are served" in text(browser, "others")
        assert browser.value("document.getElementById('ask').hidden")  # there is no token
        ask(server, "mlp", json.dumps([[0.5] * 16]))
        for _ in range(4):
            ask(server, "two")
        assert server.ask("/predictions/two", "[]")[0] == 400
        browser.until("document.querySelectorAll('#models tr').length === 2")
        (mlp, two), counts = browser.value(ROWS), {name: text(browser, name) for name in ("requests", "misses")}
        assert (two[0], two[3], mlp[0], mlp[3]) == ("two", "5", "mlp", "1")
        assert mlp[4] == "1"  # its weights were read
        assert counts == {"requests": "6", "misses": "1"}
        assert re.fullmatch(r"\d\d\.\d KiB, \d\.\d %; weights 2\d\.\d KiB", mlp[2])
        metrics = server.ask("/metrics")[2].decode()
        held, everything = (
            float(re.findall(rf"^streamrt_{name} (\S+)$", metrics, re.MULTILINE)[0])
            for name in ('model_held_bytes{model="mlp"}', "pool_held_bytes")
        )
        assert mlp[5] == pytest.approx(held / 2**20, abs=0.005)
        assert text(browser, "memory").startswith(f"{everything / 1024:.1f} KiB of 1.0 MiB are held by 2 of 3 models")
        assert browser.value("document.querySelector('#models .missed').getAttribute('d')").startswith("M")
        assert text(browser, "version") == json.loads(server.ask("/v2")[2])["version"]
        assert browser.complaints == []
        paths = {urlsplit(address).path for address in browser.asked}
        assert paths == {"/", "/v2", "/metrics"}
        assert all(address.startswith(f"http://{server.address}/") for address in browser.asked)


def test_only_the_token_lists_all_models(repository: Path) -> None:
    with Server(repository, "--budget", "1MiB", token=TOKEN) as server, Browser() as browser:
        ask(server, "two")
        loaded(browser, server.address)
        assert "kinds" not in browser.value("document.documentElement.outerHTML")

        def give(token: str) -> None:
            browser.value(f"document.getElementById('token').value = {json.dumps(token)}")
            browser.value("document.querySelector('#ask button').click()")

        give("another-token-0123456789")
        browser.until("document.getElementById('refused').textContent")
        assert [row[0] for row in browser.value(ROWS)] == ["two"]
        browser.complaints.clear()  # Chromium's message about the status 401
        give(TOKEN)
        browser.until("document.querySelectorAll('#models tr').length === 3")
        rows = browser.value(ROWS)
        assert [row[0] for row in rows] == ["kinds", "mlp", "two"]
        assert [row[1] for row in rows] == ["READY: its weights are read when it is asked for"] * 2 + ["READY"]
        assert TOKEN not in browser.value("document.documentElement.outerHTML + document.getElementById('token').value")
        assert browser.value("[localStorage.length, sessionStorage.length]") == [0, 0]
        assert not [address for address in browser.asked if TOKEN in address]
        assert browser.complaints == []
        loaded(browser, server.address)
        assert [row[0] for row in browser.value(ROWS)] == ["two"]  # the token is gone with the page


def test_the_page_tells_when_the_server_is_gone(repository: Path) -> None:
    with Server(repository, "--budget", "1MiB") as server, Browser() as browser:
        ask(server, "two")
        loaded(browser, server.address)
        assert text(browser, "state").startswith("at ")
        assert server.stop() == 0
        browser.until("document.getElementById('state').textContent.startsWith('no answer')")
        assert [row[0] for row in browser.value(ROWS)] == ["two"]


@contextmanager
def stub(names: list[str], *, policy: bool = True, more: Callable[[], str] = str) -> Iterator[tuple[str, Metrics]]:
    """A server of the page with metrics of models that have any names; without the policy, scripts could run.

    ``more`` tells metrics that are sent besides, at each reading.
    """
    from streamrt.serve.page import Page

    page = Page()
    with ModelPool("1MiB") as pool:
        metrics = Metrics(pool, lambda name: True, lambda: 0, lambda: 0)
        for name in names:
            metrics.passed(Pass(name, 1, [0.1], 0.1, 0.1, 0.1))
            metrics.answered(name, 200, 0.1)

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                path, headers = urlsplit(self.path).path, {"Content-Type": "text/plain; charset=utf-8"}
                if path == "/":
                    body = resources.files("streamrt.serve").joinpath("page.html").read_bytes()
                    headers = {"Content-Type": "text/html"} | (page.headers if policy else {})
                elif path == "/metrics":
                    body = metrics.text() + more().encode()
                else:
                    body = json.dumps({"version": "<b>9</b>", "extensions": ["model_repository"]}).encode()
                self.answer(200, headers, body)

            def do_POST(self) -> None:
                told = [{"name": f"index {name}", "state": name, "reason": name} for name in names]
                self.answer(200, {"Content-Type": "application/json"}, json.dumps(told).encode())

            def answer(self, status: int, headers: dict[str, str], body: bytes) -> None:
                self.send_response(status)
                for name, value in headers.items():
                    self.send_header(name, value)
                self.send_header("Content-Length", str(len(body)))
                self.end_headers()
                self.wfile.write(body)

            def log_message(self, *arguments: Any) -> None:
                pass

        server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        try:
            yield f"127.0.0.1:{server.server_port}", metrics
        finally:
            server.shutdown()
            thread.join()
            server.server_close()


@pytest.mark.parametrize("policy", [True, False])
def test_hostile_names_stay_text(policy: bool) -> None:
    with stub(HOSTILE, policy=policy) as (address, _), Browser(width=390, height=844) as browser:
        loaded(browser, address)
        assert sorted(row[0] for row in browser.value(ROWS)) == sorted(HOSTILE)
        assert all(row[3:5] == ["0", "\u2013"] for row in browser.value(ROWS))
        browser.value("document.getElementById('token').value = 'some-token-0123456789'")
        browser.value("document.querySelector('#ask button').click()")
        browser.until(f"document.querySelectorAll('#models tr').length === {2 * len(HOSTILE)}")
        rows = browser.value(ROWS)
        assert sorted(row[0] for row in rows) == sorted([*HOSTILE, *(f"index {name}" for name in HOSTILE)])
        assert sorted(row[1] for row in rows if row[0].startswith("index ")) == sorted(f"{n}: {n}" for n in HOSTILE)
        assert browser.value("[window.hit, document.scripts.length, document.images.length]") == [None, 1, 0]
        assert browser.value("document.querySelectorAll('h1, b, svg[onload]').length") == 1
        assert text(browser, "version") == "<b>9</b>"
        assert text(browser, "memory").startswith("0 B of 1.0 MiB are held")  # no name has forged a metric
        assert browser.value("document.documentElement.scrollWidth") <= 390
        assert browser.complaints == []


def test_all_other_models_have_one_row() -> None:
    with stub([f"m{index}" for index in range(60)]) as (address, metrics), Browser() as browser:
        loaded(browser, address)
        rows = browser.value(ROWS)
        assert len(rows) == 51
        assert rows[-1][0] == "all other models"
        assert OTHERS not in browser.value("document.body.innerText")
        for _ in range(7):
            metrics.answered("m59", 200, 0.1)
        browser.until("document.querySelector('#models tr:last-child .count span').textContent === '7'")
        assert browser.complaints == []


def test_a_server_that_starts_anew_counts_from_0() -> None:
    with stub(["m"]) as (address, metrics), Browser() as browser:
        for _ in range(9):
            metrics.answered("m", 200, 0.1)
        loaded(browser, address)
        metrics.forget("m")
        for _ in range(4):
            metrics.answered("m", 503, 0.1)
        browser.until("document.querySelector('.count span').textContent === '4'")
        assert text(browser, "failed") == "4"


def test_a_hit_that_is_counted_after_its_lease_is_no_restart() -> None:
    """Between the two counts the model seems to have one miss more."""
    counts = [(100, 50), (101, 50), (101, 51), (102, 51)]

    def more() -> str:
        leases, hits = counts.pop(0) if len(counts) > 1 else counts[0]
        return f'streamrt_model_leases_total{{model="m"}} {leases}\nstreamrt_model_hits_total{{model="m"}} {hits}\n'

    with stub(["m"], more=more) as (address, _), Browser() as browser:
        loaded(browser, address)
        for _ in range(3):  # readings at once, of which the page makes one after the other
            browser.value("refresh()")
        assert browser.value(ROWS)[0][4] == "1"


@pytest.mark.parametrize(("width", "dark"), [(360, False), (390, True), (800, True), (1600, False)])
def test_widths_and_colours(repository: Path, width: int, dark: bool) -> None:
    with Server(repository, "--budget", "1MiB") as server, Browser(width=width, dark=dark) as browser:
        ask(server, "two")
        loaded(browser, server.address)
        assert browser.value("document.documentElement.scrollWidth") == width
        colours = browser.value(
            "(({color, backgroundColor}) => [color, backgroundColor])(getComputedStyle(document.body))"
        )
        front, back = (sum(map(int, re.findall(r"\d+", colour))) / 3 for colour in colours)
        assert (front > 200, back < 60) == (True, True) if dark else (front < 60, back > 200) == (True, True)
        assert browser.value("document.querySelector('.name').getBoundingClientRect().right") <= width
        assert browser.picture().startswith(b"\x89PNG")
        assert browser.complaints == []


def test_without_scripts_the_page_says_where_the_metrics_are(repository: Path) -> None:
    with Server(repository, "--budget", "1MiB") as server, Browser(script=False, width=390) as browser:
        browser.open(f"http://{server.address}/")
        shown = browser.value("document.body.innerText")
        assert "needs JavaScript" in shown
        assert "Token" not in shown
        assert browser.value("document.querySelector('noscript a').href") == f"http://{server.address}/metrics"
        assert [urlsplit(address).path for address in browser.asked] == ["/"]
        assert browser.complaints == []
