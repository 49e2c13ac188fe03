"""Which ranges to pin, for the shortest pass: what streams should lie where computing hides its reading."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from streamrt.host.yielding import give_way
from streamrt.plan.pipeline import Outcome, Pipeline

#: Steps of simulations that one search may take after its first: about a fiftieth of a second.
_WORK = 30_000
#: A gain of less than a hundredth is none: speeds are not known better, and what is spread takes up their unevenness.
_GAIN = 0.99
#: Within this of what no plan can undercut there is nothing to look for.
_CLOSE = 1.01
#: Of the ranges that are waited for the longest, and of those that are pinned, how many a search looks at in a round.
_LOOKED_AT = 12


@dataclass(frozen=True, slots=True)
class Choice:
    """A pinned set, one flag a range, and the pass that the simulation makes of it."""

    pinned: tuple[bool, ...]
    outcome: Outcome

    @property
    def seconds(self) -> float:
        """Of the pass."""
        return self.outcome.seconds


def spread(pipeline: Pipeline, room: int, window: int, rate: float, *, head: bool = False) -> Choice:
    """Pin in ``room`` bytes what leaves the streamed ranges spread over the pass, by bytes or by computing time.

    With ``head`` or the head of the model, if that is better.
    """
    choices = [_simulated(pipeline, _evenly(pipeline.sizes, room), window, rate)]
    if pipeline.compute > 0:
        choices.append(_simulated(pipeline, _by_slack(pipeline, room, window, rate), window, rate))
    if head:
        choices.append(_simulated(pipeline, _first(pipeline.sizes, room), window, rate))
    return _best(choices)


def search(pipeline: Pipeline, room: int, window: int, rate: float) -> Choice:
    """`spread`, or the head or the tail of the model pinned, improved by pinning other ranges while that helps."""
    sizes = pipeline.sizes
    best = _best(
        [
            spread(pipeline, room, window, rate, head=True),
            _simulated(pipeline, _last(sizes, room), window, rate),
        ]
    )
    least = max(pipeline.compute, (sum(sizes) - room) / rate)
    work = pipeline.work
    improved = True
    while improved and work < _WORK and best.seconds > least * _CLOSE:
        improved = False
        for pinned in _changes(best, sizes, room):
            work += pipeline.work
            choice = _simulated(pipeline, pinned, window, rate)
            if choice.seconds < best.seconds * _GAIN:
                best, improved = choice, True
                break
            if work >= _WORK:
                break
    return best


def _changes(choice: Choice, sizes: Sequence[int], room: int) -> Iterator[list[bool]]:
    """Pinned sets that differ little: a range that is waited for is pinned, in place of another where need be."""
    pinned = choice.pinned
    free = room - sum(size for size, stays in zip(sizes, pinned, strict=True) if stays)
    stalls = choice.outcome.stalls
    waited = sorted((i for i, stays in enumerate(pinned) if not stays), key=lambda i: -stalls[i])
    stay = [i for i, stays in enumerate(pinned) if stays]
    step = max(1, len(stay) // _LOOKED_AT)
    for index in waited[:_LOOKED_AT]:
        if sizes[index] <= free:
            yield _with(pinned, index, True)
        for other in stay[::step]:
            if sizes[index] <= free + sizes[other]:
                yield _with(_with(pinned, index, True), other, False)


def _with(pinned: Sequence[bool], index: int, stays: bool) -> list[bool]:
    changed = list(pinned)
    changed[index] = stays
    return changed


def _simulated(pipeline: Pipeline, pinned: Sequence[bool], window: int, rate: float) -> Choice:
    return Choice(tuple(pinned), pipeline.run(pinned, window, rate))


def _best(choices: Sequence[Choice]) -> Choice:
    """The shortest; of equal ones the first."""
    best = choices[0]
    for choice in choices[1:]:
        if choice.seconds < best.seconds * _GAIN:
            best = choice
    return best


def _evenly(sizes: Sequence[int], room: int) -> list[bool]:
    """Of the pass up to any range the same share of bytes is pinned as of the whole."""
    pinned = [False] * len(sizes)
    total = sum(sizes)
    passed = used = 0
    for index, size in enumerate(sizes):
        passed += size
        if (used + size) * total <= passed * room:
            pinned[index] = True
            used += size
    return _filled(pinned, sizes, room)


def _by_slack(pipeline: Pipeline, room: int, window: int, rate: float) -> list[bool]:
    """Stream what the disk can bring in while what comes before it computes, and pin the rest.

    Computing earns credit, of bytes that are read meanwhile, up to the window; a range that the credit covers is
    streamed and spends it. Where reading takes longer than computing the credit is made so much dearer that what
    is pinned fits: each part of the pass then waits in proportion to its computing.
    """
    low, high = 0.0, 1.0
    while _bytes_of(pipeline, _at_price(pipeline, window, rate * high)) > room and high < 1e9:
        low, high = high, high * 4
    for _ in range(12):
        middle = (low + high) / 2
        if _bytes_of(pipeline, _at_price(pipeline, window, rate * middle)) > room:
            low = middle
        else:
            high = middle
    pinned = _at_price(pipeline, window, rate * high)
    if _bytes_of(pipeline, pinned) > room:  # ranges that no credit covers, for they are larger than the window
        return _evenly(pipeline.sizes, room)
    return _filled(pinned, pipeline.sizes, room)


def _at_price(pipeline: Pipeline, window: int, rate: float) -> list[bool]:
    """The pinned set when a second of computing earns ``rate`` bytes."""
    give_way()
    pinned = [True] * len(pipeline.sizes)
    credit = 0.0
    for _ in range(2):  # the credit of a pass's end is there at the beginning of the next
        for needs, seconds, _ in pipeline.steps:
            for index in needs:
                streams = credit >= pipeline.sizes[index]
                pinned[index] = not streams
                credit -= pipeline.sizes[index] if streams else 0
            credit = min(window, credit + seconds * rate)
    return pinned


def _bytes_of(pipeline: Pipeline, pinned: Sequence[bool]) -> int:
    """Bytes of the pinned ranges."""
    return sum(size for size, stays in zip(pipeline.sizes, pinned, strict=True) if stays)


def _first(sizes: Sequence[int], room: int) -> list[bool]:
    return _filled([False] * len(sizes), sizes, room)


def _last(sizes: Sequence[int], room: int) -> list[bool]:
    return _first(sizes[::-1], room)[::-1]


def _filled(pinned: list[bool], sizes: Sequence[int], room: int) -> list[bool]:
    """Pin whatever else fits, from the first range on."""
    used = sum(size for size, stays in zip(sizes, pinned, strict=True) if stays)
    for index, size in enumerate(sizes):
        if not pinned[index] and used + size <= room:
            pinned[index] = True
            used += size
    return pinned
