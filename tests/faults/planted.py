"""Faults that the tests must catch: one replacement of text each, in a file of the package.

A fault is small and plausible: a bound that is off by one, a term that is left out, a comparison the wrong way round.
`plant.py` plants them one at a time. `rooms` has a file for each part of the package.
"""

from __future__ import annotations

from faults.rooms import (
    cli,
    convert,
    core,
    engine,
    kernels,
    metrics,
    ops,
    plan,
    pool,
    program,
    rpc,
    serve,
    tuning,
    windows,
)
from faults.rooms import format as file_format

FAULTS = (
    *cli.FAULTS,
    *convert.FAULTS,
    *core.FAULTS,
    *engine.FAULTS,
    *file_format.FAULTS,
    *kernels.FAULTS,
    *metrics.FAULTS,
    *ops.FAULTS,
    *plan.FAULTS,
    *pool.FAULTS,
    *program.FAULTS,
    *rpc.FAULTS,
    *serve.FAULTS,
    *tuning.FAULTS,
    *windows.FAULTS,
)
