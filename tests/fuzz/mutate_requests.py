"""Requests for every route with faults in some places: target, headers, JSON, binary tensors, bytes on the wire."""

from __future__ import annotations

import gzip
import json
import random
import struct
import zlib
from dataclasses import dataclass, field
from typing import Any

from serve.process import TOKEN

#: Models of the server by name, with the number of columns of each input.
MODELS = {"mlp": {"input": 16}, "two": {"a": 2, "b": 2}, "kinds": {"x": 2}}
#: Files that cannot be used.
BROKEN = ("broken", "cut")
_OUTPUTS = {"mlp": ["output"], "two": ["sum", "difference"], "kinds": ["positive", "above", "best"]}
_NAMES = [
    *MODELS,
    *BROKEN,
    "nobody",
    "outside",
    ".hidden",
    "..",
    "",
    "m" * 300,
    "mlp.safetensors",
    "mlp%00",
    "%2e%2e",
    "ü",
]
_TEXTS = [
    "",
    "x",
    "input",
    "FP32",
    "INT64",
    "BYTES",
    "null",
    "\x00",
    "\ud800",
    "a\r\nb",
    "é" * 50,
    "9" * 400,
    "../x",
    "{}",
]
_NUMBERS = [
    0,
    -1,
    1,
    2,
    16,
    17,
    255,
    2**31,
    2**53 + 1,
    2**62,
    2**63,
    2**64,
    -(2**63),
    0.5,
    -0.0,
    1e38,
    3.5e38,
    1e308,
    1e-320,
]
_LENGTHS = ["0", "-1", "1", "5", "64", "999999", "9" * 30, "٣", "0x10", " 7 ", "1e3", "", "abc", "+3"]
_BOMB = zlib.compress(bytes(8 << 20))


@dataclass
class Request:
    """A request before it is bytes."""

    method: str
    target: str
    headers: list[tuple[str, str]] = field(default_factory=list)
    body: bytes = b""


def make_request(rng: random.Random) -> Request:
    """Make a request. Most have one fault, or none."""
    kind = rng.choice(["infer"] * 12 + ["predict"] * 5 + ["control"] * 2 + ["read"] * 2)
    request = {"infer": _infer, "predict": _predict, "control": _control, "read": _read}[kind](rng)
    request.headers.insert(0, ("Host", "test"))
    for _ in range(rng.choice([0, 0, 0, 0, 0, 1, 1, 2])):
        rng.choice([_spoil_target, _spoil_headers, _spoil_headers, _spoil_body, _encode])(rng, request)
    if rng.random() < 0.01:
        _dense(rng, request)
    return request


def _infer(rng: random.Random) -> Request:
    name = rng.choice([*MODELS] * 8 + _NAMES)
    known = name if name in MODELS else "mlp"
    samples, binary = rng.choice([1, 1, 2, 5, 32, 33]), rng.random() < 0.4
    inputs, tail = [], b""
    for tensor, columns in MODELS[known].items():
        count = samples * columns
        told: dict[str, Any] = {"name": tensor, "shape": [samples, columns], "datatype": "FP32"}
        if binary:
            values = [rng.choice([0.5, -1.0, 3.0]) for _ in range(count)]
            if rng.random() < 0.1:
                values[rng.randrange(count)] = rng.choice([float("nan"), float("inf"), 3e38])
            told["parameters"] = {"binary_data_size": 4 * count}
            tail += struct.pack(f"<{count}f", *values)
        else:
            told["data"] = [rng.choice([0.5, 1, -2, 1e30]) for _ in range(count)]
            if rng.random() < 0.2:
                told["data"] = [told["data"][row * columns : (row + 1) * columns] for row in range(samples)]
        inputs.append(told)
    request: dict[str, Any] = {"inputs": inputs}
    if rng.random() < 0.3:
        request["id"] = rng.choice([*_TEXTS, "7"])
    if rng.random() < 0.4:
        request["outputs"] = [{"name": output} for output in rng.sample(_OUTPUTS[known], 1)]
        if rng.random() < 0.5:
            request["outputs"][0]["parameters"] = {"binary_data": rng.random() < 0.5}
    if rng.random() < 0.3:
        request["parameters"] = {"binary_data_output": True}
    for _ in range(rng.choice([0, 0, 0, 1, 2])):
        request = _spoil_json(rng, request)
    text = _dump(rng, request)
    headers = []
    if tail or rng.random() < 0.05:
        headers.append(("Inference-Header-Content-Length", str(len(text))))
        if rng.random() < 0.1:
            tail = tail[: rng.randrange(len(tail) + 1)] + rng.randbytes(rng.choice([0, 1, 4]))
    version = rng.choice([""] * 8 + ["/versions/1", "/versions/", "/versions/..%2f1"])
    return Request("POST", f"/v2/models/{_quoted(name)}{version}/infer", headers, text + tail)


