"""How much memory a requested model gets, and which models give it: a pure function of the memory of all models.

Weights that stay ("pinned") are granted by worth. A window and a workspace ("working" memory) are always granted, as
long as idle models hold enough. So a request that can be served slowly is never refused, and serving it slowly takes
little memory from other models.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field

#: Weights are granted and given up in steps of 1/8 of a model, or in larger steps (`Needs.step`). Every amount needs a
#: plan of its own, so the steps are few.
STEPS = 8
#: Weights leave at most 1/16 of the budget free for windows and workspaces. More would push out too many weights.
SLACK_SHARE = 16
#: Multiply the working memory of a grant by this after each further grant, so that mainly the last 100 grants count.
_FADE = 0.99


@dataclass(frozen=True, slots=True)
class Needs:
    """Bytes that a model needs.

    Attributes:
        weights: all weights, in granules.
        workspace: activations and scratch.
        least: the smallest window.
        window: a window through which it streams at a good speed.
        spare: the part of the workspace that it can do without if it may be slower.
        step: fewer bytes than these are not worth a plan, or a new binding of kernels, of their own.
        whole: the workspace without bands, if the other numbers are those of a pass in bands; else 0.
    """

    weights: int
    workspace: int
    least: int
    window: int
    spare: int = 0
    step: int = 1
    whole: int = 0

    @property
    def minimum(self) -> int:
        """The smallest budget that works."""
        return self.workspace - self.spare + min(self.least, self.weights)

    @property
    def comfort(self) -> int:
        """Bytes of the workspace and of a window through which it streams at a good speed."""
        return self.workspace + max(self.least, self.window)

    @property
    def full(self) -> int:
        """The smallest budget with which nothing streams."""
        return self.workspace + self.weights

    def floor(self, size: int) -> int:
        """The largest amount of weights that may be granted and is not above ``size`` bytes."""
        step = self._grant_step
        return self.weights if size >= self.weights else max(0, min(size // step, STEPS - 1)) * step

    def ceil(self, size: int) -> int:
        """The smallest amount of weights that may be granted and is not below ``size`` bytes, or all weights."""
        floor = self.floor(size)
        return floor if floor == size else self.floor(min(self.weights, floor + self._grant_step))

    @property
    def _grant_step(self) -> int:
        return max(self.step, self.weights // STEPS)


@dataclass(slots=True)
class Holding:
    """Bytes that a model holds of the budget. It does not change: the last four follow from the others.

    Attributes:
        needs: of the model.
        pinned: weights that stay between calls.
        working: window and workspace, which an idle model can do without.
        fixed: whether it can give nothing now, because it is leased or a thread is changing it.
        kept: whether it never gives weights, because it is pinned.
        total: bytes of weights and working memory.
        streams: whether some of its weights are not pinned.
        large: whether its working memory is worth taking by itself.
        worthy: bytes that it does not give to a model that is worth less: weights, and a workspace that is small.
    """

    needs: Needs
    pinned: int = 0
    working: int = 0
    fixed: bool = False
    kept: bool = False
    total: int = field(init=False)
    streams: bool = field(init=False)
    large: bool = field(init=False)
    worthy: int = field(init=False)

    def __post_init__(self) -> None:
        self.total = self.pinned + self.working
        self.streams = self.pinned < self.needs.weights
        self.large = self.working >= self.needs.step
        self.worthy = self.pinned if self.streams or self.large else self.total


@dataclass(frozen=True, slots=True)
class Shrink:
    """Bytes that an idle model keeps when it gives the rest."""

    name: str
    pinned: int
    working: int


@dataclass(frozen=True, slots=True)
class Grant:
    """Bytes that a model may hold once others have shrunk.

    Attributes:
        pinned: weights that may stay.
        working: window and workspace.
        shrinks: of the other models, in the order in which to make them.
    """

    pinned: int
    working: int
    shrinks: tuple[Shrink, ...]

    @property
    def total(self) -> int:
        """The model's budget."""
        return self.pinned + self.working


