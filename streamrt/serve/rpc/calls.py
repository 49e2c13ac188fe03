"""The methods of the protocol. Each makes the answer to a call, as bytes."""

from __future__ import annotations

import asyncio
from functools import partial
from typing import Any

import grpc

from streamrt.errors import UnknownModelError
from streamrt.serve import answers
from streamrt.serve.catalog import ModelSpec
from streamrt.serve.inference import outcome
from streamrt.serve.protocol import InferRequest
from streamrt.serve.rpc.call import Call, Face
from streamrt.serve.rpc.codec import Parts, encode_infer, parse, parse_infer, split
from streamrt.serve.rpc.messages import METHODS, SERVICE
from streamrt.serve.service import Service

#: The most bytes of the message of any other call than an inference request. It has a few names.
_MAX_SMALL = 64 << 10


class OpenInference:
    """The methods of the service, one for each of the protocol."""

    def __init__(self, service: Service) -> None:
        self._service = service
        self._settings = service.settings

    def handlers(self) -> grpc.GenericRpcHandler:
        """What grpcio asks for the handler of a call.

        Handlers take and give streams of messages, although each call has one of each. So grpcio lets them ask for the
        message, and wait until the answer is taken. Clients see no difference.
        """
        face = Face(self._service)
        found = {
            "ServerLive": face.handler("ServerLive", self.live, holds=False),
            "ServerReady": face.handler("ServerReady", self.ready, holds=False),
            "ServerMetadata": face.handler("ServerMetadata", self.server_metadata, holds=False),
            "ModelReady": face.handler("ModelReady", self.model_ready),
            "ModelMetadata": face.handler("ModelMetadata", self.model_metadata),
            "ModelInfer": face.handler("ModelInfer", self.infer, inference=True),
            "RepositoryIndex": face.handler("RepositoryIndex", self.index, control=True),
            "RepositoryModelLoad": face.handler("RepositoryModelLoad", self.load, control=True),
            "RepositoryModelUnload": face.handler("RepositoryModelUnload", self.unload, control=True),
        }
        methods = {name: grpc.stream_stream_rpc_method_handler(handle) for name, handle in found.items()}
        return grpc.method_handlers_generic_handler(SERVICE, methods)

    async def live(self, call: Call) -> bytes:
        """Whether the server is alive: always true in an answer."""
        return _message("ServerLive", live=True)

    async def ready(self, call: Call) -> bytes:
        """Whether the server takes requests."""
        return _message("ServerReady", ready=not self._service.draining)

    async def server_metadata(self, call: Call) -> bytes:
        """Name, version and extensions of the server."""
        return _message("ServerMetadata", **answers.server_metadata(self._service))

    async def model_metadata(self, call: Call) -> bytes:
        """Inputs and outputs of a model, even if it is not in memory."""
        asked = await self._asked("ModelMetadata", call)
        told = await call.finish(answers.model_metadata(self._service, asked.name, asked.version or None))
        return _message("ModelMetadata", **told)

    async def model_ready(self, call: Call) -> bytes:
        """Whether requests for a model are served. The model need not be in memory.

        As with Triton, an unknown model is not ready. So clients say the same as for HTTP, where 404 means that.
        """
        asked = await self._asked("ModelReady", call)
        try:
            ready = await call.finish(answers.model_ready(self._service, asked.name, asked.version or None))
        except UnknownModelError:
            ready = False
        return _message("ModelReady", ready=ready)

    async def infer(self, call: Call) -> bytes:
        """Run a model."""
        service = self._service
        message = await call.message(self._settings.max_body, "--max-body")
        parts = await call.finish(service.call(split, message, self._settings.max_json))

        def read(parts: Parts) -> tuple[str, ModelSpec, InferRequest]:
            name, version, parsed = parse_infer(parts)
            call.model, call.id = name, parsed.id
            return name, service.catalog.spec(name, version), parsed

        async with service.parsing(parts.weight):
            name, spec, parsed = await call.finish(service.call(read, parts))
        del message, parts  # frees the message, unless tensors are views of it
        outputs = service.check(spec, parsed)
        queued = service.infer(name, spec, parsed, outputs)
        try:
            results = await outcome(queued, self._settings.timeout)
        except asyncio.CancelledError:  # the client has gone
            if queued.cancelled():
                service.metrics.withdrawn()
            raise
        return await call.finish(service.encode(name, partial(encode_infer, name, spec.version, parsed), results))

    # ---- the repository

    async def index(self, call: Call) -> bytes:
        """All models: those that are served, and other files of the folder."""
        asked = await self._asked("RepositoryIndex", call)
        return _message("RepositoryIndex", models=await call.finish(answers.index(self._service, asked.ready)))

    async def load(self, call: Call) -> bytes:
        """Serve a model, and read its weights at once."""
        asked = await self._asked("RepositoryModelLoad", call)
        await call.finish(answers.load(self._service, asked.model_name, bool(asked.parameters)))
        return _message("RepositoryModelLoad")

    async def unload(self, call: Call) -> bytes:
        """Stop serving a model, until it is loaded again."""
        asked = await self._asked("RepositoryModelUnload", call)
        await call.finish(answers.unload(self._service, asked.model_name))
        return _message("RepositoryModelUnload")

    async def _asked(self, method: str, call: Call) -> Any:
        """The parsed message of a call that is about a model or the repository."""
        asked = parse(method, await call.message(_MAX_SMALL))
        call.model = getattr(asked, "name", "") or getattr(asked, "model_name", "")
        return asked


def _message(method: str, **fields: Any) -> bytes:
    return bytes(METHODS[method].response(**fields).SerializeToString())
