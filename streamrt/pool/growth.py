"""More memory for a call that its model's budget has no room for, and bands where no budget of the pool has."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Protocol, TypeVar

from streamrt.engine.planner import Planner
from streamrt.engine.prepared import REMEMBERED, CallKey, Prepared, key_of
from streamrt.errors import BudgetError, ModelTooLargeError
from streamrt.graph import Graph
from streamrt.ops import Shape
from streamrt.plan import Plan

#: A pass in bands gets 1/2 of what its model can have, if no weights are then read twice. With all, a pass takes up to
#: half as long, where Winograd's algorithm then fits, but other models wait for all of it.
_SHARE = 2

Found = TypeVar("Found", Prepared, Prepared | None)


class Ask(Protocol):
    """Asks the pool for memory during a call."""

    def __call__(self, minimum: int, wait: bool = True) -> int:
        """Ask for a budget of at least ``minimum`` bytes; returns the new budget.

        Unless it may ``wait`` for leased memory, it returns the budget that there is if that much is not to be had now.
        """


class Growth:
    """Finds a planner for a call that does not fit without bands in its budget. See `streamrt.engine.engine.Engine`.

    The engine holds this, so it refers to no model: no cycle arises.

    Args:
        planner_for: the planner for a budget.

    Attributes:
        most: the most bytes that the model can ever have in the pool; None without a pool.
        ask: see `Ask`; None without a pool.
    """

    def __init__(self, planner_for: Callable[[int], Planner]) -> None:
        self._planner_for = planner_for
        self.most: Callable[[], int] | None = None
        self.ask: Ask | None = None
        self._wanted: dict[CallKey, tuple[int, int]] = {}  # of calls in bands: the most, and the budget to ask for

    def __call__(
        self, present: Planner, minimum: int, graph: Graph, shapes: Mapping[str, Shape], asks: bool = True
    ) -> tuple[Planner, Prepared] | None:
        """The planner for the budget that the pool grants, and how the call runs, or None without a pool.

        Bands are planned only if no budget that the model can have is enough without them. This decides so anew for
        each call in bands, since pins change what the model can have.

        Args:
            present: the planner of the model's budget.
            minimum: bytes that the call needs without bands.
            graph: of the call.
            shapes: of its inputs.
            asks: whether the pool may be asked for more memory. Otherwise the planner stays, and the result is None if
                more memory is what the call needs.

        Raises:
            ModelTooLargeError, PoolBusyError: as `ModelPool.lease`.
            BudgetError: it ``asks`` for nothing, and not even bands fit.
        """
        if self.most is None or self.ask is None:
            return None
        if not asks:
            return None if minimum <= self.most() else (present, present.prepare(graph, shapes, bands=True))
        while True:
            most = self.most()
            try:
                if minimum <= most:
                    planner = self._planner_for(self.ask(minimum))
                    return planner, planner.prepare(graph, shapes)
                return self._in_bands(self.ask, present, most, graph, shapes)
            except ModelTooLargeError:
                if self.most() == most:  # else models were pinned or unpinned meanwhile
                    raise

    def _in_bands(
        self, ask: Ask, present: Planner, most: int, graph: Graph, shapes: Mapping[str, Shape]
    ) -> tuple[Planner, Prepared]:
        """As `__call__`, for a call that fits only in bands. It waits for leased memory only if it must."""

        def prepare(planner: Planner) -> Prepared:
            return planner.prepare(graph, shapes, bands=True)

        def planner_for(budget: int) -> Planner:
            return present if budget == present.budget else self._planner_for(budget)

        held, key = present.budget or 0, key_of(graph, shapes)
        before, wanted = self._wanted.pop(key, (0, 0))
        if before != most or wanted < held:
            try:
                wanted = planned_in_bands(planner_for, prepare, held, most).plan.budget or 0
            except BudgetError as error:
                planner = planner_for(ask(error.minimum))  # raises the pool's error, unless there is more by now
                return planner, prepare(planner)
        self._wanted[key] = most, wanted
        if len(self._wanted) > REMEMBERED:
            self._wanted.pop(next(iter(self._wanted)))
        holder = present
        while ask(wanted, wait=False) < wanted:
            try:
                return holder, prepare(holder)
            except BudgetError as error:
                holder = planner_for(ask(error.minimum))
        planner = planner_for(wanted)
        return planner, prepare(planner)


def planned_in_bands(
    planner_for: Callable[[int], Planner], prepare: Callable[[Planner], Found], held: int, most: int
) -> Found:
    """What ``prepare`` makes for a pass in bands, under the budget that is to be asked for.

    It is the larger of ``held`` bytes and a share of ``most`` bytes if a pass then reads no weights twice, else all.

    Raises:
        BudgetError: it does not fit in ``most`` bytes.
    """
    budget = max(held, most // _SHARE)
    while True:
        try:
            found = prepare(planner_for(budget))
        except BudgetError as error:
            if budget >= most or error.minimum > most:
                raise
        else:
            if found is None or budget >= most or _reads_once(found.plan):
                return found
        budget = most


def _reads_once(plan: Plan) -> bool:
    """Whether a pass reads no range of weights twice."""
    streamed = [each for each in plan.ranges if not each.pinned]
    return len(set(streamed)) == len(streamed)
