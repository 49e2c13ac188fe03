"""Weights in blocks of rows: the changes of the kernels that compute with them, and the layout itself.

A block has `ROWS` rows, the last one the rows that are left. It is (terms, rows), so the weights that a tile spreads
over vectors one after the other are neighbours. A tile has whole blocks of AVX-512, and halves of AVX2.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

#: Rows of a block: a tile of AVX-512, and two tiles of AVX2.
ROWS = 12


@dataclass(frozen=True, slots=True)
class Change:
    """A change of a source file.

    Attributes:
        file: its path below ``src/kernels``.
        before: text that the file has exactly once.
        after: text that takes its place.
    """

    file: str
    before: str
    after: str


_TILE, _CONV, _WINOGRAD = "simd/conv_tile.h", "simd/conv.h", "simd/winograd.h"
#: What the kernels differ in. The headers of this folder have the functions that are replaced as a whole.
CHANGES = (
    Change("simd/table.h", "SRT_WIDE_UNIT = 8 }", f"SRT_WIDE_UNIT = {ROWS}, SRT_BLOCK = {ROWS} }}"),
    Change("simd/bodies.h", '#include "dense.h"\n#include "dense_wide.h"\n', '#include "dense_blocks.h"\n'),
    Change("simd/vec_avx512.h", "CONV_ROWS = 14, CONV_ROWS_WIDE = 9", "CONV_ROWS = 12, CONV_ROWS_WIDE = 6"),
    Change("simd/vec_avx512.h", "WIDE_ROWS = 8 }", "WIDE_ROWS = 6 }"),
    Change(_TILE, "int64_t panels; /* all", "int64_t outputs, panels; /* of a group; all"),
    Change(
        _TILE, "__builtin_prefetch(next->w + r * inner + i, 0, 2)", "__builtin_prefetch(next->w + r * depth + i, 0, 2)"
    ),
    Change(_TILE, "k--, w++, columns += vectors * VL", "k--, w += pitch, columns += vectors * VL"),
    Change(_TILE, "splat(w[r * pitch])", "splat(w[r])"),
    Change(
        _CONV,
        "/* Computes rows begin..end of y in the last columns of a block. weights: from row `begin` on. */",
        '#include "conv_blocks.h"\n#if 0',
    ),
    Change(
        _CONV,
        "/* Lays out the last columns of a block, each by itself:",
        "#endif\n/* Lays out the last columns of a block, each by itself:",
    ),
    Change(
        _CONV,
        "begin = from + first * rows / job->shares, end = from + last * rows / job->shares;",
        "begin = from + share_begins(rows, first, job->shares), end = from + share_begins(rows, last, job->shares);",
    ),
    Change(
        _CONV,
        "conv_add(job, from + share * rows / job->shares, from + (share + 1) * rows / job->shares, at, n);",
        "conv_add(job, from + share_begins(rows, share, job->shares),\n"
        "                     from + share_begins(rows, share + 1, job->shares), at, n);",
    ),
    Change(_CONV, ".inner = job->inner,", ".inner = job->inner, .outputs = c->outputs,"),
    Change(
        _WINOGRAD,
        "/* Transforms the weights of the output channels row..row + rows, for",
        '#include "winograd_blocks.h"\n#if 0\n/*',
    ),
    Change(_WINOGRAD, "/* Computes the outputs of one channel in a panel, as", "#endif\n/* As"),
    Change(
        _WINOGRAD,
        "for (int64_t tiles = (share.last - share.first + CONV_ROWS - 1) / CONV_ROWS, row = share.first; tiles > 0;\n"
        "         tiles--, row += rows) {\n"
        "        rows = (share.last - row + tiles - 1) / tiles;",
        "for (int64_t row = share.first; row < share.last; row += rows) {\n"
        "        rows = smaller(SRT_BLOCK, share.last - row);",
    ),
    Change(
        _WINOGRAD,
        "weights + PRODUCTS * apart(CONV_ROWS * job->depth)",
        "weights + PRODUCTS * apart(SRT_BLOCK * job->depth)",
    ),
    Change(
        _WINOGRAD,
        "return (span){from + first * count / job->shares, from + last * count / job->shares};",
        "const int64_t blocks = (count + SRT_BLOCK - 1) / SRT_BLOCK;\n"
        "    return (span){from + smaller(count, first * blocks / job->shares * SRT_BLOCK),\n"
        "                  from + smaller(count, last * blocks / job->shares * SRT_BLOCK)};",
    ),
    Change(
        _WINOGRAD, ".panels = (full + PANEL - 1) / PANEL,", ".panels = (full + PANEL - 1) / PANEL, .outputs = rows,"
    ),
    Change(
        "gemm.c",
        "const int64_t height = g->room / g->batch;",
        "const int64_t height = g->room / g->batch / SRT_BLOCK * SRT_BLOCK;",
    ),
)


def changed(file: str, text: str, changes: tuple[Change, ...]) -> str:
    """The text of a source file with its changes.

    Raises:
        ValueError: the file has the text of a change not once.
    """
    for change in changes:
        if change.file != file:
            continue
        if (count := text.count(change.before)) != 1:
            raise ValueError(f"{file} has {change.before!r} {count} times, expected once")
        text = text.replace(change.before, change.after)
    return text


def in_blocks(weights: NDArray[np.float32]) -> NDArray[np.float32]:
    """The elements of (rows, terms) in blocks of rows, one after the other."""
    tops = range(0, len(weights), ROWS)
    return np.concatenate([weights[top : top + ROWS].T.ravel() for top in tops])
