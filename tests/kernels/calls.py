"""The kernels that are bound to their arrays, as functions that bind and run once."""

from __future__ import annotations

from typing import Any

from streamrt._core import AveragePool, Convolution, Depthwise, MaxPool, Window


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
