"""Which ranges to pin for the shortest pass: ranges should stream where computing hides the time of reading them."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from streamrt.host.yielding import give_way
from streamrt.plan.pipeline import Outcome, Pipeline

#: Simulated steps after which a search ends: they take about 20 ms.
_WORK = 30_000
#: Prefer another pinned set only if its pass takes under 99 % of the time. Speeds are not known more exactly. Spread
#: ranges come first, because they suffer least from an uneven disk.
_GAIN = 0.99
#: End the search when a pass takes at most 1 % more than the shortest time that any pinned set could have.
_CLOSE = 1.01
#: In each round a search tries to pin the 12 ranges that computing waited for the longest, each in exchange for at most
#: 23 pinned ranges, one at a time. This limits the simulations of a round.
_LOOKED_AT = 12


@dataclass(frozen=True, slots=True)
class Choice:
    """A pinned set, as a flag for each range, and the simulated pass with it."""

    pinned: tuple[bool, ...]
    outcome: Outcome

    @property
    def seconds(self) -> float:
        """Duration of the pass."""
        return self.outcome.seconds


def spread(pipeline: Pipeline, room: int, window: int, rate: float, *, head: bool = False) -> Choice:
    """Pin ranges of ``room`` bytes so that the others are spread over the pass, by bytes or by computing time.

    Args:
        pipeline: of the pass.
        room: bytes for pinned ranges.
        window: bytes.
        rate: bytes a second at which streamed ranges are read.
        head: whether to pin the head of the model instead, if the pass is then shorter.
    """
    choices = [_simulated(pipeline, _evenly(pipeline, room), window, rate)]
    if pipeline.compute > 0:
        choices.append(_simulated(pipeline, _by_slack(pipeline, room, window, rate), window, rate))
    if head:
        choices.append(_simulated(pipeline, _first(pipeline, room), window, rate))
    return _best(choices)


def search(pipeline: Pipeline, room: int, window: int, rate: float) -> Choice:
    """The best of `spread` and of pinning the head or the tail, improved by exchanging ranges while that helps.

    For the arguments see `spread`.
    """
    best = _best(
        [
            spread(pipeline, room, window, rate, head=True),
            _simulated(pipeline, _last(pipeline, room), window, rate),
        ]
    )
    least = pipeline.least_seconds(room, rate)
    work = pipeline.work
    improved = True
    while improved and work < _WORK and best.seconds > least * _CLOSE:
        improved = False
        for pinned in _changes(best, pipeline, room):
            work += pipeline.work
            choice = _simulated(pipeline, pinned, window, rate)
            if choice.seconds < best.seconds * _GAIN:
                best, improved = choice, True
                break
            if work >= _WORK:
                break
    return best


def _changes(choice: Choice, pipeline: Pipeline, room: int) -> Iterator[list[bool]]:
    """Pinned sets with one more range, which computing waits for: in free room, or in exchange for a pinned range."""
    pinned = choice.pinned
    free = room - pipeline.bytes_of(pinned)
    stalls = choice.outcome.stalls
    once = [i for i, first in enumerate(pipeline.first) if i == first]
    waited = sorted((i for i in once if not pinned[i]), key=lambda i: -stalls[i])
    stay = [i for i in once if pinned[i]]
    step = max(1, len(stay) // _LOOKED_AT)
    for index in waited[:_LOOKED_AT]:
        if pipeline.bytes_more(pinned, index) <= free:
            yield _with(pinned, index, True)
        for other in stay[::step]:
            fewer = _with(pinned, other, False)
            if pipeline.bytes_more(fewer, index) <= free + pipeline.bytes_more(fewer, other):
                yield _with(fewer, index, True)


def _with(pinned: Sequence[bool], index: int, stays: bool) -> list[bool]:
    changed = list(pinned)
    changed[index] = stays
    return changed


def _simulated(pipeline: Pipeline, pinned: Sequence[bool], window: int, rate: float) -> Choice:
    pinned = tuple(pinned[index] for index in pipeline.first)
    return Choice(pinned, pipeline.run(pinned, window, rate))


def _best(choices: Sequence[Choice]) -> Choice:
    """The choice with the shortest pass; a later choice must be over 1 % shorter than those before it."""
    best = choices[0]
    for choice in choices[1:]:
        if choice.seconds < best.seconds * _GAIN:
            best = choice
    return best


def _evenly(pipeline: Pipeline, room: int) -> list[bool]:
    """Pin ranges so that the share of pinned bytes is about equal from the first range up to every range."""
    added = pipeline.added
    pinned = [False] * len(added)
    total = sum(added)
    passed = used = 0
    for index, size in enumerate(added):
        passed += size
        first = pipeline.first[index]
        more = 0 if pinned[first] else pipeline.bytes_more(pinned, first)
        if not pinned[first] and (used + more) * total <= passed * room:
            pinned[first] = True
            used += more
    return _filled(pinned, pipeline, room)


def _by_slack(pipeline: Pipeline, room: int, window: int, rate: float) -> list[bool]:
    """Stream ranges that the disk can read while earlier steps compute, and pin the rest.

    Computing earns credit: the bytes that are read meanwhile, at most the window. A range that the credit covers is
    streamed, and uses up its bytes of credit. If reading takes longer than computing, too many ranges would be pinned.
    Then a second of computing earns more credit, just enough that the pinned ranges fit. So each part of the pass waits
    in proportion to its computing.
    """
    low, high = 0.0, 1.0
    pinned = _at_price(pipeline, window, rate * high)
    while pipeline.bytes_of(pinned) > room and high < 1e9:
        low, high = high, high * 4
        pinned = _at_price(pipeline, window, rate * high)
    for _ in range(12):
        middle = (low + high) / 2
        found = _at_price(pipeline, window, rate * middle)
        if pipeline.bytes_of(found) > room:
            low = middle
        else:
            high, pinned = middle, found
    if pipeline.bytes_of(pinned) > room:  # no credit covers ranges that are larger than the window
        return _evenly(pipeline, room)
    return _filled(pinned, pipeline, room)


def _at_price(pipeline: Pipeline, window: int, rate: float) -> list[bool]:
    """The pinned set when a second of computing earns ``rate`` bytes."""
    give_way()
    credit = 0.0
    for _, size, seconds in pipeline.demands:  # the pass before, with whose credit this one begins
        credit += seconds * rate
        if credit > window:
            credit = window
        if credit >= size:
            credit -= size
    credit = min(window, credit + pipeline.rest * rate)
    pinned = [True] * len(pipeline.added)
    for index, size, seconds in pipeline.demands:
        credit += seconds * rate
        if credit > window:
            credit = window
        if credit >= size:
            credit -= size
            pinned[index] = False
    for index, first in pipeline.again:
        pinned[first] |= pinned[index]
    return pinned


def _first(pipeline: Pipeline, room: int) -> list[bool]:
    return _filled([False] * len(pipeline.sizes), pipeline, room)


def _last(pipeline: Pipeline, room: int) -> list[bool]:
    return _filled([False] * len(pipeline.sizes), pipeline, room, backwards=True)


def _filled(pinned: list[bool], pipeline: Pipeline, room: int, *, backwards: bool = False) -> list[bool]:
    """Pin more ranges wherever they fit, from the first on, or from the last on."""
    used = pipeline.bytes_of(pinned)
    once = [index for index, first in enumerate(pipeline.first) if index == first]
    for index in reversed(once) if backwards else once:
        size = pipeline.bytes_more(pinned, index)
        if not pinned[index] and used + size <= room:
            pinned[index] = True
            used += size
    return pinned
