"""Faults of the room plan."""

from __future__ import annotations

from faults.fault import PLAN, Fault

FAULTS = (
    Fault(
        "span-end",
        "plan",
        "streamrt/plan/tiling.py",
        "min(-(-(r.offset + r.length) // granule) * granule, file_size)",
        "min((r.offset + r.length) // granule * granule, file_size)",
        "the last granule of a range is not counted",
        PLAN,
    ),
    Fault(
        "run-around",
        "plan",
        "streamrt/plan/tiling.py",
        "around = added + added[: count - 1] if count else []",
        "around = added",
        "the window is too small between the end of a pass and the start of the next",
        PLAN,
    ),
    Fault(
        "granule-of-two",
        "plan",
        "streamrt/plan/pipeline.py",
        "if index > 0 and pinned[first[index - 1]]:",
        "if index > 0:",
        "a granule that a pinned range shares with a streamed one is not counted",
        PLAN,
    ),
    Fault(
        "pins-too-much",
        "plan",
        "streamrt/plan/pinning.py",
        "if not pinned[index] and used + size <= room:",
        "if not pinned[index] and used <= room:",
        "one range too many is pinned",
        PLAN,
    ),
    Fault(
        "read-again",
        "plan",
        "streamrt/plan/pipeline.py",
        "size if self.first[i] == i else 0 for i, size in enumerate(sizes)",
        "size for i, size in enumerate(sizes)",
        "memory of a range that is read several times counts several times",
        PLAN,
    ),
    Fault(
        "all-fits",
        "plan",
        "streamrt/plan/make.py",
        "if budget is None or total <= budget - workspace:",
        "if budget is None or total <= budget:",
        "all weights are pinned although the workspace leaves no room for them",
        PLAN,
    ),
    Fault(
        "pinned-table",
        "plan",
        "streamrt/plan/make.py",
        "pinned = _pinned(_with_tables(nodes), tilings, file_size, workspace, budget)",
        "pinned = _pinned(nodes, tilings, file_size, workspace, budget)",
        "a table counts as pinned and is not brought in",
        ("tests/model",),
    ),
    Fault(
        "bands-alike",
        "plan",
        "streamrt/plan/tiling.py",
        "alike = repeats or node.section > 0",
        "alike = repeats",
        "a range of a band has bytes that another band reads in other ranges",
        PLAN,
    ),
    Fault(
        "bands-together",
        "plan",
        "streamrt/plan/tiling.py",
        "while oldest < end and last[oldest] < t:",
        "while oldest < tile.begin:",
        "the window has no room for weights that stay until the end of a section",
        PLAN,
    ),
)
