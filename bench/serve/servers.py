"""How each server is started, what it speaks, and where it tells that it is ready.

The peers batch as their manuals say, where several connections ask one model: a batch is complete with a request of
each connection, so that a server waits for its timeout only if a client is late. Where several models are asked,
MLServer does not batch. Its models have queues of their own, which would seldom be complete, and every request would
wait. LitServe has one queue for all. streamrt has its defaults.
"""

from __future__ import annotations

import json
import sys
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from bench.serve import models
from bench.serve.rows import BINARY, GRPC, JSON, Row

US, MLSERVER, LITSERVE = "streamrt", "mlserver", "litserve"
SERVERS = (US, MLSERVER, LITSERVE)
#: Samples of the largest batch: streamrt's default.
MOST = 32
#: Seconds for which a peer's batch waits to be complete; its manual's example has 10 ms.
_WAIT = 0.01
#: streamrt's server has one arena of the C library's allocator. The peers get that, too, as memory is compared.
_ARENA = {"MALLOC_ARENA_MAX": "1"}
_PROGRAMS = Path(__file__).with_name("programs")
#: Why a server has no row for a form of tensors.
LACKS = {
    (MLSERVER, BINARY): "over HTTP it has no binary tensors, only over gRPC",
    (LITSERVE, GRPC): "it does not speak gRPC",
}
#: What is different about a server's form of tensors.
DIFFERS = {
    (LITSERVE, JSON): "the body also names the model, and all models have one address",
    (LITSERVE, BINARY): "it has no binary tensors of the Open Inference Protocol: a form has the tensor as a file",
}


@dataclass(frozen=True, slots=True)
class Start:
    """A server that is to be started.

    Attributes:
        command: of its first process.
        ready: paths that all answer with 200 once it is ready.
        environ: environment variables of its own.
        metrics: the path of the metrics that tell how large batches were; empty if there is none.
    """

    command: list[str]
    ready: list[str]
    environ: dict[str, str] = field(default_factory=dict)
    metrics: str = ""


def start(
    server: str,
    row: Row,
    wire: str,
    connections: int,
    *,
    port: int,
    data: Path,
    scratch: Path,
    python: Path | None,
    rpc: int = 0,
) -> Start:
    """How to start ``server`` at ``port``, and for gRPC also at ``rpc``, unless that is 0.

    ``scratch`` is an empty folder for its configuration, and ``python`` the interpreter of a peer's environment.
    """
    if server == US:
        return _streamrt(row, port, rpc, data)
    assert python
    batching = {"max_batch_size": min(connections, MOST)} if connections > 1 else {}
    files = {name: str(path) for name, path in models.onnx_files(row, data).items()}
    if server == MLSERVER:
        return _mlserver(files, batching if row.models == 1 else {}, port, rpc, scratch, python)
    return _litserve(files, batching, port, scratch, python, binary=wire == BINARY)


def _streamrt(row: Row, port: int, rpc: int, data: Path) -> Start:
    command = [sys.executable, "-P", "-m", "streamrt", "serve", str(models.packed(row, data)), "--port", str(port)]
    if rpc:
        command += ["--grpc-port", str(rpc)]
    if row.over:
        command += ["--budget", str(models.weights(row, data) // row.over)]
    return Start(command, ["/v2/health/ready"], _ARENA, "/metrics")


def _mlserver(
    files: dict[str, str], batching: dict[str, Any], port: int, rpc: int, scratch: Path, python: Path
) -> Start:
    if batching:
        batching = batching | {"max_batch_time": _WAIT}
    ports = {"http_port": port, "grpc_port": rpc, "metrics_endpoint": None}
    (scratch / "settings.json").write_text(json.dumps({"debug": False, "host": "127.0.0.1"} | ports))
    for name, path in files.items():
        folder = scratch / name
        folder.mkdir()
        implementation = {"implementation": "mlserver_runtime.OnnxModel", "parameters": {"uri": path}}
        (folder / "model-settings.json").write_text(json.dumps({"name": name} | implementation | batching))
    # A model's code may be anywhere on the path of MLServer's processes.
    environ = _ARENA | {"PYTHONPATH": str(_PROGRAMS)}
    ready = [f"/v2/models/{name}/ready" for name in files]
    return Start([str(python.with_name("mlserver")), "start", str(scratch)], ready, environ)


def _litserve(
    files: dict[str, str], batching: dict[str, Any], port: int, scratch: Path, python: Path, *, binary: bool
) -> Start:
    if batching:
        batching = batching | {"batch_timeout": _WAIT}
    settings = scratch / "settings.json"
    settings.write_text(json.dumps({"models": files, "port": port, "binary": binary, "batching": batching}))
    return Start([str(python), "-P", str(_PROGRAMS / "litserve_app.py"), str(settings)], ["/health"], _ARENA)
