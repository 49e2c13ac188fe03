"""The time of a call, simulated from its plan and from speeds that other calls have shown."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from streamrt.engine.inputs import batch_of
from streamrt.engine.micro_batch import begins
from streamrt.engine.node_weights import node_weights
from streamrt.engine.prepared import Prepared
from streamrt.format import WeightsFile
from streamrt.host.rates import Rates
from streamrt.plan import seconds_of_rows, simulated_seconds


@dataclass(frozen=True, slots=True)
class Speeds:
    """What measured calls have shown.

    Attributes:
        disk: bytes a second that the disk delivers of large ranges.
        nodes: of each node, by name, the seconds that it computed over those that are estimated. A call of another
            batch, or with other algorithms, is estimated anew and multiplied with this.
        rest: seconds of a pass beside computing and waiting.
    """

    disk: float
    nodes: Mapping[str, float] = field(default_factory=dict)
    rest: float = 0.0


def computing_speeds(
    file: WeightsFile, prepared: Prepared, rates: Rates, computed: Sequence[float]
) -> Mapping[str, float]:
    """`Speeds.nodes`, from the seconds that each node computed in a pass of ``prepared``."""
    weights = node_weights(file, prepared.program, rates)
    seconds = seconds_of_rows(prepared.plan, weights, prepared.program.by_step(computed))
    names = prepared.program.names
    return {
        name: own / estimated.seconds
        for name, own, estimated in zip(names, seconds, weights, strict=True)
        if estimated.seconds
    }


def passes_of(prepared: Prepared) -> int:
    """The passes of a call: more than one if the plan divides its batch."""
    return len(begins(batch_of(prepared.shapes, prepared.graph.inputs), prepared.plan.micro_batch))


def predicted(file: WeightsFile, prepared: Prepared, rates: Rates, speeds: Speeds) -> float:
    """Seconds of a call that runs as ``prepared``, with all pinned weights in memory.

    Args:
        file: the weights file.
        prepared: program and plan of the call.
        rates: those with which ``speeds.nodes`` was made.
        speeds: as above.
    """
    estimated = [each.seconds for each in node_weights(file, prepared.program, rates)]
    names = prepared.program.names
    seconds = [own * speeds.nodes.get(name, 1.0) for name, own in zip(names, estimated, strict=True)]
    weights = node_weights(file, prepared.program, rates, seconds)
    return passes_of(prepared) * (simulated_seconds(prepared.plan, weights, file.size, speeds.disk) + speeds.rest)
