"""The names of classes, and the classes with the largest values: ``streamrt run --labels``."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from streamrt.engine.inputs import Given
from streamrt.errors import InputError, printable
from streamrt.format.files import open_regular
from streamrt.host.budget import format_size

#: The most bytes of a file of labels: a million classes with names of 60 bytes.
_MOST_BYTES = 64 << 20
#: Classes that are shown for each sample.
_SHOWN = 5
#: Values are probabilities if none is below 0 and each sample's add up to 1 with at most this difference, which is
#: more than float16 rounds.
_ROUNDING = 1e-3


@dataclass(frozen=True, slots=True)
class Ranked:
    """A class of a sample. ``share`` is its probability, from 0 to 1."""

    index: int
    label: str
    share: float


def load_labels(path: Path) -> list[str]:
    """The labels of a text file in UTF-8, a line for each class.

    Raises:
        InputError: the file is too large, or not UTF-8.
        OSError: the file cannot be read.
    """
    with open_regular(str(path)) as fd, open(fd, "rb", closefd=False) as file:
        data = file.read(_MOST_BYTES + 1)
    if len(data) > _MOST_BYTES:
        raise InputError(f"{path}: expected labels of at most {format_size(_MOST_BYTES)}")
    try:
        text = data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise InputError(f"{path}: expected labels in UTF-8, a line for each class: {error.reason}") from None
    lines = [line.removesuffix("\r") for line in text.split("\n")]
    return lines[:-1] if lines[-1] == "" else lines


def ranking(outputs: Mapping[str, Given], labels: Sequence[str]) -> list[list[Ranked]]:
    """The 5 classes of the largest values, for each sample.

    Values that are no probabilities yet go through a softmax.

    Args:
        outputs: by name. One of them is (samples, classes), perhaps with further axes of 1.
        labels: the name of each class.

    Raises:
        InputError: no output, or more than one, has as many classes as there are labels; or a value is not finite.
    """
    fitting = {name: array for name, array in outputs.items() if _classes(array) == len(labels)}
    if len(fitting) != 1:
        shapes = ", ".join(f"{printable(name)} {array.shape}" for name, array in outputs.items())
        raise InputError(
            f"expected one output of (samples, {len(labels)}), as there are {len(labels)} labels; found {shapes:.200}"
        )
    ((name, array),) = fitting.items()
    values = array.reshape(len(array), -1).astype(np.float64)
    if not np.isfinite(values).all():
        raise InputError(f"output {name!r:.80} has values that are not finite: classes cannot be ranked")
    shares = _shares(values)
    found = []
    for row in shares:
        best = np.argsort(-row, kind="stable")[:_SHOWN]
        found.append([Ranked(int(index), labels[index], float(row[index])) for index in best])
    return found


def _classes(array: Given) -> int:
    """The classes of an output; 0 if it has none."""
    return array.shape[1] if array.ndim >= 2 and array.shape[0] and set(array.shape[2:]) <= {1} else 0


def _shares(values: NDArray[np.float64]) -> NDArray[np.float64]:
    """Probabilities (samples, classes), from probabilities or from numbers for a softmax."""
    if values.min() >= 0 and np.abs(values.sum(axis=1) - 1).max() <= _ROUNDING:
        return values
    powers = np.exp(values - values.max(axis=1, keepdims=True))
    return np.asarray(powers / powers.sum(axis=1, keepdims=True))
