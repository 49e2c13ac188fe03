"""One trained network with each type of weights: the differences of its answers, and the layers that lose most."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

import streamrt
from bench.accuracy import crops, metrics
from bench.accuracy.networks import Network, digits

Floats = NDArray[np.float32]
TYPES = ("float16", "bfloat16", "int8", "int4")
#: Inputs of one call.
_TOGETHER = 16
#: Inputs with which the loss of single layers is measured, and answers compared with the source's.
_FEW = 24
#: What int4 keeps in int8 in the last row: the fewest weights with this share of the sum of squared errors.
_SHARE = 0.75


def network(network: Network, folder: Path, count: int) -> dict[str, Any]:
    """Pack a network with each type of weights, and compare the answers to at most ``count`` inputs.

    Returns:
        ``inputs``: their number. ``error``: the largest difference between streamrt's float32 and the source's own
        framework, relative to the largest output; None without one. ``bytes``: of the float32 file. ``types``: by type
        `metrics.differences`, and ``bytes`` of the file as a part of float32's. ``lost``: for int8 and int4 the weights
        that lose most: `losses`.
    """
    source = network.source()
    x = inputs(network, count)
    plain = folder / "float32.safetensors"
    pack(source, plain, x)
    exact = answers(plain, x)
    few = crops.spread(_FEW, len(x))
    error = None
    if (reference := _reference(source)) is not None:
        wanted = reference(x[few])
        error = float(np.abs(exact[few] - wanted).max() / np.abs(wanted).max())
    size = plain.stat().st_size
    types, lost = {}, {}
    path = folder / "other.safetensors"

    def compare(weights: str, keep: Mapping[str, str] | None = None) -> dict[str, Any]:
        streamrt.pack(plain, path, weights=weights, keep=keep)
        found = metrics.differences(exact, answers(path, x), classes=network.classes)
        return found | {"bytes": path.stat().st_size / size}

    for weights in TYPES:
        types[weights] = compare(weights)
    for weights in ("int8", "int4"):
        lost[weights] = losses(plain, path, weights, x[few], exact[few])
    larger = most(lost["int4"], _SHARE)
    types["int4 and int8"] = compare("int4", dict.fromkeys(larger, "int8")) | {"larger": larger}
    return {"inputs": len(x), "error": error, "bytes": size, "types": types, "lost": lost}


def inputs(network: Network, count: int) -> Floats:
    if network.inputs is None:
        images = digits()
        return images[crops.spread(count, len(images))]
    listed = crops.crops()
    return network.inputs([listed[index] for index in crops.spread(count, len(listed))])


def pack(source: Any, path: Path, x: Floats) -> None:
    """Write ``source`` with weights in float32."""
    if not isinstance(source, str):
        import torch

        streamrt.pack(source, path, example=torch.from_numpy(x[:1]))
    elif source.endswith(".safetensors"):
        streamrt.pack(source, path, weights="float32")
    else:
        import onnx

        model = onnx.load(source)
        for dim, extent in zip(model.graph.input[0].type.tensor_type.shape.dim[1:], x.shape[1:], strict=True):
            dim.dim_value = extent
        streamrt.pack(model, path, weights="float32")


def answers(path: Path, x: Floats) -> Floats:
    """The answers to ``x`` (N, ...): (N, ...)."""
    with streamrt.Model(path, None) as model:
        return np.concatenate([model(x[begin : begin + _TOGETHER]) for begin in range(0, len(x), _TOGETHER)])


def losses(plain: Path, path: Path, weights: str, x: Floats, exact: Floats) -> dict[str, float]:
    """By name of a weight the relative RMS of the outputs if it alone has another type; the largest first.

    Args:
        plain: the file with weights in float32.
        path: of the files that are written and removed.
        weights: the other type.
        x: inputs.
        exact: the answers of ``plain``.
    """
    found = {}
    for name in changed(plain, path, weights):
        streamrt.pack(plain, path, keep={name: weights})
        found[name] = metrics.differences(exact, answers(path, x), classes=False)["rms"]
    return dict(sorted(found.items(), key=lambda item: -item[1]))


def changed(plain: Path, path: Path, weights: str) -> list[str]:
    """The names of the weights that `streamrt.pack` stores as integers with ``weights``."""
    from safetensors import safe_open

    streamrt.pack(plain, path, weights=weights)
    with safe_open(plain, "np") as before, safe_open(path, "np") as after:
        names = list(before.keys())
        floats = [name for name in names if before.get_slice(name).get_dtype() == "F32"]
        return [name for name in floats if after.get_slice(name).get_dtype() == "U8"]


def most(lost: Mapping[str, float], share: float) -> list[str]:
    """The fewest names that have a share of the sum of squares; ``lost`` has the largest first."""
    whole = sum(value**2 for value in lost.values())
    found, part = [], 0.0
    for name, value in lost.items():
        if part >= share * whole or math.isclose(part, share * whole):
            break
        found.append(name)
        part += value**2
    return found


def _reference(source: Any) -> Callable[[Floats], Floats] | None:
    """The source's own framework; none for a weights file."""
    if not isinstance(source, str):
        import torch

        def call(x: Floats) -> Floats:
            with torch.inference_mode():
                return np.asarray(source(torch.from_numpy(x)))

        return call
    if source.endswith(".safetensors"):
        return None
    import onnxruntime

    session = onnxruntime.InferenceSession(source, providers=["CPUExecutionProvider"])
    return lambda x: session.run(None, {session.get_inputs()[0].name: x})[0]