def _predict(rng: random.Random) -> Request:
    name = rng.choice([*MODELS] * 8 + _NAMES)
    known = name if name in MODELS else "mlp"
    samples = rng.choice([1, 2, 3])
    lists: Any = {key: [[0.5] * columns for _ in range(samples)] for key, columns in MODELS[known].items()}
    if len(lists) == 1 and rng.random() < 0.5:
        lists = next(iter(lists.values()))
    for _ in range(rng.choice([0, 0, 1, 2])):
        lists = _spoil_json(rng, lists)
    return Request("POST", f"/predictions/{_quoted(name)}", [], _dump(rng, lists))


def _control(rng: random.Random) -> Request:
    name = _quoted(rng.choice([*MODELS, *MODELS, *_NAMES]))
    headers = [("Authorization", f"Bearer {TOKEN}")]
    if rng.random() < 0.15:
        headers = [
            ("Authorization", rng.choice(["", "Bearer", f"bearer  {TOKEN}", f"Basic {TOKEN}", "Bearer \xff", TOKEN]))
        ]
    body = rng.choice(
        [b"", b"{}", b'{"ready": true}', b'{"parameters": {}}', b'{"parameters": {"x": 1}}', b"[]", b"nul"]
    )
    url = rng.choice([f"{name}.safetensors", name, "%2Fetc%2Fpasswd", "http://x/y", ""])
    query = "&".join(
        rng.sample(
            [
                f"url={url}",
                f"model_name={rng.choice(['other', 'mlp', 'two', '..', 'x' * 200])}",
                f"initial_workers={rng.choice(['0', '1', '-1', '9' * 20])}",
                f"synchronous={rng.choice(['true', 'false', 'TRUE', ''])}",
                "handler=os:system",
            ],
            rng.randint(0, 4),
        )
    )
    page = f"limit={rng.choice(_LENGTHS)}&next_page_token={rng.choice(_LENGTHS)}"
    method, target = rng.choice(
        [
            ("POST", "/v2/repository/index"),
            ("POST", f"/v2/repository/models/{name}/load"),
            ("POST", f"/v2/repository/models/{name}/unload"),
            ("GET", f"/models?{_quoted(page)}"),
            ("POST", f"/models?url={url}"),
            ("POST", f"/models?{query}"),
            ("GET", f"/models/{name}"),
            ("DELETE", f"/models/{name}"),
        ]
    )
    return Request(method, target, headers, body if method == "POST" else b"")


def _read(rng: random.Random) -> Request:
    name, version = _quoted(rng.choice([*MODELS, *_NAMES])), rng.choice(["", "", "/versions/1", "/versions/%ff"])
    targets = ["/v2", "/v2/health/live", "/v2/health/ready", "/ping", "/metrics", f"/v2/models/{name}{version}"]
    targets += [f"/v2/models/{name}{version}/ready", "/", "//v2", "/v2/", "*", "http://test/v2", "/v2?x=%ff&y", "/%00"]
    return Request(rng.choice(["GET"] * 6 + ["HEAD", "OPTIONS", "PUT", "TRACE", "G" * 50]), rng.choice(targets))


