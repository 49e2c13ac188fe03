"""Shapes of a draft for an example. They are found by lowering its nodes, as a run does.

So a graph that cannot run is refused when it is packed.
"""

from __future__ import annotations

from dataclasses import replace

from streamrt.convert import limits
from streamrt.convert.draft import Draft
from streamrt.convert.examples import Example, one_sample, substitute
from streamrt.convert.support import unsupported
from streamrt.errors import FormatError
from streamrt.graph import Dims, TensorSpec
from streamrt.ops import FLOAT32, INT64, Operand, computed_type, supported
from streamrt.program.compile import Program, compile_program


def lowered(draft: Draft, example: Example) -> Program:
    """The draft as a program for an example.

    Raises:
        FormatError: attributes or shapes do not fit an operator, or it takes too long. If the same node fails with one
            sample, the text has the shapes of one sample, since nobody asked for the example's batch.
    """
    try:
        return compiled(draft, example)
    except FormatError as error:
        problem = error
    try:
        compiled(draft, one_sample(draft.inputs, example))
    except FormatError as error:
        if _node_of(error) == _node_of(problem):
            problem = error
    raise problem


def compiled(draft: Draft, example: Example) -> Program:
    """`lowered`, without the shapes of one sample in errors."""
    limits.current().check_time()
    params = {
        name: Operand(weight.shape, INT64 if weight.coding.dtype == INT64 else FLOAT32, is_param=True)
        for name, weight in draft.params.items()
    }
    inputs = {spec.name: substitute(spec.dims, example) for spec in draft.inputs}
    program = compile_program(draft.graph(), params, inputs)
    limits.current().check_time()
    return program


def _node_of(error: FormatError) -> str:
    """The beginning of an error's text, which names the node."""
    return str(error).partition("): ")[0]


def settle_outputs(draft: Draft, program: Program, example: Example) -> None:
    """Give the outputs of a draft their extents. ``program`` is the draft for an example.

    Extents that a source has stated stay, if they agree with the program. So does the type, unless it was not known:
    integers then are int64.
    """
    draft.outputs = [
        replace(spec, dims=_settled(draft, spec, program, example), dtype=_settled_type(spec, program))
        for spec in draft.outputs
    ]


def _settled_type(spec: TensorSpec, program: Program) -> str:
    is_stated = spec.name not in program.integers or computed_type(spec.dtype) == INT64 or spec.dtype == "bool"
    return spec.dtype if is_stated else "int64"


def _settled(draft: Draft, spec: TensorSpec, program: Program, example: Example) -> Dims:
    shape = program.shapes[spec.name]
    if not example:
        return shape
    if len(spec.dims) == len(shape):
        return tuple(
            dim if (example.get(dim, extent) if isinstance(dim, str) else dim) == extent else f"{spec.name}_{axis}"
            for axis, (dim, extent) in enumerate(zip(spec.dims, shape, strict=True))
        )
    free = tuple(f"{spec.name}_{axis}" for axis in range(len(shape)))
    batch = draft.inputs[0].dims[:1]
    if program.batchwise and all(spec.dims[:1] == batch for spec in draft.inputs) and isinstance(batch[0], str):
        # Samples do not depend on their number, so that it gives no other extent.
        return (*batch, *(shape[1:] if len(example) == 1 else free[1:]))
    return free


def unknown_operators(draft: Draft) -> list[str]:
    """A line for each node with an operator or an activation that is not supported."""
    known = supported()
    return [
        f"node {node.name!r} ({op}): {unsupported(op, 'layers')}"
        for node in draft.nodes
        for op in (node.op, *([node.activation.op] if node.activation else []))
        if op not in known
    ]
