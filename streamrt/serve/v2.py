"""The Open Inference Protocol and its model repository extension: everything below ``/v2``."""

from __future__ import annotations

import asyncio
from typing import Any

from starlette.requests import Request
from starlette.responses import JSONResponse, Response

from streamrt.errors import InputError
from streamrt.serve import answers
from streamrt.serve.batching import Results
from streamrt.serve.catalog import ModelSpec
from streamrt.serve.http import Routes, model_in, read_body, version_in
from streamrt.serve.inference import run_model
from streamrt.serve.jsontext import JsonText, kind_of, parse_json, weigh_json
from streamrt.serve.protocol import InferRequest, encode_response, parse_header_length, parse_request
from streamrt.serve.service import Service

_HEADER_LENGTH = "Inference-Header-Content-Length"
#: The most bytes of the body of a repository call, which has a few parameters.
_MAX_CONTROL = 64 << 10


class OpenInference:
    """The routes of the protocol, a method for each."""

    def __init__(self, service: Service) -> None:
        self._service = service
        self._settings = service.settings

    def add_to(self, routes: Routes) -> None:
        """Add all routes to the table."""
        routes.add("/v2", "GET", self.server_metadata)
        routes.add("/v2/health/live", "GET", self.live)
        routes.add("/v2/health/ready", "GET", self.ready)
        for version in ("", "/versions/{version}"):
            model = f"/v2/models/{{model}}{version}"
            routes.add(model, "GET", self.model_metadata)
            routes.add(f"{model}/ready", "GET", self.model_ready)
            routes.add(f"{model}/infer", "POST", self.infer, inference=True)
        routes.add("/v2/repository/index", "POST", self.index, control=True)
        routes.add("/v2/repository/models/{model}/load", "POST", self.load, control=True)
        routes.add("/v2/repository/models/{model}/unload", "POST", self.unload, control=True)
        routes.add("/v2/repository/models/{model}/pin", "POST", self.pin, control=True)
        routes.add("/v2/repository/models/{model}/unpin", "POST", self.unpin, control=True)

    async def server_metadata(self, request: Request) -> Response:
        """Name, version and extensions of the server."""
        return JSONResponse(answers.server_metadata(self._service))

    async def live(self, request: Request) -> Response:
        """Whether the server is alive: always true in an answer."""
        return JSONResponse({"live": True})

    async def ready(self, request: Request) -> Response:
        """Whether the server takes requests. Two keys are sent: the protocol's text and its OpenAPI file differ."""
        ready = not self._service.draining
        return JSONResponse({"live": True, "ready": ready}, 200 if ready else 503)

    async def model_metadata(self, request: Request) -> Response:
        """Inputs and outputs of a model, even if it is not in memory."""
        return JSONResponse(await answers.model_metadata(self._service, model_in(request), version_in(request)))

    async def model_ready(self, request: Request) -> Response:
        """Whether requests for a model are served. The model need not be in memory."""
        name = model_in(request)
        ready = await answers.model_ready(self._service, name, version_in(request))
        return JSONResponse({"name": name, "ready": ready}, 200 if ready else 503)

    async def infer(self, request: Request) -> Response:
        """Run a model."""
        name = model_in(request)
        header_length = parse_header_length(request.headers.get(_HEADER_LENGTH))

        def parse(text: JsonText, data: memoryview, spec: ModelSpec) -> InferRequest:
            return parse_request(text, data)

        def encode(parsed: InferRequest, spec: ModelSpec, results: Results) -> Response:
            encoded = encode_response(name, spec.version, parsed, results)
            if encoded.header_length is None:
                return Response(encoded.body, media_type="application/json")
            headers = {_HEADER_LENGTH: str(encoded.header_length)}
            return Response(encoded.body, headers=headers, media_type="application/octet-stream")

        return await run_model(self._service, request, parse, encode, header_length)

    # ---- the repository

    async def index(self, request: Request) -> Response:
        """All models: those that are served, and other files of the folder. New files are served from now on."""
        only_ready = (await self._body(request)).get("ready", False)
        if type(only_ready) is not bool:
            raise InputError(f"ready: expected true or false, found {kind_of(only_ready)}")
        return JSONResponse(await answers.index(self._service, only_ready))

    async def load(self, request: Request) -> Response:
        """Serve a model, and read its weights at once."""
        has_parameters = bool((await self._body(request)).get("parameters"))
        await answers.load(self._service, model_in(request), has_parameters)
        return JSONResponse({})

    async def unload(self, request: Request) -> Response:
        """Stop serving a model, until it is loaded again."""
        await self._body(request)
        await answers.unload(self._service, model_in(request))
        return JSONResponse({})

    async def pin(self, request: Request) -> Response:
        """Serve a model, and keep all of its weights in memory. They are there when this answers."""
        await self._body(request)
        pinned = await self._service.change(self._service.catalog.pin, model_in(request))
        await asyncio.wrap_future(pinned)
        return JSONResponse({})

    async def unpin(self, request: Request) -> Response:
        """Make a pinned model an ordinary one."""
        await self._body(request)
        await self._service.change(self._service.catalog.unpin, model_in(request))
        return JSONResponse({})

    async def _body(self, request: Request) -> dict[str, Any]:
        """The JSON object in the body of a repository call. An empty body stands for an empty object."""
        with self._service.gate.hold() as held:
            body = await read_body(self._service, request, held, _MAX_CONTROL)
        found = parse_json(weigh_json(body, _MAX_CONTROL)) if body.strip() else {}
        if type(found) is not dict or not isinstance(found.get("parameters", {}), dict):
            raise InputError("expected a JSON object, with parameters as an object")
        return found