# ---- spoiling


def _quoted(name: str) -> str:
    return "".join(c if "!" <= c <= "~" else "".join(f"%{b:02x}" for b in c.encode()) for c in name)


def _dump(rng: random.Random, value: Any) -> bytes:
    text = json.dumps(value, ensure_ascii=rng.random() < 0.8).encode("utf-8", "surrogatepass")
    if rng.random() > 0.08:
        return text
    return rng.choice(
        [
            lambda: text.replace(b"0.5", rng.choice([b"NaN", b"-Infinity", b"9" * 5000, b"1e999", b"0x1", b".5"]), 1),
            lambda: b"[" * rng.choice([50, 900, 100_000]) + text,
            lambda: b'{"a":' * 5000 + text,
            lambda: b"\xef\xbb\xbf" + text,
            lambda: text.decode("utf-8", "replace").encode("utf-16"),
            lambda: text + rng.choice([b" ", b"\x00", b"}", text]),
            lambda: text[: rng.randrange(len(text))],
            lambda: text.replace(b"{", b'{"name": 1, "name": 2, ', 1),
            lambda: b" " * rng.choice([1000, 300_000]) + text,
        ]
    )()


def _spoil_json(rng: random.Random, value: Any) -> Any:
    """Change one place of a JSON value."""
    if isinstance(value, dict) and value and rng.random() < 0.85:
        key = rng.choice([*value])
        match rng.randrange(6):
            case 0:
                return {other: found for other, found in value.items() if other != key}
            case 1:
                return value | {rng.choice(_TEXTS): value[key]}
            case _:
                return value | {key: _spoil_json(rng, value[key])}
    if isinstance(value, list) and value and rng.random() < 0.85:
        at = rng.randrange(len(value))
        match rng.randrange(6):
            case 0:
                return value[:at]
            case 1:
                return value * rng.choice([2, 3, 40]) if len(value) < 500 else value[1:]
            case 2:
                return [*value[:at], value[at], *value[at:]]
            case _:
                return [*value[:at], _spoil_json(rng, value[at]), *value[at + 1 :]]
    return rng.choice(
        [
            lambda: rng.choice(_NUMBERS),
            lambda: rng.choice(_NUMBERS),
            lambda: rng.choice(_TEXTS),
            lambda: rng.choice([None, True, False, [], {}, [[]], [value], {"x": value}]),
            lambda: [rng.choice(_NUMBERS)] * rng.choice([1, 3, 40]),
        ]
    )()


def _spoil_target(rng: random.Random, request: Request) -> None:
    at = rng.randrange(len(request.target) + 1)
    junk = rng.choice(
        ["%", "%zz", "%00", "%0d%0aX:y", "/", "//", "..", "/..", "?", "#", ";", "%ff", "[", "a" * 3000, "&&="]
    )
    request.target = request.target[:at] + junk + request.target[at:]


def _spoil_headers(rng: random.Random, request: Request) -> None:
    header = rng.choice(
        [
            lambda: ("Host", rng.choice(["[", "[::1", "]", "a b", "", "\xff", "test:99999999", "@", "x" * 3000])),
            lambda: ("Inference-Header-Content-Length", rng.choice(_LENGTHS)),
            lambda: (
                "Content-Type",
                rng.choice(["application/octet-stream", "text/html; charset=\xff", "multipart/form-data"]),
            ),
            lambda: (
                "Content-Encoding",
                rng.choice(["gzip", "deflate", "br", "gzip, gzip", "identity", "", "GZIP ", "\xff"]),
            ),
            lambda: ("Authorization", rng.choice(["Bearer", "x" * 2000, "Bearer \xe9"])),
            lambda: ("Accept-Encoding", "gzip;q=nan"),
            lambda: ("X-Forwarded-For", "127.0.0.1\xff"),
            lambda: ("Cookie", "x" * rng.choice([10, 60_000])),
            lambda: ("Connection", rng.choice(["close", "upgrade", "keep-alive, x"])),
            lambda: ("Upgrade", rng.choice(["websocket", "h2c"])),
            lambda: ("Expect", rng.choice(["100-continue", "200-x"])),
            lambda: ("Content-Length", rng.choice([*_LENGTHS, str(len(request.body) + 1)])),
            lambda: ("Transfer-Encoding", rng.choice(["chunked", "gzip", "chunked, chunked", ""])),
        ]
    )()
    if header[0] == "Host" or rng.random() < 0.5:
        request.headers = [(name, value) for name, value in request.headers if name != header[0]]
    request.headers += [header] * rng.choice([1, 1, 1, 1, 2, 150])


