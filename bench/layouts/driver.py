"""Measures the products of networks in both layouts, and writes a line for each."""

from __future__ import annotations

import dataclasses
import sys
from collections.abc import Mapping, Sequence
from ctypes import CDLL
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory

from bench.layouts import library
from bench.layouts.blocks import CHANGES
from bench.layouts.measure import MOST_BYTES, measured
from bench.layouts.operands import Operands
from bench.layouts.shapes import NETWORKS, QUICK, Shape
from bench.record import Recorder

ISAS = ("avx2", "avx512")


@dataclass(frozen=True, slots=True)
class Options:
    """What is measured.

    Attributes:
        shapes: products by network.
        batches: samples.
        threads: numbers of threads.
        isas: instruction sets; those that the processor lacks are left out.
        seconds: of each layout, for each product.
        most: multiply-adds of a call. A product with more has no row for this number of samples.
    """

    shapes: dict[str, tuple[Shape, ...]] = dataclasses.field(default_factory=lambda: NETWORKS)
    batches: Sequence[int] = (1, 4, 16, 64, 256)
    threads: Sequence[int] = (1, 2)
    isas: Sequence[str] = ISAS
    seconds: float = 0.15
    most: float = 2e10


SHORT = Options({"quick": QUICK}, (1, 4, 16), (1, 2), seconds=0.01)


def run(options: Options, recorder: Recorder) -> None:
    """Measure all of it.

    Raises:
        ValueError: an answer is wrong, or the changes do not fit the kernels.
        OSError, subprocess.CalledProcessError: the kernels cannot be built.
    """
    with TemporaryDirectory() as folder:
        print("building the kernels ...", file=sys.stderr, flush=True)
        libraries = {
            "plain": library.build(Path(folder, "plain")),
            "blocks": library.build(Path(folder, "blocks"), CHANGES),
        }
        measure_all(libraries, options, recorder)


def measure_all(libraries: Mapping[str, CDLL], options: Options, recorder: Recorder) -> None:
    """As `run`, with libraries that are built."""
    for network, shapes in options.shapes.items():
        for shape in shapes:
            print(f"{network}: {shape} ...", file=sys.stderr, flush=True)
            _measure(libraries, network, shape, options, recorder)


def _measure(libraries: Mapping[str, CDLL], network: str, shape: Shape, options: Options, recorder: Recorder) -> None:
    for batch in _batches(shape, options):
        operands = Operands.of(shape, batch)
        for isa in options.isas:
            for threads in options.threads:
                times = measured(libraries, operands, isa, threads, options.seconds)
                if times is None:
                    continue
                recorder.write(
                    "layout",
                    network=network,
                    shape=dataclasses.asdict(shape),
                    name=str(shape),
                    batch=batch,
                    isa=isa,
                    threads=threads,
                    **dataclasses.asdict(times),
                )


def _batches(shape: Shape, options: Options) -> list[int]:
    """Those whose arrays are not too large, and that do not take too long."""
    sample = 4 * (shape.channels * max(1, shape.size) ** 2 + shape.outputs * shape.output**2)
    most = min(MOST_BYTES // sample, options.most // shape.multiply_adds)
    return [batch for batch in options.batches if batch <= most]
