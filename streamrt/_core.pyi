"""Types of the compiled core. The docstrings are in src/bind."""

import os
from collections.abc import Callable, Iterator, Sequence
from types import TracebackType
from typing import Any, Final, NamedTuple, Self, TypeAlias, final

import numpy as np
from numpy.typing import NDArray
from typing_extensions import Buffer, disjoint_base

# ---- mapping and prefetching (src/bind/mapping.pxi, src/bind/prefetch.pxi)

@final
class Mapping:
    path: Final[str]
    io: Final[str]
    size: Final[int]
    identity: Final[tuple[int, int, int, int]]
    def __new__(cls, path: str | bytes | os.PathLike[str] | os.PathLike[bytes], io: str = "mmap") -> Self: ...
    def __len__(self) -> int: ...
    def __enter__(self) -> Self: ...
    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None, /
    ) -> None: ...
    def __buffer__(self, flags: int, /) -> memoryview: ...
    @property
    def closed(self) -> bool: ...
    def check(self) -> None: ...
    def read_ahead(self) -> None: ...
    def unload(self) -> None: ...
    def resident(self, offset: int = 0, length: int | None = None) -> int: ...
    def retire(self) -> None: ...
    def close(self) -> None: ...

class ItemReport(NamedTuple):
    offset: int
    length: int
    pinned: bool
    bytes_read: int
    read_start: int
    read_end: int
    stall: int

@final
class Report:
    def __len__(self) -> int: ...
    def __getitem__(self, key: int, /) -> ItemReport: ...
    def __iter__(self) -> Iterator[ItemReport]: ...
    @property
    def brought(self) -> bool: ...
    @property
    def stall(self) -> int: ...

@final
class Prefetcher:
    def __new__(cls, mapping: Mapping) -> Self: ...
    def __enter__(self) -> Self: ...
    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None, /
    ) -> None: ...
    def schedule(self, items: Sequence[tuple[int, int, bool]], window: int, granule: int) -> None: ...
    def wait(self, i: int) -> None: ...
    def done(self, i: int) -> None: ...
    def finish(self) -> None: ...
    def rewind(self) -> None: ...
    def read_across(self, across: bool) -> None: ...
    def held(self) -> int: ...
    def peak(self) -> int: ...
    def report(self) -> Report: ...
    def close(self) -> None: ...

# ---- kernels (all other files of src/bind): arrays are float32 and C-contiguous, except that a y of dense layers and
# the planes of a Sliding may have gaps between their rows, and that Copies take views of float32 or int64

_Array: TypeAlias = NDArray[np.float32]
_Doubles: TypeAlias = NDArray[np.float64]

ACTIVATIONS: Final[dict[str, int]]

def isa() -> str: ...
def _isas() -> tuple[str, ...]: ...
def _use_isa(name: str) -> None: ...
def set_threads(n: int) -> None: ...
def threads() -> int: ...
def rouse(threads: int) -> None: ...
def widest() -> int: ...
def crc32c(data: Buffer, value: int = 0) -> int: ...
def place_blocks(blocks: list[tuple[int, int, int]], order: list[int]) -> tuple[list[int], int]: ...

@final
class Window:
    def __new__(
        cls,
        kernel: Sequence[int],
        strides: Sequence[int],
        dilations: Sequence[int],
        pads: Sequence[int],
        input: Sequence[int],  # noqa: A002
        output: Sequence[int],
    ) -> Self: ...
    def rows_read(self, first: int, last: int) -> tuple[int, int]: ...

def unary(x: _Array, y: _Array, act: int, alpha: float, beta: float) -> None: ...
def bias_act(y: _Array, bias: _Array | None, act: int, alpha: float, beta: float) -> None: ...
def transpose_bias_act(
    t: _Array,
    y: _Array,
    bias: _Array | None,
    act: int,
    alpha: float,
    beta: float,
) -> None: ...

DENSE_BATCH: Final[int]
DENSE_GROUP: Final[int]
DENSE_CHUNK: Final[int]
DENSE_WIDE: Final[int]
CONV_DEPTH: Final[int]
CONV_COLUMNS: Final[int]

def row_bytes(dtype: str, inner: int, block: int = 0, zeros: bool = False) -> int: ...

@final
class Coded:
    shape: Final[tuple[int, ...]]
    def __new__(
        cls, data: Buffer, dtype: str, shape: tuple[int, ...], block: int | None = None, zeros: bool = False
    ) -> Coded: ...
    def reshape(self, *shape: int) -> Coded: ...
    def rows(self, first: int, last: int) -> Coded: ...
    def decode(self, first: int, last: int, out: _Array) -> None: ...

def dense_most(weights: int) -> int: ...
def products_pay() -> bool: ...
def gemm_pays() -> bool: ...
def scale_shift_act(
    x: _Array,
    scale: _Array,
    shift: _Array,
    y: _Array,
    act: int,
    alpha: float,
    beta: float,
) -> None: ...
def prelu(x: _Array, slope: _Array, y: _Array) -> None: ...
def conv_sums(n: int, groups: int, inner: int, outputs: int, window: Window) -> int: ...
def winograd_seat(n: int, channels: int, outputs: int, window: Window, threads: int = 256) -> int: ...

