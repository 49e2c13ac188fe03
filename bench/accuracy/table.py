"""The results as Markdown, from the lines of results and nothing else."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from bench.accuracy.metrics import missed
from bench.record import Record
from bench.report.markdown import grid

#: How many of the weights that lose most are named.
_SHOWN = 4
_SAYS = """\
Bytes are those of the file, as a part of float32's. RMS and the largest difference are those of all outputs for all
inputs, relative to the RMS and to the largest magnitude of float32's outputs. "Same class" is the share of inputs with
the same class. "Cannot change" is the share of inputs whose margin (the best output less the second best) exceeds twice
the largest difference of their own outputs: their class is the same. "Beyond the RMS" is the share of inputs with the
same class, among those whose margin exceeds twice the RMS of the differences of all inputs. A number in bold misses its
bar."""


def report(records: Iterable[Record]) -> str:
    """A table of all networks and types, and the weights that lose most.

    Raises:
        ValueError: no network was measured.
    """
    measured = [record for record in records if record["kind"] == "accuracy" and record["status"] == "ok"]
    if not measured:
        raise ValueError("no network was measured")
    header = ["", "weights", "bytes", "RMS", "largest", "same class", "cannot change", "beyond the RMS"]
    lines = []
    for record in measured:
        for weights, values in record["values"]["types"].items():
            lines.append([record["network"], weights, *_cells(weights, values)])
    parts = ["# Accuracy of weights in fewer bytes", _SAYS, grid(header, lines), "## What loses most", _LOST]
    losing = []
    for record in measured:
        values = record["values"]
        for weights, lost in values["lost"].items():
            named = [f"`{name}` {_part(loss)}" for name, loss in list(lost.items())[:_SHOWN]]
            larger = len(values["types"]["int4 and int8"]["larger"]) if weights == "int4" else ""
            losing.append([record["network"], weights, ", ".join(named), f"{larger} of {len(lost)}" if larger else ""])
    parts.append(
        grid(["", "weights", "the output's relative RMS if these alone are stored so", "kept in int8"], losing)
    )
    inputs = [f"{record['network']} {record['values']['inputs']}" for record in measured]
    errors = [record["values"]["error"] for record in measured if record["values"]["error"] is not None]
    checked = (
        f" float32's outputs differ from the source's own framework by at most {max(errors):.1g}." if errors else ""
    )
    parts.append(f"Inputs: {', '.join(inputs)}.{checked}")
    return "\n\n".join(parts)


_LOST = """\
"int4 and int8" stores as int8 the fewest weights that make 75 % of the sum of squared errors, and the others as int4.
Small weights and those of depthwise convolutions are float16 already."""


def _cells(weights: str, values: Mapping[str, Any]) -> list[str]:
    texts = {
        "bytes": f"{values['bytes']:.3f}",
        "rms": _part(values["rms"]),
        "largest": _part(values["largest"]),
        **{name: f"{values[name] * 100:.1f} %" if name in values else "" for name in ("same", "clear", "same_beyond")},
    }
    bad = missed(weights, values)
    return [f"**{text}**" if name in bad else text for name, text in texts.items()]


def _part(value: float) -> str:
    """Two digits, without an exponent."""
    return f"{value:.2g}" if value >= 1e-4 or value == 0 else f"{value:.5f}"
