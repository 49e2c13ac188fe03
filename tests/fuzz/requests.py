"""Right and wrong requests to a server in this process: through its application, and over sockets.

A case is JSON: a few requests that are sent at the same time. After each case the server must be at rest, and answer a
right request.
"""

from __future__ import annotations

import asyncio
import json
import logging
import random
import re
import socket
from pathlib import Path
from typing import Any
from urllib.parse import unquote

import numpy as np
import uvicorn

from fuzz.hunt import MIB, PASSED, Finding, Hunt
from fuzz.mutate_requests import BROKEN, Request, make_request, on_the_wire
from model import zoo
from serve import packing
from serve.process import TOKEN
from streamrt.errors import FormatError, WeightsIOError
from streamrt.serve.main import configure
from streamrt.serve.service import Service
from streamrt.serve.settings import Settings

#: Seconds to wait for an answer that must come, and for one that need not: the request may be incomplete.
_PATIENCE, _GUESS = 5.0, 0.15
_SECRETS = (b"/tmp", b"/root", b"/home", b"/usr", b"/dev/shm", b"site-packages", b"Traceback", b"Errno", TOKEN.encode())
_READY = re.compile(r"^/v2/models/[^/]*(/versions/[^/]*)?/ready$")


class _Log(logging.Handler):
    """Keeps the errors that the server logs."""

    def __init__(self) -> None:
        super().__init__(logging.ERROR)
        self.records: list[logging.LogRecord] = []

    def emit(self, record: logging.LogRecord) -> None:
        self.records.append(record)


