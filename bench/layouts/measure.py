"""Times a product in both layouts. They take turns, because others may use the machine."""

from __future__ import annotations

import ctypes
import math
import time
from collections.abc import Mapping
from dataclasses import dataclass
from statistics import median, quantiles

from bench.layouts.library import Layer
from bench.layouts.operands import Floats, Operands, aligned, has_few_tiles

#: The most bytes of inputs and outputs.
MOST_BYTES = 2 << 30
#: The largest error relative to the largest value.
TOLERANCE = 1e-4
#: Seconds of a turn of one layout, and turns of each.
_TURN, _LEAST_TURNS, _MOST_TURNS = 0.003, 5, 400


@dataclass(frozen=True, slots=True)
class Times:
    """Seconds of a call.

    Attributes:
        winograd: whether it is Winograd's algorithm.
        plain: the median of a turn, with weights as they lie in the file; one for each turn.
        blocks: the same for weights in blocks of rows.
        shortest: of all calls with plain weights, and with blocks.
        error: the largest of both layouts.
    """

    winograd: bool
    plain: tuple[float, ...]
    blocks: tuple[float, ...]
    shortest: tuple[float, float]
    error: float

    @property
    def ratio(self) -> tuple[float, float, float]:
        """Blocks / plain: the lower quartile, the median and the upper quartile of neighbouring turns."""
        ratios = [blocks / plain for plain, blocks in zip(self.plain, self.blocks, strict=True)]
        lower, middle, upper = quantiles(ratios, n=4)
        return lower, middle, upper

    @property
    def least(self) -> float:
        """Blocks / plain: of the shortest calls."""
        return self.shortest[1] / self.shortest[0]


def measured(
    libraries: Mapping[str, ctypes.CDLL], operands: Operands, isa: str, threads: int, seconds: float
) -> Times | None:
    """Time a product, about ``seconds`` for each layout. None: this processor lacks the instruction set, or the weights
    are read in another way."""
    layers: dict[str, Layer] = {}
    kept: list[list[Floats]] = []
    shape, winograd = operands.shape, False
    for layout, library in libraries.items():
        if not library.bench_use(isa.encode(), threads):
            return None
        layer, arrays = operands.layer(layout, threads, library.bench_dense_most(shape.inner * shape.outputs))
        if shape.size and (seat := libraries["plain"].bench_winograd_seat(layer)):
            if has_few_tiles(shape, operands.batch):
                return None
            winograd = True
            layer.winograd, layer.seat = 1, seat
            arrays.append(aligned(layer.seats, seat))
            layer.scratch = arrays[-1].ctypes.data_as(ctypes.POINTER(ctypes.c_float))
        elif shape.size and (sums := library.bench_conv_sums(layer)) and layer.seats > 1:
            arrays.append(aligned(sums))
            layer.block = arrays[-1].ctypes.data_as(ctypes.POINTER(ctypes.c_float))
        elif shape.size:
            layer.block = None
        layers[layout] = layer
        kept.append(arrays)
    error = 0.0
    calls, at = dict.fromkeys(layers, 1), dict.fromkeys(layers, 0)
    for layout, layer in layers.items():
        operands.y[:] = float("nan")
        _turn(libraries[layout], layer, 0, 1)
        error = max(error, operands.error())
        calls[layout] = 1 + max(1, min(64, int(_TURN / min(_turn(libraries[layout], layer, 0, 3)))))
    if not error <= TOLERANCE:
        raise ValueError(f"{shape}, {operands.batch} samples, {isa}: the error is {error:.2g}, expected {TOLERANCE}")
    found: dict[str, list[float]] = {layout: [] for layout in layers}
    shortest = dict.fromkeys(layers, math.inf)
    start = time.perf_counter()
    for turn in range(_MOST_TURNS):
        if turn >= _LEAST_TURNS and time.perf_counter() - start > 2 * seconds:
            break
        for layout in list(layers)[:: 1 if turn % 2 else -1]:
            times = _turn(libraries[layout], layers[layout], at[layout], calls[layout])
            at[layout] += calls[layout]
            # The first call of a turn wakes workers, and fetches the input from the other layout's core.
            found[layout].append(median(times[1:]))
            shortest[layout] = min(shortest[layout], *times[1:])
    return Times(
        winograd,
        tuple(found["plain"]),
        tuple(found["blocks"]),
        (shortest["plain"], shortest["blocks"]),
        error,
    )


def _turn(library: ctypes.CDLL, layer: Layer, at: int, calls: int) -> list[float]:
    seconds = (ctypes.c_double * calls)()
    library.bench_run(layer, at, calls, seconds)
    return list(seconds)