def _spoil_body(rng: random.Random, request: Request) -> None:
    request.body = spoil_bytes(rng, request.body)


def _dense(rng: random.Random, request: Request) -> None:
    """Send many small values, compressed. Parsed, they would take 20 to 30 times as many bytes as their text."""
    one = rng.choice([b"[]", b"{}", b"[1]", b'{"":1}', b'"ab"', b'{"a":[]}', b"0", b"-9", b"1.5", b"[0.25,1.5]"])
    many = b",".join([one] * (rng.choice([10_000, 500_000, 2_000_000, 2_090_000, 2_200_000]) // (len(one) + 1)))
    body = rng.choice([b'{"inputs":[%b]}', b"[%b]", b'{"inputs":[{"name":"input","data":[%b]}]}']) % many
    request.method, request.body = "POST", gzip.compress(body, 1, mtime=0)
    request.headers.append(("Content-Encoding", "gzip"))


def _encode(rng: random.Random, request: Request) -> None:
    """Apply a content encoding, mostly a right one."""
    way = rng.choice(["gzip", "deflate"])
    body = gzip.compress(request.body, mtime=0) if way == "gzip" else zlib.compress(request.body)
    body = rng.choice([body] * 5 + [_BOMB, body[: len(body) // 2], body + b"x", request.body])
    request.headers.append(("Content-Encoding", way))
    request.body = body


def spoil_bytes(rng: random.Random, data: bytes) -> bytes:
    """Flip, drop, double or insert bytes in a few places."""
    spoilt = bytearray(data)
    for _ in range(rng.choice([1, 1, 2, 5])):
        at, length = rng.randrange(len(spoilt) + 1), rng.choice([1, 1, 2, 8, 100])
        match rng.randrange(4):
            case 0 if at < len(spoilt):
                spoilt[at] ^= 1 << rng.randrange(8)
            case 1:
                del spoilt[at : at + length]
            case 2:
                spoilt[at:at] = spoilt[at : at + length]
            case _:
                spoilt[at:at] = rng.choice(
                    [b"\r\n", b"\n", b"\x00", b"\xff", b":", b" ", b"0\r\n\r\n", rng.randbytes(length)]
                )
    return bytes(spoilt)


def on_the_wire(rng: random.Random, request: Request) -> bytes:
    """The bytes of a request, with its length or in chunks, and sometimes with faults."""
    names = {name.lower() for name, _ in request.headers}
    lines = [f"{request.method} {request.target} HTTP/{rng.choice(['1.1'] * 12 + ['1.0', '2.0', '1.1x'])}"]
    lines += [f"{name}: {value}" for name, value in request.headers]
    body = request.body
    if not names & {"content-length", "transfer-encoding"}:
        if rng.random() < 0.2:
            lines.append("Transfer-Encoding: chunked")
            step = rng.choice([1000, 70_000])
            pieces = [body[at : at + step] for at in range(0, len(body), step)]
            body = b"".join(b"%x%s\r\n%s\r\n" % (len(p), rng.choice([b"", b";x=y"]), p) for p in [*pieces, b""])
        else:
            lines.append(f"Content-Length: {len(body)}")
    data = "\r\n".join([*lines, "", ""]).encode("latin-1", "replace") + body
    return spoil_bytes(rng, data) if rng.random() < 0.25 else data
