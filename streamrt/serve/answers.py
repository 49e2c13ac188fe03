"""Answers to the calls of the Open Inference Protocol beside inference, for HTTP and gRPC.

They are values with the protocol's names of fields, which are the same in JSON and in messages.
"""

from __future__ import annotations

import asyncio
from typing import Any

from streamrt._version import __version__
from streamrt.errors import InputError
from streamrt.graph import TensorSpec
from streamrt.serve.protocol import DATATYPES
from streamrt.serve.service import Service


def server_metadata(service: Service) -> dict[str, Any]:
    """Name, version and extensions of the server."""
    extensions = ["binary_tensor_data"] + ["model_repository"] * (service.settings.token is not None)
    return {"name": "streamrt", "version": __version__, "extensions": extensions}


async def model_metadata(service: Service, name: str, version: str | None) -> dict[str, Any]:
    """Inputs and outputs of a model, even if it is not in memory; raises as `Catalog.spec`."""
    spec = await service.call(service.catalog.spec, name, version)
    return {
        "name": name,
        "versions": [spec.version],
        "platform": "streamrt",
        "inputs": [_tensor(tensor) for tensor in spec.inputs],
        "outputs": [_tensor(tensor) for tensor in spec.outputs],
    }


async def model_ready(service: Service, name: str, version: str | None) -> bool:
    """Whether requests for a model are served; raises as `Catalog.spec`. The model need not be in memory."""
    entry = await service.call(service.catalog.entry, name)
    if version is not None and entry.state == "READY":
        await service.call(service.catalog.spec, name, version)
    return entry.state == "READY" and not service.draining


async def index(service: Service, only_ready: bool) -> list[dict[str, Any]]:
    """All models: those that are served, and other files of the folder, as it is now."""
    await asyncio.wrap_future(service.refresher.ask())
    return [
        {"name": entry.name, "state": entry.state, "reason": entry.reason}
        for entry in await service.call(service.catalog.index)
        if entry.state == "READY" or not only_ready
    ]


async def load(service: Service, name: str, has_parameters: bool) -> None:
    """Serve a model, and read its weights at once; raises as `Catalog.load`."""
    if has_parameters:
        raise InputError("parameters: expected none, since a model is loaded from its file without changes")
    await service.change(service.catalog.load, name)


async def unload(service: Service, name: str) -> None:
    """Stop serving a model, until it is loaded again; raises as `Catalog.unregister`."""
    await service.change(service.catalog.unregister, name)


def _tensor(spec: TensorSpec) -> dict[str, Any]:
    shape = [dim if isinstance(dim, int) else -1 for dim in spec.dims]
    return {"name": spec.name, "datatype": DATATYPES[spec.dtype], "shape": shape}
