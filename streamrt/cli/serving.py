"""``streamrt serve``: its options, and running the server.

The server is imported only when it runs, because it needs the packages of the extra ``serve``.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, fields
from importlib import import_module
from pathlib import Path
from typing import Any

from streamrt.cli import arguments
from streamrt.cli.ending import ENDING
from streamrt.pool.adaptive import POLICIES
from streamrt.serve.access import TOKEN_VARIABLE, read_token
from streamrt.serve.settings import Settings


def _mebibytes(size: int) -> str:
    """A size as a user may type it."""
    return f"{size >> 20}MiB"


@dataclass(frozen=True, slots=True)
class _Option:
    """An option for the setting of the same name.

    Attributes:
        text: for ``--help``.
        read: makes the setting from the argument.
        metavar: stands for the argument in ``--help``; empty if there are choices.
        choices: the arguments that are allowed, or None.
        show: makes a text of the default, for ``--help``.
    """

    text: str
    read: Callable[[str], object] = str
    metavar: str = ""
    choices: tuple[str, ...] | None = None
    show: Callable[[Any], str] = str


def _count(text: str) -> _Option:
    return _Option(text, arguments.count, "N")


def _size(text: str) -> _Option:
    return _Option(text, arguments.size, "SIZE", show=_mebibytes)


def _seconds(text: str) -> _Option:
    return _Option(text, arguments.seconds, "SECONDS", show="{:g} s".format)


_OPTIONS = {
    "host": _Option("the address to listen at", metavar="ADDRESS"),
    "port": _Option("the port to listen at; 0 takes any free one", arguments.port, "PORT"),
    "grpc_port": _Option(
        "also listen for gRPC, at this port; 0 takes any free one (needs the extra grpc)", arguments.port, "PORT"
    ),
    "budget": _Option(
        "the most memory for weights and activations of all models: a size such as 512MiB, or 'auto' (the free memory)",
        arguments.budget,
        "SIZE",
    ),
    "policy": _Option("how the pool decides which weights stay in memory", choices=tuple(POLICIES)),
    "threads": _count("the most threads that compute one pass (default: one for each processor)"),
    "io": _Option(
        "map the weights files, or read them into memory of the process; auto: pread on network and FUSE file systems, "
        "else mmap",
        choices=("auto", "mmap", "pread"),
    ),
    "verify": _Option(
        "compare weights with their checksums when a model is opened, or at every read (default: never)",
        choices=("open", "read"),
    ),
    "timeout": _seconds("the most time from the arrival of a request to the start of its computation"),
    "workers": _count("how many models may compute at the same time"),
    "max_batch": _count("the most samples in a request, and in a pass, which waiting requests share"),
    "max_delay": _seconds("how long a request is held back, so that others can share its pass"),
    "max_queue": _count("the most requests that wait; at most half of them may wait for one model"),
    "max_body": _size("the largest body of a request, decompressed"),
    "max_json": _size("the largest JSON text of a request; its values may take 12 times as much memory, and 1 MiB"),
    "max_held": _size("the most memory for bodies, for JSON while it is parsed, and for answers that are being sent"),
    "body_timeout": _seconds(
        "the most time for a request's head to arrive, for its body to arrive, and for its answer to be taken"
    ),
    "idle_timeout": _seconds("how long a connection without a request is kept; one of gRPC up to twice as long"),
    "max_connections": _count(
        "the most open connections of HTTP, and the most of gRPC; further ones get 503, and those of gRPC are closed"
    ),
    "rescan": _Option(
        "how often the folder is searched for new, replaced and removed files (default: only on SIGHUP, and when a "
        "client asks for the index)",
        arguments.seconds_above_0,
        "SECONDS",
    ),
    "grace": _seconds("how long requests in flight may go on after SIGTERM"),
}


def add_options(command: argparse.ArgumentParser) -> None:
    """Give ``command`` the options of a server."""
    defaults = {field.name: field.default for field in fields(Settings)}
    command.add_argument("folder", metavar="FOLDER", type=Path, help="the folder with the weights files (.safetensors)")
    for name, option in _OPTIONS.items():
        default: Any = defaults[name]
        shown = "" if default is None else f" (default {option.show(default)})"
        read: dict[str, Any] = (
            {"choices": option.choices} if option.choices else {"type": option.read, "metavar": option.metavar}
        )
        command.add_argument(f"--{name.replace('_', '-')}", default=default, help=f"{option.text}{shown}", **read)
    command.add_argument(
        "--pin",
        action="append",
        default=[],
        metavar="NAME",
        help="keep all weights of the model of this name in memory; may be given several times",
    )
    command.add_argument(
        "--control",
        action="store_true",
        help="allow calls that list, load, unload, pin and register models, to clients that send the token from "
        f"--token-file or from the environment variable {TOKEN_VARIABLE}",
    )
    command.add_argument(
        "--token-file", metavar="FILE", type=Path, help="the file with the token for --control; needs --control"
    )
    command.add_argument(
        "--no-page",
        dest="page",
        action="store_false",
        help="serve no page at /, which shows the metrics to people",
    )
    command.add_argument(
        "--log-level",
        choices=("debug", "info", "warning", "error"),
        default="info",
        help="the least severe messages that are logged, to stderr (default info)",
    )
    command.set_defaults(usage_error=command.error)


def run(args: argparse.Namespace) -> None:
    """Serve until SIGTERM or SIGINT.

    Raises:
        SystemExit: wrong usage.
        ImportError: the extra ``serve`` is not installed, or ``grpc`` for ``--grpc-port``.
        Exception: an error of `streamrt.serve.main.serve`.
    """
    if args.token_file and not args.control:
        args.usage_error("--token-file needs --control: the token is only for the calls that --control allows")
    ENDING.restore()  # asyncio and the server have handlers of their own, and there are no files to remove
    with _packages("serve"):
        from streamrt.serve.main import serve
    if args.grpc_port is not None:
        with _packages("grpc"):
            import_module("streamrt.serve.rpc.server")

    token = read_token(args.token_file) if args.control else None
    options = {name: getattr(args, name) for name in _OPTIONS}
    settings = Settings(args.folder, page=args.page, token=token, pin=tuple(args.pin), **options)
    serve(settings, args.log_level)


@contextmanager
def _packages(extra: str) -> Iterator[None]:
    """A context in which packages of an extra are imported. The error about a missing one names the extra."""
    try:
        yield
    except ImportError as error:
        raise ImportError(f"serving needs the package {error.name}: pip install 'streamrt[{extra}]'") from error
