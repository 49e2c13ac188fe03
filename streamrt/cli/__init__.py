"""The command line: ``streamrt pack``, ``inspect``, ``run``, ``verify`` and ``demo``. A face over the rest."""

from streamrt.cli.commands import main

__all__ = ["main"]
