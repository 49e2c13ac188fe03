"""Run MLPs and CNNs whose weights do not fit in memory, at the speed of the disk."""

from streamrt._version import __version__
from streamrt.convert import Layer, pack
from streamrt.errors import (
    BudgetError,
    FormatError,
    InputError,
    ModelClosedError,
    ModelTooLargeError,
    PoolBusyError,
    StreamrtError,
    UnknownModelError,
    UnsupportedModelError,
    WeightsIOError,
)
from streamrt.format import verify
from streamrt.memory import MemoryUse
from streamrt.model import Model
from streamrt.plan import Plan
from streamrt.pool import ModelPool, ModelStatus, PoolStats
from streamrt.stats import LayerStats, PassStats

__all__ = [
    "BudgetError",
    "FormatError",
    "InputError",
    "Layer",
    "LayerStats",
    "MemoryUse",
    "Model",
    "ModelClosedError",
    "ModelPool",
    "ModelStatus",
    "ModelTooLargeError",
    "PassStats",
    "Plan",
    "PoolBusyError",
    "PoolStats",
    "StreamrtError",
    "UnknownModelError",
    "UnsupportedModelError",
    "WeightsIOError",
    "__version__",
    "pack",
    "verify",
]
