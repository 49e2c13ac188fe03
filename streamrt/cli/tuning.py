"""``streamrt tune``: its options, and finding a budget."""

from __future__ import annotations

import argparse
from pathlib import Path

from streamrt.cli import arguments
from streamrt.cli.arrays import check_folder, load_arrays
from streamrt.cli.inspection import shapes_of
from streamrt.cli.output import print_json, terminal_width
from streamrt.cli.running import add_engine_options
from streamrt.format import read_header
from streamrt.report.picture import figure_class
from streamrt.tuning import Tuner, fits

_EPILOG = """\
Calls run under budgets from the least to that of all weights. The knee is the smallest budget whose time is within
10 % (--within) of the best. Weights that stream are taken out of the page cache after each pass, so that they come from
the disk. Ctrl-C prints what was measured until then, and ends with exit code 130.
"""


def add_options(command: argparse.ArgumentParser) -> None:
    """Give ``command`` the options of finding a budget."""
    command.epilog = _EPILOG
    command.add_argument("model", metavar="MODEL", type=Path, help="a weights file")
    command.add_argument(
        "--memory",
        metavar="SIZE",
        type=arguments.size,
        help="run nothing, and tell which batches and types of weights fit into this memory",
    )
    command.add_argument(
        "--budgets",
        metavar="SIZES",
        type=arguments.budgets,
        help="the budgets to try, with commas between them, such as 64MiB,256MiB,none (default: about ten, chosen "
        "between the least and that of all weights, or the free memory)",
    )
    command.add_argument("--batch", metavar="N", type=arguments.count, default=1, help="samples in a call (default 1)")
    command.add_argument(
        "--shape",
        metavar="NAME=N,C,H,W",
        type=arguments.shape,
        action="append",
        default=[],
        help="the whole shape of an input that has free extents besides the batch; may be repeated",
    )
    command.add_argument(
        "--inputs",
        metavar="FILE",
        type=Path,
        help="a .npy or .npz file with the inputs of a call (default: random numbers, and zeros for integers)",
    )
    command.add_argument(
        "--calls",
        metavar="N",
        type=arguments.count,
        default=5,
        help="the most calls that are measured under each budget (default 5)",
    )
    command.add_argument(
        "--seconds",
        metavar="SECONDS",
        type=arguments.seconds_above_0,
        default=60.0,
        help="time after which no further budget is tried; the largest and the smallest are in any case (default 60)",
    )
    command.add_argument(
        "--within",
        metavar="PERCENT",
        type=arguments.percent,
        default=0.1,
        help="by how much the knee may be slower than the best (default 10)",
    )
    add_engine_options(command)
    command.add_argument(
        "--plot",
        metavar="FILE",
        type=Path,
        help="draw the measured and the predicted curve (.png, .svg, .pdf; needs the extra plot)",
    )
    command.add_argument("--json", action="store_true", help="print JSON, with sizes in bytes and times in seconds")
    command.add_argument("-q", "--quiet", action="store_true", help="no progress bar")
    command.set_defaults(usage_error=command.error)


def run(args: argparse.Namespace) -> None:
    """Measure or plan, and print the result.

    Raises:
        SystemExit: wrong usage.
        KeyboardInterrupt: Ctrl-C; what was measured is printed.
        Exception: an error of the model or of its files.
    """
    if args.inputs and (args.batch != 1 or args.shape):
        args.usage_error("--inputs has the shapes: leave out --batch and --shape")
    if args.memory is not None:
        for name in ("budgets", "inputs", "plot"):
            if getattr(args, name) is not None:
                args.usage_error(f"--memory runs nothing: leave out --{name}")
        _fit(args)
        return
    if args.plot:
        check_folder(args.plot)
        figure_class(args.plot)
    specs = read_header(args.model).graph.inputs
    tuner = Tuner(
        args.model,
        inputs=load_arrays(args.inputs, specs) if args.inputs else None,
        shapes=None if args.inputs else shapes_of(specs, args.batch, dict(args.shape)),
        budgets=args.budgets,
        calls=args.calls,
        within=args.within,
        threads=args.threads,
        io=args.io,
    )
    with tuner:
        interrupted: KeyboardInterrupt | None = None
        try:
            tuner.run(args.seconds, progress=not args.quiet)
        except KeyboardInterrupt as error:
            interrupted = error
        found = tuner.result()
    if args.json:
        print_json("tune", found.to_json())
    else:
        print(found.to_text(terminal_width()))
    if args.plot:
        found.plot(args.plot)
    if interrupted is not None:
        raise interrupted


def _fit(args: argparse.Namespace) -> None:
    specs = read_header(args.model).graph.inputs
    found = fits(args.model, args.memory, shapes=shapes_of(specs, args.batch, dict(args.shape)), threads=args.threads)
    if args.json:
        print_json("tune", found.to_json())
    else:
        print(found.to_text(terminal_width()))