@disjoint_base
class Kernel:
    def __call__(self, first: int, last: int) -> None: ...

@disjoint_base
class ArrayKernel(Kernel):
    def keep(self, source: _Array, target: _Array) -> None: ...

@final
class Copies(Kernel):
    def __new__(cls, pairs: Sequence[tuple[NDArray[Any], NDArray[Any]]]) -> Copies: ...

@final
class Dense(ArrayKernel):
    def __new__(
        cls,
        w: _Array | Coded,
        x: _Array,
        y: _Array,
        bias: _Array | None,
        act: int,
        alpha: float,
        beta: float,
        *,
        wide: bool = False,
        packing: Copies | None = None,
    ) -> Dense: ...

@final
class Gemm(ArrayKernel):
    def __new__(
        cls,
        x: _Array,
        w: _Array | Coded,
        bias: _Array | None,
        y: _Array,
        block: _Array,
        scratch: _Array,
        act: int,
        alpha: float,
        beta: float,
    ) -> Gemm: ...

@final
class Matrices(ArrayKernel):
    def __new__(
        cls,
        a: _Array,
        b: _Array,
        y: _Array,
        transposed: bool,
        scratch: _Array,
        act: int,
        alpha: float,
        beta: float,
    ) -> Matrices: ...

def attention_rows(pieces: int, rows: int, keys: int, room: int) -> int: ...

@final
class Attention(ArrayKernel):
    def __new__(
        cls,
        q: _Array,
        k: _Array,
        v: _Array,
        mask: _Array | None,
        y: _Array,
        scores: _Array,
        scaled: _Array | None,
        unused: _Array,
        scratch: _Array,
        *,
        scale: float,
        cap: float,
        truth: bool,
        causal: bool,
        offset: int,
        left: int,
        right: int,
        zeros: bool,
    ) -> Attention: ...

@disjoint_base
class Sliding(ArrayKernel): ...

@final
class Band(Kernel):
    def __new__(
        cls,
        kernel: Sliding,
        first: int,
        last: int,
        held: tuple[int, int],
        *,
        x: int = 0,
        y: int = 0,
        residual: int = 0,
    ) -> Band: ...

@final
class MoveRows:
    def __new__(cls, x: _Array) -> MoveRows: ...
    def __call__(self, source: int, target: int, count: int) -> None: ...

@final
class Convolution(Sliding):
    def __new__(
        cls,
        x: _Array,
        w: _Array | Coded,
        bias: _Array | None,
        residual: _Array | None,
        y: _Array,
        window: Window,
        groups: int,
        scratch: _Array,
        act: int,
        alpha: float,
        beta: float,
        *,
        winograd: bool = False,
        sums: _Array | None = None,
        scale: _Array | None = None,
        shift: _Array | None = None,
        low: float = ...,
        high: float = ...,
    ) -> Convolution: ...

@final
class Depthwise(Sliding):
    def __new__(
        cls,
        x: _Array,
        w: _Array,
        bias: _Array | None,
        y: _Array,
        window: Window,
        act: int,
        alpha: float,
        beta: float,
    ) -> Depthwise: ...

@final
class MaxPool(Sliding):
    def __new__(cls, x: _Array, y: _Array, window: Window) -> MaxPool: ...

@final
class AveragePool(Sliding):
    def __new__(cls, x: _Array, y: _Array, window: Window, count_include_pad: bool) -> AveragePool: ...

@final
class RowMean(ArrayKernel):
    def __new__(cls, x: _Array, y: _Array) -> RowMean: ...

@final
class RowMax(ArrayKernel):
    def __new__(cls, x: _Array, y: _Array) -> RowMax: ...

def rows_together(width: int) -> int: ...
def plane_sums(x: _Array, y: _Doubles, begins: bool) -> None: ...
def softmax(x: _Array, y: _Array, log: bool) -> None: ...
def lrn(x: _Array, y: _Array, size: int, alpha: float, beta: float, bias: float) -> None: ...

# ---- a pass (src/bind/steps.pxi)

@final
class Step:
    node: Final[int]
    waits: Final[tuple[int, ...]]
    run: Final[Callable[[int, int], None]]
    first: Final[int]
    last: Final[int]
    dones: Final[tuple[int, ...]]
    def __new__(
        cls,
        node: int,
        waits: tuple[int, ...],
        run: Callable[[int, int], None],
        first: int,
        last: int,
        dones: tuple[int, ...],
    ) -> Step: ...

def run_steps(
    steps: list[Step],
    prefetcher: Prefetcher,
    arrived: Callable[[int], None] | None = None,
    stepped: Callable[[int], object] | None = None,
) -> bytes: ...
