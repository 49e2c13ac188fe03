"""Shapes of a draft by the operators' own lowering: what can be lowered can be run.

So a graph that cannot run is refused when it is packed, and the extents of its outputs are those that a run will have.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from streamrt.convert import limits
from streamrt.convert.draft import Draft
from streamrt.convert.probes import Probe, Shape, generalise, substitute
from streamrt.ops import lower, supported

Shapes = dict[str, Shape]


def infer(draft: Draft, probe: Probe) -> Shapes:
    """The shape of every tensor under a probe.

    Raises:
        FormatError: attributes or shapes do not fit an operator, or it takes too long.
    """
    shapes: Shapes = {name: weight.shape for name, weight in draft.params.items()}
    shapes |= {spec.name: substitute(spec.dims, probe) for spec in draft.inputs}
    for node in draft.nodes:
        with limits.current().at(f"node {node.name!r} ({node.op})"):
            limits.current().check_time()
        lowered = lower(
            node.frozen(),
            tuple(shapes[name] if name else None for name in node.inputs),
            tuple(name in draft.params for name in node.inputs),
        )
        shapes.update(zip(node.outputs, lowered.outputs, strict=True))
    return shapes


def settle_outputs(draft: Draft, probes: Sequence[Probe]) -> None:
    """Give the outputs of a draft their extents; raises as `infer` does."""
    found = [infer(draft, probe) for probe in probes]
    draft.outputs = [
        replace(spec, dims=generalise(spec.name, [shapes[spec.name] for shapes in found], probes))
        for spec in draft.outputs
    ]


def unknown_operators(draft: Draft) -> list[str]:
    """A line for each node whose operator, or activation, does not exist."""
    known = supported()
    return [
        f"node {node.name!r} ({op}): the operator is not supported"
        for node in draft.nodes
        for op in (node.op, *([node.activation.op] if node.activation else []))
        if op not in known
    ]
