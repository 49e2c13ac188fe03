"""The calls of multi-model-server: ``/ping``, ``/predictions/{model}`` and ``/models``.

See ``docs/inference_api.md`` and ``docs/management_api.md`` of github.com/awslabs/multi-model-server. A model's URL is
the name of a file of the repository folder, never a path or an address.
"""

from __future__ import annotations

from typing import Any

from starlette.requests import Request
from starlette.responses import JSONResponse, Response

from streamrt.errors import InputError
from streamrt.serve.batching import Results
from streamrt.serve.catalog import ModelSpec
from streamrt.serve.http import Routes, model_in
from streamrt.serve.inference import run_model
from streamrt.serve.jsontext import JsonText
from streamrt.serve.predictions import encode_prediction, parse_prediction
from streamrt.serve.protocol import InferRequest
from streamrt.serve.service import Service

#: Models in a page of ``GET /models``: the most, and the default.
_MAX_PAGE, _PAGE = 1000, 100


class MultiModelServer:
    """The routes of multi-model-server, a method for each."""

    def __init__(self, service: Service) -> None:
        self._service = service
        self._settings = service.settings

    def add_to(self, routes: Routes) -> None:
        """Add all routes to the table."""
        routes.add("/ping", "GET", self.ping)
        routes.add("/predictions/{model}", "POST", self.predict, inference=True)
        routes.add("/models", "GET", self.list_models, control=True)
        routes.add("/models", "POST", self.register, control=True)
        routes.add("/models/{model}", "GET", self.describe, control=True)
        routes.add("/models/{model}", "DELETE", self.unregister, control=True)

    async def ping(self, request: Request) -> Response:
        """Whether the server takes requests."""
        if self._service.draining:
            return JSONResponse({"health": "unhealthy!"}, 503)
        return JSONResponse({"health": "healthy!"})

    async def predict(self, request: Request) -> Response:
        """Run a model on lists of numbers."""

        def parse(text: JsonText, data: memoryview, spec: ModelSpec) -> InferRequest:
            return InferRequest(parse_prediction(text, spec.inputs))

        def encode(parsed: InferRequest, spec: ModelSpec, results: Results) -> Response:
            return Response(encode_prediction(results), media_type="application/json")

        return await run_model(self._service, request, parse, encode)

    # ---- models that are served

    async def list_models(self, request: Request) -> Response:
        """A page of the models that are served."""
        begin = _number(request, "next_page_token", 0)
        end = begin + max(1, min(_number(request, "limit", _PAGE), _MAX_PAGE))
        served = self._service.catalog.served()
        told: dict[str, Any] = {"models": [{"modelName": name, "modelUrl": file} for name, file in served[begin:end]]}
        if end < len(served):
            told["nextPageToken"] = str(end)
        return JSONResponse(told)

    async def register(self, request: Request) -> Response:
        """Serve a file of the folder under its own name or another; ``initial_workers`` above 0 reads its weights."""
        given = request.query_params
        if unknown := given.keys() - {"url", "model_name", "initial_workers", "synchronous"}:
            raise InputError(
                f"expected the parameters url, model_name, initial_workers and synchronous, found {sorted(unknown)[:5]}"
            )
        loads = _number(request, "initial_workers", 0) > 0
        catalog = self._service.catalog
        name = await self._service.change(catalog.register, given.get("url"), given.get("model_name"))
        if not loads:
            return JSONResponse({"status": f'Model "{name}" registered'})
        if given.get("synchronous", "false").lower() != "true":
            await self._service.call(catalog.prefetch, name)
            return JSONResponse({"status": "Worker updated"}, 202)
        await self._service.change(catalog.load, name)
        return JSONResponse({"status": "Worker scaled"})

    async def describe(self, request: Request) -> Response:
        """State and counts of a model in the pool."""
        catalog, name = self._service.catalog, model_in(request)
        file, status = await self._service.call(catalog.status, name)
        spec = await self._service.call(catalog.spec, name)
        return JSONResponse(
            {
                "modelName": status.name,
                "modelVersion": spec.version,
                "modelUrl": file,
                "engine": "streamrt",
                "runtime": "python",
                "minWorkers": 1,
                "maxWorkers": 1,
                "batchSize": self._settings.max_batch,
                "maxBatchDelay": round(self._settings.max_delay * 1000),
                "workers": [{"id": "0", "status": status.state.value, "gpu": False, "memoryUsage": status.held}],
                "pinned": status.kept,
                "weights": status.weights,
                "requests": status.requests,
                "hits": status.hits,
                "loads": status.loads,
                "bytesLoaded": status.bytes_loaded,
            }
        )

    async def unregister(self, request: Request) -> Response:
        """Stop serving a model."""
        name = model_in(request)
        await self._service.change(self._service.catalog.unregister, name)
        return JSONResponse({"status": f'Model "{name}" unregistered'})


def _number(request: Request, name: str, default: int) -> int:
    text = request.query_params.get(name, str(default))
    if not (text.isascii() and text.isdigit() and len(text) <= 9):
        raise InputError(f"{name}: expected a whole number of at most 9 digits, found {text!r:.40}")
    return int(text)
