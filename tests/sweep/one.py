"""``python -P one.py SOURCE NAME FOLDER``: packs one model and compares it with torch; prints one line of JSON.

FOLDER gets the packed file.
"""

from __future__ import annotations

import json
import sys
import time
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import torch
import zoo

import streamrt

#: The largest error that counts as equal, relative to the largest value of an output.
TOLERANCE = 1e-4


def tensors(result: Any) -> list[Any]:
    """All tensors of a result, which may be nested."""
    if isinstance(result, torch.Tensor):
        return [result]
    values = result.values() if isinstance(result, dict) else result if isinstance(result, list | tuple) else ()
    return [tensor for value in values for tensor in tensors(value)]


def error_of(path: Path, budget: int | None, x: Any, wanted: list[Any]) -> float:
    """The largest error of an output, relative to its largest value; infinite if shapes differ."""
    with streamrt.Model(path, budget) as model:
        result = model(x)
        found = [result[spec.name] for spec in model.outputs] if len(model.outputs) > 1 else [result]
    if [y.shape for y in found] != [y.shape for y in wanted]:
        return float("inf")
    largest = 0.0
    for y, reference in zip(found, wanted, strict=True):
        worst = error_between(y, reference)
        largest = worst if not worst <= largest else largest
    return largest


def measured(source: str, name: str, folder: Path) -> dict[str, Any]:
    """Pack and run a model; returns the facts about it."""
    model, example = zoo.built(source, name)
    x = example[:1]
    with torch.no_grad():
        wanted = [tensor.numpy() for tensor in tensors(model(x))]
    if not all(np.isfinite(y).all() and np.ptp(y) > 0 for y in wanted):
        return {"outcome": "failed", "reason": "torch's answer is constant or not finite: the weights do not fit"}
    began = time.monotonic()
    path = streamrt.pack(model, folder / "model.safetensors", example=example)
    facts: dict[str, Any] = {"pack": round(time.monotonic() - began, 1)}
    facts["parameters"] = sum(parameter.numel() for parameter in model.parameters())
    with streamrt.Model(path, budget=None) as packed:
        least = packed.min_budget(tuple(x.shape))
    facts |= {"least": least, "size": path.stat().st_size}
    facts["error"] = max(error_of(path, budget, x.numpy(), wanted) for budget in (None, least))
    if facts["error"] <= TOLERANCE:
        return facts | {"outcome": "passed"}
    reason = f"the answer differs from torch's by {facts['error']:.1e}"
    if (own := error_of_torch(model, x, wanted)) > TOLERANCE:
        reason += f", and torch's own in float32 from that in float64 by {own:.1e}: the weights magnify rounding"
    return facts | {"outcome": "failed", "reason": reason}


def error_of_torch(model: Any, x: Any, answers: list[Any]) -> float:
    """The largest error of torch's own answers in float32 against those in float64; the model is float64 then."""
    with torch.no_grad():
        exact = [tensor.numpy() for tensor in tensors(model.double()(x.double()))]
    return max(error_between(y, reference) for y, reference in zip(answers, exact, strict=True))


def error_between(y: Any, reference: Any) -> float:
    """The largest error of an output, relative to its largest value."""
    return float(np.abs(y - reference).max() / max(float(np.abs(reference).max()), 1e-30))


def main() -> None:
    """Print the facts, whatever happens."""
    source, name, folder = sys.argv[1:]
    warnings.simplefilter("ignore")
    try:
        facts = measured(source, name, Path(folder))
    except streamrt.UnsupportedModelError as error:
        facts = {"outcome": "failed", "reason": error.problems[0], "problems": len(error.problems)}
    except Exception as error:  # of torch, timm or streamrt
        facts = {"outcome": "failed", "reason": f"{type(error).__name__}: {str(error).strip() or 'no text'}"}
    print(json.dumps(facts))


if __name__ == "__main__":
    main()
