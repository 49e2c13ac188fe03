"""Hostile requests to a real server: each gets its status code, and no answer has information about the host."""

from __future__ import annotations

import json
import re
import socket
import zlib
from collections.abc import Iterator
from contextlib import ExitStack, suppress
from pathlib import Path
from typing import Any

import pytest

from model import zoo
from serve.process import TOKEN, Server

pytestmark = pytest.mark.extras

AUTHORIZED = f"Authorization: Bearer {TOKEN}"
#: Texts that would give information about the host.
SECRETS = ("/tmp", "/root", "/home", "/usr", "site-packages", "Traceback", "Errno", TOKEN)


def exchange(server: Server, request: bytes) -> tuple[int, dict[str, str], bytes]:
    """Send these bytes; returns status, headers and body of the answer."""
    host, port = server.address.split(":")
    with socket.create_connection((host, int(port)), timeout=60) as connection:
        with suppress(OSError):  # the server may answer and close before it has read everything
            connection.sendall(request)
        answer, end = bytearray(), None
        with suppress(ConnectionResetError):
            while (end is None or len(answer) < end) and (chunk := connection.recv(1 << 16)):
                answer += chunk
                head, found, _ = bytes(answer).partition(b"\r\n\r\n")
                length = re.search(rb"\r\ncontent-length: (\d+)", head, re.IGNORECASE)
                if found and length:
                    end = len(head) + 4 + int(length[1])
    head, _, body = bytes(answer[:end]).partition(b"\r\n\r\n")
    status, *lines = head.decode("latin-1").split("\r\n")
    headers = {name.lower(): value for name, value in (line.split(": ", 1) for line in lines)}
    size = int(headers.get("content-length", len(body)))  # another answer may follow
    return int(status.split()[1]), headers, body[:size]


def http(method: str, path: str, *headers: str, body: bytes = b"", length: int | None = None) -> bytes:
    lines = [f"{method} {path} HTTP/1.1", "Host: test", *headers]
    if not any(line.lower().startswith("transfer-encoding") for line in headers):
        lines.append(f"Content-Length: {len(body) if length is None else length}")
    return "\r\n".join([*lines, "", ""]).encode("utf-8", "surrogateescape") + body


def infer(body: Any, *headers: str, model: str = "mlp") -> bytes:
    data = body if isinstance(body, bytes) else json.dumps(body).encode()
    return http("POST", f"/v2/models/{model}/infer", *headers, body=data)


def tensor(**fields: Any) -> dict[str, Any]:
    return {"name": "input", "shape": [1, 16], "datatype": "FP32", "data": [0.5] * 16} | fields


def chunked(*chunks: bytes) -> bytes:
    return b"".join(b"%x\r\n%s\r\n" % (len(chunk), chunk) for chunk in chunks)


