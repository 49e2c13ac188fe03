"""What the servers are measured with: the networks, the connections, and the forms of a tensor."""

from __future__ import annotations

from dataclasses import dataclass

#: Binary tensors and JSON go over HTTP, and raw contents over gRPC.
BINARY, JSON, GRPC = "binary", "json", "grpc"
WIRES = (BINARY, JSON, GRPC)
#: The contender that is no server: the model called directly (`bench.serve.floor`).
FLOOR = "floor"
#: Inputs of a model. Requests take them in turn, so that no server can answer from a cache of one answer.
SAMPLES = 4


@dataclass(frozen=True, slots=True)
class Row:
    """A network, or many models of one network.

    Attributes:
        name: of the row.
        model: the source of the network (`bench.models`).
        models: how many models are served; several differ in their last bias.
        over: the weights of all models divided by streamrt's budget; None gives it no budget.
        capped: whether every server is in a memory cgroup of the budget and `BESIDE`.
        wire: the only form of tensors that it is measured with; empty for all of them.
        connections: the only number of connections; 0 for all of them.
        least: the fewest requests of a stretch; 0 for `Options.least`.
    """

    name: str
    model: str
    models: int = 1
    over: int | None = None
    capped: bool = False
    wire: str = ""
    connections: int = 0
    least: int = 0

    @property
    def names(self) -> list[str]:
        """The names under which the models are served."""
        return [self.model] if self.models == 1 else [f"{self.model}-{index:02}" for index in range(self.models)]

    def has(self, wire: str, connections: int) -> bool:
        """Whether the row is measured with this form and this number of connections."""
        return self.wire in ("", wire) and self.connections in (0, connections)


#: Bytes of the cgroup beside the budget: for the interpreters and libraries of the largest server.
BESIDE = 400 << 20


@dataclass(frozen=True, slots=True)
class Options:
    """Which part of the benchmark to run.

    Attributes:
        rows: the networks.
        servers: names of servers.
        wires: the forms of tensors.
        connections: numbers of connections, each of which has one request at a time.
        rounds: how often each server is measured.
        seconds: of the stretch whose requests are timed.
        least: the fewest requests of that stretch; it lasts up to `PATIENCE` times as long to have them.
    """

    rows: tuple[Row, ...]
    servers: tuple[str, ...]
    wires: tuple[str, ...] = WIRES
    connections: tuple[int, ...] = (1, 8, 64)
    rounds: int = 3
    seconds: float = 5.0
    least: int = 200


#: How many times longer a stretch may last, so that a slow server makes the fewest requests.
PATIENCE = 6

#: VGG-16 takes over 20 ms a sample on any usual machine, so it is judged by its speed in batches. It is measured only
#: for that, with as few requests as take about 5 s. Three times the budget is measured twice: a peer has no budget, and
#: under the cap it may be killed.
ROWS = (
    Row("mlp-4x1024", "mlp-4x1024"),
    Row("mobilenet_v2", "mobilenet_v2"),
    Row("resnet50", "resnet50"),
    Row("vgg16", "vgg16", wire=BINARY, connections=8, least=64),
    Row("50 models", "mlp-4x1024", models=50, over=3),
    Row("50 models, capped", "mlp-4x1024", models=50, over=3, capped=True),
)
QUICK_ROWS = (
    Row("mlp-2x64", "mlp-2x64"),
    Row("squeezenet1_1", "squeezenet1_1"),
    Row("4 models", "mlp-4x512", models=4, over=3),
    Row("4 models, capped", "mlp-4x512", models=4, over=3, capped=True),
)
