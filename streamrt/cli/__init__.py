"""The command line: `commands` has the commands, and a file each has those with more options."""

from streamrt.cli.commands import main

__all__ = ["main"]
