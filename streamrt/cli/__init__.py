"""The command line: ``streamrt pack``, ``inspect``, ``run``, ``verify``, ``unpack``, ``serve``, ``demo``."""

from streamrt.cli.commands import main

__all__ = ["main"]
