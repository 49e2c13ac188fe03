"""Shapes of a draft. They are found by lowering its nodes, as a run does.

So a graph that cannot run is refused when it is packed, and the extents of its outputs are those that a run will have.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace

from streamrt.convert import limits
from streamrt.convert.draft import Draft
from streamrt.convert.probes import Probe, Shape, generalise, one_sample, substitute
from streamrt.convert.support import unsupported
from streamrt.errors import FormatError, LimitError
from streamrt.ops import FLOAT32, INT64, Operand, computed_type, lower, supported

#: Extents of small inputs, tried in this order until the model accepts one.
_SMALL = (1, 2, 8, 32)
Shapes = dict[str, Shape]


def infer(draft: Draft, probe: Probe) -> Shapes:
    """The shape of every tensor under a probe.

    Raises:
        FormatError: attributes or shapes do not fit an operator, or it takes too long. If the same node fails with one
            sample, the text has the shapes of one sample, since nobody asked for the probe's batch.
    """
    shapes: Shapes = {}
    try:
        _add_shapes(shapes, draft, probe)
    except LimitError:
        raise
    except FormatError as error:
        problem = error
    else:
        return shapes
    one, shapes_of_one = one_sample(draft.inputs, probe), Shapes()
    try:
        _add_shapes(shapes_of_one, draft, one)
    except LimitError:
        pass
    except FormatError as error:
        if shapes_of_one.keys() == shapes.keys():
            problem = error
    raise problem


def _add_shapes(shapes: Shapes, draft: Draft, probe: Probe) -> None:
    """Add the shape of every tensor to ``shapes``, up to the node that fails."""
    operands = {
        name: Operand(weight.shape, INT64 if weight.coding.dtype == INT64 else FLOAT32, is_param=True)
        for name, weight in draft.params.items()
    }
    for spec in draft.inputs:
        operands[spec.name] = Operand(substitute(spec.dims, probe), computed_type(spec.dtype))
    shapes |= {name: operand.shape for name, operand in operands.items()}
    for node in draft.nodes:
        with limits.current().at(f"node {node.name!r} ({node.op})"):
            limits.current().check_time()
        lowered = lower(node.frozen(), [operands[name] if name else None for name in node.inputs])
        for index, (name, shape) in enumerate(zip(node.outputs, lowered.outputs, strict=True)):
            shapes[name], operands[name] = shape, Operand(shape, lowered.dtype(index))


def settle_outputs(draft: Draft, probes: Sequence[Probe]) -> None:
    """Give the outputs of a draft their extents.

    Probes are large. An extent that is the same under all of them, such as 4 for ``x[:4]``, is still free if a small
    input gives another extent.

    Raises:
        FormatError: as `infer`.
    """
    found = [infer(draft, probe) for probe in probes]
    probes = list(probes)
    for probe in _small(probes):
        try:
            small = infer(draft, probe)
        except FormatError:
            continue  # the model needs larger inputs
        if all(
            len(small[spec.name]) == len(found[0][spec.name]) for spec in draft.outputs
        ):  # a Squeeze without axes removes further axes from a small input
            found.append(small)
            probes.append(probe)
            break
    draft.outputs = [
        replace(spec, dims=generalise(spec.name, [shapes[spec.name] for shapes in found], probes))
        for spec in draft.outputs
    ]


def _small(probes: Sequence[Probe]) -> Iterator[Probe]:
    """Probes with a small value for every extent that differs between ``probes``."""
    free = [name for name, value in probes[0].items() if any(probe[name] != value for probe in probes)]
    for extent in _SMALL if free else ():
        yield probes[0] | dict.fromkeys(free, extent)


def unknown_operators(draft: Draft) -> list[str]:
    """A line for each node with an operator or an activation that is not supported."""
    known = supported()
    return [
        f"node {node.name!r} ({op}): {unsupported(op, 'layers')}"
        for node in draft.nodes
        for op in (node.op, *([node.activation.op] if node.activation else []))
        if op not in known
    ]
