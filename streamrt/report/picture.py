"""A picture of a call: reading, computing and waiting over time."""

from __future__ import annotations

import io
import os
from collections.abc import Iterator, Sequence
from itertools import groupby
from pathlib import Path
from typing import Any

from streamrt.errors import InputError, printable
from streamrt.format.files import Replacement
from streamrt.report.trace import Kind, Span, Trace

#: The bars from the bottom up: (lane, label, colour, kind of span, whether the range is pinned).
_SERIES: tuple[tuple[str, str, str, Kind, bool], ...] = (
    ("computing", "computing", "#4c78a8", "compute", False),
    ("waiting", "stall", "#e45756", "stall", False),
    ("reading", "streamed", "#72b7b2", "read", False),
    ("reading", "pinned", "#b279a2", "read", True),
)
#: Height of a bar; lanes are 1 apart.
_HEIGHT = 0.8
#: A layer is named if it takes at least 2.5 % of the time: names 2.5 % of the width apart do not overlap.
_NAMED = 1 / 40
#: The most letters of a layer's name. Of a longer name the end is drawn, because names of blocks come first.
_LETTERS = 24


def draw(trace: Trace, title: str, path: str | os.PathLike[str]) -> None:
    """Draw ``trace`` into an image file. Its ending chooses one of matplotlib's formats: .png, .svg and others.

    Rounds of which there are only sums are left out.

    Raises:
        ImportError: matplotlib is not installed (the extra ``plot``).
        InputError: matplotlib does not know the ending.
        OSError: the file cannot be written.
    """
    trace = trace.single
    figure = figure_class(path)(figsize=(12, 3.6), layout="constrained")
    spans = list(trace.spans())
    begin = min((done.start for done in trace.passes), default=0)
    lanes = list(dict.fromkeys(lane for lane, *_ in _SERIES))
    axes = figure.add_subplot()
    for lane, label, colour, kind, pinned in _SERIES:
        bars = [_bar(span, begin) for span in spans if (span.kind, span.pinned) == (kind, pinned)]
        total = sum(width for _, width in bars)
        bottom = lanes.index(lane) - _HEIGHT / 2
        axes.broken_barh(bars, (bottom, _HEIGHT), facecolors=colour, label=f"{label}: {total:.1f} ms", linewidth=0)
    for done in trace.passes:
        for moment in (done.start, done.end):
            axes.axvline((moment - begin) / 1e6, color="black", linewidth=0.8, linestyle=":")
    style = {"transform": axes.get_xaxis_transform(), "rotation": 30, "fontsize": "x-small", "parse_math": False}
    for start, name in _layers(trace, spans):
        axes.text((start - begin) / 1e6, 1.02, name, **style)
    axes.set_yticks(range(len(lanes)), lanes)
    axes.set_xlabel("ms from the beginning of the first pass; before 0: read during the call before")
    figure.suptitle(title, fontsize="medium", wrap=True)
    axes.legend(loc="upper center", bbox_to_anchor=(0.5, -0.25), ncols=4, frameon=False)
    save(figure, path)


def figure_class(path: str | os.PathLike[str]) -> Any:
    """The class of matplotlib's figures, which can be saved at ``path``. A file without an ending is a PNG.

    Call it before any work is done, to check that a picture can be drawn.

    Raises:
        ImportError: matplotlib is not installed (the extra ``plot``).
        InputError: matplotlib does not know the ending.
    """
    try:
        from matplotlib.figure import Figure  # without pyplot: no state, no window
    except ImportError as error:
        raise ImportError("drawing needs matplotlib: pip install 'streamrt[plot]'") from error
    known = sorted(f".{name}" for name in Figure().canvas.get_supported_filetypes())
    ending = Path(path).suffix
    if ending and ending.lower() not in known:
        raise InputError(f"{os.fspath(path)}: expected the name of a file that ends in one of {', '.join(known)}")
    return Figure


def save(figure: Any, path: str | os.PathLike[str]) -> None:
    """Write a figure of matplotlib. The file appears when it is complete.

    Raises:
        OSError: the file cannot be written.
    """
    picture = io.BytesIO()
    figure.savefig(picture, dpi=120, format=Path(path).suffix[1:] or None)
    with Replacement(os.fspath(path)) as file:
        file.write(picture.getbuffer(), 0)
        file.commit()


def _layers(trace: Trace, spans: Sequence[Span]) -> Iterator[tuple[int, str]]:
    """The beginning, in nanoseconds, and the name of each layer that takes long enough to be named."""
    width = max((span.end for span in spans), default=0) - min((span.start for span in spans), default=0)
    for done in trace.passes:
        inside = [span for span in spans if span.kind != "read" and done.start <= span.start < done.end]
        for node, group in groupby(sorted(inside, key=lambda span: span.start), key=lambda span: span.node):
            parts = list(group)
            if parts[-1].end - parts[0].start >= width * _NAMED:
                name = printable(trace.nodes[node].name)
                yield parts[0].start, name if len(name) <= _LETTERS else "…" + name[1 - _LETTERS :]


def _bar(span: Span, begin: int) -> tuple[float, float]:
    """The beginning and the length of a span in ms."""
    return (span.start - begin) / 1e6, (span.end - span.start) / 1e6
