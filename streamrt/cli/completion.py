"""``streamrt completion``: a script with which a shell completes commands, options, choices and files.

The package shtab makes the script from the parser of the command line. So the script needs no Python when it runs.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from pathlib import Path

#: The shells for which shtab makes scripts, of those that people use on Linux.
SHELLS = ("bash", "zsh", "fish")


def completion(parser: argparse.ArgumentParser, shell: str) -> str:
    """The script for a shell.

    Raises:
        ImportError: shtab is not installed (the extra ``completion``).
    """
    try:
        import shtab
    except ImportError as error:
        raise ImportError("completion needs shtab: pip install 'streamrt[completion]'") from error
    for action in _actions(parser):
        if action.type is Path:
            action.complete = shtab.FILE  # type: ignore[attr-defined] # the attribute that shtab looks for
    return shtab.complete(parser, shell)


def _actions(parser: argparse.ArgumentParser) -> Iterator[argparse.Action]:
    """All arguments of a parser and of its commands."""
    for action in parser._actions:
        yield action
        if isinstance(action, argparse._SubParsersAction):
            for command in action.choices.values():
                yield from _actions(command)
