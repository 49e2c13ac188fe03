"""Run neural networks whose weights do not fit in memory, at the speed of the disk.

`pack` converts an ONNX file, a module or an exported program of torch, or a list of `Layer` into a weights file, once.
`Model` opens that file under a budget of bytes; calling it with an array runs a pass. `ModelPool` serves many models
under one budget. `verify` checks a weights file, `unpack` gives its tensors back as plain safetensors, and `compare`
tells how much the answers of two models differ. `tune` measures a model under several budgets, and `fits` tells what
fits into a memory.
Errors of files, models, inputs and budgets are a `StreamrtError`. ``streamrt --help`` lists commands for the shell.
"""

import sys
from importlib import import_module
from typing import TYPE_CHECKING

if sys.byteorder != "little":
    raise ImportError(
        "streamrt runs on little-endian processors only: a weights file is little-endian, and is computed with in place"
    )

from streamrt._version import __version__
from streamrt.errors import (
    BudgetError,
    FormatError,
    InputError,
    LimitError,
    ModelClosedError,
    ModelTooLargeError,
    PinError,
    PoolBusyError,
    StreamrtError,
    UnknownModelError,
    UnsupportedModelError,
    WeightsIOError,
)
from streamrt.format import unpack, verify
from streamrt.host.memory import MemoryUse
from streamrt.model import Model
from streamrt.plan import Plan
from streamrt.report.stats import LayerStats, PassStats

if TYPE_CHECKING:
    from streamrt.convert import Layer, operators, pack
    from streamrt.engine.comparison import Comparison, Difference, LayerLoss, compare
    from streamrt.pool import Lease, ModelPool, ModelStatus, PoolStats
    from streamrt.tuning import Fit, Fits, Tuning, TuningPoint, fits, tune

__all__ = [
    "BudgetError",
    "Comparison",
    "Difference",
    "Fit",
    "Fits",
    "FormatError",
    "InputError",
    "Layer",
    "LayerLoss",
    "LayerStats",
    "Lease",
    "LimitError",
    "MemoryUse",
    "Model",
    "ModelClosedError",
    "ModelPool",
    "ModelStatus",
    "ModelTooLargeError",
    "PassStats",
    "PinError",
    "Plan",
    "PoolBusyError",
    "PoolStats",
    "StreamrtError",
    "Tuning",
    "TuningPoint",
    "UnknownModelError",
    "UnsupportedModelError",
    "WeightsIOError",
    "__version__",
    "compare",
    "fits",
    "operators",
    "pack",
    "tune",
    "unpack",
    "verify",
]

#: Names that are imported when they are first used, with their modules. A process that only opens and calls a model
#: does not need them, and importing streamrt takes 40 % less time, not counting NumPy.
_LATER = {
    "Comparison": "streamrt.engine.comparison",
    "Difference": "streamrt.engine.comparison",
    "LayerLoss": "streamrt.engine.comparison",
    "compare": "streamrt.engine.comparison",
    "Fit": "streamrt.tuning",
    "Fits": "streamrt.tuning",
    "Layer": "streamrt.convert",
    "Lease": "streamrt.pool",
    "ModelPool": "streamrt.pool",
    "ModelStatus": "streamrt.pool",
    "PoolStats": "streamrt.pool",
    "Tuning": "streamrt.tuning",
    "TuningPoint": "streamrt.tuning",
    "fits": "streamrt.tuning",
    "operators": "streamrt.convert",
    "pack": "streamrt.convert",
    "tune": "streamrt.tuning",
}


def __dir__() -> list[str]:
    return sorted({*globals(), *_LATER})


if not TYPE_CHECKING:  # a type checker would accept every name

    def __getattr__(name: str) -> object:
        if name not in _LATER:
            raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
        value = globals()[name] = getattr(import_module(_LATER[name]), name)
        return value
