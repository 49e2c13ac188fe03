"""``streamrt run``: its options, and running a model on arrays or pictures."""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import Any

import numpy as np

from streamrt.cli import arguments
from streamrt.cli.arrays import check_folder, check_output, load_arrays, save_arrays
from streamrt.cli.labels import Ranked, load_labels, ranking
from streamrt.cli.output import print_json
from streamrt.cli.pictures import ENDINGS, is_picture, load_pictures
from streamrt.cli.results import NpyRows
from streamrt.engine.foreign import Readable
from streamrt.engine.inputs import Given, requested_graph
from streamrt.engine.results import result_types
from streamrt.errors import printable
from streamrt.format.files import Replacement
from streamrt.graph import TensorSpec
from streamrt.model import Model
from streamrt.report.picture import figure_class
from streamrt.report.stats import PassStats

#: Elements of an output that are described at a time.
_BLOCK = 1 << 20

_EPILOG = """\
Pictures (.jpg, .jpeg, .png) make a batch. The shorter side is scaled to 1/0.875 of the model's size, bilinear, and the
centre is cropped, as torchvision and timm do it for evaluation; a picture of the model's size is taken as it is. Values
are 0 to 1, less --mean, divided by --std. The output may be left out with --labels, --json or --stats.
"""


def add_options(command: argparse.ArgumentParser, budget_help: str) -> None:
    """Give ``command`` the options of a run."""
    command.epilog = _EPILOG
    command.add_argument("model", metavar="MODEL", type=Path, help="a weights file")
    command.add_argument(
        "files",
        metavar="FILE",
        nargs="+",
        type=Path,
        help="the inputs: a .npy file, a .npz file with one array for each input, or pictures, one for each sample; "
        "and behind them the output, the .npy or .npz file to write",
    )
    command.add_argument(
        "--budget", metavar="SIZE", type=arguments.budget, default="auto", help=f"{budget_help} (default auto)"
    )
    add_engine_options(command)
    command.add_argument(
        "--verify",
        choices=("open", "read"),
        help="compare weights with their checksums when the model is opened, or at every read (default: never)",
    )
    command.add_argument(
        "--outputs",
        metavar="NAME",
        action="append",
        help="compute this tensor, any of the graph, instead of the model's outputs; may be repeated",
    )
    command.add_argument(
        "--size",
        metavar="HEIGHTxWIDTH",
        type=arguments.picture_size,
        help="the size of pictures after cropping (default: that of the model's input)",
    )
    command.add_argument(
        "--mean",
        metavar="NUMBERS",
        type=arguments.mean,
        help="the mean of each channel of pictures, of values from 0 to 1: one number, three with commas between them, "
        "or 'imagenet' (default 0)",
    )
    command.add_argument(
        "--std",
        metavar="NUMBERS",
        type=arguments.std,
        help="the standard deviation of each channel, as --mean (default 1)",
    )
    command.add_argument(
        "--labels",
        metavar="FILE",
        type=Path,
        help="the names of classes, a line for each: print the 5 most probable classes of each sample. Numbers that "
        "are no probabilities (none below 0, together 1) go through a softmax",
    )
    command.add_argument(
        "--repeat", metavar="N", type=arguments.count, default=1, help="run the model N times (default 1)"
    )
    command.add_argument("--stats", action="store_true", help="print what each run read, computed and waited for")
    command.add_argument("--layers", action="store_true", help="print a Markdown table of the layers of the last run")
    command.add_argument(
        "--plot",
        metavar="FILE",
        type=Path,
        help="draw reading and computing of the last run over time (.png, .svg, .pdf; needs the extra plot)",
    )
    command.add_argument(
        "--trace", metavar="FILE", type=Path, help="write the last run as a .json file for ui.perfetto.dev"
    )
    command.add_argument("--json", action="store_true", help="print a JSON object with a summary of the outputs")
    command.add_argument("-q", "--quiet", action="store_true", help="no progress bar (runs in bands of rows have one)")
    command.set_defaults(usage_error=command.error)


def add_engine_options(command: argparse.ArgumentParser) -> None:
    """Give ``command`` the options of `Model` that say how to compute and to read."""
    command.add_argument(
        "--threads",
        metavar="N",
        type=arguments.count,
        help="the most threads that compute a pass (default: one for each processor)",
    )
    command.add_argument(
        "--io",
        choices=("auto", "mmap", "pread"),
        default="auto",
        help="map the weights file, or read it into memory of the process; auto: pread on network and FUSE file "
        "systems, else mmap (default auto)",
    )


def run(args: argparse.Namespace) -> None:
    """Run the model, and write or print its answers.

    Raises:
        SystemExit: wrong usage.
        Exception: an error of the files, of the model or of the call.
    """
    sources, output = _split(args)
    labels = load_labels(args.labels) if args.labels else None
    with Model(args.model, budget=args.budget, threads=args.threads, io=args.io, verify=args.verify) as model:
        names = [spec.name for spec in requested_graph(model._engine.file.graph, args.outputs).outputs]
        if output:
            check_output(output, names)
        for file in filter(None, (args.plot, args.trace)):
            check_folder(file)
        if args.plot:
            figure_class(args.plot)
        arrays = _inputs(args, sources, model.inputs)
        # Labels need the results in memory, and their errors come before a file is written.
        mapped = output if output and output.suffix == ".npy" and labels is None else None
        with Replacement(os.fspath(mapped)) if mapped else nullcontext() as file:
            result, runs = _runs(args, model, arrays, file)
            if file:
                file.commit()
    stats = runs[-1] if runs else None
    if mapped:
        result = np.load(mapped, mmap_mode="r", allow_pickle=False)
    found = result if isinstance(result, dict) else {names[0]: result}
    ranked = None if labels is None else ranking(found, labels)
    if output and not mapped:
        save_arrays(output, found)
    if args.json:
        print_json("run", _summary(args, output, arrays, found, runs, ranked))
    else:
        if ranked is not None:
            _print_ranked(ranked, sources)
        if stats and args.layers:
            print(stats.to_markdown())
    if stats and args.trace:
        stats.to_perfetto(args.trace)
    if stats and args.plot:
        stats.plot(args.plot)


