"""The kernels that are bound to their arrays, as functions that bind and run once."""

from __future__ import annotations

from typing import Any

from streamrt._core import AveragePool, Convolution, Dense, Depthwise, MaxPool, RowMax, RowMean, Window


def conv(
    x: Any,
    w: Any,
    bias: Any,
    residual: Any,
    y: Any,
    window: Window,
    groups: int,
    first: int,
    last: int,
    *rest: Any,
    **scaling: Any,
) -> None:
    """Bind and run a `Convolution`; ``rest`` is scratch, act, alpha, beta."""
    Convolution(x, w, bias, residual, y, window, groups, *rest, **scaling)(first, last)


def winograd(*args: Any) -> None:
    """Run `conv` with Winograd's algorithm."""
    conv(*args, winograd=True)


def depthwise(x: Any, w: Any, bias: Any, y: Any, window: Window, first: int, last: int, *act: Any) -> None:
    """Bind and run a `Depthwise`."""
    Depthwise(x, w, bias, y, window, *act)(first, last)


def max_pool(x: Any, y: Any, window: Window) -> None:
    """Bind and run a `MaxPool`."""
    MaxPool(x, y, window)(0, 1)


def average_pool(x: Any, y: Any, window: Window, count_include_pad: bool) -> None:
    """Bind and run an `AveragePool`."""
    AveragePool(x, y, window, count_include_pad)(0, 1)


def dense(w: Any, x: Any, y: Any, bias: Any, *act: Any) -> None:
    """Bind and run a `Dense`."""
    Dense(w, x, y, bias, *act)(0, w.shape[0])


def dense_wide(w: Any, x: Any, y: Any, bias: Any, *act: Any) -> None:
    """Bind and run a wide `Dense`."""
    Dense(w, x, y, bias, *act, wide=True)(0, w.shape[0])


def row_mean(x: Any, y: Any) -> None:
    """Bind and run a `RowMean`."""
    RowMean(x, y)(0, 1)


def row_max(x: Any, y: Any) -> None:
    """Bind and run a `RowMax`."""
    RowMax(x, y)(0, 1)
