"""``streamrt demo``: real digits under a budget smaller than the weights, then a large model through a small window."""

from __future__ import annotations

import errno
import os
import secrets
import shutil
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from functools import partial
from importlib import resources
from pathlib import Path
from statistics import median
from types import TracebackType
from typing import Any, Self

import numpy as np
import numpy.random  # now, not with the first weights: a Ctrl-C while its extension modules load is lost
from numpy.typing import NDArray
from tqdm import tqdm

from streamrt._core import Mapping
from streamrt.cli.ending import ENDING
from streamrt.errors import InputError, StreamrtError
from streamrt.format import Segment, Source, read_header, write
from streamrt.format.layout import PAGE_ALIGN, lay_out
from streamrt.graph import Activation, Graph, Node, TensorSpec
from streamrt.host.budget import format_size
from streamrt.host.cgroups import PROC
from streamrt.host.disk import drop_cache, in_memory, sequential_speed
from streamrt.host.memory import anonymous_bytes
from streamrt.model import Model
from streamrt.ops import Array, Operand
from streamrt.plan import Extent, NodeWeights, smallest_window, too_small
from streamrt.program.compile import compile_program
from streamrt.report.stats import PassStats

_DIGITS_BUDGET = 384 << 10  # bytes: less than the weights of each model, so that both stream
_SHOWN = 4  # images in a row: four fit into 80 columns
_SEED = 20
_PASSES = 5
_PASSES_SECONDS = 15.0  # a pass that would end later is not begun, so that the demo stays short on a slow disk
_LEAST_LAYERS = 8  # of the large model, so that it is a chain of layers and not one large matrix
_WIDTHS = (4096, 2048, 1024, 512, 256)  # of a layer: the widest is taken with which there are enough layers
_MIN_SIZE = _LEAST_LAYERS * 4 * _WIDTHS[-1] ** 2  # bytes
_CHUNK = 4 << 20  # bytes of weights that are computed at a time, so that making them takes little memory
_SPARE = 64 << 20  # bytes that must stay free on the disk, for other programs
_TOLERANCE = 1e-4  # of the largest value: the rounding of thousands of float32 products in each of many layers


def demo(size: int = 1 << 30, budget: int = 64 << 20, folder: Path | None = None, stream: bool = True) -> None:
    """Run the demonstration and print its results.

    Args:
        size: bytes of the large model.
        budget: bytes that the large model may hold.
        folder: for the file of the large model, which is removed at the end; None chooses a temporary folder.
        stream: False leaves the large model out.

    Raises:
        InputError: ``size`` is too small to be cut into layers.
        OSError: there is not enough space, or the folder cannot be written to.
        BudgetError: ``budget`` is too small.
        StreamrtError: an answer was wrong.
    """
    if not stream:
        _print_digits()
        return
    if size < _MIN_SIZE:
        raise InputError(
            f"--size is {format_size(size)}, expected at least {format_size(_MIN_SIZE)} for {_LEAST_LAYERS} layers"
        )
    width = next(width for width in _WIDTHS if size >= _LEAST_LAYERS * 4 * width**2)
    layers = round(size / (4 * width**2))
    _check_budget(budget, layers, width)
    place = _choose_folder(folder, size)
    _print_digits()
    print()
    _stream(layers, width, budget, place)


def _print_digits() -> None:
    data = resources.files("streamrt.data")
    with resources.as_file(data / "digits_test.npz") as path, np.load(path, allow_pickle=False) as test:
        images, labels = test["images"], test["labels"]
    x = images[:, None].astype(np.float32) / 16
    answers = {}
    print(f"{len(images)} handwritten digits, which two models classify; the models were not trained on them")
    for kind, name in (("MLP", "digits_mlp"), ("CNN", "digits_cnn")):
        with resources.as_file(data / f"{name}.safetensors") as path, Model(path, budget=_DIGITS_BUDGET) as model:
            weights = sum(tensor.nbytes for tensor in read_header(path).tensors.values())
            answers[kind] = model(x).argmax(axis=1)
        right = int((answers[kind] == labels).sum())
        print(
            f"  {kind}: {format_size(weights)} of weights under a budget of {format_size(_DIGITS_BUDGET)}, "
            f"held-out accuracy {right / len(labels):.4f} ({right} of {len(labels)})"
        )
    captions = [", ".join(f"{kind}: {found[index]}" for kind, found in answers.items()) for index in range(_SHOWN)]
    print("\n" + _art(images[:_SHOWN], captions))


