"""The tables of layouts as Markdown: what blocks of rows take of the time of weights as they lie."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from statistics import median, quantiles
from typing import Any

from bench.record import Record
from bench.report.markdown import circumstances, grid

_LEGEND = """\
A number is the time with weights in blocks of 12 rows, divided by the time with weights as they lie in the file. Both
take turns in one process. Of each pair of neighbouring turns there is a ratio; a number is their median, with their
quartiles in brackets. "W" is Winograd's algorithm. "-" is a product whose weights are read in another way, or whose
arrays are too large. "All products" has the sum of the medians, each as often as the network has it."""


def report(records: Sequence[Record]) -> str:
    """A table for each instruction set and number of threads.

    Raises:
        ValueError: nothing was measured.
    """
    found = [record for record in records if record["kind"] == "layout"]
    if not found:
        raise ValueError("no product was measured")
    parts = ["# Weights in blocks of rows", circumstances(records), _LEGEND]
    for isa in _in_order(record["isa"] for record in found):
        for threads in _in_order(record["threads"] for record in found):
            some = [record for record in found if (record["isa"], record["threads"]) == (isa, threads)]
            if some:
                parts += [f"## {isa}, {threads} thread{'s' * (threads > 1)}", _table(some)]
    parts.append(f"The largest error relative to float64: {max(record['error'] for record in found):.1g}.")
    return "\n\n".join(parts)


def totals(records: Iterable[Record]) -> tuple[float, float]:
    """Seconds of all products of a network with plain weights, and with blocks."""
    plain, blocks = [], []
    for record in records:
        count = record["shape"]["count"]
        plain.append(count * median(record["plain"]))
        blocks.append(count * median(record["blocks"]))
    return math.fsum(plain), math.fsum(blocks)


def _in_order(values: Iterable[Any]) -> list[Any]:
    return list(dict.fromkeys(values))


def _table(records: Sequence[Record]) -> str:
    batches = sorted({record["batch"] for record in records})
    lines = []
    for network in _in_order(record["network"] for record in records):
        of_network = [record for record in records if record["network"] == network]
        for name in _in_order(record["name"] for record in of_network):
            cells = {record["batch"]: _cell(record) for record in of_network if record["name"] == name}
            lines.append([f"{network}: {name}", *(cells.get(batch, "-") for batch in batches)])
        sums = [totals(record for record in of_network if record["batch"] == batch) for batch in batches]
        cells_of_sums = [f"**{blocks / plain:.2f}**" if plain else "-" for plain, blocks in sums]
        lines.append([f"**{network}, all products**", *cells_of_sums])
    header = ["product", *(f"{batch} sample{'s' * (batch > 1)}" for batch in batches)]
    return grid(header, lines)


def _cell(record: Record) -> str:
    ratios = [blocks / plain for plain, blocks in zip(record["plain"], record["blocks"], strict=True)]
    lower, middle, upper = quantiles(ratios, n=4)
    return f"{middle:.2f} ({lower:.2f} - {upper:.2f}){' W' if record['winograd'] else ''}"
