"""Plans: which bytes of a model stay in memory, which stream, and through how large a window.

A plan is a pure function of sizes, times and budget. Every pass reads all bytes in the same order, so keeping any fixed
set of bytes is optimal (Belady): a pass reads the rest. The pinned set and the size of the window decide how much of
the reading is hidden behind computing.

`types` has the words. `tiling` cuts a model into tiles and ranges. `pipeline` simulates a pass over them. `pinning`
looks for the pinned set with the shortest pass. `make` chooses among sizes of tiles and windows.

Memory is counted in granules, the unit in which the core reads and releases. A granule is 2 MiB, the page cache's
largest folio. If the budget is too small for tiles of 2 MiB, a granule is one page; reading a byte in pages takes 10
times as much processor time.
"""

from streamrt.plan.make import all_weights, make_plan, seconds_of_rows, simulated_seconds, smallest_window, too_small
from streamrt.plan.types import HUGE, PAGE, Bands, Extent, NodeWeights, Plan, Range, Tile

__all__ = [
    "HUGE",
    "PAGE",
    "Bands",
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
