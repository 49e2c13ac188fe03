"""A batch that does not fit in the budget is divided into micro-batches: the largest that fit, found by halving.

If not even one sample fits, it is computed in bands of rows.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

from streamrt.engine.bands import InBands, fit_in_bands
from streamrt.errors import BudgetError
from streamrt.plan import Plan, too_small
from streamrt.program.compile import Program

#: Skip a part of a batch if its estimated need is over 2 times the budget. A smaller estimate may be wrong, so that
#: part is tried.
_HOPELESS = 2

#: Compiles a program for the number of samples in the first argument; a lean one if the second argument is true.
Compile = Callable[[int, bool], Program]


def fit(
    program: Program,
    samples: int,
    budget: int | None,
    compile_for: Compile,
    plan_for: Callable[[Program], Plan],
    in_bands: InBands,
) -> tuple[Program, Plan]:
    """The program and plan for the whole batch or for the largest part of it that fits.

    Before a part is halved, its lean program is tried, which is slower and needs less memory. After one sample its
    programs in bands are tried.

    Args:
        program: for the whole batch.
        samples: the batch; 0 if it cannot be divided.
        budget: bytes, or None.
        compile_for: see `Compile`.
        plan_for: makes the plan of a program. Raises BudgetError if it does not fit.
        in_bands: programs for one sample, or for the batch if it cannot be divided, that are tried in this order.

    Raises:
        BudgetError: not even one sample fits. ``minimum`` is the smallest budget that does.
    """
    try:
        return _fit_whole(program, samples, budget, compile_for, plan_for)
    except BudgetError as error:
        program, plan = fit_in_bands(error, budget, in_bands, plan_for)
        return program, replace(plan, micro_batch=1 if samples > 1 else 0)


def _fit_whole(
    program: Program, samples: int, budget: int | None, compile_for: Compile, plan_for: Callable[[Program], Plan]
) -> tuple[Program, Plan]:
    """`fit` without bands."""
    part, lean, whole = samples, False, program.workspace
    window: int | None = None  # bytes of the smallest window, which does not depend on the batch
    while True:
        try:
            if budget is not None and window is not None and program.workspace + window > budget:
                raise too_small(budget, program.workspace, window)
            plan = plan_for(program)
        except BudgetError as error:
            assert budget is not None  # without one everything fits
            window = error.minimum - program.workspace
            if lean and part <= 1:
                _require_one_fits(min(samples, 1), whole, window, budget, compile_for)  # the least minimum
                raise
            if not lean and part == samples > 1:  # if one sample does not fit, no part does
                _require_one_fits(1, whole, window, budget, compile_for)
            if lean:
                part = _smaller_part(part, program.workspace // part, budget)
            lean = not lean
            program = compile_for(part, lean)
        else:
            return program, replace(plan, micro_batch=part if part < samples else 0)


def begins(samples: int, part: int) -> list[int]:
    """The first sample of each micro-batch. The last overlaps the one before it, so that all have the planned shape."""
    return [min(start, samples - part) for start in range(0, samples, part)] if part else [0]


def _smaller_part(part: int, sample_bytes: int, budget: int) -> int:
    """Half of a part, rounded up; halved again while its estimate is hopeless (`_HOPELESS`)."""
    part = -(-part // 2)
    while part > 1 and sample_bytes * part > _HOPELESS * budget:
        part = -(-part // 2)
    return part


def _require_one_fits(one: int, whole: int, window: int, budget: int, compile_for: Compile) -> None:
    """Raise `BudgetError` if one sample does not fit beside the smallest ``window``.

    The smallest workspace counts. A lean program may need more memory than the other. One sample may need more than
    the whole batch, whose workspace is ``whole``.
    """
    workspace = min(whole, *(compile_for(one, lean).workspace for lean in (False, True)))
    if workspace + window > budget:
        raise too_small(budget, workspace, window) from None
