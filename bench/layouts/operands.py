"""The arrays of a product, its answer in float64, and its layer for the kernels."""

from __future__ import annotations

import ctypes
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from bench.layouts.blocks import in_blocks
from bench.layouts.library import Layer
from bench.layouts.shapes import Shape

Floats = NDArray[np.float32]

#: Bytes of all copies of the weights in a layout: the kernels take one copy after the other, so that they come from
#: memory as in a pass. Small weights stay in caches, as those of a small network do.
_WEIGHTS = 64 << 20
_MOST_COPIES = 256
#: Floats between two copies. The kernels of blocks read up to a vector behind the weights.
_GAP = 16
#: As `streamrt.ops.columns` and `streamrt.ops.gemm` have them.
_SEAT, _SEATS, _SHARE, _BLOCK = 1 << 16, 1 << 19, 1 << 20, 1 << 18
_DEPTH, _COLUMNS = 576, 32
_GROUP, _CHUNK, _WIDE, _FEW = 4, 16, 16, 8
#: Tiles of Winograd's algorithm up to which the lanes are output channels, whatever the layout.
_FEW_TILES = 8


def aligned(*shape: int) -> Floats:
    """Memory that begins on a cache line."""
    raw = np.empty(4 * int(np.prod(shape)) + 64, np.uint8)
    begin = -raw.ctypes.data % 64
    return raw[begin : begin + raw.nbytes - 64].view(np.float32).reshape(shape)


def threads_for(shape: Shape, batch: int, threads: int) -> int:
    return max(1, min(threads, batch * shape.multiply_adds // _SHARE))


def seat_for(shape: Shape, batch: int, threads: int) -> int:
    """Floats of scratch memory of a thread."""
    positions = batch if not shape.size else shape.output**2
    depth = min(shape.inner, _DEPTH)
    most = depth * -(-positions // _COLUMNS) * _COLUMNS
    return max(min(_SEAT, _SEATS // threads, most), depth * _COLUMNS)


def has_few_tiles(shape: Shape, batch: int) -> bool:
    """Whether Winograd's algorithm has so few tiles that its weights are read in another way."""
    return batch * (-(-shape.output // 4)) ** 2 <= _FEW_TILES


@dataclass(slots=True)
class Operands:
    """The arrays of a product for a number of samples. ``weights`` has the copies of each layout."""

    shape: Shape
    batch: int
    x: Floats
    w: Floats
    bias: Floats
    y: Floats
    weights: dict[str, Floats]

    @classmethod
    def of(cls, shape: Shape, batch: int) -> Operands:
        random = np.random.default_rng(0)
        some = random.standard_normal(1 << 16).astype(np.float32)
        spatial = (shape.size, shape.size) if shape.size else ()
        x = aligned(batch, shape.channels, *spatial)
        flat = x.reshape(-1)
        for at in range(0, flat.size, some.size):  # samples differ, because their size is no multiple of this
            flat[at : at + some.size] = some[: flat.size - at]
        w = random.standard_normal((shape.outputs, shape.inner)).astype(np.float32) / np.float32(shape.inner**0.5)
        bias = random.standard_normal(shape.outputs).astype(np.float32)
        y = aligned(batch, shape.outputs, *(shape.output,) * len(spatial))
        copies = max(1, min(_MOST_COPIES, _WEIGHTS // w.nbytes))
        weights = {}
        for name, one in (("plain", w.ravel()), ("blocks", in_blocks(w))):
            apart = -(-(one.size + _GAP) // _CHUNK) * _CHUNK
            weights[name] = aligned(copies, apart)
            weights[name][:, : one.size] = one
        return cls(shape, batch, x, w, bias, y, weights)

    @property
    def nbytes(self) -> int:
        """Of the input and the output."""
        return self.x.nbytes + self.y.nbytes

    def error(self) -> float:
        """The largest error of the last samples of y, relative to their largest value."""
        n = 1 if self.shape.size else min(self.batch, 4)
        right = _answer(self.shape, self.x[-n:].astype(np.float64), self.w.astype(np.float64), self.bias)
        return float(np.abs(self.y[-n:] - right).max() / np.abs(right).max())

    def layer(self, layout: str, threads: int, dense_most: int) -> tuple[Layer, list[Floats]]:
        """The layer, and the arrays that it points to. It is no layer of Winograd's algorithm yet."""
        shape = self.shape
        seats = threads_for(shape, self.batch, threads)
        seat = seat_for(shape, self.batch, seats)
        room = max(_BLOCK, 64 * self.batch)
        x = self.x if shape.size else _samples(self.x, dense_most)
        arrays = [x, self.weights[layout], self.bias, self.y, aligned(seats, seat), aligned(room)]
        pointers = [array.ctypes.data_as(ctypes.POINTER(ctypes.c_float)) for array in arrays]
        numbers = (self.batch, shape.channels, shape.outputs, shape.size, shape.kernel, shape.stride, 0)
        copies, apart = self.weights[layout].shape
        return Layer(*pointers, *numbers, seats, seat, room, copies, apart), arrays


def _samples(x: Floats, dense_most: int) -> Floats:
    """The inputs of a dense layer as its kernel takes them."""
    batch, inner = x.shape
    if batch > dense_most:
        return x
    if batch > _FEW:
        wide = aligned(inner, _WIDE)
        wide[:] = 0
        wide[:, :batch] = x.T
        return wide
    chunks = -(-inner // _CHUNK)
    padded = np.zeros((batch, chunks * _CHUNK), np.float32)
    padded[:, :inner] = x
    groups = [padded[at : at + _GROUP].reshape(-1, chunks, _CHUNK).swapaxes(0, 1) for at in range(0, batch, _GROUP)]
    packed = aligned(batch * chunks * _CHUNK)
    packed[:] = np.concatenate([group.ravel() for group in groups])
    return packed


def _answer(shape: Shape, x: NDArray[np.float64], w: NDArray[np.float64], bias: Floats) -> NDArray[np.float64]:
    """The product in float64, with its activation, Relu."""
    if not shape.size:
        return np.maximum(x @ w.T + bias, 0)
    pad, k, out = shape.kernel // 2, shape.kernel, shape.output
    padded = np.pad(x[0], ((0, 0), (pad, pad), (pad, pad)))
    taps = w.reshape(shape.outputs, shape.channels, k, k)
    end = shape.stride * (out - 1) + 1
    sums = np.zeros((shape.outputs, out * out))
    for i in range(k):
        for j in range(k):
            part = padded[:, i : i + end : shape.stride, j : j + end : shape.stride]
            sums += taps[:, :, i, j] @ part.reshape(shape.channels, -1)
    return np.maximum(sums + bias[:, None], 0).reshape(1, shape.outputs, out, out)