class Requests(Hunt):
    """The hunt. One case in four goes over sockets."""

    name = "requests"
    seconds = 30.0
    memory = 64 * MIB
    cases = 1000

    def start(self) -> None:
        outside, folder = Path("outside"), Path("models")
        outside.mkdir()
        folder.mkdir()
        packed = zoo.mlp(outside, 16, 64, 32, 10)
        self._answer, good = packed.answer, packed.path.read_bytes()
        packing.two(folder)
        packing.kinds(folder)
        for name, content in {"mlp": good, ".hidden": good, "cut": good[:-5000], "broken": b"no model"}.items():
            (folder / f"{name}.safetensors").write_bytes(content)
        (folder / "outside.safetensors").symlink_to(outside.resolve() / "mlp.safetensors")
        settings = Settings(
            folder.absolute(),
            budget="16MiB",
            timeout=_PATIENCE,
            workers=2,
            max_queue=16,
            max_body=4 * MIB,
            max_json=2 * MIB,
            max_held=16 * MIB,
            body_timeout=1.0,
            token=TOKEN,
        )
        self._service = Service(settings)
        self._service.catalog.register_all()
        self._files = dict(self._service.catalog.served())
        self._log = _Log()
        for logger in map(logging.getLogger, ("streamrt", "uvicorn", "asyncio")):
            logger.handlers[:] = [self._log]
            logger.propagate = False
        self._loop = asyncio.new_event_loop()
        config = configure(self._service)
        self._app = config.app
        listener = socket.create_server(("127.0.0.1", 0))
        self._port = listener.getsockname()[1]
        self._server = uvicorn.Server(config)
        self._loop.create_task(self._server.serve([listener]))
        self._loop.run_until_complete(self._started())

    async def _started(self) -> None:
        while not self._server.started:
            await asyncio.sleep(0.01)

    def make(self, rng: random.Random) -> bytes:
        wire = rng.random() < 0.25
        requests = []
        for _ in range(rng.choice([1, 1, 2, 2, 4])):
            request = make_request(rng)
            if wire:
                data = on_the_wire(rng, request)
                if rng.random() < 0.1:  # two requests over one connection
                    data += on_the_wire(rng, make_request(rng))
                cuts = sorted(rng.randrange(len(data) + 1) for _ in range(rng.choice([0, 0, 1, 3])))
                pieces = [data[a:b].decode("latin-1") for a, b in zip([0, *cuts], [*cuts, len(data)], strict=True)]
                requests.append({"pieces": pieces, "end": rng.choice(["wait"] * 6 + ["half", "reset"])})
            else:
                requests.append(_direct(rng, request))
        return json.dumps({"wire": wire, "requests": requests}).encode()

    def check(self, data: bytes) -> str:
        case = json.loads(data)
        return self._loop.run_until_complete(self._case(case["wire"], case["requests"]))

    async def _case(self, wire: bool, requests: list[dict[str, Any]]) -> str:
        self._log.records.clear()
        before = len(asyncio.all_tasks())
        send = self._over_socket if wire else self._through_app
        outcomes = await asyncio.gather(*map(send, requests))
        await self._at_rest(before)
        await asyncio.to_thread(self._restore)
        for record in self._log.records:
            _judge_log(record)
        await self._right(wire)
        for found in (PASSED, "refused"):
            if found in outcomes:
                return found
        return outcomes[0]

    async def _at_rest(self, tasks: int) -> None:
        """Wait until the server holds nothing of the requests."""
        service, end = self._service, self._loop.time() + _PATIENCE
        while service.gate.held or service.batcher.waiting or len(asyncio.all_tasks()) > tasks or service._changes:
            if self._loop.time() > end:
                counts = service.gate.held, service.batcher.waiting, service._changes
                names = sorted(str(task.get_coro()) for task in asyncio.all_tasks())
                raise Finding("something is left of a request", f"bytes, requests, changes: {counts}; {names}")
            await asyncio.sleep(0.001)
        if leases := service.pool.stats().leases:
            await asyncio.sleep(0.1)  # for prefetches to end
            if leases := service.pool.stats().leases:
                raise Finding("a lease is left", str(leases))

    def _restore(self) -> None:
        """Serve the models that were served at first."""
        catalog = self._service.catalog
        for name, file in catalog.served():
            if self._files.get(name) != file:
                catalog.unregister(name)
        for name, file in self._files.items():
            if not catalog.has(name):
                catalog.register(file)

    async def _right(self, wire: bool) -> None:
        """Check that a right request gets its right answer."""
        x = zoo.random_input(2, 16)
        inputs = [{"name": "input", "shape": [2, 16], "datatype": "FP32", "data": x.ravel().tolist()}]
        request = Request("POST", "/v2/models/mlp/infer", [("Host", "test")], json.dumps({"inputs": inputs}).encode())
        if wire:
            data = on_the_wire(_Plain(), request)  # type: ignore[arg-type]
            status, _, body = _parse(await self._exchange([data], "wait", _PATIENCE), "POST")
        else:
            status, _, body = await self._ask(_direct(_Plain(), request))  # type: ignore[arg-type]
        if status != 200:
            raise Finding("a right request is refused", f"{status}: {body!r:.300}")
        found = np.array(json.loads(body)["outputs"][0]["data"], np.float32).reshape(2, 10)
        if not np.allclose(found, self._answer(x), atol=1e-3):
            raise Finding("a right request has a wrong answer", f"{found}")

    # ---- through the application

    async def _through_app(self, request: dict[str, Any]) -> str:
        status, headers, body = await self._ask(request)
        if not status:
            return "gone"
        return _judge(request["method"], request["target"], status, headers, body)

    async def _ask(self, request: dict[str, Any]) -> tuple[int, dict[str, str], bytes]:
        path, _, query = request["target"].partition("?")
        scope = {
            "type": "http",
            "asgi": {"version": "3.0", "spec_version": "2.3"},
            "http_version": "1.1",
            "method": request["method"],
            "scheme": "http",
            "path": unquote(path),
            "raw_path": path.encode("latin-1"),
            "query_string": query.encode("latin-1"),
            "root_path": "",
            "headers": [(k.encode("latin-1"), v.encode("latin-1")) for k, v in request["headers"]],
            "client": ("127.0.0.1", 1),
            "server": ("127.0.0.1", 80),
            "state": {},
        }
        chunks = [chunk.encode("latin-1") for chunk in request["chunks"]]
        events = [{"type": "http.request", "body": chunk, "more_body": True} for chunk in chunks]
        events[-1]["more_body"] = False
        if request["gone"] is not None:
            events = [*events[: request["gone"]], {"type": "http.disconnect"}]
        over = asyncio.Event()
        sent: list[dict[str, Any]] = []

        async def receive() -> dict[str, Any]:
            if events:
                await asyncio.sleep(0)
                return events.pop(0)
            await over.wait()
            return {"type": "http.disconnect"}

        async def send(message: dict[str, Any]) -> None:
            sent.append(message)

        try:
            async with asyncio.timeout(2 * _PATIENCE):
                await self._app(scope, receive, send)
        except TimeoutError:
            raise Finding("a request hangs", f"{request['method']} {request['target']:.80}") from None
        finally:
            over.set()
        start = next((message for message in sent if message["type"] == "http.response.start"), None)
        if start is None:
            return 0, {}, b""
        body = b"".join(message.get("body", b"") for message in sent[1:])
        return start["status"], {k.decode(): v.decode("latin-1") for k, v in start["headers"]}, body

    # ---- over a socket

    async def _over_socket(self, request: dict[str, Any]) -> str:
        pieces = [piece.encode("latin-1") for piece in request["pieces"]]
        answer = await self._exchange(pieces, request["end"], _GUESS)
        if not _final(answer):
            return "no answer"
        line = b"".join(pieces).lstrip(b"\r\n").split(b"\r\n", 1)[0].decode("latin-1").split(" ")
        method, target = (line[0], line[1]) if len(line) > 1 else ("GET", "/")
        return _judge(method, target, *_parse(answer, method))

    async def _exchange(self, pieces: list[bytes], end: str, patience: float) -> bytes:
        """Send ``pieces``; returns the bytes that come back in time. Half an answer is a `Finding`."""
        reader, writer = await asyncio.open_connection("127.0.0.1", self._port, limit=4 * MIB)
        answer = b""
        try:
            for piece in pieces:
                writer.write(piece)
                await asyncio.sleep(0)
            if end == "reset":
                writer.transport.abort()
                return b""
            if end == "half" and writer.can_write_eof():
                writer.write_eof()
            while not _is_whole(answer, b"".join(pieces)):
                chunk = await asyncio.wait_for(reader.read(1 << 16), _PATIENCE if answer else patience)
                if not chunk:
                    break
                answer += chunk
        except TimeoutError:
            if answer:
                raise Finding("half an answer", f"{answer!r:.300}") from None
        except OSError:
            pass  # the server closed the connection before it had read the whole request
        finally:
            writer.transport.abort()
        return answer


