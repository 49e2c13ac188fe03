"""Finding a budget: how long a pass takes under several budgets, and what fits into a given memory.

`measure` runs a model under budgets that `budgets` chooses. `predict` simulates the same passes from the plan and from
the speeds that were measured. `result` has the points of the curve and the knee; `drawing` draws them. `fitting` tells,
without running anything, which batches and types of weights fit.

This room is a face over `Model`, as the command line is. Of the other rooms only `cli` imports it.
"""

from streamrt.tuning.fitting import Fit, Fits, fits
from streamrt.tuning.measure import Tuner, tune
from streamrt.tuning.result import Tuning, TuningPoint

__all__ = ["Fit", "Fits", "Tuner", "Tuning", "TuningPoint", "fits", "tune"]
