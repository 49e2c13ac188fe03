"""The differences between answers with weights in float32 and in fewer bytes, and the bars that they have to meet."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

#: By type of weights: the most relative RMS of the outputs, the fewest inputs with the same class, and the most bytes
#: of the file as a part of float32's. int8 may change the class of inputs with a small margin, and int4 has no bars.
BARS: Mapping[str, Mapping[str, float]] = {
    "float16": {"rms": 1e-3, "same": 1.0},
    "bfloat16": {"rms": 1e-2, "same": 1.0},
    "int8": {"rms": 5e-2, "same_beyond": 0.99, "bytes": 0.28},
}


def differences(exact: NDArray[np.float32], found: NDArray[np.float32], *, classes: bool) -> dict[str, Any]:
    """What the answers of two models differ by.

    With ``margin``, the best output of an input less the second best, an input is "clear" if its margin exceeds twice
    the largest difference of its own outputs. Then its class cannot change. It is "beyond" if the margin exceeds twice
    the RMS of the differences of all inputs. That leaves inputs whose class can change.

    Args:
        exact: answers with weights in float32, (inputs, ...).
        found: answers with other weights, of the same shape.
        classes: whether outputs are (inputs, classes), of which the largest is the answer.

    Returns:
        ``rms`` and ``largest``: relative to the RMS and to the largest magnitude of ``exact``. With classes also
        ``same``: the share of inputs with the same class; ``clear`` and ``beyond``: the shares of such inputs; and
        ``same_clear`` and ``same_beyond``: the shares of those with the same class, 1 if there is none.
    """
    right = exact.astype(np.float64)
    gap = np.abs(found - right)
    rms = float(np.sqrt(np.mean(gap**2)))
    values: dict[str, Any] = {
        "rms": rms / float(np.sqrt(np.mean(right**2))),
        "largest": float(gap.max() / np.abs(right).max()),
    }
    if classes:
        ordered = np.sort(right, axis=1)
        margin = ordered[:, -1] - ordered[:, -2]
        same = right.argmax(axis=1) == found.argmax(axis=1)
        values["same"] = float(same.mean())
        for name, inputs in (("clear", margin > 2 * gap.max(axis=1)), ("beyond", margin > 2 * rms)):
            values[name] = float(inputs.mean())
            values[f"same_{name}"] = float(same[inputs].mean()) if inputs.any() else 1.0
    return values


def missed(weights: str, values: Mapping[str, float]) -> list[str]:
    """The names of the bars that ``values`` do not meet; what was not measured meets them."""
    found = []
    for name, bar in BARS.get(weights, {}).items():
        value = values.get(name)
        if value is not None and (value < bar if name.startswith("same") else value > bar):
            found.append(name)
    return found