class _Plain(random.Random):
    """Random numbers that choose no fault."""

    def random(self) -> float:
        return 0.999

    def choice(self, options: Any) -> Any:
        return options[0]


def _direct(rng: random.Random, request: Request) -> dict[str, Any]:
    """A request as uvicorn hands it on: the application gets no other characters in targets and headers."""
    body = request.body
    cuts = sorted(rng.randrange(len(body) + 1) for _ in range(rng.choice([0, 0, 0, 1, 5])))
    chunks = [body[a:b].decode("latin-1") for a, b in zip([0, *cuts], [*cuts, len(body)], strict=True)]
    return {
        "method": request.method,
        "target": "".join(c for c in request.target if "!" <= c <= "~") or "/",
        "headers": [(name.lower(), re.sub(r"[^\t -~\x80-\xff]", "", value).strip()) for name, value in request.headers],
        "chunks": chunks,
        "gone": rng.choice([None] * 12 + [0, 1, len(chunks)]),
    }


def _is_whole(answer: bytes, asked: bytes) -> bool:
    head, found, body = _final(answer).partition(b"\r\n\r\n")
    length = re.search(rb"\r\ncontent-length: (\d+)", head, re.IGNORECASE)
    return bool(found and length and (len(body) >= int(length[1]) or asked.lstrip(b"\r\n").startswith(b"HEAD ")))


def _final(answer: bytes) -> bytes:
    """An answer without the ``100 Continue`` before it, which asks for the body."""
    return answer.partition(b"\r\n\r\n")[2] if answer.startswith(b"HTTP/1.1 100 ") else answer


def _parse(answer: bytes, method: str) -> tuple[int, dict[str, str], bytes]:
    """Parse the first answer."""
    head, _, body = _final(answer).partition(b"\r\n\r\n")
    status, *lines = head.decode("latin-1").split("\r\n")
    if not re.fullmatch(r"HTTP/1\.[01] \d{3} .*", status):
        raise Finding("an answer is not HTTP", f"{answer!r:.300}")
    headers = dict(line.split(": ", 1) for line in lines)
    headers = {name.lower(): value for name, value in headers.items()}
    if method == "HEAD":
        return int(status.split()[1]), headers, b""
    return int(status.split()[1]), headers, body[: int(headers.get("content-length", len(body)))]


def _judge(method: str, target: str, status: int, headers: dict[str, str], body: bytes) -> str:
    path = unquote(target.partition("?")[0])
    what = f"{method} {target:.80}: {status} {body!r:.300}"
    broken = any(name in unquote(target) for name in BROKEN)
    if status == 503 and not (
        headers.get("retry-after") or _READY.match(path) or path in ("/ping", "/v2/health/ready")
    ):
        raise Finding("503 without Retry-After", what)
    if status >= 500 and status not in (503, 507) and not (status == 500 and broken):
        raise Finding(f"status {status}", what)
    for secret in _SECRETS:
        # An answer may repeat text of its request.
        if (secret in body or secret.decode() in str(headers)) and secret.decode() not in unquote(target):
            raise Finding("an answer tells about the host", what)
    if headers.get("content-type") == "application/json" and body:
        try:
            json.loads(body)
        except ValueError:
            raise Finding("an answer is no JSON", what) from None
    if status == 200 and (path.endswith("/infer") or path.startswith("/predictions/")):
        return PASSED
    return "answered" if status < 400 else "refused"


def _judge_log(record: logging.LogRecord) -> None:
    """Check the log: only errors of a model may be in it."""
    error = record.exc_info[1] if record.exc_info else None
    again = record.name == "streamrt.serve" and record.exc_info is None  # the traceback was logged before
    if not again and not isinstance(error, (FormatError, WeightsIOError)):
        text = logging.Formatter().format(record)
        raise Finding(f"logged: {record.name} {type(error).__name__}", text)


HUNT = Requests()