BOMB = zlib.compress(bytes(256 << 20))
GOOD = {"inputs": [tensor()]}
HOSTILE: dict[str, tuple[bytes, int, str]] = {
    # paths
    "dots": (http("GET", "/v2/models/../../../etc/passwd"), 404, "Not Found"),
    "dots, encoded": (http("GET", "/v2/models/%2e%2e%2f%2e%2e%2fetc%2fpasswd"), 404, "Not Found"),
    "dots, encoded twice": (http("GET", "/v2/models/%252e%252e%252fetc"), 404, "no model named"),
    "dots as a name": (http("GET", "/v2/models/.."), 404, "no model named '..'"),
    "a path as a name": (infer(GOOD, model="%2Fetc%2Fpasswd"), 404, "Not Found"),
    "a NUL in a name": (infer(GOOD, model="mlp%00"), 404, "no model named"),
    "a line in a name": (infer(GOOD, model="mlp%0d%0aX-Header:%20yes"), 404, "no model named"),
    "no UTF-8 in a name": (infer(GOOD, model="%ff%fe"), 404, "no model named"),
    "a long name": (infer(GOOD, model="m" * 30_000), 404, "no model named"),
    "a file as a name": (infer(GOOD, model="mlp.safetensors"), 404, "no model named 'mlp.safetensors'"),
    "a prediction of a path": (http("POST", "/predictions/..%2fmlp", body=b"[]"), 404, "Not Found"),
    "another version": (http("GET", "/v2/models/mlp/versions/2"), 404, "has version"),
    "a path as a version": (http("GET", "/v2/models/mlp/versions/..%2f1"), 404, "Not Found"),
    "a load of dots": (http("POST", "/v2/repository/models/../load", AUTHORIZED), 400, "expected a model name"),
    "a load of a path": (http("POST", "/v2/repository/models/..%2fx/load", AUTHORIZED), 404, "Not Found"),
    "a load of a hidden file": (
        http("POST", "/v2/repository/models/.hidden/load", AUTHORIZED), 400, "expected a model name"),
    "a load of an outside link": (
        http("POST", "/v2/repository/models/outside/load", AUTHORIZED), 404, "no model named 'outside'"),
    "a load with a file": (
        http("POST", "/v2/repository/models/mlp/load", AUTHORIZED, body=b'{"parameters": {"file:1/m": "AAAA"}}'),
        400, "parameters: expected none"),
    **{
        f"a registration of {url}": (http("POST", f"/models?url={url}", AUTHORIZED), status, reason)
        for url, status, reason in (
            ("../mlp.safetensors", 400, "expected a model name"),
            ("/etc/passwd", 400, "expected the name of a file"),
            ("%2Fsrv%2Fx.safetensors", 400, "expected a model name"),
            ("http://localhost/x.safetensors", 400, "expected a model name"),
            ("file:///x.safetensors", 400, "expected a model name"),
            (".hidden.safetensors", 400, "expected a model name"),
            ("outside.safetensors", 404, "no model named 'outside'"),
            ("", 400, "expected the name of a file"),
            ("mlp.safetensors&model_name=../x", 400, "expected a model name"),
            ("mlp.safetensors&model_name=two", 409, "is taken"),
            ("mlp.safetensors&handler=os:system", 400, "found ['handler']"),
            ("mlp.safetensors&initial_workers=-1", 400, "initial_workers: expected a whole number"),
        )
    },
    "a page before the first": (http("GET", "/models?next_page_token=-5", AUTHORIZED), 400, "expected a whole number"),
    "a page of digits": (http("GET", f"/models?limit={'9' * 5000}", AUTHORIZED), 400, "expected a whole number"),
    # the token
    "a load without a token": (http("POST", "/v2/repository/models/mlp/load"), 401, "TOKEN), found none"),
    "a load with a wrong token": (
        http("POST", "/v2/repository/models/mlp/load", "Authorization: Bearer 0123456789abcdef"), 401, "another one"),
    "an index without a token": (http("POST", "/v2/repository/index"), 401, "bearer token"),
    "a list without a token": (http("GET", "/models"), 401, "bearer token"),
    "a removal without a token": (http("DELETE", "/models/mlp"), 401, "bearer token"),
    "a token in the query": (http("DELETE", f"/models/mlp?token={TOKEN}"), 401, "bearer token"),
    # sizes
    "an announced giant": (http("POST", "/v2/models/mlp/infer", length=2**50), 413, "at most 1048576 bytes"),
    "digits for a size": (http("POST", "/v2/models/mlp/infer", "Content-Length: " + "9" * 40), 400, ""),
    "a giant in chunks": (
        http("POST", "/v2/models/mlp/infer", "Transfer-Encoding: chunked", body=chunked(*[b" " * 65536] * 17, b"")),
        413, "at most 1048576 bytes"),
    "a giant without an end": (
        http("POST", "/v2/models/mlp/infer", "Transfer-Encoding: chunked", body=chunked(*[b" " * 65536] * 64)),
        413, "at most 1048576 bytes"),
    "a giant control call": (
        http("POST", "/v2/repository/index", AUTHORIZED, body=b" " * 70_000), 413, "at most 65536 bytes"),
    "a giant of JSON": (infer(b" " * (300 << 10)), 400, "at most 262144 bytes of JSON"),
    "a bomb": (infer(BOMB, "Content-Encoding: deflate"), 413, "at most 1048576 bytes once decompressed"),
    "another bomb": (infer(zlib.compress(BOMB), "Content-Encoding: deflate, deflate"), 415, "expected gzip, deflate"),
    "brotli": (infer(GOOD, "Content-Encoding: br"), 415, "expected gzip, deflate"),
    "no gzip": (infer(GOOD, "Content-Encoding: gzip"), 415, "not in gzip"),
    "a giant head": (http("GET", "/ping", "X-Much: " + "x" * (1 << 20)), 400, ""),
    "a shape of giants": (infer({"inputs": [tensor(shape=[2**31, 2**31])]}), 400, "found 16"),
    "a shape that overflows": (infer({"inputs": [tensor(shape=[2**62, 4, 16])]}), 400, "found 16"),
    "a giant of binary data": (
        infer({"inputs": [{"name": "input", "shape": [2**40, 16], "datatype": "FP32",
                           "parameters": {"binary_data_size": 2**46}}]}), 400, "bytes of binary data, found 0"),
    "more samples than a pass may have": (
        infer({"inputs": [tensor(shape=[33, 16], data=[0] * 528)]}), 400, "32 samples in a request (--max-batch)"),
    # protocols
    "a Host that is no host": (b"GET /v2/models/nobody HTTP/1.1\r\nHost: [\r\n\r\n", 404, "no model named 'nobody'"),
    "no HTTP": (b"HELO there\r\n\r\n", 400, ""),
    "HTTP/2": (b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", 400, ""),
    "a negative length": (http("POST", "/v2/models/mlp/infer", length=-1), 400, ""),
    "two lengths": (http("POST", "/v2/models/mlp/infer", "Content-Length: 3", body=b"[]"), 400, ""),
    "no chunk": (http("POST", "/v2/models/mlp/infer", "Transfer-Encoding: chunked", body=b"zz\r\n"), 400, ""),
    "an unknown transfer": (http("POST", "/v2/models/mlp/infer", "Transfer-Encoding: gzip"), 400, ""),
    "another method": (http("PUT", "/models/mlp", AUTHORIZED), 405, "expected DELETE, GET, HEAD, found 'PUT'"),
    "no such route": (http("GET", "/v2/models/mlp/config"), 404, "Not Found: expected /ping"),
    "a negative header": (infer(GOOD, "Inference-Header-Content-Length: -1"), 400, "expected a number of bytes"),
    "a header beyond the body": (infer(GOOD, "Inference-Header-Content-Length: 9999999"), 400, "as the body has"),
    "a header within the JSON": (infer(GOOD, "Inference-Header-Content-Length: 5"), 400, "expected JSON"),
    # contents
    "nothing": (infer(b""), 400, "expected JSON"),
    "a deep hole": (infer(b"[" * 40_000), 400, "depth"),
    "a deeper hole": (infer(b"[" * 200_000), 400, "at most 4194304 bytes once parsed"),
    "many empty lists": (infer(b'{"inputs":[' + b"[]," * 80_000 + b"[]]}"), 400, "at most 4194304 bytes once parsed"),
    "no UTF-8": (infer(b'{"id": "\xff"}'), 400, "expected JSON"),
    "NaN": (infer(b'{"inputs": [NaN]}'), 400, "expected JSON: unexpected character"),
    "no inputs": (infer({"inputs": []}), 400, "input 'input' is missing"),
    "another input": (infer({"inputs": [tensor(), tensor(name="other")]}), 400, "no input is named ['other']"),
    "another output": (infer(GOOD | {"outputs": [{"name": "secret"}]}), 400, "no output is named ['secret']"),
    "another rank": (infer({"inputs": [tensor(shape=[16])]}), 400, "expected shape (N, 16), found (16,)"),
    "another width": (infer({"inputs": [tensor(shape=[2, 8])]}), 400, "expected shape (N, 16), found (2, 8)"),
    "another type": (
        infer({"inputs": [tensor(datatype="INT64", data=[1] * 16)]}), 400,
        "input 'input': expected datatype FP32, found INT64"),
    "shared memory": (
        infer({"inputs": [tensor(parameters={"shared_memory_region": "/dev/mem"})]}), 400, "shared memory is not"),
    "an answer that is no JSON": (infer({"inputs": [tensor(data=[3e38] * 16)]}), 406, "infinite or NaN"),
    "a prediction of text": (http("POST", "/predictions/mlp", body=b'"text"'), 400, "expected a JSON object"),
    "a prediction of rags": (http("POST", "/predictions/mlp", body=b"[[1], [2, 3]]"), 400, "lists of one length"),
    "an index with a list": (http("POST", "/v2/repository/index", AUTHORIZED, body=b"[]"), 400, "a JSON object"),
    "an index with words": (
        http("POST", "/v2/repository/index", AUTHORIZED, body=b'{"ready": "no"}'), 400, "expected true or false"),
    # files
    "a broken file": (infer(GOOD, model="broken"), 500, "log has the reason"),
    "a broken file's metadata": (http("GET", "/v2/models/broken"), 500, "log has the reason"),
    "a broken file's readiness": (http("GET", "/v2/models/broken/ready"), 503, ""),
    "a load of a broken file": (
        http("POST", "/v2/repository/models/broken/load", AUTHORIZED), 500, "log has the reason"),
    "a file cut short": (infer(GOOD, model="cut"), 500, "log has the reason"),
}  # fmt: skip


@pytest.fixture(scope="module")
def target(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    outside, folder = tmp_path_factory.mktemp("outside"), tmp_path_factory.mktemp("hostile")
    good = zoo.mlp(outside, 16, 64, 32, 10).path.read_bytes()
    (folder / "outside.safetensors").symlink_to(outside / "mlp.safetensors")
    files = {"mlp": good, "two": good, ".hidden": good, "cut": good[:-5000], "broken": b"no model"}
    for name, content in files.items():
        (folder / f"{name}.safetensors").write_bytes(content)
    with Server(folder, "--budget", "16MiB", "--max-body", "1MiB", "--max-json", "256KiB", token=TOKEN) as server:
        yield server
        assert not [line for line in server.log if line["event"] == "not JSON"]


@pytest.mark.parametrize("name", HOSTILE)
def test_a_hostile_request(target: Server, name: str) -> None:
    request, status, reason = HOSTILE[name]
    found, headers, body = exchange(target, request)
    text = body.decode()
    assert (found, reason if reason in text else text) == (status, reason)
    for secret in SECRETS:
        assert secret not in text
        assert secret not in str(headers)
    if headers.get("content-type") == "application/json":
        assert isinstance(json.loads(body), dict)
    # The server still serves other requests.
    assert exchange(target, infer(GOOD))[0] == 200


def test_errors_have_the_form_that_clients_expect(target: Server) -> None:
    text = "no model named 'nobody' is served; a model has the name of its file, without the ending"
    _, _, body = exchange(target, infer(GOOD, model="nobody"))
    assert json.loads(body) == {"error": text, "type": "UnknownModelError"}
    _, _, body = exchange(target, http("POST", "/predictions/nobody", body=b"[]"))
    assert json.loads(body) == {"code": 404, "type": "UnknownModelError", "message": text}
    _, headers, _ = exchange(target, http("GET", "/models"))
    assert headers["www-authenticate"] == "Bearer"
    _, headers, _ = exchange(target, http("PUT", "/models/mlp", AUTHORIZED))
    assert headers["allow"] == "DELETE, GET, HEAD"


def test_the_log_has_the_reason_why_a_file_cannot_be_used(target: Server, tmp_path: Path) -> None:
    exchange(target, infer(GOOD, model="broken"))
    zoo.eventually(lambda: any("broken.safetensors" in line.get("traceback", "") for line in target.log))


def test_bodies_that_do_not_arrive(repository: Path) -> None:
    options = ["--budget", "16MiB", "--body-timeout", "5", "--max-body", "64KiB", "--max-held", "192KiB"]
    with Server(repository, *options) as server:
        host, port = server.address.split(":")
        half = b'{"inputs"'
        with ExitStack() as stack:
            slow = [stack.enter_context(socket.create_connection((host, int(port)), timeout=60)) for _ in range(2)]
            for connection in slow:
                connection.sendall(http("POST", "/v2/models/mlp/infer", body=half, length=1000))
            held = 2 * (65536 + len(half))
            zoo.eventually(lambda: f"streamrt_request_bytes {float(held)}\n".encode() in server.ask("/metrics")[2])
            status, headers, body = exchange(server, infer(GOOD))
            assert (status, headers["retry-after"], json.loads(body)["type"]) == (503, "1", "OverloadedError")
            for connection in slow:
                assert connection.recv(1 << 16).startswith(b"HTTP/1.1 408 ")
        assert exchange(server, infer(GOOD))[0] == 200


def test_nothing_is_computed_for_a_client_that_left(repository: Path) -> None:
    with Server(repository, "--budget", "16MiB", "--max-delay", "600", "--max-batch", "2") as server:
        host, port = server.address.split(":")
        with socket.create_connection((host, int(port)), timeout=60) as connection:
            connection.sendall(infer(GOOD))
            zoo.eventually(lambda: b"streamrt_queue_length 1.0" in server.ask("/metrics")[2])
        zoo.eventually(lambda: any(line.get("status") == 499 for line in server.log))
        full = {"inputs": [tensor(shape=[2, 16], data=[0.5] * 32)]}  # as many samples as a pass may have
        assert exchange(server, infer(full))[0] == 200
        metrics = server.ask("/metrics")[2]
        assert b"streamrt_batch_requests_sum 1.0" in metrics
        assert b'streamrt_requests_total{model="mlp",outcome="gone"} 1.0' in metrics
