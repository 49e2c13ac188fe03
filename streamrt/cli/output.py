"""What commands print: JSON, and text that fits into the terminal."""

from __future__ import annotations

import json
import math
import shutil
import sys
from collections.abc import Mapping, Sequence
from typing import Any

from streamrt._version import __version__


def print_json(command: str, content: Mapping[str, Any]) -> None:
    """Print one JSON object: ``command`` and ``version``, then ``content``.

    Sizes in it are bytes and times are seconds. JSON has no infinity and no NaN, so they become null.
    """
    found = {"command": command, "version": __version__, **content}
    print(json.dumps(_finite(found), indent=2, allow_nan=False))


def terminal_width() -> int | None:
    """Columns of the terminal that stdout is; None if it is none, so that nothing is shortened there."""
    return shutil.get_terminal_size().columns if sys.stdout.isatty() else None


def _finite(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {key: _finite(each) for key, each in value.items()}
    if isinstance(value, Sequence) and not isinstance(value, str):
        return [_finite(each) for each in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value
