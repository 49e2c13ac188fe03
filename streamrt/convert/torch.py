"""A torch module as an ONNX graph, made by torch's own exporter, with the batch left free.

The graph is serialised without the weights, which stay in the module until they are written.
"""

from __future__ import annotations

import contextlib
import io
import logging
import warnings
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import torch

from streamrt.convert.onnx.importer import OnnxSource
from streamrt.convert.weights import Weight
from streamrt.errors import UnsupportedModelError

#: Loggers that write while torch exports a module.
_NOISY = ("torch.onnx", "torch.export", "torch.fx", "onnxscript", "onnx_ir")


def read_module(module: torch.nn.Module, example: Any, inputs: Sequence[int | str] | None = None) -> OnnxSource:
    """The ONNX graph of ``module`` in evaluation mode, traced with ``example``, a tensor or a tuple of tensors.

    Axis 0 of the first tensor is the batch. So is axis 0 of every other tensor with the same extent. The batch stays
    free. If the module works for one batch only, the example's batch is fixed, with a warning. If ``inputs`` is given,
    it has the extents of the only tensor, and extents with a name are free instead.

    Raises:
        TypeError: the example is missing, is not made of tensors, or does not have the extents ``inputs``.
        UnsupportedModelError: torch cannot export the module, or cannot export it with these extents free.
    """
    args = example if isinstance(example, tuple) else (example,)
    if not args or not all(isinstance(arg, torch.Tensor) for arg in args):
        raise TypeError("packing a torch module needs example=, a tensor or a tuple of tensors to call it with")
    if inputs is not None:
        return _with_free(module, args, inputs)
    with _evaluation(module), _quiet():
        try:
            source = _source(_export(module, *_free_batch(args)))
            # The exporter may fix the example's batch without a warning.
            reason = "" if _is_free(source) else "its shapes fit no other batch"
        except UnsupportedModelError:
            raise
        except Exception as error:  # tracing can raise anything
            reason = _reason(error)
        if reason:
            try:
                source = _source(_export(module, args, None))
            except Exception as error:
                raise UnsupportedModelError(f"torch cannot export the module: {_reason(error)}") from error
    if reason:
        warnings.warn(
            f"the batch is fixed at {args[0].shape[0]}, as in the example: the module cannot be exported "
            f"with a free batch ({reason})",
            stacklevel=4,
        )
    return source


def _with_free(module: torch.nn.Module, args: tuple[torch.Tensor, ...], dims: Sequence[int | str]) -> OnnxSource:
    """The module as an ONNX graph in which the extents with a name in ``dims`` are free."""
    shape = tuple(args[0].shape)
    fits = all(isinstance(dim, str) or dim == extent for dim, extent in zip(dims, shape, strict=False))
    if len(args) != 1 or len(dims) != len(shape) or not fits:
        found = ", ".join(str(tuple(arg.shape)) for arg in args)
        raise TypeError(f"inputs= is {tuple(dims)}, expected the extents of an example of one tensor; found {found}")
    for axis, dim in enumerate(dims):
        if isinstance(dim, str) and args[0].shape[axis] == 1:  # tracing treats an extent of 1 as a constant
            args = (torch.cat([args[0]] * 2, axis),)
    free = {axis: torch.export.Dim.DYNAMIC for axis, dim in enumerate(dims) if isinstance(dim, str)}
    try:
        with _evaluation(module), _quiet():
            return _source(_export(module, args, (free,)), dims)
    except UnsupportedModelError:
        raise
    except Exception as error:
        raise UnsupportedModelError(f"torch cannot export the module for {tuple(dims)}: {_reason(error)}") from error


def _is_free(source: OnnxSource) -> bool:
    """Whether axis 0 of any input is dynamic, or any input has no axes."""
    return any(not spec.dims or isinstance(spec.dims[0], str) for spec in source.inputs)


def _free_batch(args: tuple[torch.Tensor, ...]) -> tuple[tuple[torch.Tensor, ...], tuple[dict[int, Any], ...] | None]:
    """The example and the free axes of each tensor. A batch of 1 is doubled: tracing treats 1 as a constant."""
    if not args[0].ndim:
        return args, None
    batch = args[0].shape[0]
    free = [arg.ndim > 0 and arg.shape[0] == batch for arg in args]
    if batch == 1:
        args = tuple(torch.cat([arg, arg]) if is_free else arg for arg, is_free in zip(args, free, strict=True))
    dim = torch.export.Dim("batch")
    return args, tuple({0: dim} if is_free else {} for is_free in free)


def _export(
    module: torch.nn.Module, args: tuple[torch.Tensor, ...], dynamic: tuple[dict[int, Any], ...] | None
) -> torch.onnx.ONNXProgram:
    program = torch.onnx.export(module, args, dynamo=True, dynamic_shapes=dynamic, verbose=False)
    assert program is not None
    return program


def _source(program: torch.onnx.ONNXProgram, dims: Sequence[int | str] = ()) -> OnnxSource:
    """An exported program with its weights; ``dims`` has the names of the free extents of its input."""
    weights: dict[str, Weight] = {}
    initializers = program.model.graph.initializers
    for name in list(initializers):
        tensor = initializers.pop(name).const_value
        if tensor is None:
            raise UnsupportedModelError(f"torch exported the weight {name!r} without a value")
        weights[name] = Weight(tensor.numpy, tuple(tensor.shape.numpy()), np.dtype(tensor.dtype.numpy()))
    proto = program.model_proto
    if dims:
        for found, dim in zip(proto.graph.input[0].type.tensor_type.shape.dim, dims, strict=True):
            if isinstance(dim, str):
                found.dim_param = dim
    return OnnxSource(proto, weights)


@contextlib.contextmanager
def _evaluation(module: torch.nn.Module) -> Iterator[None]:
    """Put the module into evaluation mode inside the ``with`` statement."""
    training = [part for part in module.modules() if part.training]
    module.eval()
    try:
        with torch.no_grad():
            yield
    finally:
        for part in training:
            part.training = True


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Suppress the exporter's output, warnings and logs inside the ``with`` statement."""
    loggers = [logging.getLogger(name) for name in _NOISY]
    levels = [logger.level for logger in loggers]
    with (
        warnings.catch_warnings(),
        contextlib.redirect_stdout(io.StringIO()),
        contextlib.redirect_stderr(io.StringIO()),
    ):
        warnings.simplefilter("ignore")
        for logger in loggers:
            logger.setLevel(logging.CRITICAL)
        try:
            yield
        finally:
            for logger, level in zip(loggers, levels, strict=True):
                logger.setLevel(level)


def _reason(error: BaseException) -> str:
    """The first line of the innermost cause, at most 300 characters."""
    while error.__cause__ is not None:
        error = error.__cause__
    lines = str(error).strip().splitlines()
    return lines[0][:300] if lines else type(error).__name__