def _art(images: NDArray[np.uint8], captions: list[str]) -> str:
    """Images (n, 8, 8) of values from 0 to 16, side by side, in block characters, or in ASCII if stdout needs ASCII."""
    shades = " ░▒▓█"
    try:
        shades.encode(sys.stdout.encoding or "ascii")
    except UnicodeEncodeError:
        shades = " .+#@"
    levels = np.rint(images / 16 * (len(shades) - 1)).astype(int)
    lines = ["   ".join("".join(shades[level] * 2 for level in image[row]) for image in levels) for row in range(8)]
    lines.append("   ".join(caption.center(16) for caption in captions))
    return "\n".join(f"  {line}".rstrip() for line in lines)


def _stream(layers: int, width: int, budget: int, folder: Path) -> None:
    print(f"An MLP of {layers} layers of {width} x {width}, {format_size(4 * width**2 * layers)}, in {folder}")
    if in_memory(folder):
        print("  the files of this folder are memory (tmpfs), so no disk is read; --dir chooses another folder")
    sys.stdout.flush()  # before the progress bars, which go to stderr
    temporary = folder / f"streamrt-demo-{secrets.token_hex(8)}"
    try:  # entered before the folder is made, because a signal may arrive as soon as the folder exists
        temporary.mkdir(mode=0o700)
        path = temporary / "mlp.safetensors"
        _write(path, layers, width)
        speed, way = sequential_speed(path)
        x = np.random.default_rng(_SEED).random((1, width), dtype=np.float32)
        before = anonymous_bytes()
        passes, y, watch = _passes(path, budget, x)
        error = _difference(y, _reference(x, layers))
    finally:
        ENDING.deferred = True
        shutil.rmtree(temporary, ignore_errors=True)
        ENDING.resume()
    if not error <= _TOLERANCE:  # NaN too
        raise StreamrtError(f"the answer is wrong: it differs from NumPy's by {error:.1e} of the largest value")
    _tell("answer", f"right: within {error:.1e} of the largest value of NumPy's in float64")
    _tell_passes(passes)
    _tell("disk's own speed", f"{format_size(round(speed))}/s on the same file, read in sequence ({way})")
    _tell(
        "peak memory",
        f"{format_size(watch.file)} of the file's pages + {format_size(watch.anonymous)} anonymous, "
        f"{format_size(before)} of which Python and NumPy had before",
    )
    print("  removed the file of the large model")


def _tell_passes(passes: list[PassStats]) -> None:
    first, *later = passes
    _tell(
        "first pass",
        f"{first.seconds:.2f} s, reads {format_size(first.bytes_pinned + first.bytes_streamed)}, "
        f"of which {format_size(first.bytes_pinned)} stay in memory",
    )
    if later:
        seconds, streamed = median(stats.seconds for stats in later), later[-1].bytes_streamed
        rate = format_size(round(streamed / seconds))
        _tell(
            "later passes",
            f"{seconds:.2f} s (median of {len(later)}), each streams {format_size(streamed)} at {rate}/s",
        )
    _tell("read by the device", ", ".join(format_size(stats.bytes_read) for stats in passes))
    stall, compute = (median(getattr(stats, what) for stats in later or passes) for what in ("stall", "compute"))
    _tell("stall", f"{stall:.2f} s a pass waiting for weights, {compute:.2f} s computing")


def _tell(name: str, text: str) -> None:
    print(f"  {name:20} {text}")


def _passes(path: Path, budget: int, x: Array) -> tuple[list[PassStats], Array, _Watch]:
    """Call the model a few times, the first time with an empty page cache.

    Returns:
        The statistics of each call, the last answer, and the watch that has the peaks of memory.
    """
    drop_cache(path)
    found: list[PassStats] = []
    start = time.perf_counter()
    with Model(path, budget=budget) as model, _Watch(path, path.stat().st_size * _PASSES) as watch:
        while len(found) < _PASSES:
            if found and time.perf_counter() - start + found[-1].seconds > _PASSES_SECONDS:
                break
            y: Array = model(x)
            assert model.stats is not None
            found.append(model.stats)
            watch.done += model.stats.bytes_pinned + model.stats.bytes_streamed
    return found, y, watch


class _Watch:
    """Samples memory every 20 ms while the ``with`` block runs, and moves a progress bar of bytes read.

    Attributes:
        file: the most bytes of the file that a sample found in the page cache.
        anonymous: the most bytes of anonymous memory of the process that a sample found.
        done: bytes that finished passes have read. During a pass the bar follows the kernel's count.
    """

    def __init__(self, path: Path, total: int) -> None:
        self.file = self.anonymous = self.done = 0
        self._mapping = Mapping(path)  # a second mapping, which asks about the page cache and touches no page
        self._bar: Any = tqdm(total=total, desc="streaming", unit="B", unit_scale=True, unit_divisor=1024)
        self._before = _bytes_read()
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, name="streamrt-watch", daemon=True)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stop.set()
        self._thread.join()
        self._bar.total = self._bar.n = max(self._bar.n, self.done)
        self._bar.close()
        self._mapping.close()

    def _run(self) -> None:
        while not self._stop.wait(0.02):
            self.file = max(self.file, self._mapping.resident())
            self.anonymous = max(self.anonymous, anonymous_bytes())
            now = max(self.done, _bytes_read() - self._before)
            self._bar.update(min(now, self._bar.total) - self._bar.n)


