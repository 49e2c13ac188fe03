"""`make_plan`: of all sizes of tiles and windows that fit, those with which a pass is shortest."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

from streamrt.errors import BudgetError
from streamrt.plan.pinning import Choice, search, spread
from streamrt.plan.pipeline import Pipeline, call_share
from streamrt.plan.tiling import TILINGS, Cut, Tiling, footprints, frugal
from streamrt.plan.types import PAGE, NodeWeights, Plan, Range, Tile, read_rate

#: Ranges in a row that the window may hold, and the share of the rate that they allow. With two of them
#: one is read while one is in use, and any unevenness shows; a third takes it up. More help where much computing
#: comes before much reading; with one nothing overlaps.
_AHEAD = ((3, 1.0), (2, 0.9), (1, 0.9), (6, 1.0), (12, 1.0))
#: Of all sizes and windows so many are looked at closely, those that do best when streamed ranges are just spread.
_SEARCHED = 3
#: What is within a fiftieth of the shortest is as good: of what is read at full speed the smallest window then, with
#: which the least is read.
_NEAR = 1.02
#: Steps of simulations after which no further sizes are looked at: models of tens of GiB would take seconds.
_MOST_WORK = 300_000


@dataclass(frozen=True, slots=True)
class _Candidate:
    """A cut with a window, the speed at which it can be read, and the seconds that no pinned set can undercut.

    ``overhead`` and ``share`` of that speed are as in `Plan`.
    """

    pipeline: Pipeline
    cut: Cut
    window: int
    rate: float
    least: float
    overhead: float
    share: float


def make_plan(
    nodes: Sequence[NodeWeights],
    *,
    file_size: int,
    workspace: int,
    budget: int | None,
    huge: bool = True,
    rate: float = 2.5e9,
    thorough: bool = True,
) -> Plan:
    """Plan passes over ``nodes``, in order, within ``budget`` bytes.

    Args:
        nodes: what each node reads, and how long it computes.
        file_size: bytes of the weights file, where its last granule ends.
        workspace: bytes of activations and scratch.
        budget: bytes that pinned ranges, window and workspace may take together; None pins everything.
        huge: whether the file's layout is made for 2 MiB granules.
        rate: bytes that the disk delivers in a second when it is asked for large tiles.
        thorough: whether to look further than at streamed ranges spread over the pass: at the head of the model, with
            every size of tiles, and at what a search finds. What that gains, often nothing, it gains at every pass, and
            it takes longer than planning does without.

    Raises:
        BudgetError: not even one of the smallest tiles fits beside the workspace.
    """
    tilings = _worthwhile(nodes, huge)
    room = 0 if budget is None else budget - workspace
    for granule in dict.fromkeys(tiling.granule for tiling in tilings):
        cut = Cut(nodes, tilings[0].tile_bytes, granule, file_size)
        if budget is None or cut.held(cut.ranges) <= room:
            everything = (True,) * len(cut.ranges)
            pinned = _finish(cut, everything, 0, workspace, budget)
            return replace(pinned, seconds=sum(node.seconds for node in nodes))
    assert budget is not None  # without one everything stays
    # The candidates are let go of before the plan is simulated, which takes as much memory as one of them.
    plan = _shortest(nodes, file_size, workspace, budget, tilings, cut.held(cut.ranges), rate, thorough)
    if isinstance(plan, int):
        raise too_small(budget, workspace, window=min(plan, cut.held(cut.ranges)))
    return replace(plan, seconds=simulated_seconds(plan, nodes, file_size, rate))


def _shortest(
    nodes: Sequence[NodeWeights],
    file_size: int,
    workspace: int,
    budget: int,
    tilings: Sequence[Tiling],
    total: int,
    rate: float,
    thorough: bool,
) -> Plan | int:
    """The plan with which a pass over ``total`` bytes is shortest, without its ``seconds``.

    If there is none, the bytes of the smallest window that there could be.
    """
    room = budget - workspace
    found: list[tuple[Choice, _Candidate]] = []
    shortest = math.inf
    cut: Cut | None = None
    smallest = file_size
    compute = sum(node.seconds for node in nodes)
    work = 0
    for tiling in tilings:
        speed = read_rate(rate, tiling.overhead)
        if max(compute, (total - room) / speed) >= shortest or (found and work > _MOST_WORK):
            continue
        before, cut = cut, Cut(nodes, tiling.tile_bytes, tiling.granule, file_size)
        smallest = cut.least if before is None else min(smallest, cut.least)
        if before and (cut.granule, cut.ranges) == (before.granule, before.ranges):
            continue  # nothing to divide any further
        pipeline = Pipeline(cut.tiles, cut.footprints, nodes)
        enough = math.inf  # a window with which nothing is waited for: larger ones can only pin less
        for ahead, share in _AHEAD:
            window = max(cut.run_of(ahead), cut.least)
            if window >= enough:
                continue
            least = max(compute, (sum(cut.footprints) - (room - window)) / (speed * share))
            if window <= room and least < shortest:
                choice = spread(pipeline, room - window, window, speed * share, head=thorough)
                found.append((choice, _Candidate(pipeline, cut, window, speed * share, least, tiling.overhead, share)))
                shortest = min(shortest, choice.seconds)
                work += pipeline.work
                if not any(choice.outcome.stalls):
                    enough = window
    if not found:
        return smallest
    found.sort(key=lambda pair: pair[0].seconds)
    as_good = [pair for pair in found if pair[0].seconds <= shortest * _NEAR and pair[1].rate >= rate / _NEAR]
    frugal_one = min((found[0], *as_good), key=lambda pair: pair[1].window)
    found.sort(key=lambda pair: (pair is not frugal_one, pair[0].seconds))
    choice, best = found[0]
    for _, candidate in found[: _SEARCHED if thorough else 0]:
        if candidate.least < choice.seconds:
            other = search(candidate.pipeline, room - candidate.window, candidate.window, candidate.rate)
            if other.seconds * (1 if candidate is best else _NEAR) < choice.seconds:
                choice, best = other, candidate
    plan = _finish(best.cut, choice.pinned, best.window, workspace, budget)
    return replace(plan, overhead=best.overhead, share=best.share)


def simulated_seconds(plan: Plan, nodes: Sequence[NodeWeights], file_size: int, rate: float) -> float:
    """What a pass of ``plan`` should take if nodes compute as long as ``nodes`` say and the disk reads at ``rate``."""
    pipeline = Pipeline(plan.tiles, footprints(plan.ranges, plan.granule, file_size), nodes)
    return pipeline.run([r.pinned for r in plan.ranges], plan.window, plan.speed(rate)).seconds


def seconds_of_rows(plan: Plan, nodes: Sequence[NodeWeights], seconds: Sequence[float]) -> list[float]:
    """Of the seconds that each node computed in a pass of ``plan``, those without what calls cost besides its rows."""
    whole = [1.0] * len(nodes)
    for tile in plan.tiles:
        if not all(r.pinned for r in plan.ranges[tile.begin : tile.end]):
            whole[tile.node] += call_share(nodes[tile.node], tile)
    return [each / share for each, share in zip(seconds, whole, strict=True)]


def smallest_window(nodes: Sequence[NodeWeights], file_size: int, *, huge: bool = True) -> int:
    """The bytes of weights that must be in memory at once, however small the tiles."""
    cuts = (Cut(nodes, tiling.tile_bytes, tiling.granule, file_size) for tiling in _worthwhile(nodes, huge))
    return min(min(cut.least, cut.held(cut.ranges)) for cut in cuts)


def too_small(budget: int, workspace: int, window: int) -> BudgetError:
    """The error to raise when these do not fit in ``budget``; all are bytes."""
    need = workspace + window
    return BudgetError(
        f"a budget of {budget} bytes is too small: {workspace} bytes of activations and {window} bytes "
        f"of weights are needed at once, so the smallest budget that works is {need} bytes",
        need,
    )


def all_weights(nodes: Sequence[NodeWeights], file_size: int, *, huge: bool = True) -> int:
    """The bytes that all weights take when everything is pinned and there is room enough."""
    tiling = _worthwhile(nodes, huge)[0]
    cut = Cut(nodes, tiling.tile_bytes, tiling.granule, file_size)
    return cut.held(cut.ranges)


def _worthwhile(nodes: Sequence[NodeWeights], huge: bool) -> list[Tiling]:
    """The tilings down to the smallest tiles worth having, the largest first."""
    tilings = [tiling for tiling in TILINGS if huge or tiling.granule == PAGE]
    least = frugal(nodes).tile_bytes
    return [tiling for tiling in tilings if tiling.tile_bytes >= least] or tilings[:1]


def _finish(
    cut: Cut,
    pinned: Sequence[bool],
    window: int,
    workspace: int,
    budget: int | None,
) -> Plan:
    ranges = tuple(replace(r, pinned=stays) for r, stays in zip(cut.ranges, pinned, strict=True))
    return Plan(
        tiles=tuple(_merged(cut.tiles, ranges)),
        ranges=ranges,
        granule=cut.granule,
        window=window,
        workspace=workspace,
        pinned_bytes=cut.held(r for r in ranges if r.pinned),
        streamed_bytes=sum(r.length for r in ranges if not r.pinned),
        budget=budget,
    )


def _merged(tiles: Sequence[Tile], ranges: Sequence[Range]) -> list[Tile]:
    """The same steps, but neighbours that stay are one, up to the largest tiles: fewer calls, and larger products."""
    found: list[Tile] = []
    for tile in tiles:
        if found and found[-1].node == tile.node:
            both = replace(found[-1], last=tile.last, end=max(found[-1].end, tile.end))
            parts = ranges[both.begin : both.end]
            if all(r.pinned for r in parts) and sum(r.length for r in parts) <= TILINGS[0].tile_bytes:
                found[-1] = both
                continue
        found.append(tile)
    return found