class Slack:
    """Bytes that weights leave free for windows and workspaces: the most that these took at once recently, limited.

    So the next window takes no weights from other models. If all models fit in the budget, nothing is left free.
    """

    def __init__(self, budget: int) -> None:
        self._budget = budget
        self._taken = 0.0

    def note(self, working: int) -> None:
        """Note the ``working`` bytes of working memory that all leased models together have after a grant."""
        self._taken = max(self._taken * _FADE, working)

    def size(self, full: int) -> int:
        """The bytes to leave; 0 if the budget has room for all models, with which nothing streams in ``full`` bytes."""
        return 0 if full <= self._budget else min(int(self._taken), self._budget // SLACK_SHARE)


def needed_to_pin(needs: Needs, others: Iterable[Needs]) -> int:
    """Bytes that a model needs to be pinned, beside the weights of ``others`` that are pinned already.

    These are its weights, and the largest workspace of all of them. So each of them can run while all weights stay, and
    without bands, whose plans may stream weights.
    """
    return needs.weights + max(each.whole or each.workspace for each in (needs, *others))


def decide(
    budget: int,
    slack: int,
    holdings: Mapping[str, Holding],
    name: str,
    worth: Callable[[str], float],
    admits: Callable[[str], bool],
    whole: bool = False,
) -> Grant | None:
    """The grant of the model ``name``; None if it has to wait until a leased model gives memory back.

    Args:
        budget: bytes of the pool.
        slack: bytes that weights leave, see `Slack`.
        holdings: of all models that hold memory, and of ``name``, by name.
        name: the requested model, which is idle.
        worth: gives the worth of a byte of a model's weights, by the model's name.
        admits: whether ``name`` may take weights from the model of another name. If so, it may take them from all
            models that are worth less, too.
        whole: whether to wait until there is room for all of its weights, instead of streaming some.
    """
    mine = holdings[name]
    needs = mine.needs
    room, free, streaming = budget, budget - mine.total, 0
    idle: list[str] = []
    for other, holding in holdings.items():
        if other == name:
            continue
        free -= holding.total
        if not holding.fixed:
            room -= holding.pinned if holding.kept else 0
            idle.append(other)
            continue
        room -= holding.total
        streaming += holding.working if holding.streams else 0
    if (needs.full if whole else needs.minimum) > room:
        return None
    idle.sort(key=worth)
    mobile = [other for other in idle if not holdings[other].kept]
    few = bisect_left(mobile, True, key=lambda other: not admits(other))
    willing = mobile[:few]
    better = 0 if mine.kept else sum(holdings[other].worthy for other in mobile[few:])
    share = max(0, budget // SLACK_SHARE - streaming)  # better models give as much to all windows together
    for window in (min(share, needs.comfort), 0):
        pinned, working = _granted(mine, room, room - better, window, 0 if mine.kept else slack)
        shrinks = make_room(holdings, idle, willing, pinned + working - mine.total - free)
        given = sum(holdings[shrink.name].pinned - shrink.pinned for shrink in shrinks or () if not admits(shrink.name))
        if given <= share:
            break  # else a large step of a better model would go for a small window
    return None if shrinks is None else Grant(pinned, working, shrinks)


def freely(mine: Holding, free: int, slack: int) -> Grant | None:
    """The grant of all weights, which `decide` gives if free bytes are enough; None if it may need those of others.

    Args:
        mine: what the requested model holds.
        free: bytes that no model holds.
        slack: as for `decide`.
    """
    needs, most = mine.needs, mine.total + free
    if most < max(needs.full, needs.comfort, needs.weights + slack):
        return None
    return Grant(needs.weights, max(needs.workspace, mine.total - needs.weights), ())


def _granted(mine: Holding, room: int, own: int, window: int, slack: int) -> tuple[int, int]:
    """Bytes of weights and of working memory for a model.

    Args:
        mine: what the model has.
        room: bytes that it can have if all idle models give all that they can.
        own: of these, bytes that better models do not have.
        window: bytes of working memory that it gets from better models, if necessary.
        slack: as for `decide`.
    """
    needs = mine.needs
    if own < window <= room:
        pinned, working = _amounts(mine, window, max(window, slack))
    else:
        pinned, working = _amounts(mine, own, slack)
    if pinned + working > room:  # even with all memory of idle models
        # Take no more from better models than the smallest window needs. Take no room for further weights from them.
        streaming = needs.workspace + needs.least
        had = max(needs.ceil(mine.pinned), needs.floor(max(0, own - streaming)))
        pinned = min(pinned, needs.floor(room - needs.minimum), had)
        working = min(needs.comfort, room - pinned, max(streaming, own - pinned))
    if pinned + working <= mine.total:  # it holds enough already
        pinned = max(pinned, mine.pinned)
        working = mine.total - pinned
    return pinned, working


def _amounts(mine: Holding, room: int, slack: int) -> tuple[int, int]:
    """Bytes of weights and of working memory for a model in ``room`` bytes. Working memory may exceed ``room``."""
    needs = mine.needs
    if needs.weights == mine.pinned or needs.weights + max(slack, needs.workspace) <= room:
        return needs.weights, needs.workspace
    comfort = needs.comfort
    had = needs.ceil(mine.pinned)  # the model keeps the weights that it has
    pinned = max(needs.floor(max(0, room - max(slack, comfort))), had if had + comfort <= room else mine.pinned)
    if pinned + comfort >= needs.full and needs.full <= max(room, needs.workspace + needs.least):
        return pinned, needs.full - pinned  # having all weights takes no more memory than a window
    # The window becomes smaller before other models give up weights that are worth more.
    return pinned, max(needs.workspace + needs.least, min(comfort, room - pinned))


def make_room(
    holdings: Mapping[str, Holding], idle: Sequence[str], willing: Sequence[str], wanted: int
) -> tuple[Shrink, ...] | None:
    """The shrinks of ``idle`` models that give ``wanted`` bytes; None if all of them together hold less.

    Windows of streaming models come first, since nothing in them is used again. Then comes all memory of ``willing``
    models. Then come the workspaces of the others, if they are large enough: their next call has to bind kernels to new
    memory. The weights of the others come last. Within each group the order is that of ``idle``.
    """
    left: dict[str, Shrink] = {}
    if wanted <= 0:
        return ()

    def take(name: str, weights: bool) -> None:
        nonlocal wanted
        holding = holdings[name]
        if wanted > 0 and name not in left and holding.working:
            left[name] = Shrink(name, holding.pinned, 0)
            wanted -= holding.working
        if wanted > 0 and weights and holding.pinned:
            keeps = holding.needs.floor(max(0, holding.pinned - wanted))
            left[name] = Shrink(name, keeps, 0)
            wanted -= holding.pinned - keeps

    generous = set(willing)
    others = [name for name in idle if name not in generous]
    windows = (name for name in idle if holdings[name].streams)
    large = (name for name in others if holdings[name].large)
    for names, weights in ((windows, False), (willing, True), (large, False), (others, True)):
        for name in names:
            take(name, weights and not holdings[name].kept)
            if wanted <= 0:
                return tuple(left.values())
    return None
