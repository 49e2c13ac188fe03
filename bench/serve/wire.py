"""Requests as bytes, and answers as arrays, in each server's form."""

from __future__ import annotations

import json
from collections.abc import Mapping

import numpy as np
from numpy.typing import NDArray

from bench.serve import rpc
from bench.serve.rows import BINARY, GRPC
from bench.serve.servers import LITSERVE

Array = NDArray[np.float32]
#: The name of every network's input.
_INPUT = "x"
_BOUNDARY = "streamrt-bench"
_LENGTH = "inference-header-content-length"


def request(server: str, wire: str, model: str, x: Array) -> bytes:
    """A whole HTTP request, or a message of gRPC, for one call of ``model`` with ``x``."""
    if wire == GRPC:
        return rpc.request(model, x)
    if server == LITSERVE:
        return _form(model, x) if wire == BINARY else _post("/predict", _json(x, model=model))
    path = f"/v2/models/{model}/infer"
    if wire != BINARY:
        return _post(path, _json(x))
    tensor = {"name": _INPUT, "shape": x.shape, "datatype": "FP32", "parameters": {"binary_data_size": x.nbytes}}
    head = json.dumps({"inputs": [tensor], "parameters": {"binary_data_output": True}}).encode()
    return _post(path, head + x.tobytes(), {_LENGTH: str(len(head)), "content-type": "application/octet-stream"})


def answer(server: str, wire: str, headers: Mapping[str, str], body: bytes) -> Array:
    """The first output of an answer, flat.

    Raises:
        ValueError: it is not an answer of this form.
        KeyError: the same.
    """
    if wire == GRPC:
        return rpc.answer(body)
    if server == LITSERVE and wire == BINARY:
        return np.frombuffer(body, np.float32)
    length = int(headers[_LENGTH]) if wire == BINARY else len(body)
    output = json.loads(body[:length])["outputs"][0]
    if wire != BINARY:
        return np.array(output["data"], np.float32).ravel()
    return np.frombuffer(body[length : length + output["parameters"]["binary_data_size"]], np.float32)


def _json(x: Array, **beside: str) -> bytes:
    # Nine digits tell every float32.
    data = [float(f"{value:.9g}") for value in x.ravel().tolist()]
    tensor = {"name": _INPUT, "shape": x.shape, "datatype": "FP32", "data": data}
    return json.dumps(beside | {"inputs": [tensor]}).encode()


def _form(model: str, x: Array) -> bytes:
    shape = ",".join(map(str, x.shape))
    parts = [
        f'--{_BOUNDARY}\r\nContent-Disposition: form-data; name="{name}"\r\n\r\n{value}\r\n'.encode()
        for name, value in (("model", model), ("shape", shape))
    ]
    file = f'--{_BOUNDARY}\r\nContent-Disposition: form-data; name="tensor"; filename="x"\r\n'
    parts += [file.encode(), b"Content-Type: application/octet-stream\r\n\r\n", x.tobytes()]
    body = b"".join([*parts, f"\r\n--{_BOUNDARY}--\r\n".encode()])
    return _post("/predict", body, {"content-type": f"multipart/form-data; boundary={_BOUNDARY}"})


def _post(path: str, body: bytes, headers: Mapping[str, str] | None = None) -> bytes:
    told = {"host": "127.0.0.1", "content-type": "application/json", "content-length": str(len(body))}
    lines = [f"POST {path} HTTP/1.1", *(f"{name}: {value}" for name, value in (told | dict(headers or {})).items())]
    return "\r\n".join([*lines, "", ""]).encode() + body
