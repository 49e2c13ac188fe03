"""The model repository: the folder of weights files, from which all models come.

A client's text becomes part of a path only if it matches a pattern that allows neither ``/`` nor a leading dot.
"""

from __future__ import annotations

import errno
import re
import stat
from pathlib import Path

from streamrt.errors import InputError, UnknownModelError

_SUFFIX = ".safetensors"
#: Errors for a file that is not there; others, such as EIO, may pass.
_MISSING = (errno.ENOENT, errno.ENOTDIR, errno.ELOOP)
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,127}", re.ASCII)


def check_name(name: object) -> str:
    """``name``, if it is valid: at most 128 letters, digits and ``._-``, with a letter or digit first.

    Raises:
        InputError: no model can have this name.
    """
    if not isinstance(name, str) or not _NAME.fullmatch(name):
        raise InputError(
            "expected a model name of at most 128 letters, digits, '.', '_' and '-', with a letter or digit first, "
            f"found {name!r:.140}"
        )
    return name


def file_of(name: str) -> str:
    """The name of the file with the model of this name."""
    return f"{check_name(name)}{_SUFFIX}"


def model_of(file: object) -> str:
    """The name of the model in the file of this name.

    Raises:
        InputError: ``file`` is not the name of a weights file.
    """
    name = file.removesuffix(_SUFFIX) if isinstance(file, str) and file.endswith(_SUFFIX) else None
    if name is None:
        raise InputError(f"expected the name of a file of the repository, which ends in {_SUFFIX}, found {file!r:.140}")
    return check_name(name)


def _missing(name: str) -> UnknownModelError:
    return UnknownModelError(f"the repository has no model named {name!r}")


class Folder:
    """The weights files of a folder, without files of subfolders.

    Only regular files that are not hidden count, and links to such files of the same folder.
    """

    def __init__(self, path: Path) -> None:
        self._path = path.resolve(strict=True)
        if not self._path.is_dir():
            raise NotADirectoryError(f"{path}: expected a folder of weights files, found a file")

    def models(self) -> list[str]:
        """The names of all models of the folder, sorted."""
        found = []
        for entry in self._path.iterdir():
            try:
                name = model_of(entry.name)
                self.path(entry.name)
            except (InputError, UnknownModelError):
                continue
            found.append(name)
        return sorted(found)

    def join(self, file: str) -> str:
        """The path of a file that `path` has returned once, with links not followed. The file may be gone by now."""
        return f"{self._path}/{file}"

    def path(self, file: str) -> Path:
        """The path of the file of this name, with links followed.

        Raises:
            InputError: ``file`` is not the name of a weights file.
            UnknownModelError: the folder has no file of this name that may be served.
        """
        name = model_of(file)
        try:
            found = (self._path / file).resolve(strict=True)
            inside = found.parent == self._path and not found.name.startswith(".")
            regular = stat.S_ISREG(found.stat().st_mode)
        except (OSError, RuntimeError) as error:  # the file is missing, or links form a cycle
            raise _missing(name) from error
        if not (inside and regular):
            raise _missing(name)
        return found

    def has_lost(self, file: str) -> bool:
        """Whether the folder has no file of this name that may be served. An error of the disk does not tell that."""
        try:
            self.path(file)
        except UnknownModelError as error:
            return not (isinstance(error.__cause__, OSError) and error.__cause__.errno not in _MISSING)
        return False

    def place(self, file: str) -> Path:
        """The path of the file of this name, with links not followed: they may lead to another file later.

        Raises:
            InputError, UnknownModelError: as `path`, for the file that the path leads to now.
        """
        self.path(file)
        return self._path / file
