"""`make_plan` tries sizes of tiles and windows that fit in the budget, and returns the plan with the shortest pass."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import accumulate

from streamrt.errors import BudgetError
from streamrt.host.rates import DISK
from streamrt.plan.pinning import Choice, search, spread
from streamrt.plan.pipeline import Pipeline, call_share
from streamrt.plan.tiling import (
    TILINGS,
    Cut,
    Tiling,
    footprints,
    fullest_tile,
    section_bytes,
    shared,
    smallest_tiling,
)
from streamrt.plan.types import HUGE, PAGE, NodeWeights, Plan, Range, Tile, read_rate

#: Windows that are tried: the successive ranges that each holds, and the share of the reading speed that it allows.
#: With two ranges, one is read while the other is in use, so each waits for the slower; a third range evens that out.
#: More ranges help where much computing comes before much reading. With one range nothing overlaps.
_AHEAD = ((3, 1.0), (2, 0.9), (1, 0.9), (6, 1.0), (12, 1.0))
#: Candidates that are searched for a better pinned set: the 3 best, because a search takes 20 ms.
_SEARCHED = 3
#: Treat plans within 2 % of the shortest pass as ties. Of the ties that read at full speed, take the plan with the
#: smallest window, because it leaves the most memory to pinned ranges.
_NEAR = 1.02
#: The most bytes of pinned neighbours that are one tile. A product lays its samples out again for each tile. That takes
#: as long as 11 rows of weights. A pass that loads a tile computes it when all of it is in memory.
_PINNED = 64 << 20
#: Try no further sizes after this many simulated steps, about 0.2 s: models of tens of GiB would take seconds.
_MOST_WORK = 300_000


@dataclass(frozen=True, slots=True)
class _Task:
    """The arguments of `make_plan`, prepared.

    ``compute`` is the computing time of all nodes in seconds. ``room`` is the bytes for pinned ranges and window.
    """

    nodes: Sequence[NodeWeights]
    compute: float
    file_size: int
    room: int
    rate: float
    thorough: bool


@dataclass(frozen=True, slots=True)
class _Candidate:
    """A cut with a window, and the best pinned set that was found without a search.

    Cut and pipeline are made again when they are needed: with thousands of tiles each takes megabytes.

    Attributes:
        tiling: of the cut.
        held: bytes of weights that the cut has once, though a pass needs them several times.
        window: bytes.
        rate: bytes a second at which streamed ranges arrive.
        least: seconds that a pass takes at least, whichever ranges are pinned.
        share: as in `Plan`.
        choice: the pinned set.
    """

    tiling: Tiling
    held: int
    window: int
    rate: float
    least: float
    share: float
    choice: Choice

    @property
    def seconds(self) -> float:
        """Duration of a pass with that pinned set."""
        return self.choice.seconds

    def cut(self, task: _Task) -> Cut:
        """Tiles and ranges, made again."""
        return _cut(task.nodes, self.tiling, task.file_size, self.held)


def make_plan(
    nodes: Sequence[NodeWeights],
    *,
    file_size: int,
    workspace: int,
    budget: int | None,
    huge: bool = True,
    rate: float = DISK,
    thorough: bool = True,
) -> Plan:
    """Plan passes over ``nodes``, in order, within ``budget`` bytes.

    Args:
        nodes: the extents of each node's parameters, and how long it computes.
        file_size: bytes of the weights file; its last granule ends there.
        workspace: bytes of activations and scratch.
        budget: bytes that pinned ranges, window and workspace may take together; None pins everything.
        huge: whether granules of 2 MiB may be used.
        rate: bytes a second at which the disk delivers large tiles.
        thorough: besides spreading streamed ranges over the pass, try to pin the head of the model, with every size of
            tiles, and search. Planning then takes over twice as long. Every pass may become shorter.

    Raises:
        BudgetError: not even one of the smallest tiles fits beside the workspace.
    """
    if budget is not None and workspace > budget:  # with no tiles at all
        raise too_small(budget, workspace, smallest_window(nodes, file_size, huge=huge))
    tilings = _worthwhile(nodes, huge)
    pinned = _pinned(_with_tables(nodes), tilings, file_size, workspace, budget)
    if isinstance(pinned, Plan):
        return pinned
    if any(node.indexed for node in nodes):
        rest = [replace(node, indexed=()) for node in nodes]
        plan = make_plan(
            rest,
            file_size=file_size,
            workspace=workspace,
            budget=budget,
            huge=huge,
            rate=rate,
            thorough=thorough,
        )
        return replace(plan, by_index=True)
    assert budget is not None  # without one everything stays
    task = _Task(nodes, sum(node.seconds for node in nodes), file_size, budget - workspace, rate, thorough)
    # `_shortest` has freed its cuts before the plan is simulated, which takes as much memory as one of them.
    found = _shortest(task, workspace, budget, tilings, pinned)
    if isinstance(found, int):
        raise too_small(budget, workspace, window=min(found, pinned))
    return replace(found, seconds=simulated_seconds(found, nodes, file_size, rate))


def _pinned(
    nodes: Sequence[NodeWeights], tilings: Sequence[Tiling], file_size: int, workspace: int, budget: int | None
) -> Plan | int:
    """The plan that pins everything. If that does not fit, the bytes of all weights in the smallest granules."""
    total = 0
    for granule in dict.fromkeys(tiling.granule for tiling in tilings):
        cut = _whole(nodes, tilings, granule, file_size)
        total = cut.held(cut.ranges)
        if budget is None or total <= budget - workspace:
            plan = _finish(cut, (True,) * len(cut.ranges), 0, workspace, budget)
            return replace(plan, seconds=sum(node.seconds for node in nodes))
        del cut  # a cut into 2**16 tiles takes 40 MiB
    return total


def _shortest(task: _Task, workspace: int, budget: int, tilings: Sequence[Tiling], total: int) -> Plan | int:
    """The plan with the shortest pass over ``total`` bytes, without its ``seconds``.

    If no plan fits, returns the bytes of the smallest window instead.
    """
    field, smallest = _tried(task, tilings, total)
    if not field.found:
        return smallest
    preferred = field.preferred()
    found = sorted(field.found, key=lambda candidate: (candidate is not preferred, candidate.seconds))
    best = found[0]
    for candidate in found[: _SEARCHED if task.thorough else 0]:
        if candidate.least < best.seconds:
            pipeline = _pipeline(task, candidate.cut(task))
            choice = search(pipeline, task.room - candidate.window, candidate.window, candidate.rate)
            if choice.seconds * (1 if candidate is best else _NEAR) < best.seconds:
                best = replace(candidate, choice=choice)
    plan = _finish(best.cut(task), best.choice.pinned, best.window, workspace, budget)
    return replace(plan, overhead=best.tiling.overhead, share=best.share)


def _tried(task: _Task, tilings: Sequence[Tiling], total: int) -> tuple[_Field, int]:
    """The candidates of all cuts that may matter, and the bytes of the smallest window of a cut."""
    field = _Field(task)
    cut: Cut | None = None
    windows: list[int] = []  # the smallest of each cut
    work = 0
    for tiling, held in _variants(task, tilings):
        speed = read_rate(task.rate, tiling.overhead)
        least = max(task.compute, (total - task.room) / speed)
        if not field.may_matter(least, speed, 0) or (field.found and work > _MOST_WORK):
            continue
        before, cut = None if tiling.apart else cut, None  # frees a cut that is not compared
        cut = _cut(task.nodes, tiling, task.file_size, held)
        windows.append(cut.least)
        if before and (cut.granule, cut.ranges) == (before.granule, before.ranges):
            continue  # smaller tiles are not possible
        work += _try_windows(task, cut, tiling, held, field)
    return field, min(windows)


def _variants(task: _Task, tilings: Iterable[Tiling]) -> Iterator[tuple[Tiling, int]]:
    """Each tiling, without and with room for weights that would otherwise be read in every pass or band, in bytes."""
    sizes = [sum(e.length for e in node.tiled) for node in task.nodes if node.passes > 1]
    sections = [size for size in section_bytes(task.nodes).values() if size <= task.room]
    held = max((size for size in (*sizes, *sections) if size <= task.room), default=0)
    for tiling in tilings:
        yield tiling, 0
        if sections or held > tiling.tile_bytes:
            yield tiling, held


class _Field:
    """The candidates so far.

    Attributes:
        found: the candidates.
        shortest: seconds of the shortest pass of them.
    """

    def __init__(self, task: _Task) -> None:
        self._compute, self._full = task.compute, task.rate / _NEAR
        self.found: list[_Candidate] = []
        self.shortest = math.inf

    def add(self, candidate: _Candidate) -> None:
        """Add a candidate."""
        self.found.append(candidate)
        self.shortest = min(self.shortest, candidate.seconds)

    def preferred(self) -> _Candidate:
        """The candidate with the smallest window of the shortest pass and of the ties that read at full speed."""
        ties = [c for c in self.found if c.seconds <= self.shortest * _NEAR and c.rate >= self._full]
        return min((min(self.found, key=lambda c: c.seconds), *ties), key=lambda c: c.window)

    def may_matter(self, least: float, speed: float, window: int) -> bool:
        """Whether the pass of a candidate may be shorter than all others.

        Once the shortest pass computes for 98 % of its time, all others tie or are longer. A candidate then matters
        only if its tiles can be read at full speed and its window is smaller than the preferred one. ``least`` is the
        seconds that its pass takes at least, ``speed`` that of its tiles. ``window`` may be less than it has.
        """
        if least >= self.shortest or self._compute * _NEAR < self.shortest:
            return least < self.shortest
        return speed >= self._full and window < self.preferred().window


def _pipeline(task: _Task, cut: Cut) -> Pipeline:
    return Pipeline(cut.tiles, cut.footprints, task.nodes, cut.shared, cut.first)


def _try_windows(task: _Task, cut: Cut, tiling: Tiling, held: int, field: _Field) -> int:
    """Add a candidate to ``field`` for each window that may matter; returns the cost of their simulations."""
    pipeline, work = _pipeline(task, cut), 0
    speed = read_rate(task.rate, tiling.overhead)
    enough = math.inf  # a window with which computing never waits: a larger window only leaves less memory to pin
    for ahead, share in _AHEAD:
        window = max(cut.run_of(ahead), cut.least)
        rate = speed * share
        if window >= enough or window > task.room:
            continue
        least = pipeline.least_seconds(task.room - window, rate)
        if not field.may_matter(least, speed, window):
            continue
        choice = spread(pipeline, task.room - window, window, rate, head=task.thorough)
        field.add(_Candidate(tiling, held, window, rate, least, share, choice))
        work += pipeline.work
        if not any(choice.outcome.stalls):
            enough = window
    return work


def simulated_seconds(plan: Plan, nodes: Sequence[NodeWeights], file_size: int, rate: float) -> float:
    """Seconds of a pass of ``plan``, with the times of ``nodes`` in a round and a disk of ``rate`` bytes a second."""
    sizes, common = (of(plan.ranges, plan.granule, file_size) for of in (footprints, shared))
    pipeline = Pipeline(plan.tiles, sizes, nodes, common)
    return pipeline.run([r.pinned for r in plan.ranges], plan.window, plan.speed(rate)).seconds * plan.rounds


def seconds_of_rows(plan: Plan, nodes: Sequence[NodeWeights], seconds: Sequence[float]) -> list[float]:
    """The ``seconds`` that each node computed in a pass of ``plan``, without the cost of calls for streamed tiles."""
    whole = [1.0] * len(nodes)
    for tile in plan.tiles:
        if not all(r.pinned for r in plan.ranges[tile.begin : tile.end]):
            whole[tile.node] += call_share(nodes[tile.node], tile)
    return [each / share for each, share in zip(seconds, whole, strict=True)]


def smallest_window(nodes: Sequence[NodeWeights], file_size: int, *, huge: bool = True) -> int:
    """Bytes of weights that must be in memory at once with the smallest tiles."""
    *larger, _, smallest = _worthwhile(nodes, huge)  # the last tiling has the tiles of the one before it, or smaller
    largest = max(nodes, key=lambda node: sum(extent.length for extent in node.tiled), default=NodeWeights())
    least: float = math.inf
    for tiling in (smallest, *reversed(larger)):
        if fullest_tile(largest, tiling) < least:  # else these tiles take more memory than smaller ones
            cut = _cut(nodes, tiling, file_size)
            least = min(least, cut.least, cut.held(cut.ranges))
    return int(least)


def too_small(budget: int, workspace: int, window: int) -> BudgetError:
    """The error to raise when workspace and window do not fit in ``budget``; all are bytes."""
    need = workspace + window
    return BudgetError(
        f"a budget of {budget} bytes is too small: {workspace} bytes of activations and scratch and {window} bytes "
        f"of weights are needed at once, so the smallest budget that works is {need} bytes, {-(-need // 1024)} KiB",
        need,
    )


def all_weights(nodes: Sequence[NodeWeights], file_size: int, *, huge: bool = True) -> int:
    """Bytes that all weights take when everything is pinned, in the largest granules that the file allows."""
    tilings = _worthwhile(nodes, huge)
    cut = _whole(_with_tables(nodes), tilings, tilings[0].granule, file_size)
    return cut.held(cut.ranges)


def _with_tables(nodes: Sequence[NodeWeights]) -> list[NodeWeights]:
    """The nodes with their tables as weights that are read as a whole."""
    return [replace(node, whole=(*node.whole, *node.indexed), indexed=()) if node.indexed else node for node in nodes]


def _worthwhile(nodes: Sequence[NodeWeights], huge: bool) -> list[Tiling]:
    """The tilings down to the smallest tiles that are worth planning for, the largest first, and the last resort."""
    tilings = [tiling for tiling in TILINGS if huge or tiling.granule == PAGE]
    least = smallest_tiling(nodes).tile_bytes
    found = [tiling for tiling in tilings if tiling.tile_bytes >= least] or tilings[:1]
    return [*found, found[-1].last_resort()]


def _whole(nodes: Sequence[NodeWeights], tilings: Sequence[Tiling], granule: int, file_size: int) -> Cut:
    """The cut with which everything is pinned.

    Its ranges are small, so that little is counted twice when parts of them are in memory already. `_merged` makes
    large tiles again. Weights that are read in several passes stay, so they need no tiles.
    """
    return Cut(nodes, max(HUGE, tilings[-1].tile_bytes), granule, file_size, held=math.inf)


def _cut(nodes: Sequence[NodeWeights], tiling: Tiling, file_size: int, held: int = 0) -> Cut:
    return Cut(nodes, tiling.tile_bytes, tiling.granule, file_size, tiling.apart, held)


def _finish(
    cut: Cut,
    pinned: Sequence[bool],
    window: int,
    workspace: int,
    budget: int | None,
) -> Plan:
    ranges = tuple(r._replace(pinned=stays) for r, stays in zip(cut.ranges, pinned, strict=True))
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
    """``tiles`` with pinned neighbours merged up to `_PINNED` bytes, for fewer calls and larger products."""
    found: list[Tile] = []
    sums = [0, *accumulate(r.length if r.pinned else _PINNED + 1 for r in ranges)]  # a streamed range is too large
    for tile in tiles:
        if found and found[-1].node == tile.node:
            both = found[-1]._replace(last=tile.last, end=max(found[-1].end, tile.end))
            if sums[both.end] - sums[both.begin] <= _PINNED:
                found[-1] = both
                continue
        found.append(tile)
    return found
