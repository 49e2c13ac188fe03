"""Events of HTTP: of a function URL, an API gateway or a load balancer, which hand a request on as JSON.

Bodies are those of ``/v2/models/NAME/infer`` of `streamrt serve`, binary tensors included. The path is not looked at,
because the function has one model.
"""

from __future__ import annotations

import base64
import json
from typing import Any

import tensors

import streamrt
from streamrt.serve.jsontext import kind_of, weigh_json
from streamrt.serve.protocol import encode_response, parse_header_length, parse_request, split_body
from streamrt.serve.refusal import ProtocolError, UnrepresentableError

_HEADER_LENGTH = "Inference-Header-Content-Length"
#: Bytes of JSON in a body. Its parsed values take up to 12 times as many, which `room.EVENTS` has to cover.
_MOST_JSON = 2 << 20
#: Errors that tell the caller what was wrong. Any other error is the function's, and the gateway answers with 502.
_TOLD = (ProtocolError, UnrepresentableError, streamrt.InputError, streamrt.BudgetError)


def is_one(event: Any) -> bool:
    """Whether an event is a request of HTTP."""
    return isinstance(event, dict) and "requestContext" in event


def answer(model: streamrt.Model, event: dict[str, Any]) -> dict[str, Any]:
    """The response to a request."""
    try:
        return _answer(model, event)
    except _TOLD as error:
        return _response(json.dumps({"error": str(error), "type": type(error).__name__}), status=400)


def _answer(model: streamrt.Model, event: dict[str, Any]) -> dict[str, Any]:
    headers = {name.lower(): value for name, value in (event.get("headers") or {}).items()}
    length = parse_header_length(headers.get(_HEADER_LENGTH.lower()))
    text, data = split_body(_body(event), length)
    request = parse_request(weigh_json(text, _MOST_JSON), data)
    results = tensors.run(model, request)
    encoded = encode_response("model", model.checksum, request, results)
    if encoded.header_length is None:
        return _response(encoded.body.decode())
    body = base64.b64encode(encoded.body).decode("ascii")
    headers = {_HEADER_LENGTH: str(encoded.header_length), "Content-Type": "application/octet-stream"}
    return _response(body, headers=headers) | {"isBase64Encoded": True}


def _body(event: dict[str, Any]) -> bytes:
    """The bytes of the body. A gateway hands binary bodies on in base64."""
    body = event.get("body")
    if not isinstance(body, str):
        raise ProtocolError(f"expected a body with an inference request, found {kind_of(body)}")
    if not event.get("isBase64Encoded"):
        return body.encode()
    try:
        return base64.b64decode(body, validate=True)
    except ValueError as error:
        raise ProtocolError(f"expected a body in base64: {error!s:.80}") from None


def _response(body: str, *, status: int = 200, headers: dict[str, str] | None = None) -> dict[str, Any]:
    return {"statusCode": status, "headers": {"Content-Type": "application/json"} | (headers or {}), "body": body}
