"""A Ray Serve application: each replica has a pool, and a request goes to a replica that has its model warm.

It needs the extra ``ray``. Every replica runs the server of `streamrt.serve` over a pool of its own. Ray's model
multiplexing keeps a table of the models that each replica has served, and routes by it. So a request that names its
model in the header ``serve-multiplexed-model-id`` reaches a replica that has the model warm. The entries of Ray's table
are handles without weights. The pool owns weights and leases, and its policy decides which weights stay in memory.

See ``examples/cluster``.
"""

# No `from __future__ import annotations`: Ray reads the annotation of an application builder.
import _thread
import asyncio
from collections.abc import Callable, Coroutine, Mapping, Sequence
from concurrent.futures import Future
from contextlib import suppress
from dataclasses import asdict
from pathlib import Path
from typing import Any

try:
    from pydantic import BaseModel, ConfigDict, Field, field_validator
    from ray import serve
    from ray.serve import Application
    from ray.serve.config import BackpressureConfig
    from starlette.applications import Starlette
except ImportError as error:
    raise ImportError(f"streamrt.ray needs the package {error.name}: pip install 'streamrt[ray]'") from error

from streamrt.engine.inputs import Given, Result
from streamrt.errors import InputError, ModelClosedError, UnknownModelError
from streamrt.host.budget import parse_size
from streamrt.pool import ModelPool
from streamrt.serve.app import make_app
from streamrt.serve.batching import Results
from streamrt.serve.catalog import ModelSpec
from streamrt.serve.protocol import InferRequest, Output
from streamrt.serve.service import Service
from streamrt.serve.settings import Settings

__all__ = ["Options", "application"]


