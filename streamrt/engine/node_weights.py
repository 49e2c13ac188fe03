"""The weights that each step of a program reads, and how long it computes. Plans are made from these."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from streamrt.engine.tables import fits
from streamrt.errors import FormatError
from streamrt.format import WeightsFile
from streamrt.host.rates import Rates
from streamrt.plan import Extent, NodeWeights
from streamrt.program.compile import Program, Step

#: The most bytes of weights that a pass may read, 1 TiB; weights that are read several times count each time. Reading
#: more takes minutes, and planning it takes more memory than opening a file may take.
_MAX_READ = 2**40
#: The cost of one kernel call, in rows: a streamed tile counts as 20 rows more than it has. Measured with rows of 8192
#: weights: a row takes 12.5 % longer in tiles of 128 rows than in tiles of 512.
_CALL_ROWS = 20


def node_weights(
    file: WeightsFile, program: Program, rates: Rates, seconds: Sequence[float] | None = None
) -> list[NodeWeights]:
    """The extents of the parameters of each step's node, and the seconds that it computes.

    Args:
        file: has the parameters.
        program: has the steps.
        rates: speeds of the machine, from which the seconds are estimated.
        seconds: of each step, if they are measured.

    Raises:
        FormatError: a pass would read more than 2**40 bytes.
    """
    found: list[NodeWeights] = []
    made: dict[tuple[int, float | None], NodeWeights] = {}  # steps that are alike are one object
    total = 0
    for position, step in enumerate(program.steps):
        kind = id(step), None if seconds is None else seconds[position]
        if (weights := made.get(kind)) is None:
            weights = made[kind] = _of_step(file, program, step, rates, kind[1])
        total += weights.read
        if total > _MAX_READ:
            name = program.nodes[step.node].name
            raise FormatError(f"node {name!r}: up to here a pass reads {total} bytes, more than 2**40")
        found.append(weights)
    return found


def _of_step(file: WeightsFile, program: Program, step: Step, rates: Rates, seconds: float | None) -> NodeWeights:
    node, low = program.nodes[step.node], program.lowered[step.node]
    whole: dict[str, Extent] = {}
    tiled: dict[str, Extent] = {}
    indexed: dict[str, Extent] = {}
    for index, name in enumerate(node.inputs):
        if tensor := file.tensors.get(name):
            kind = tiled if index in low.tiled else indexed if index in low.indexed and fits(tensor) else whole
            kind[name] = Extent(tensor.offset, tensor.nbytes)
    weights = NodeWeights(
        *(tuple(whole.values()), tuple(tiled.values()), low.rows, low.row_step),
        passes=low.passes,
        section=step.section,
    )
    estimate = low.flops * step.share / rates.flops + weights.read / rates.memory
    return replace(
        weights,
        seconds=estimate if seconds is None else seconds,
        call_rows=_CALL_ROWS if tiled else 0,
        indexed=tuple(indexed.values()),
    )
