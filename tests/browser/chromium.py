"""A headless Chromium, steered through its DevTools protocol. Messages go through a pipe, so no package is needed."""

from __future__ import annotations

import base64
import json
import os
import shutil
import subprocess
import tempfile
import time
from contextlib import suppress
from pathlib import Path
from typing import Any, Self

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")


class NavigatedError(Exception):
    """The page was left while an expression was evaluated in it."""


class Browser:
    """A browser with one tab.

    Args:
        script: whether pages may run scripts.
        dark: whether pages are told that the user likes dark colours.
        width, height: of the window, in CSS pixels.

    Attributes:
        complaints: errors and warnings of pages: exceptions, messages, and requests that a policy refused.
        asked: addresses of all requests.
    """

    def __init__(self, *, script: bool = True, dark: bool = False, width: int = 1200, height: int = 900) -> None:
        assert CHROMIUM
        self.complaints: list[str] = []
        self.asked: list[str] = []
        self._folder = tempfile.TemporaryDirectory(prefix="streamrt-chromium-")
        self._next = 0
        theirs, write = os.pipe()
        read, answers = os.pipe()
        self._log = (Path(self._folder.name) / "log").open("wb")
        # The browser reads commands from descriptor 3 and writes answers to 4. (Shells redirect only 10 descriptors.)
        pipes = f"3</proc/self/fd/{theirs} 4>/proc/self/fd/{answers}"
        self._process = subprocess.Popen(
            ["sh", "-c", f'exec "$@" {pipes}', "sh", CHROMIUM, *_options(self._folder.name)],
            pass_fds=(theirs, answers),
            stdout=self._log,
            stderr=self._log,
        )
        os.close(theirs)
        os.close(answers)
        self._write, self._read = os.fdopen(write, "wb", 0), os.fdopen(read, "rb", 0)
        self._buffer = b""
        try:
            target = self._command("Target.createTarget", {"url": "about:blank"}, session="")["targetId"]
            attach = {"targetId": target, "flatten": True}
            self._session = self._command("Target.attachToTarget", attach, session="")["sessionId"]
            for domain in ("Page", "Runtime", "Log", "Network", "Audits"):
                self._command(f"{domain}.enable")
            self._command("Emulation.setScriptExecutionDisabled", {"value": not script})
            scheme = {"name": "prefers-color-scheme", "value": "dark" if dark else "light"}
            self._command("Emulation.setEmulatedMedia", {"features": [scheme]})
            size = {"width": width, "height": height, "deviceScaleFactor": 1, "mobile": width < 600}
            self._command("Emulation.setDeviceMetricsOverride", size)
        except BaseException:
            self.close()
            raise

    def open(self, address: str) -> None:
        """Go to an address, and return when the page is loaded."""
        self._command("Page.navigate", {"url": address})
        self.until("document.readyState === 'complete'")

    def value(self, expression: str) -> Any:
        """The value of a JavaScript expression in the page. It works in a page that may not run scripts, too."""
        options = {"expression": expression, "returnByValue": True, "awaitPromise": True}
        found = self._command("Runtime.evaluate", options)
        assert "exceptionDetails" not in found, found
        return found["result"].get("value")

    def until(self, expression: str, seconds: float = 60) -> None:
        """Return when an expression is true."""
        deadline = time.monotonic() + seconds
        while not self._is_true(expression):
            assert time.monotonic() < deadline, f"{expression}: {self.value('document.body.innerText')}"
            time.sleep(0.05)

    def _is_true(self, expression: str) -> bool:
        """Whether an expression is true. Nothing is in a page that leads to another one at this moment."""
        try:
            return bool(self.value(f"Boolean({expression})"))
        except NavigatedError:
            return False

    def picture(self) -> bytes:
        """The whole page as a PNG."""
        options = {"format": "png", "captureBeyondViewport": True}
        return base64.b64decode(self._command("Page.captureScreenshot", options)["data"])

    def close(self) -> None:
        """End the browser."""
        with suppress(Exception):
            self._command("Browser.close", session="")
        try:
            self._process.wait(20)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        for file in (self._write, self._read, self._log):
            file.close()
        self._folder.cleanup()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: object, error: object, trace: object) -> None:
        self.close()

    def _command(self, method: str, params: dict[str, Any] | None = None, session: str | None = None) -> Any:
        self._next += 1
        message = {"id": self._next, "method": method, "params": params or {}}
        if session is None:
            message["sessionId"] = self._session
        self._write.write(json.dumps(message).encode() + b"\0")
        while True:
            told = self._receive()
            if told.get("id") == self._next:
                if told.get("error", {}).get("message") == "Inspected target navigated or closed":
                    raise NavigatedError
                assert "error" not in told, (method, told["error"])
                return told["result"]
            self._note(told["method"], told["params"])

    def _receive(self) -> Any:
        while b"\0" not in self._buffer:
            more = self._read.read(1 << 16)
            assert more, Path(self._log.name).read_text()[-2000:]
            self._buffer += more
        text, _, self._buffer = self._buffer.partition(b"\0")
        return json.loads(text)

    def _note(self, event: str, params: Any) -> None:
        if event == "Network.requestWillBeSent":
            self.asked.append(params["request"]["url"])
        elif event in ("Runtime.exceptionThrown", "Log.entryAdded", "Audits.issueAdded") or (
            event == "Runtime.consoleAPICalled" and params["type"] in ("error", "warning", "assert")
        ):
            self.complaints.append(json.dumps(params))


def _options(folder: str) -> list[str]:
    options = ["--headless", "--remote-debugging-pipe", f"--user-data-dir={folder}/profile", "--no-first-run"]
    options += ["--disable-background-networking", "--disable-component-update", "--disable-dev-shm-usage"]
    options += ["--disable-gpu", "--hide-scrollbars"]
    if os.getuid() == 0:
        options.append("--no-sandbox")  # Chromium's sandbox refuses root; the pages are our own
    return options
