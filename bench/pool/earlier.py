"""An earlier streamrt in an environment of its own, with which the plain LRU of whole models is measured, too.

Its weights files have version 1 of the format, which has float32 only. So it packs models of its own, from the same
arrays. NumPy and the other dependencies are those of this interpreter, so that only streamrt differs.
"""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path

COMMIT = "584cca2"
_PIP = ("pip", "install", "--quiet", "--no-deps", "--disable-pip-version-check")
_ROOT = Path(__file__).parents[2]
#: Seconds that the build may take; with one processor it takes two minutes.
_PATIENCE = 1800


class NotMadeError(RuntimeError):
    """The package cannot be built; the text has the reason."""


def interpreter(data: Path) -> Path:
    """The interpreter that imports the package of `COMMIT`. It is built in ``data`` the first time.

    Building needs what installing a checkout needs: git, a compiler, and setuptools and Cython, which pip fetches.

    Raises:
        NotMadeError: the commit is not in this clone, or its package cannot be built.
    """
    folder = data / f"streamrt-{COMMIT}-{sys.implementation.cache_tag}"
    python, mark = folder / "bin" / "python", folder / "made"
    shared = [entry for entry in sys.path if Path(entry).name in ("site-packages", "dist-packages")]
    made_by = "\n".join([COMMIT, sys.version, *shared])
    if mark.exists() and mark.read_text() == made_by and python.exists():
        return python
    do("git", "-C", str(_ROOT), "cat-file", "-e", f"{COMMIT}^{{commit}}", what=f"this clone has no commit {COMMIT}")
    print(f"building streamrt of commit {COMMIT} in {folder}; this is done once, and takes some minutes", flush=True)
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    source = folder / "streamrt.tar.gz"
    do("git", "-C", str(_ROOT), "archive", "--prefix=streamrt/", "-o", str(source), COMMIT, what="git archive failed")
    do(sys.executable, "-m", "venv", str(folder), what="no environment can be made")
    do(str(python), "-m", *_PIP, str(source), what="the package cannot be built")
    (packages,) = folder.glob("lib/python*/site-packages")
    (packages / "shared.pth").write_text("".join(f"{entry}\n" for entry in shared))
    found = do(str(python), "-P", "-c", "import streamrt; print(streamrt.__file__)", what="it cannot be imported")
    if not Path(found.strip()).is_relative_to(folder):
        raise NotMadeError(f"{python} imports {found.strip()}, which is another package")
    mark.write_text(made_by)
    return python


def do(*command: str, what: str) -> str:
    """The output of a command.

    Raises:
        NotMadeError: it failed; the text begins with ``what``.
    """
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=_PATIENCE, check=False)
    except (OSError, subprocess.TimeoutExpired) as error:
        raise NotMadeError(f"{what}: {error}") from error
    if done.returncode:
        lines = done.stderr.strip().splitlines() or [f"{command[0]} ended with status {done.returncode}"]
        raise NotMadeError(f"{what}: {lines[-1]}")
    return done.stdout
