"""How much memory a model gets that is asked for, and who gives it: a pure function of what everybody holds.

Weights that stay ("pinned") are granted by worth; a window and a workspace ("working" memory) are granted always, as
long as anybody idle holds anything. So nobody is refused who can be served slowly, and serving somebody slowly takes
next to nothing from others.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass

#: Weights are granted and given up in eighths of a model, for every other amount needs a plan of its own.
STEPS = 8
#: The largest share of the budget that weights leave for windows and workspaces.
SLACK_SHARE = 16
#: What was needed once is forgotten by this factor a grant, so that the last hundred count.
_FADE = 0.99


@dataclass(frozen=True, slots=True)
class Needs:
    """What a model needs, in bytes.

    Attributes:
        weights: all of them, in granules.
        workspace: activations and scratch.
        least: the smallest window.
        window: one through which it streams at a good speed.
        spare: of the workspace, what it can do without at the price of speed.
    """

    weights: int
    workspace: int
    least: int
    window: int
    spare: int = 0

    @property
    def minimum(self) -> int:
        """The smallest budget that works."""
        return self.workspace - self.spare + min(self.least, self.weights)

    @property
    def comfort(self) -> int:
        """Workspace and a window through which it streams at a good speed."""
        return self.workspace + max(self.least, self.window)

    @property
    def full(self) -> int:
        """The budget with which nothing streams."""
        return self.workspace + self.weights

    def floor(self, size: int) -> int:
        """``size``, or a little less, as an amount of weights that is granted."""
        step = max(1, self.weights // STEPS)
        return self.weights if size >= self.weights else max(0, min(size // step, STEPS - 1)) * step

    def ceil(self, size: int) -> int:
        """The same upwards."""
        floor = self.floor(size)
        return floor if floor == size else self.floor(min(self.weights, floor + max(1, self.weights // STEPS)))


@dataclass(frozen=True, slots=True)
class Holding:
    """What a model holds of the budget, in bytes.

    Attributes:
        needs: what it would need.
        pinned: weights that stay between calls.
        working: window and workspace, which an idle model can do without.
        fixed: nothing of it can be had now: it is leased, or somebody is changing it.
        kept: its weights cannot be had at all.
    """

    needs: Needs
    pinned: int = 0
    working: int = 0
    fixed: bool = False
    kept: bool = False

    @property
    def total(self) -> int:
        """Both."""
        return self.pinned + self.working

    @property
    def streams(self) -> bool:
        """Whether some of its weights are not pinned."""
        return self.pinned < self.needs.weights


@dataclass(frozen=True, slots=True)
class Shrink:
    """What one idle model is to be left with."""

    name: str
    pinned: int
    working: int


@dataclass(frozen=True, slots=True)
class Grant:
    """What a model may hold, once others have shrunk.

    Attributes:
        pinned: weights that may stay.
        working: window and workspace.
        shrinks: in the order in which they are to be made.
    """

    pinned: int
    working: int
    shrinks: tuple[Shrink, ...]

    @property
    def total(self) -> int:
        """The model's budget."""
        return self.pinned + self.working


class Slack:
    """How much weights leave for windows and workspaces: what these took at once of late, within limits.

    So the next window takes no weights from anybody, and where nothing streams no memory is kept for windows.
    """

    def __init__(self, budget: int) -> None:
        self._budget = budget
        self._taken = 0.0

    def note(self, working: int) -> None:
        """A grant was made, and all who are leased have so many bytes of working memory together now."""
        self._taken = max(self._taken * _FADE, working)

    def size(self, everybody: Iterable[Needs]) -> int:
        """In bytes: none if there is room for everything."""
        fits = sum(needs.full for needs in everybody) <= self._budget
        return 0 if fits else min(int(self._taken), self._budget // SLACK_SHARE)


def decide(
    budget: int,
    slack: int,
    holdings: Mapping[str, Holding],
    name: str,
    worth: Callable[[str], float],
    admits: Callable[[str], bool],
) -> Grant | None:
    """What ``name`` is granted, or None when memory has to become free first, which it will.

    Args:
        budget: of the pool.
        slack: bytes that weights leave, see `Slack`.
        holdings: of everybody, by name.
        name: who was asked for and is idle.
        worth: of a byte of somebody's weights.
        admits: whether ``name`` may take weights from somebody.
    """
    mine = holdings[name]
    needs = mine.needs
    others = {other: holding for other, holding in holdings.items() if other != name}
    room = budget - sum(holding.total for holding in others.values() if holding.fixed)
    room -= sum(holding.pinned for holding in others.values() if holding.kept and not holding.fixed)
    if needs.minimum > room:
        return None
    idle = sorted((other for other, holding in others.items() if not holding.fixed), key=worth)
    mobile = [other for other in idle if not others[other].kept]
    willing = [other for other in mobile if admits(other)]
    better = 0 if mine.kept else sum(others[other].pinned for other in set(mobile).difference(willing))
    pinned, working = _amounts(mine, room - better, 0 if mine.kept else slack)
    if pinned + working > room:  # even with everything that is idle
        # Of what better models have no more than for the smallest window, and for no more weights than it has now.
        streaming = needs.workspace + needs.least
        had = max(needs.ceil(mine.pinned), needs.floor(max(0, room - better - streaming)))
        pinned = min(pinned, needs.floor(room - needs.minimum), had)
        working = min(needs.comfort, room - pinned, max(streaming, room - better - pinned))
    if pinned + working <= mine.total:  # it has enough
        pinned, working = mine.pinned, mine.working
    free = budget - sum(holding.total for holding in holdings.values())
    shrinks = make_room(others, idle, willing, pinned + working - mine.total - free)
    return None if shrinks is None else Grant(pinned, working, shrinks)


def _amounts(mine: Holding, room: int, slack: int) -> tuple[int, int]:
    """Weights and working memory for a model in ``room``, which working memory may exceed where it has to."""
    needs = mine.needs
    if needs.weights == mine.pinned or needs.weights + max(slack, needs.workspace) <= room:
        return needs.weights, needs.workspace
    comfort = needs.comfort
    had = needs.ceil(mine.pinned)  # it keeps what it has
    pinned = max(needs.floor(max(0, room - max(slack, comfort))), had if had + comfort <= room else mine.pinned)
    if pinned + comfort >= needs.full:  # what its window would hold anyway is better pinned
        return needs.weights, needs.workspace
    # The window gives way before others give up weights that are worth more.
    return pinned, max(needs.workspace + needs.least, min(comfort, room - pinned))


def make_room(
    holdings: Mapping[str, Holding], idle: Sequence[str], willing: Sequence[str], wanted: int
) -> tuple[Shrink, ...] | None:
    """Whom of ``idle`` to take ``wanted`` bytes from, the first in this order first; None when that is not enough.

    First the windows of those who stream: nothing in them is used again. Then what ``willing`` of them have. The others
    give workspaces, for their next call then has to be bound to memory anew, and after these their weights.
    """
    left: dict[str, Shrink] = {}

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
    for name in idle:
        if holdings[name].streams:
            take(name, weights=False)
    for name in willing:
        take(name, weights=True)
    for name in others:
        take(name, weights=False)
    for name in others:
        take(name, weights=not holdings[name].kept)
    return tuple(left.values()) if wanted <= 0 else None