def _runs(
    args: argparse.Namespace, model: Model, arrays: Mapping[str, Given | Readable], file: Replacement | None
) -> tuple[Any, list[PassStats]]:
    """Run the model ``args.repeat`` times; returns the last results, and what each run did.

    The only result is written to ``file``, if given, while it is computed.
    """
    engine, request = model._engine, model._request(arrays, args.outputs)
    with engine.hold():
        prepared = engine.prepare(request.graph, request.shapes)
    divided = prepared.plan.micro_batch > 0
    out = None
    if file:
        ((_, shape, dtype),) = result_types(prepared)
        out = NpyRows(file, (request.samples, *shape[1:]) if divided else shape, dtype)
    runs = []
    for _ in range(args.repeat):
        request = model._request(arrays, args.outputs, out)
        shown = bool(prepared.plan.bands) and not args.quiet
        with _bar(request.samples if divided else 1, shown) as request.stepped:
            result = model._serve(request)
        if stats := model.stats:
            runs.append(stats)
            if args.stats and not args.json:
                print(stats)
    return result, runs


@contextmanager
def _bar(passes: int, shown: bool) -> Iterator[Callable[[int], object] | None]:
    """A function to call after each step of so many passes, with the steps of a pass. It moves a bar on a terminal."""
    if not (shown and sys.stderr.isatty()):
        yield None
        return
    from tqdm import tqdm  # here, as most runs show no bar

    with tqdm(desc="running", unit="step") as bar:

        def stepped(steps: int) -> None:
            bar.total = passes * steps
            bar.update()

        yield stepped


def _split(args: argparse.Namespace) -> tuple[list[Path], Path | None]:
    """The inputs and the output. The last of several files is the output, unless it is a picture."""
    sources = list(args.files)
    output = sources.pop() if len(sources) > 1 and not is_picture(sources[-1]) else None
    if output is None and not (args.labels or args.json or args.stats or args.layers or args.trace or args.plot):
        args.usage_error("the answers go nowhere: expected an output, a .npy or .npz file, or --labels or --json")
    pictures = [is_picture(path) for path in sources]
    if len(sources) > 1 and not all(pictures):
        args.usage_error(f"expected one .npy or .npz file, or pictures ({', '.join(ENDINGS)}), before the output")
    for name in ("size", "mean", "std"):
        if getattr(args, name) is not None and not pictures[0]:
            args.usage_error(f"--{name} is for pictures: the input is an array")
    return sources, output


def _inputs(
    args: argparse.Namespace, sources: Sequence[Path], specs: Sequence[TensorSpec]
) -> Mapping[str, Given | Readable]:
    if is_picture(sources[0]):
        return load_pictures(sources, specs, args.size, args.mean, args.std)
    return load_arrays(sources[0], specs, by_rows=True)


def _print_ranked(ranked: Sequence[Sequence[Ranked]], sources: Sequence[Path]) -> None:
    """Print classes with percent; a sample has the name of its picture, or its number."""
    for index, classes in enumerate(ranked):
        print(printable(str(sources[index])) if is_picture(sources[0]) else f"sample {index}")
        for each in classes:
            print(f"  {each.share:6.1%}  {printable(each.label)}")


def _summary(
    args: argparse.Namespace,
    output: Path | None,
    inputs: Mapping[str, Given | Readable],
    outputs: Mapping[str, Given],
    runs: Sequence[PassStats],
    ranked: Sequence[Sequence[Ranked]] | None,
) -> dict[str, Any]:
    """The JSON object of a run."""
    found: dict[str, Any] = {
        "path": str(args.model),
        "inputs": {name: {"shape": list(array.shape), "dtype": str(array.dtype)} for name, array in inputs.items()},
        "outputs": {name: _described(array) for name, array in outputs.items()},
        "output": output and str(output),
        "runs": [stats.to_json() for stats in runs],
    }
    if ranked is not None:
        found["classes"] = [
            [{"index": each.index, "label": each.label, "share": each.share} for each in classes] for classes in ranked
        ]
    if args.layers and runs:
        found["layers"] = [layer.to_json() for layer in runs[-1].layers]
    return found


def _described(array: Given) -> dict[str, Any]:
    """Shape, type and range of an output. The numbers are of its finite values, or None if it has none."""
    values, count, total = array.reshape(-1), 0, 0.0
    least, most = [], []
    for begin in range(0, values.size, _BLOCK):
        block = values[begin : begin + _BLOCK]
        finite = block[np.isfinite(block)]
        if finite.size:
            count, total = count + finite.size, total + float(finite.sum(dtype=np.float64))
            least.append(float(finite.min()))
            most.append(float(finite.max()))
    numbers = {"min": min(least), "max": max(most), "mean": total / count} if count else {}
    return {
        "shape": list(array.shape),
        "dtype": str(array.dtype),
        "finite": count,
        **(numbers or dict.fromkeys(("min", "max", "mean"))),
    }
