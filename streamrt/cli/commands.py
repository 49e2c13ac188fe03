"""The command line: ``streamrt pack | inspect | tune | run | verify | unpack | completion | serve | demo``.

Results go to stdout. An error is one line on stderr and exit code 1; wrong usage is exit code 2. ``--debug`` shows
tracebacks. Ctrl-C ends a command with exit code 130, SIGTERM with 143; incomplete files are removed. ``serve`` first
finishes the requests in flight and ends with 0. A closed stdout ends the program without a message.
"""

from __future__ import annotations

import argparse
import importlib
import os
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from streamrt._version import __version__
from streamrt.cli import arguments, running, serving, tuning
from streamrt.cli.arrays import load_arrays
from streamrt.cli.completion import SHELLS, completion
from streamrt.cli.demo import demo
from streamrt.cli.ending import ENDING, Terminated
from streamrt.cli.inspection import inspect_model
from streamrt.cli.output import print_json, terminal_width
from streamrt.convert import WEIGHTS, pack
from streamrt.convert.limits import MAX_MEMORY, MAX_SECONDS
from streamrt.engine.comparison import compare
from streamrt.errors import StreamrtError, UnsupportedModelError, printable
from streamrt.format import is_weights_file, read_header, unpack, verify
from streamrt.host.budget import format_size
from streamrt.model import Model

