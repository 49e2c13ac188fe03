"""The command line, a face over the rest: ``streamrt pack``, ``inspect``, ``run``, ``verify``, ``serve``, ``demo``."""

from streamrt.cli.commands import main

__all__ = ["main"]
