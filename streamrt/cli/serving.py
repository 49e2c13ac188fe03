"""``streamrt serve``: its options, and running the server, which is imported then: it needs the extra ``serve``."""

from __future__ import annotations

import argparse
from collections.abc import Callable
from dataclasses import fields
from pathlib import Path
from typing import Any

from streamrt.cli import arguments
from streamrt.cli.ending import ENDING
from streamrt.host.budget import format_size
from streamrt.pool.adaptive import POLICIES
from streamrt.serve.access import TOKEN_VARIABLE, read_token
from streamrt.serve.settings import Settings

#: Options that are settings of the same name: what reads them, or what they may be, and what they mean.
_OPTIONS: dict[str, tuple[Callable[[str], object] | tuple[str, ...], str]] = {
    "host": (str, "the address to listen at"),
    "port": (arguments.port, "the port; 0: any that is free"),
    "budget": (arguments.budget, "memory for weights and activations of all models"),
    "policy": (tuple(POLICIES), "which weights are worth their memory"),
    "threads": (arguments.count, "threads that a pass may compute with"),
    "io": (("auto", "mmap", "pread"), "how weights are read"),
    "verify": (("open", "read"), "compare weights with their checksums"),
    "timeout": (arguments.seconds, "seconds that a request may wait"),
    "workers": (arguments.count, "models that may compute at the same time"),
    "max_batch": (arguments.count, "samples in a pass, which requests that wait share"),
    "max_delay": (arguments.seconds, "seconds that a request is held back for others to share its pass"),
    "max_queue": (arguments.count, "requests that may wait"),
    "max_body": (arguments.size, "bytes of a request"),
    "max_json": (arguments.size, "bytes of JSON in a request; parsed, 12 times that"),
    "max_held": (arguments.size, "bytes of requests in progress, of their parsed JSON, and of answers on their way"),
    "body_timeout": (arguments.seconds, "seconds that a request may take to arrive, and its answer to be taken"),
    "grace": (arguments.seconds, "seconds that requests in progress have when the server is told to end"),
}


def add_options(command: argparse.ArgumentParser) -> None:
    """Give ``command`` the options of a server."""
    defaults = {field.name: field.default for field in fields(Settings)}
    command.add_argument("folder", metavar="FOLDER", type=Path, help="the folder with the weights files")
    for name, (kind, text) in _OPTIONS.items():
        default: Any = defaults[name]
        metavar = name.rpartition("_")[2].upper()
        read: dict[str, Any] = {"choices": kind} if isinstance(kind, tuple) else {"type": kind, "metavar": metavar}
        readable = format_size(default) if kind is arguments.size else default
        shown = "" if default is None else f" (default {readable})"
        command.add_argument(f"--{name.replace('_', '-')}", default=default, help=f"{text}{shown}", **read)
    command.add_argument(
        "--control",
        action="store_true",
        help="allow repository and registration calls to whoever has the token in the environment variable "
        f"{TOKEN_VARIABLE}, or in --token-file",
    )
    command.add_argument("--token-file", metavar="FILE", type=Path, help="the file with the token for --control")
    command.add_argument("--log-level", metavar="LEVEL", choices=("debug", "info", "warning", "error"), default="info")


def run(args: argparse.Namespace) -> None:
    """Serve until told to end.

    Raises:
        ImportError: the extra ``serve`` is not installed.
        Exception: what `streamrt.serve.main.serve` raises.
    """
    ENDING.restore()  # asyncio and the server have handlers of their own, and nothing is half made before
    try:
        from streamrt.serve.main import serve
    except ImportError as error:
        raise ImportError("serving needs more packages: pip install 'streamrt[serve]'") from error

    token = read_token(args.token_file) if args.control else None
    serve(Settings(args.folder, token=token, **{name: getattr(args, name) for name in _OPTIONS}), args.log_level)
