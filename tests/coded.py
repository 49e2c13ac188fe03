"""Weights in fewer bytes, made from codes, and their exact values: written from the format's text, without its code."""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from streamrt._core import Coded

Bytes = NDArray[np.uint8]
Floats = NDArray[np.float32]


class Example(NamedTuple):
    """Rows of weights: their bytes, and the values that they mean."""

    data: Bytes  # (rows, bytes of a row)
    values: Floats
    dtype: str
    block: int | None
    zeros: bool

    @property
    def coded(self) -> Coded:
        """The weights as kernels take them."""
        return Coded(self.data, self.dtype, self.values.shape, self.block, self.zeros)


def floats(rng: np.random.Generator, type_: str, shape: tuple[int, ...]) -> Example:
    """Random float16 or bfloat16 numbers, among them the smallest, the largest and signed zeros."""
    values = rng.normal(size=shape).astype(np.float32)
    odd = (0.0, -0.0, 6e-8, -6e-5, 65504.0, -65504.0)
    flat = values.reshape(-1)
    flat[: min(6, flat.size) : 2] = odd[: len(flat[: min(6, flat.size) : 2])]
    if type_ == "F16":
        halves = values.astype(np.float16)
        return Example(_rows(halves.view(np.uint16), shape[0]), halves.astype(np.float32), type_, None, False)
    upper = (values.view(np.uint32) >> 16).astype(np.uint16)
    exact = (upper.astype(np.uint32) << 16).view(np.float32)
    return Example(_rows(upper, shape[0]), exact, type_, None, False)


def integers(
    rng: np.random.Generator, type_: str, shape: tuple[int, ...], block: int | None = None, zeros: bool = False
) -> Example:
    """Random codes from the least to the largest, with random scales, some of them negative or zero."""
    low, high = {"int8": (-128, 128), "int4": (-8, 8)}[type_]
    rows, inner = shape[0], math.prod(shape[1:])
    each = block or max(inner, 1)
    blocks = -(-inner // each)
    codes = rng.integers(low, high, size=(rows, inner)).astype(np.int8)
    scales = (rng.normal(size=(rows, blocks)) / high).astype(np.float32)
    scales.reshape(-1)[::7] = 0
    points = rng.integers(-128, 128, size=(rows, blocks)).astype(np.int8) if zeros else np.zeros((rows, blocks), "b")
    spread = [np.repeat(part, each, axis=1)[:, :inner].astype(np.float32) for part in (points, scales)]
    values = (codes.astype(np.float32) - spread[0]) * spread[1]
    parts = [scales.view(np.uint8).reshape(rows, -1)]
    if zeros:
        parts.append(points.view(np.uint8))
    if type_ == "int8":
        parts.append(codes.view(np.uint8))
    else:
        groups = [codes[:, first : first + 32].astype(np.uint8) + np.uint8(8) for first in range(0, inner, 32)]
        for group in groups:
            low, high = group[:, :16], np.zeros((rows, min(16, group.shape[1])), np.uint8)
            high[:, : max(0, group.shape[1] - 16)] = group[:, 16:]
            parts.append(low | high << 4)
    data = np.concatenate(parts, axis=1)
    padded = np.zeros((rows, -(-data.shape[1] // 4) * 4), np.uint8)
    padded[:, : data.shape[1]] = data
    return Example(padded, values.reshape(shape), type_, block, zeros)


def examples(rng: np.random.Generator, shape: tuple[int, ...]) -> Iterator[Example]:
    """Weights of this shape in every type, in blocks of several sizes, with and without zero points."""
    yield floats(rng, "F16", shape)
    yield floats(rng, "BF16", shape)
    if len(shape) == 1:
        return
    for type_, block, zeros in itertools.product(("int8", "int4"), (None, 16, 32, 48, 96), (False, True)):
        yield integers(rng, type_, shape, block, zeros)


def _rows(array: NDArray[np.uint16], rows: int) -> Bytes:
    return np.ascontiguousarray(array).view(np.uint8).reshape(rows, -1)
