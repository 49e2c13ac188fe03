"""Whether a graph that was just opened can run at all: it is lowered for a few sizes of its inputs."""

from __future__ import annotations

from streamrt.engine.programs import Programs
from streamrt.errors import FormatError, printable
from streamrt.ops import INT64, NO_SUCH_OPERATOR, computed_type, sizes, supported
from streamrt.program.compile import Program

#: Sizes that are tried for all free extents of the inputs: first sizes of a batch or a length, then of images.
_TRIED = (1, 2, 8, 32, 224, 256)
#: Nodes that may be lowered in all trials of a graph; one trial is always made. It bounds the time that a hostile graph
#: takes.
_MAX_TRIED = 20_000


def first_program(programs: Programs) -> Program | None:
    """The program for the first sizes with which the whole graph runs; None if it runs with none of the tried sizes.

    A graph with free extents may run with few sizes only, such as that of one kind of image. Then only the first call
    tells whether the graph runs.

    Raises:
        FormatError: the graph cannot be lowered, has an unknown operator, or computes outputs of other extents or
            types than it declares.
    """
    graph = programs.file.graph
    free = any(isinstance(dim, str) for spec in graph.inputs for dim in spec.dims)
    nodes = list(graph.all_nodes)
    for extent in _TRIED[: max(1, _MAX_TRIED // max(1, len(nodes)))]:
        shapes = {s.name: tuple(extent if isinstance(d, str) else d for d in s.dims) for s in graph.inputs}
        try:
            program = programs.compile(graph, shapes)
        except FormatError:
            if not free:
                raise
        else:
            _check_outputs(program)
            return program
    known = supported() | sizes.supported() | {"If"}
    if unknown := next((node for node in nodes if node.op not in known), None):
        where = f"{programs.file.path}: node {unknown.name!r} ({printable(unknown.op):.80})"
        raise FormatError(f"{where}: {NO_SUCH_OPERATOR}")
    return None


def _check_outputs(program: Program) -> None:
    for spec in program.graph.outputs:
        shape = program.shapes[spec.name]
        fixed = [found == dim for found, dim in zip(shape, spec.dims, strict=False) if isinstance(dim, int)]
        if len(shape) != len(spec.dims) or not all(fixed):
            raise FormatError(f"output {spec.name!r} is declared as {spec.dims}, and computed as {shape}")
        if spec.name in program.integers and computed_type(spec.dtype) != INT64 and spec.dtype != "bool":
            raise FormatError(f"output {spec.name!r} is declared as {spec.dtype}, and computed as int64")
