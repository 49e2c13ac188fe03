"""Environments of the peers' own. Their packages pin versions of others, so none shares one with streamrt's server."""

from __future__ import annotations

import json
import shutil
import sys
from pathlib import Path

from bench.pool.earlier import do

#: What pip installs for each peer, beside ONNX Runtime. The workers of this MLServer ask uvloop for an event loop that
#: does not run yet, and uvloop makes none from 0.22 on. Without python-multipart LitServe takes no forms.
REQUIREMENTS = {"mlserver": ("mlserver==1.7.1", "uvloop<0.22"), "litserve": ("litserve==0.2.19", "python-multipart")}
_PIP = ("pip", "install", "--quiet", "--disable-pip-version-check")


def interpreter(peer: str, data: Path, onnxruntime: str | None) -> Path:
    """The interpreter that imports a peer and ONNX Runtime. Its environment is made in ``data`` the first time.

    Args:
        peer: a key of `REQUIREMENTS`.
        data: the folder of models.
        onnxruntime: the version of ONNX Runtime; None takes the newest.

    Raises:
        NotMadeError: the packages cannot be installed.
    """
    folder = data / f"serve-{peer}-{sys.implementation.cache_tag}"
    python, mark = folder / "bin" / "python", folder / "made"
    wanted = (*REQUIREMENTS[peer], f"onnxruntime=={onnxruntime}" if onnxruntime else "onnxruntime")
    made_by = "\n".join([*wanted, sys.version])
    if mark.exists() and mark.read_text() == made_by and python.exists():
        return python
    print(f"installing {' and '.join(wanted)} in {folder}; this is done once, and takes some minutes", flush=True)
    shutil.rmtree(folder, ignore_errors=True)
    do(sys.executable, "-m", "venv", str(folder), what="no environment can be made")
    do(str(python), "-m", *_PIP, *wanted, what=f"{peer} cannot be installed")
    do(str(python), "-P", "-c", f"import {peer}, onnxruntime", what="it cannot be imported")
    mark.write_text(made_by)
    return python


def versions(python: Path) -> dict[str, str]:
    """The versions of all packages of an environment."""
    told = do(str(python), "-m", "pip", "list", "--format", "json", what="pip cannot list the packages")
    return {package["name"]: package["version"] for package in json.loads(told)}