_BUDGET_HELP = (
    "the most memory for weights and activations: a size such as 512MiB, 'auto' (the free memory) or 'none' (no limit)"
)


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line ``argv`` (without the program's name; default ``sys.argv``) and return its exit code."""
    debug = False
    try:
        with ENDING:
            args, rest = (parser := _parser()).parse_known_args(argv)
            # argparse gives a list of files only those that stand together, before or behind an option.
            if rest and (not hasattr(args, "files") or any(text.startswith("-") for text in rest)):
                parser.error(f"unrecognized arguments: {' '.join(rest)}")
            args.files = [*getattr(args, "files", []), *map(Path, rest)]
            debug = args.debug
            if args.command is None:
                parser.print_help(sys.stderr)
                return 2
            command: Callable[[argparse.Namespace], None] = args.command
            command(args)
            sys.stdout.flush()
    except BrokenPipeError:
        # Python flushes stdout once more at exit, which must not fail again.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 128 + 13  # the exit code that a shell reports for SIGPIPE
    except (KeyboardInterrupt, Terminated) as interrupt:
        if debug:
            raise
        terminated = isinstance(interrupt, Terminated)
        print("streamrt: terminated" if terminated else "streamrt: interrupted", file=sys.stderr)
        # Dropping the exception's frames ends their work, such as a progress bar. If that fails, no message appears.
        hook, sys.unraisablehook = sys.unraisablehook, lambda _: None
        interrupt.__traceback__ = None
        sys.unraisablehook = hook
        return 143 if terminated else 130
    except SystemExit as stop:  # argparse has printed help, the version or an error
        return stop.code if isinstance(stop.code, int) else 2
    except Exception as error:
        if debug:
            raise
        print(f"streamrt: error: {_message(error)}", file=sys.stderr)
        return 1
    return 0


def _parser() -> argparse.ArgumentParser:
    debug = argparse.ArgumentParser(add_help=False)
    debug.add_argument("--debug", action="store_true", default=argparse.SUPPRESS, help="show tracebacks")
    parser = argparse.ArgumentParser(
        prog="streamrt",
        description="Run MLPs and CNNs whose weights do not fit in the memory they are given.",
    )
    parser.add_argument("--version", action="version", version=f"streamrt {__version__}")
    parser.add_argument("--debug", action="store_true", help="show tracebacks")
    commands = parser.add_subparsers(title="commands", metavar="COMMAND")
    parser.set_defaults(command=None)

    def add(name: str, function: Callable[[argparse.Namespace], None], text: str) -> argparse.ArgumentParser:
        command = commands.add_parser(name, help=text, description=f"{text[0].upper()}{text[1:]}.", parents=[debug])
        command.set_defaults(command=function)
        return command

    command = add(
        "pack", _pack, "turn an ONNX model, a .pt2 file of torch, or an older weights file into a weights file"
    )
    command.add_argument("source", metavar="SOURCE", type=Path, help="the ONNX, .pt2 or weights file to read")
    command.add_argument("dest", metavar="DEST", type=Path, help="the weights file to write (.safetensors)")
    command.add_argument(
        "--input",
        metavar="NAME=EXTENTS",
        type=arguments.extents,
        action="append",
        default=[],
        help="the extents of an input, such as images=Nx3x640x640, where N stays free; may be repeated",
    )
    command.add_argument(
        "--weights",
        choices=list(WEIGHTS),
        help="how to store the weights of dense layers and convolutions (default: as the source has them)",
    )
    command.add_argument(
        "--keep",
        metavar="NAME=TYPE",
        type=arguments.named,
        action="append",
        default=[],
        help="the type of one weight, by its name in the weights file; may be repeated",
    )
    command.add_argument(
        "--compare",
        metavar="INPUTS",
        type=Path,
        help="a .npy or .npz file: run the model on it before and after, and print how much its answers differ",
    )
    command.add_argument(
        "--max-memory",
        metavar="SIZE",
        type=arguments.size,
        default=MAX_MEMORY,
        help="memory for values computed from constants, beside the model's own weights (default 256MiB)",
    )
    command.add_argument(
        "--max-seconds",
        metavar="SECONDS",
        type=arguments.seconds_above_0,
        default=MAX_SECONDS,
        help=f"processor time for converting the model; each 32 MiB of its weights adds 1 s (default {MAX_SECONDS} s)",
    )
    command.add_argument("-q", "--quiet", action="store_true", help="no progress bar")
    command.add_argument("--json", action="store_true", help="print JSON, with sizes in bytes")

    command = add("inspect", _inspect, "show the layers of a model, and which of its weights a budget keeps in memory")
    command.add_argument("model", metavar="MODEL", type=Path, help="a weights file")
    command.add_argument("--budget", metavar="SIZE", type=arguments.budget, help=f"{_BUDGET_HELP} (default none)")
    command.add_argument("--batch", metavar="N", type=arguments.count, default=1, help="samples in a call (default 1)")
    command.add_argument(
        "--shape",
        metavar="NAME=N,C,H,W",
        type=arguments.shape,
        action="append",
        default=[],
        help="the whole shape of an input that has free extents besides the batch; may be repeated",
    )
    command.add_argument("--json", action="store_true", help="print JSON, with sizes in bytes")

    command = add("tune", tuning.run, "find a budget: measure a model under budgets from the least to all weights")
    tuning.add_options(command)

    command = add("run", running.run, "run a model on arrays or pictures from files, and write or print its answers")
    running.add_options(command, _BUDGET_HELP)

    command = add("verify", _verify, "check every byte of a weights file against its checksums")
    command.add_argument("model", metavar="MODEL", type=Path, help="a weights file")
    command.add_argument("-q", "--quiet", action="store_true", help="no progress bar")
    command.add_argument("--json", action="store_true", help="print JSON, with sizes in bytes")

    command = add("unpack", _unpack, "write the tensors of a weights file as plain safetensors, without its graph")
    command.add_argument("model", metavar="FILE", type=Path, help="a weights file")
    command.add_argument("dest", metavar="DEST", type=Path, help="the safetensors file to write")
    command.add_argument("-q", "--quiet", action="store_true", help="no progress bar")
    command.add_argument("--json", action="store_true", help="print JSON, with sizes in bytes")

    command = add(
        "completion", _completion, "print a script with which a shell completes streamrt's commands and options"
    )
    command.add_argument("shell", choices=SHELLS, help="the shell: `source <(streamrt completion bash)` in ~/.bashrc")
    command.set_defaults(parser=parser)

    command = add("serve", serving.run, "serve the models of a folder over HTTP, under one budget")
    serving.add_options(command)

    command = add(
        "demo", _demo, "classify digits, then stream a large model under a small budget; its files are removed"
    )
    command.add_argument(
        "--size", metavar="SIZE", type=arguments.size, default=2**30, help="size of the large model (default 1GiB)"
    )
    command.add_argument(
        "--budget",
        metavar="SIZE",
        type=arguments.size,
        default=2**26,
        help="memory that the large model may use (default 64MiB)",
    )
    command.add_argument(
        "--dir",
        metavar="DIR",
        type=Path,
        help="folder for the large model (default: a temporary one, on a disk if possible)",
    )
    command.add_argument("--no-stream", action="store_true", help="only classify the digits")
    return parser


def _pack(args: argparse.Namespace) -> None:
    ENDING.deferred = True  # an exception while they are imported crashes the extension modules of onnx
    try:
        importlib.import_module("streamrt.convert.onnx.importer")
    except ImportError:
        pass  # the error of `pack` names the missing package
    finally:
        ENDING.resume()
    options = {"progress": not args.quiet, "max_memory": args.max_memory, "max_seconds": args.max_seconds}
    options["inputs"] = dict(args.input) or None
    write = partial(pack, args.source, args.dest, weights=args.weights, keep=dict(args.keep), **options)
    if args.compare is None:
        write()
        found = None
    else:
        with _unchanged(args, options) as path, Model(path) as before:
            arrays = load_arrays(args.compare, before.inputs)
            before(arrays)  # raises before anything is written if they do not fit
            write()
            with Model(args.dest) as after:
                found = compare(before, after, arrays)
    if args.json:
        file = read_header(args.dest)
        written = {"weights": sum(tensor.nbytes for tensor in file.tensors.values()), "checksum": file.checksum}
        print_json("pack", _file(args.dest) | written | {"comparison": found and found.to_json()})
        return
    print(f"{printable(str(args.dest))}: {format_size(args.dest.stat().st_size)}")
    if found:
        print(found)


@contextmanager
def _unchanged(args: argparse.Namespace, options: Mapping[str, Any]) -> Iterator[Path]:
    """A weights file with the weights of the source as they are: the source, or a file that is removed afterwards."""
    if is_weights_file(args.source) and not args.input:
        yield args.source
        return
    with TemporaryDirectory(dir=args.dest.parent, prefix=f".{args.dest.name}.") as folder:
        yield pack(args.source, Path(folder, "model.safetensors"), **options)


def _inspect(args: argparse.Namespace) -> None:
    found = inspect_model(args.model, budget=args.budget, batch=args.batch, shapes=dict(args.shape))
    if args.json:
        print_json("inspect", found.to_json())
    else:
        print(found.to_text(terminal_width()))


def _verify(args: argparse.Namespace) -> None:
    verify(args.model, progress=not args.quiet)
    if args.json:
        print_json("verify", _file(args.model) | {"intact": True})
    else:
        print(f"{printable(str(args.model))}: {format_size(args.model.stat().st_size)}, every checksum is right")


def _unpack(args: argparse.Namespace) -> None:
    unpack(args.model, args.dest, progress=not args.quiet)
    if args.json:
        print_json("unpack", _file(args.dest))
    else:
        print(f"{printable(str(args.dest))}: {format_size(args.dest.stat().st_size)}")


def _file(path: Path) -> dict[str, Any]:
    """The part of a JSON object that describes a file."""
    return {"path": str(path), "size": path.stat().st_size}


def _completion(args: argparse.Namespace) -> None:
    print(completion(args.parser, args.shell))


def _demo(args: argparse.Namespace) -> None:
    demo(size=args.size, budget=args.budget, folder=args.dir, stream=not args.no_stream)


def _message(error: Exception) -> str:
    """The text of ``error`` in one line; the list of unsupported nodes of a model keeps its lines."""
    if isinstance(error, UnsupportedModelError):
        return "\n".join(map(printable, str(error).split("\n")))
    if isinstance(error, OSError) and error.strerror:
        text = f"{error.filename}: {error.strerror}" if error.filename else error.strerror
    elif isinstance(error, (StreamrtError, OSError, ImportError)):
        text = str(error)
    elif isinstance(error, MemoryError):
        text = f"out of memory {error}"
    else:
        text = f"{type(error).__name__}: {error} (--debug shows where)"
    return printable(" ".join(text.split()))
