"""The model repository: a folder of weights files, and the only place from which models come.

A client's text never becomes a part of a path unless it matches a pattern in which a path has no room.
"""

from __future__ import annotations

import re
import stat
from pathlib import Path

from streamrt.errors import InputError, UnknownModelError

_SUFFIX = ".safetensors"
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,127}", re.ASCII)


def check_name(name: object) -> str:
    """``name``, if it can be a model's: letters, digits, and ``._-`` behind the first of them, at most 128.

    Raises:
        InputError: it cannot.
    """
    if not isinstance(name, str) or not _NAME.fullmatch(name):
        raise InputError(
            "expected a model name of at most 128 letters, digits, '.', '_' and '-', beginning with none of these three"
        )
    return name


def file_of(name: str) -> str:
    """The file that has the model of this name."""
    return f"{check_name(name)}{_SUFFIX}"


def model_of(file: object) -> str:
    """The name of the model that a file of this name has.

    Raises:
        InputError: it is no name of a weights file.
    """
    name = file.removesuffix(_SUFFIX) if isinstance(file, str) and file.endswith(_SUFFIX) else None
    if name is None:
        raise InputError(f"expected the name of a file of the repository, which ends in {_SUFFIX}")
    return check_name(name)


class Folder:
    """The weights files that are right in a folder: regular, not hidden, or links to such files of the same folder."""

    def __init__(self, path: Path) -> None:
        self._path = path.resolve(strict=True)
        if not self._path.is_dir():
            raise NotADirectoryError(f"{path}: expected a folder of weights files")

    def models(self) -> list[str]:
        """The names of all models that it has, sorted."""
        found = []
        for entry in self._path.iterdir():
            try:
                name = model_of(entry.name)
                self.path(entry.name)
            except (InputError, UnknownModelError):
                continue
            found.append(name)
        return sorted(found)

    def path(self, file: str) -> Path:
        """Where a file of this name lies, links followed.

        Raises:
            InputError: it is no name of a weights file.
            UnknownModelError: the folder has none of that name that may be served.
        """
        name = model_of(file)
        try:
            found = (self._path / file).resolve(strict=True)
            inside = found.parent == self._path and not found.name.startswith(".")
            regular = stat.S_ISREG(found.stat().st_mode)
        except (OSError, RuntimeError):  # missing, or links in a circle
            inside = regular = False
        if not (inside and regular):
            raise UnknownModelError(f"the repository has no model named {name!r}")
        return found

    def place(self, file: str) -> Path:
        """Where a file of this name is asked for, links not followed: they may lead to another file later.

        Raises:
            InputError, UnknownModelError: as `path`, for where it leads to now.
        """
        self.path(file)
        return self._path / file