class Options(BaseModel):
    """Options of the application. Ray makes them from the arguments of a shell or of a configuration file.

    Attributes:
        repository: absolute path of the folder of weights files, the same on every node.
        budget: of each replica: bytes, or a text such as ``"512MiB"``. Ray places a replica on a node with this much
            free memory.
        policy, threads, io, verify, pin, timeout, max_batch, max_delay: as `streamrt.serve.settings.Settings`.
        rescan: seconds after which a replica searches the folder for new, replaced and removed files, again and again.
        replicas: number of replicas.
        cpus: number of processors that Ray reserves for each replica.
        max_ongoing_requests: the most requests in one replica; further requests go to other replicas, where the model
            may be cold.
        max_queued_requests: the most requests that wait in one proxy; further requests get 503 and Retry-After.
        models_per_replica: the most models in Ray's table for one replica. It should exceed the models in use, so that
            the pool, and not Ray, decides which weights stay.

    Raises:
        pydantic.ValidationError: an option is not of this form.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    repository: str
    budget: int | str
    policy: str = "adaptive"
    threads: int | None = Field(None, ge=1)
    io: str = "auto"
    verify: str | None = None
    pin: tuple[str, ...] = ()
    rescan: float = Field(10.0, gt=0)
    timeout: float = Field(30.0, ge=0)
    max_batch: int = Field(32, ge=1)
    max_delay: float = Field(0.0, ge=0)
    replicas: int = Field(1, ge=1)
    cpus: float = Field(1.0, ge=0)
    max_ongoing_requests: int = Field(64, ge=1)
    max_queued_requests: int = Field(256, ge=1)
    models_per_replica: int = Field(1000, ge=1)

    @field_validator("repository")
    @classmethod
    def _is_absolute(cls, path: str) -> str:
        if not Path(path).is_absolute():
            raise ValueError(f"expected an absolute path, since replicas run in other folders, found {path!r:.200}")
        return path

    @field_validator("budget")
    @classmethod
    def _in_bytes(cls, budget: int | str) -> int:
        return parse_size(str(budget))

    def settings(self) -> Settings:
        """Settings of the server in a replica. Its queue has room for all requests that Ray sends; Ray limits these."""
        shared = {"policy", "threads", "io", "verify", "pin", "rescan", "timeout", "max_batch", "max_delay"}
        return Settings(
            Path(self.repository),
            budget=self.budget,
            max_queue=2 * self.max_ongoing_requests,
            page=False,  # each of its readings would be of another replica
            **self.model_dump(include=shared),
        )


def application(options: Options) -> Application:
    """The application: for ``serve run streamrt.ray:application``, a configuration file, and ``ray.serve.run``."""
    settings = options.settings()

    class Replica(_Replica):
        model = serve.multiplexed(max_num_models_per_replica=options.models_per_replica)(_Replica.model)

    deployment = serve.deployment(
        name="streamrt",
        num_replicas=options.replicas,
        max_ongoing_requests=options.max_ongoing_requests,
        max_queued_requests=options.max_queued_requests,
        backpressure_config=BackpressureConfig(retry_after_s=1),
        ray_actor_options={"num_cpus": options.cpus, "memory": settings.budget},
    )
    bound: Application = deployment(serve.ingress()(Replica)).bind(settings)
    return bound


class Handle:
    """An entry of Ray's table: this replica gets the requests for a model.

    When Ray drops the handle, it sends requests for the model to other replicas. So the pool is told to free the
    memory of the model when its leases have ended. A request that arrives here nevertheless loads the model again.
    """

    def __init__(self, pool: ModelPool, name: str) -> None:
        self._pool: ModelPool | None = pool
        self._name = name

    def __del__(self) -> None:
        """Called by Ray in a thread when it drops the handle, and by Python when no reference is left.

        Python may call it in any thread at any time, even while that thread changes the pool under its lock, which is
        reentrant. So it only starts a thread, by a function that takes no lock of the `threading` module.
        """
        pool, self._pool = self._pool, None
        if pool:
            with suppress(RuntimeError):  # no thread can be started: the pool evicts the model when it needs memory
                _thread.start_new_thread(_unload, (pool, self._name))


def _unload(pool: ModelPool, name: str) -> None:
    if any(status.pin for status in pool.index() if status.name == name):
        return
    with suppress(UnknownModelError, ModelClosedError):
        pool.unload(name, wait=False)


class _Service(Service):
    """A server that notifies Ray of the models that are warm."""

    def __init__(self, settings: Settings, handle: Callable[[str], Coroutine[Any, Any, Handle]]) -> None:
        super().__init__(settings)
        self._handle = handle
        self._telling: set[asyncio.Task[Handle]] = set()

    def infer(self, name: str, spec: ModelSpec, request: InferRequest, outputs: tuple[str, ...]) -> Future[Results]:
        """As `Service.infer`; then Ray is told that the model is warm here.

        Ray is not told of names that no model has: clients could fill its table with them.

        Raises:
            InputError: the request was routed by the name of another model.
        """
        if (routed := serve.get_multiplexed_model_id()) and routed != name:
            raise InputError(
                f"header serve-multiplexed-model-id: expected {name!r:.140}, as the path has, found {routed!r:.140}"
            )
        results = super().infer(name, spec, request, outputs)
        telling = asyncio.get_running_loop().create_task(self._handle(name))
        self._telling.add(telling)  # a task without a reference could be collected before it is done
        telling.add_done_callback(self._telling.discard)
        return results


class _Replica:
    """One process: a pool, and the server over it."""

    def __init__(self, settings: Settings) -> None:
        self._service = _Service(settings, self.model)
        self._service.start()

    def __serve_build_asgi_app__(self) -> Starlette:
        return make_app(self._service)  # the application closes the service when the replica ends

    async def model(self, name: str) -> Handle:
        """The handle of a model. Ray calls this once for each handle that it keeps. It must not wait for anything."""
        return Handle(self._service.pool, name)

    async def infer(self, inputs: Mapping[str, Given], outputs: Sequence[str] | None = None) -> dict[str, Result]:
        """Run the model that `DeploymentHandle.options(multiplexed_model_id=...)` names.

        Args:
            inputs: arrays by name, of the types of the model.
            outputs: names of the outputs that are wanted; None stands for all.

        Returns:
            Arrays by name.

        Raises:
            InputError: an input or an output is wrong.
            UnknownModelError: no model of this name is served.
            Exception: an error of a lease or a call.
        """
        service, name = self._service, serve.get_multiplexed_model_id()
        spec = await service.call(service.catalog.spec, name)
        request = InferRequest(inputs, None if outputs is None else tuple(map(Output, outputs)))
        results: Results = await asyncio.wrap_future(service.infer(name, spec, request, service.check(spec, request)))
        return dict(results)

    async def stats(self) -> dict[str, Any]:
        """The name of this replica, and the statistics of its pool (`streamrt.PoolStats`)."""
        stats = await asyncio.to_thread(self._service.pool.stats)
        return {"replica": serve.get_replica_context().replica_id.unique_id, **asdict(stats)}
