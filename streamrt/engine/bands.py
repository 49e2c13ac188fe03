"""Programs in bands of rows, for budgets in which whole activations of one sample do not fit."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import replace

from streamrt.errors import BudgetError
from streamrt.plan import Bands, Plan
from streamrt.program.compile import Program

#: The numbers of bands that are tried. More bands are lower, need less memory, and read the weights more often.
_COUNTS = (2, 4, 8, 16, 32, 64, 128, 256)
#: The most steps of a pass in bands. A step takes up to 4 KiB of memory beside the budget, and some 20 us of planning.
_MOST_STEPS = 2**12
#: The most bytes of weights that a pass may read, see `streamrt.engine.node_weights`; here those of the whole file.
_MOST_READ = 2**40

#: Prefer lower bands, with which more weights are pinned, only if a pass takes under 98 % of the time.
_GAIN = 0.98

#: Compiles the program in a number of bands.
CompileBands = Callable[[int], Program]


def programs_in_bands(compile_bands: CompileBands, nodes: int, file_size: int) -> Iterator[Program]:
    """Programs in bands, those with the fewest and tallest bands first; none if no nodes can run in bands.

    Args:
        compile_bands: see `CompileBands`.
        nodes: of the graph.
        file_size: bytes of the weights file.
    """
    for bands in _COUNTS:
        if bands * file_size > _MOST_READ or not 1 < nodes <= _MOST_STEPS // _COUNTS[0]:
            return
        program = compile_bands(bands)
        if not program.sections or len(program.steps) > _MOST_STEPS:
            return
        yield program


def fit_in_bands(
    refused: BudgetError, programs: Iterable[Program], plan_for: Callable[[Program], Plan]
) -> tuple[Program, Plan]:
    """Of ``programs`` the one with the shortest pass, and its plan. Ties go to the first, which has the tallest bands.

    ``plan_for`` raises `BudgetError` for a program that does not fit.

    Raises:
        BudgetError: none fits. It is ``refused``, that of the whole activations, or that of another program, if its
            ``minimum`` is smaller.
    """
    best: tuple[Program, Plan] | None = None
    for program in programs:
        try:
            plan = plan_for(program)
        except BudgetError as error:
            refused = min(refused, error, key=_minimum)
            continue
        if best is None or plan.seconds < best[1].seconds * _GAIN:
            best = program, plan
        if not plan.streamed_bytes:
            break  # lower bands would save no reading
    if best is not None:
        return best
    try:
        raise refused from None
    finally:
        del refused  # the traceback has this frame, so that the error would refer to itself


def _minimum(error: BudgetError) -> int:
    return error.minimum


def with_bands(plan: Plan, program: Program) -> Plan:
    """``plan``, with what it says of the sections of ``program``."""
    if not program.sections:
        return plan
    return replace(
        plan,
        bands=tuple(Bands(each.first, each.last, each.bands, each.nbytes) for each in program.sections),
        nodes=tuple(step.node for step in program.steps),
    )
