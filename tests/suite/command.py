"""Runs ``python -m bench`` in the checkout."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path


def bench(checkout: Path, *arguments: str | Path) -> subprocess.CompletedProcess[str]:
    """One command of the benchmarks, from end to end."""
    return subprocess.run(
        [sys.executable, "-m", "bench", *arguments],
        cwd=checkout,
        env={name: value for name, value in os.environ.items() if name != "PYTHONSAFEPATH"},
        capture_output=True,
        text=True,
        timeout=600,
        check=False,
    )
