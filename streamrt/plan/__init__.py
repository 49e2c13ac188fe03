"""The residency planner: which bytes stay, which stream, and through how large a window.

A pure function of sizes, times and budget. For a cyclic scan any fixed set of resident bytes is optimal (Belady), so
that a pass reads the model less what is pinned; which bytes those are, and how far reading may be ahead, decides how
much of the reading is hidden behind computing. `tiling` cuts a model into tiles and ranges, `pipeline` simulates a pass
over them, `pinning` looks for the pinned set with the shortest one, and `make` chooses among sizes of tiles and
windows.

Memory is counted in granules, the unit in which the core populates and releases: 2 MiB, the page cache's
largest folio, read at a tenth of the processor time of small pages, or one page where the budget is too small for that.
"""

from streamrt.plan.make import all_weights, make_plan, seconds_of_rows, simulated_seconds, smallest_window, too_small
from streamrt.plan.types import HUGE, PAGE, Extent, NodeWeights, Plan, Range, Tile

__all__ = [
    "HUGE",
    "PAGE",
    "Extent",
    "NodeWeights",
    "Plan",
    "Range",
    "Tile",
    "all_weights",
    "make_plan",
    "seconds_of_rows",
    "simulated_seconds",
    "smallest_window",
    "too_small",
]
