"""Hostile weights files, one for each function: a good file, spoilt in one way.

The functions are in one file for each part of a weights file. ``python -m format.attacks.make``, run in the folder
``tests``, writes the files of this folder; `tests/format/test_attacks.py` checks that they are up to date.
"""

from __future__ import annotations

from format.attacks import codings, container, graph, metadata, tensors  # noqa: F401 - importing them fills ATTACKS
from format.attacks.draft import ATTACKS, FOLDER, SUFFIX, Draft, compact, join

__all__ = ["ATTACKS", "FOLDER", "SUFFIX", "Draft", "compact", "join"]

if __name__ == "__main__":
    for stale in FOLDER.glob(f"*{SUFFIX}"):
        stale.unlink()
    for name, (function, _) in ATTACKS.items():
        (FOLDER / f"{name}{SUFFIX}").write_bytes(function())