def _bytes_read() -> int:
    """Bytes that were read from storage for this process; 0 if the kernel does not report them."""
    try:
        text = (PROC / "self" / "io").read_text()
    except OSError:
        return 0
    return next((int(line.split()[1]) for line in text.splitlines() if line.startswith("read_bytes:")), 0)


def _graph(layers: int, width: int) -> Graph:
    """The graph of the large model: a chain of layers without bias, each with a Relu."""
    names = ["input", *(f"layer{index}" for index in range(layers - 1)), "output"]
    nodes = [
        Node(
            f"layer{index}", "Gemm", (names[index], f"layer{index}.weight"), (names[index + 1],), {}, Activation("Relu")
        )
        for index in range(layers)
    ]
    ends = [TensorSpec(name, ("batch", width)) for name in ("input", "output")]
    return Graph((ends[0],), (ends[1],), tuple(nodes))


def _check_budget(budget: int, layers: int, width: int) -> None:
    """Check, before the weights file is written, that a call of the large model fits in ``budget``.

    Raises:
        BudgetError: it does not.
    """
    operand = Operand((width, width), is_param=True)
    params = {f"layer{index}.weight": operand for index in range(layers)}
    program = compile_program(_graph(layers, width), params, {"input": (1, width)})
    segments = [[(name, operand.dtype, operand.shape)] for name in params]
    entries = lay_out(segments, PAGE_ALIGN)  # as if the header had one page
    extents = [Extent(PAGE_ALIGN + entry.begin, 4 * width**2) for entry in entries if not entry.is_padding]
    weights = [
        NodeWeights(tiled=(extent,), rows=lowered.rows, row_step=lowered.row_step)
        for extent, lowered in zip(extents, program.lowered, strict=True)
    ]
    window = smallest_window(weights, PAGE_ALIGN + entries[-1].end)
    if program.workspace + window > budget:
        raise too_small(budget, program.workspace, window)


def _write(path: Path, layers: int, width: int) -> None:
    """Write the weights file directly: `streamrt.pack` takes arrays, not functions that compute weights."""
    sources = [
        Source(f"layer{index}.weight", (width, width), partial(_weights, index, width)) for index in range(layers)
    ]
    write(path, _graph(layers, width), [Segment([source]) for source in sources], progress=True)


def _weights(index: int, width: int) -> Iterator[Array]:
    """The weights of a layer (width, width), some rows at a time; equal in every call.

    Uniform, with variance 2 / width: activations after a Relu neither grow nor vanish from layer to layer.
    Source: He et al., "Delving Deep into Rectifiers", 2015, section 2.2.
    """
    generator = np.random.default_rng((_SEED, index))
    rows = min(width, _CHUNK // (4 * width))
    for _ in range(width // rows):
        weights = generator.random((rows, width), dtype=np.float32)
        weights -= np.float32(0.5)
        weights *= np.float32(2 * (6 / width) ** 0.5)
        yield weights


def _reference(x: Array, layers: int) -> NDArray[np.float64]:
    """The answer that NumPy computes in float64, from weights that are made again and not read from the file."""
    y = x.astype(np.float64)
    for index in tqdm(range(layers), desc="checking", unit="layer"):
        products = [y @ weights.T.astype(np.float64) for weights in _weights(index, y.shape[1])]
        y = np.maximum(np.concatenate(products, axis=1), 0)
    return y


def _difference(y: Array, expected: NDArray[np.float64]) -> float:
    if y.shape != expected.shape or not np.isfinite(y).all():
        return float("inf")
    return float(np.abs(y - expected).max() / np.abs(expected).max())


def _choose_folder(folder: Path | None, size: int) -> Path:
    """``folder``, or the first temporary folder with room for ``size`` bytes; folders on a disk go first."""
    candidates = [folder] if folder else [Path(tempfile.gettempdir()), Path("/var/tmp"), Path.cwd()]
    usable = [place for place in candidates if folder or (place.is_dir() and os.access(place, os.W_OK | os.X_OK))]
    free = {place: shutil.disk_usage(place).free for place in usable}
    fitting = sorted((place for place in usable if free[place] >= size + _SPARE), key=in_memory)
    if not fitting:
        found = ", ".join(f"{format_size(free[place])} free in {place}" for place in usable)
        raise OSError(
            errno.ENOSPC,
            f"the demo needs {format_size(size + _SPARE)} on a disk, of which {format_size(_SPARE)} stay free, "
            f"but found {found}: choose another folder (--dir) or a smaller model (--size)",
        )
    return fitting[0]
