"""The tables of a pool's benchmark as Markdown, from the lines of results and nothing else."""

from __future__ import annotations

import textwrap
from collections import Counter
from collections.abc import Callable, Iterable

from bench.pool.bars import TRACE_BARS, Bar, bars
from bench.pool.contenders import CONTENDERS, DEFAULT, POLICIES, WHOLE, floor_of
from bench.pool.figures import Figures, figures
from bench.record import Record
from bench.report.markdown import grid, seconds, signed, span
from bench.report.summary import Spread

_MIB = 1 << 20
_SAYS = """\
A time is the sum of the times of all requests of a trace: the median over the rounds, and in brackets the shortest and
the longest. A ratio is that of two medians, with the least and the most of a round. "÷ LRU" divides by an LRU of whole
`Model`s with the same package. In bold are losses: a ratio above 1. "÷ floor" divides by the floor: plain reads of the
same misses in the same order, plus the computing (`bench/pool/floor.py`)."""
_BARS = f"The bars are about `{DEFAULT}`. The median over the rounds decides."


def report(records: Iterable[Record]) -> str:
    """The tables of all sets of models.

    Raises:
        ValueError: nothing was measured.
    """
    found = [each for each in figures(records) if any(each.runs.values()) or any(each.rows.values())]
    if not found:
        raise ValueError("no run of a pool ended well")
    return "\n\n".join(part for each in found for part in _section(each))


def _section(found: Figures) -> list[str]:
    described = found.described
    least, most, budget = (described[name] / _MIB for name in ("least", "most", "budget"))
    says = f"{described['models']} models of {least:g} to {most:g} MiB in float32, under {budget:.0f} MiB"
    says = textwrap.fill(f"{says}. A trace has {described['requests']} requests. {_SAYS}", 120)
    parts = [f"## Pool, {found.name} models", says]
    for weights in found.weights:
        parts += [f"### {weights}: time of a trace", _times(found, weights)]
    if len(found.weights) > 1:
        parts += ["### Time of a trace, by weights", _weights(found)]
    every = bars(found)
    parts += [f"### Bars, {found.name} models", f"{_BARS} {_count(every)}"]
    for weights in found.weights:
        of = [bar for bar in every if bar.weights == weights]
        parts += [f"{weights}:", grid(["trace", *TRACE_BARS], _by_trace(found, of))]
    if hits := [bar for bar in every if not bar.trace]:
        parts.append(grid(["hits", "measured", "bar", "verdict"], [_hits(bar) for bar in hits]))
    if found.missing:
        parts.append(f"Not measured: {'; '.join(found.missing)}.")
    return parts


def _times(found: Figures, weights: str) -> str:
    contenders = [name for name in CONTENDERS if any((weights, trace, name) in found.runs for trace in found.traces)]
    header, lines = ["trace"], []
    for name in contenders:
        header += [name, *(["÷ LRU"] if name != WHOLE else []), *(["÷ floor"] if name in POLICIES else [])]
    for trace in found.traces:
        line = [trace]
        for name in contenders:
            line.append(span(found.spread(weights, trace, name, "seconds"), seconds))
            if name != WHOLE:
                line.append(_ratio(found.ratio(weights, trace, (name, WHOLE), "seconds"), loss=1.0))
            if name in POLICIES:
                line.append(_ratio(found.ratio(weights, trace, (name, floor_of(name)), "seconds")))
        lines.append(line)
    return grid(header, lines)


def _weights(found: Figures) -> str:
    """The times with each other type of weights divided by those with the first."""
    first, *others = found.weights
    columns = [
        (weights, name)
        for weights in others
        for name in CONTENDERS
        if any(found.between((weights, first), trace, name) for trace in found.traces)
    ]
    header = ["trace", *(f"{name}: {weights} ÷ {first}" for weights, name in columns)]
    lines = [
        [trace, *(_ratio(found.between((weights, first), trace, name)) for weights, name in columns)]
        for trace in found.traces
    ]
    return grid(header, lines)


def _by_trace(found: Figures, of: list[Bar]) -> list[list[str]]:
    by = {(bar.trace, bar.name): bar for bar in of}
    return [[trace, *(_cell(by.get((trace, name))) for name in TRACE_BARS)] for trace in found.traces]


def _cell(bar: Bar | None) -> str:
    if bar is None or bar.measured is None:
        return "-"
    verdict = bar.verdict if bar.verdict == "met" else f"**{bar.verdict}**"
    return f"{span(bar.measured, _text(bar))} ≤ {_text(bar)(bar.limit)} {verdict}"


def _hits(bar: Bar) -> list[str]:
    limit = f"{'≥' if bar.least else '≤'} {_text(bar)(bar.limit)}"
    verdict = f"**{bar.verdict}**" if bar.verdict == "missed" else bar.verdict
    return [bar.name, span(bar.measured, _text(bar)), limit, verdict]


def _count(every: list[Bar]) -> str:
    """How many bars have each verdict."""
    found = Counter(bar.verdict for bar in every)
    return f"{found['met']} are met, {found['missed']} missed, {found['not measured']} not measured."


def _text(bar: Bar) -> Callable[[float], str]:
    return {"": "{:.2f}".format, "s": signed, "bytes": _mebibytes}[bar.unit]


def _mebibytes(value: float) -> str:
    return f"{value / _MIB:.1f} MiB"


def _ratio(spread: Spread | None, loss: float | None = None) -> str:
    text = span(spread, "{:.2f}".format)
    return f"**{text}**" if spread and loss is not None and spread.median > loss else text
