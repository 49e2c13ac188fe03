"""The bars that streamrt's server should meet, and whether it does: the median over the rounds decides."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from operator import itemgetter, sub

from bench.report.markdown import seconds
from bench.report.summary import End, Spread
from bench.serve.figures import Figures, Place, Values
from bench.serve.rows import BINARY, FLOOR
from bench.serve.servers import SERVERS, US

#: What a server is compared with its peers by; whether more is better.
MEASURES = {"rate": True, "p50": False, "p99": False, "memory": False}
#: The most that a request takes over a call of the model, with one connection and binary tensors of about 600 KB.
_OVER_CALL = 0.8e-3
#: The networks with inputs of that size: 3 x 224 x 224 in float32.
_LARGE = ("mobilenet_v2", "resnet50", "squeezenet1_1")
#: The least part of the model's own speed in batches, with so many connections and from so many seconds a sample on.
_OF_BATCHES, _CONNECTIONS, _LONG = 0.95, 8, 20e-3


@dataclass(frozen=True, slots=True)
class Bar:
    """A bar, and what was measured.

    Attributes:
        place: the row, the form of tensors and the connections.
        name: of the figure, one of `MEASURES` where a peer is the limit.
        limit: the most that it may be, or the least.
        measured: the figure; None if it was not measured.
        unit: ``""`` for ratios, ``"s"`` for seconds.
        least: whether the limit is the least.
        peer: whose figure streamrt's is divided by; empty for the model itself.
        ends: the rounds of the peer that ended badly.
        unless: why the figure is shown and not judged; empty if it is.
    """

    place: Place
    name: str
    limit: float
    measured: Spread | None
    unit: str = ""
    least: bool = False
    peer: str = ""
    ends: tuple[End, ...] = ()
    unless: str = ""

    @property
    def verdict(self) -> str:
        """``"met"``, ``"killed"``, ``"missed"``, ``"not judged"`` or ``"not measured"``.

        ``"killed"`` is met, too: the peer found no memory in any round.
        """
        if self.measured is None:
            return "killed" if self.ends and all(end.status == "killed" for end in self.ends) else "not measured"
        if self.unless:
            return "not judged"
        value = self.measured.median
        return "met" if (value >= self.limit if self.least else value <= self.limit) else "missed"


def bars(found: Figures) -> list[Bar]:
    """The bars of every place where streamrt was measured; where a round of it did not end well, none is met."""
    places = [place for place, servers in found.runs.items() if US in servers]
    return [bar for place in places for bar in (*_ahead(found, place), *_over_call(found, place))]


def _ahead(found: Figures, place: Place) -> Iterator[Bar]:
    """At least as good as each peer that was tried there."""
    for peer in SERVERS:
        if peer != US and peer in found.runs[place]:
            well = (place, US) not in found.ended
            ends = tuple(found.ended.get((place, peer), ())) if well else ()
            for name, more in MEASURES.items():
                measured = found.compared(place, (US, peer), (itemgetter(name),) * 2) if well else None
                yield Bar(place, name, 1.0, measured, least=more, peer=peer, ends=ends)


def _over_call(found: Figures, place: Place) -> Iterator[Bar]:
    """Against the model called directly."""
    if (place, US) in found.ended:
        return
    row, wire, connections = place
    model = found.rows[row]["model"] if found.rows[row]["models"] == 1 else ""
    if connections == 1 and wire == BINARY and model in _LARGE:
        over = found.compared(place, (US, FLOOR), (itemgetter("p50"), itemgetter("call")), sub)
        yield Bar(place, "p50 over a call of the model", _OVER_CALL, over, "s")
    call = found.spread(place, FLOOR, itemgetter("call"))
    if connections == _CONNECTIONS and call:
        yield Bar(
            place,
            "rate ÷ the model's in such batches",
            _OF_BATCHES,
            part(found, place),
            least=True,
            unless="" if call.median >= _LONG else f"{seconds(call.median)} a sample",
        )


def part(found: Figures, place: Place) -> Spread | None:
    """The server's speed divided by that of the model in batches of the size that formed."""
    return found.compared(place, (US, FLOOR), (_rate_in_batches, of_batches))


def _rate_in_batches(ours: Values) -> float | None:
    return float(ours["rate"]) if "batch" in ours else None


def of_batches(floor: Values) -> float:
    """Samples a second of the model in the largest batches."""
    return float(max(floor["rates"].items(), key=lambda pair: int(pair[0]))[1])
