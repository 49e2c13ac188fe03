"""The tables of layers as Markdown: one for each number of threads."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Mapping, Sequence
from typing import Any

from bench.layers.figures import Quartiles, Times, contenders, peaks
from bench.limits import OF_A_WAY
from bench.record import Record
from bench.report.markdown import circumstances, grid, nanoseconds, skipped
from bench.report.summary import hops
from bench.ways import US

_MIB = 1 << 20
_LEGEND = """\
A time is in ms: the median over the passes of a process, and over the rounds. All weights are in memory. A multiply-add
counts as two operations. Other operations count as the planner counts them. A convolution by Winograd's algorithm
counts as a plain sum, so it may exceed the peak. The peak is the most that multiply-adds in registers reached in the
same run. MiB are weights, inputs and outputs.

A peer's fused node counts for the product in it, else for the first layer that it is named after. "-" means that a
contender has no node for a layer: it computes the layer as part of another one. "other" are nodes that belong to no
layer, such as changes of layout. "between" is the time of a pass outside all nodes. "profiled" is a pass while its
nodes are timed, and "pass" is one in a process that times no nodes; their quartiles are in brackets. Medians do not add
up exactly. ONNX Runtime and OpenVINO tell whole microseconds, and OpenVINO tells means instead of medians.

"From core to core" is the time in which a cache line gets from the first processor to the last, just before and just
after the processes of a contender: the median, with the least and the most. Layers that threads share take longer where
it is longer."""


def report(records: Sequence[Record]) -> str:
    """The lines of one run as text.

    Raises:
        ValueError: they do not say which layers the model has.
    """
    described = next((record for record in records if record["kind"] == "layers"), None)
    if described is None:
        raise ValueError("the layers of the model are not among the results")
    layers, found, limits = described["layers"], contenders(records, described["layers"]), peaks(records)
    machine = described["machine"]
    parts = [
        f"# Layers of {described['model']}, batch {described['batch']}",
        circumstances(records),
        f"Processor: {', '.join(filter(None, (machine['identity'], *machine['instructions'])))}.",
        _LEGEND,
        *skipped(list(records)),
        *_failures(records),
    ]
    counts = list(dict.fromkeys(threads for _, threads in found))
    for threads in counts:
        of = {peer: times for (peer, count), times in found.items() if count == threads}
        if US not in of:
            continue
        # The first table has no column for the ratio, because its threads are what others are compared with.
        base = found.get((US, counts[0])) if threads != counts[0] else None
        peak = limits.get(threads)
        says = f": the peak is {peak / 1e9:.1f} GFLOP/s" if peak else ""
        parts += [
            f"## {_threads(threads)}{says}",
            _table(layers, of, peak, (f"÷ {_threads(counts[0])}", base) if base else None),
            *_apart(records, threads),
            *(
                _share(layers, of[way], way, peaks(records, limit).get(threads))
                for limit, way in OF_A_WAY.items()
                if way in of
            ),
        ]
    return "\n\n".join(parts)


def _share(layers: Sequence[Mapping[str, Any]], times: Times, way: str, peak: float | None) -> str:
    """The sentence that tells the speed of a way in all layers, and its share of the peak of its instruction set."""
    if not times.inside:
        return f"{way} told no time of its layers."
    speed = 2 * math.fsum(layer["multiply_adds"] for layer in layers) / times.inside
    share = f", {speed / peak:.0%} of the peak of its vectors, {peak / 1e9:.1f} GFLOP/s" if peak else ""
    return f"{way} computes {speed / 1e9:.1f} GFLOP/s in the sum of its layers{share}."


def _apart(records: Sequence[Record], threads: int) -> list[str]:
    """A sentence that tells how far apart the processors were for each contender, if that was measured."""
    found: dict[str, list[float]] = defaultdict(list)
    for record in records:
        if record["kind"] == "timing" and record["threads"] == threads:
            found[record["peer"]] += hops(record)
    each = [f"{peer} {nanoseconds(seconds)}" for peer, seconds in found.items() if seconds]
    return [f"From core to core, in ns: {'; '.join(each)}."] if each else []


def _threads(count: int) -> str:
    return f"{count} thread{'s' * (count > 1)}"


def _failures(records: Sequence[Record]) -> list[str]:
    found = {
        f"{record['peer']}: {record['status']}" + (f": {record['reason']}" if record["reason"] else ""): None
        for record in records
        if record["kind"] in ("check", "limit", "timing") and record["status"] != "ok"
    }
    return [f"Failed: {'; '.join(found)}."] if found else []


def _table(
    layers: Sequence[Mapping[str, Any]],
    of: Mapping[str, Times],
    peak: float | None,
    base: tuple[str, Times] | None,
) -> str:
    """A row for each layer that a contender has a time for, and rows for the whole pass."""
    peers = [peer for peer in of if peer != US]
    header = ["layer", "operator", "output", "G multiply-adds", "MiB", US, "GFLOP/s", "of the peak"]
    header += [base[0]] if base else []
    for peer in peers:
        header += [peer, f"÷ {US}"]

    def row(
        name: str, what: tuple[str, ...], work: tuple[float, float] | None, seconds: Mapping[str, float | None]
    ) -> list[str]:
        """``work`` is multiply-adds and bytes; ``seconds`` has every contender, and ``base`` by its label."""
        mine = seconds[US]
        speed = 2 * work[0] / mine if work and work[0] and mine else None
        cells = [name, *what, f"{work[0] / 1e9:.3f}" if work else "", f"{work[1] / _MIB:.2f}" if work else ""]
        cells += [_ms(mine), f"{speed / 1e9:.1f}" if speed else "", f"{speed / peak:.0%}" if speed and peak else ""]
        cells += [_ratio(mine, seconds[base[0]])] if base else []
        for peer in peers:
            cells += [_ms(seconds[peer]), _ratio(seconds[peer], mine)]
        return cells

    all_of: dict[str, Times] = {**of, **({base[0]: base[1]} if base else {})}
    lines = []
    for index, layer in enumerate(layers):
        seconds = {label: times.layers.get(index) for label, times in all_of.items()}
        if any(seconds.values()):
            what = layer["op"], "x".join(map(str, layer["shape"]))
            lines.append(row(_escaped(layer["name"]), what, (layer["multiply_adds"], layer["bytes"]), seconds))
    none = "", ""
    total = math.fsum(layer["multiply_adds"] for layer in layers), sum(layer["bytes"] for layer in layers)
    lines.append(row("other", none, None, {label: times.other or None for label, times in all_of.items()}))
    lines.append(row("**sum**", none, total, {label: times.inside for label, times in all_of.items()}))
    lines.append(row("between", none, None, {label: times.between for label, times in all_of.items()}))
    for name, passes in (
        ("profiled", {label: times.profiled for label, times in all_of.items()}),
        ("**pass**", {label: times.plain for label, times in all_of.items()}),
    ):
        line = row(name, none, None, {label: of_pass.median if of_pass else None for label, of_pass in passes.items()})
        for label in (US, *peers):
            line[header.index(label)] += _quartiles(passes[label])
        lines.append(line)
    return grid(header, lines)


def _escaped(name: str) -> str:
    return name.replace("|", "\\|")


def _ms(seconds: float | None) -> str:
    return "-" if seconds is None else f"{seconds * 1e3:.3f}"


def _ratio(seconds: float | None, than: float | None) -> str:
    return f"{seconds / than:.2f}" if seconds is not None and than else "-"


def _quartiles(found: Quartiles | None) -> str:
    return f" ({found.lower * 1e3:.3f} - {found.upper * 1e3:.3f})" if found else ""
