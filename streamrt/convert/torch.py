"""A torch module or an exported program as an ONNX graph, made by torch's own exporter. A module's batch is left free.

The graph is serialised without the weights, which stay in the module until they are written.
"""

from __future__ import annotations

import contextlib
import inspect
import io
import logging
import warnings
from collections.abc import Callable, Iterator, MutableMapping, Sequence
from typing import Any

import numpy as np
import onnx_ir
import torch

from streamrt.convert.inputs import Inputs, with_extents
from streamrt.convert.onnx.importer import OnnxSource
from streamrt.convert.weights import Weight
from streamrt.errors import InputError, UnsupportedModelError
from streamrt.graph import Dims, TensorSpec

#: Loggers that write while torch exports a module.
_NOISY = ("torch.onnx", "torch.export", "torch.fx", "onnxscript", "onnx_ir")
#: The most elements of a constant that the exporter's optimiser may compute with.
_SMALL = 1024


def read_module(module: torch.nn.Module, example: Any, inputs: Inputs | None = None) -> OnnxSource:
    """The ONNX graph of ``module`` in evaluation mode, traced with ``example``, a tensor or a tuple of tensors.

    Axis 0 of the first tensor is the batch. So is axis 0 of every other tensor with the same extent. The batch stays
    free. If the module works for one batch only, the example's batch is fixed, with a warning. If ``inputs`` is given,
    the tensors that it names have its extents, of which those with a name are free; the others have the example's.

    Raises:
        TypeError: the example is missing, or is not made of tensors.
        InputError: ``inputs`` does not fit the example.
        UnsupportedModelError: torch cannot export the module, or cannot export it with these extents free.
    """
    args = example if isinstance(example, tuple) else (example,)
    if not args or not all(isinstance(arg, torch.Tensor) for arg in args):
        raise TypeError("packing a torch module needs example=, a tensor or a tuple of tensors to call it with")
    if inputs is not None:
        return _with_extents(module, args, inputs)
    with _evaluation(module), quiet():
        try:
            source = _source(_export(module, *_free_batch(args)))
            # The exporter may fix the example's batch without a warning.
            reason = "" if _is_free(source) else "its shapes fit no other batch"
        except UnsupportedModelError:
            raise
        except Exception as error:  # tracing can raise anything
            reason = cause(error)
        if reason:
            try:
                source = _source(_export(module, args, None))
            except Exception as error:
                raise UnsupportedModelError(f"torch cannot export the module: {cause(error)}") from error
    if reason:
        warnings.warn(
            f"the batch is fixed at {args[0].shape[0]}, as in the example: the module cannot be exported "
            f"with a free batch ({reason})",
            stacklevel=4,
        )
    return source


def read_program(program: torch.export.ExportedProgram, inputs: Inputs | None = None) -> OnnxSource:
    """The ONNX graph of an exported program. The extents that it leaves free stay free; ``inputs`` may fix them.

    Raises:
        InputError: ``inputs`` does not fit the program.
        UnsupportedModelError: torch cannot export the program, or it changes its weights.
    """
    try:
        with torch.no_grad(), quiet():
            source = _source(onnx_program(program))
    except UnsupportedModelError:
        raise
    except Exception as error:  # decompositions can raise anything
        raise UnsupportedModelError(f"torch cannot export the program: {cause(error)}") from error
    source.bind(inputs)
    return source


def onnx_program(program: torch.export.ExportedProgram) -> torch.onnx.ONNXProgram:
    """What torch's exporter makes of an exported program.

    Raises:
        UnsupportedModelError: the program changes its weights when it runs.
        Exception: torch cannot export it.
    """
    found = _export(program)
    # Only the program that torch's exporter made of it has the weights that operators write into.
    assert found.exported_program is not None
    if found.exported_program.graph_signature.buffers_to_mutate:
        raise UnsupportedModelError(
            "the program changes its weights when it runs, as layers in training do: call module.eval() before "
            "torch.export.export"
        )
    return found


def _with_extents(module: torch.nn.Module, args: tuple[torch.Tensor, ...], inputs: Inputs) -> OnnxSource:
    """The module as an ONNX graph with the extents ``inputs``."""
    examples = [TensorSpec(name, tuple(arg.shape)) for name, arg in zip(_names(module, len(args)), args, strict=True)]
    specs = with_extents(examples, inputs)
    for spec, found in zip(specs, examples, strict=True):
        if any(isinstance(dim, int) and dim != extent for dim, extent in zip(spec.dims, found.dims, strict=True)):
            raise InputError(f"inputs: {spec.name!r:.80} has the extents {spec.dims}, but its example {found.dims}")
    larger = [_without_ones(arg, spec.dims) for arg, spec in zip(args, specs, strict=True)]
    dim = torch.export.Dim.DYNAMIC
    free = tuple({axis: dim for axis, name in enumerate(spec.dims) if isinstance(name, str)} for spec in specs)
    try:
        with _evaluation(module), quiet():
            return _source(_export(module, tuple(larger), free), specs)
    except UnsupportedModelError:
        raise
    except Exception as error:
        shown = ", ".join(f"{spec.name} {spec.dims}" for spec in specs)
        raise UnsupportedModelError(f"torch cannot export the module for {shown}: {cause(error)}") from error


def _names(module: torch.nn.Module, count: int) -> list[str]:
    """The names of the first ``count`` parameters of ``forward``, as the exporter has them."""
    names: list[str] = []
    for name, parameter in inspect.signature(module.forward).parameters.items():
        if parameter.kind is parameter.VAR_POSITIONAL:
            names += [f"{name}_{index}" for index in range(count - len(names))]
        else:
            names.append(name)
    return names[:count]


def _without_ones(arg: torch.Tensor, dims: Dims) -> torch.Tensor:
    """The example with 2 in place of each free extent of 1, which tracing treats as a constant."""
    for axis, dim in enumerate(dims):
        if isinstance(dim, str) and arg.shape[axis] == 1:
            arg = torch.cat([arg] * 2, axis)
    return arg


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
    model: torch.nn.Module | torch.export.ExportedProgram,
    args: tuple[torch.Tensor, ...] = (),
    dynamic: tuple[dict[int, Any], ...] | None = None,
) -> torch.onnx.ONNXProgram:
    program = torch.onnx.export(model, args, dynamo=True, dynamic_shapes=dynamic, verbose=False, optimize=False)
    assert program is not None
    return program


def take_weights(program: torch.onnx.ONNXProgram) -> list[tuple[onnx_ir.Value, Any]]:
    """Optimise a graph and remove its weights: the values of the graph that stand for them, and their tensors.

    The optimiser sees no parameter, buffer or large constant: it would copy them, and give the copies other names.
    """
    exported = program.exported_program
    names = exported.state_dict.keys() if exported is not None else ()
    initializers = program.model.graph.initializers
    taken = _take(initializers, lambda name, size: name in names or size > _SMALL)
    program.optimize()
    return taken + _take(initializers, lambda name, size: True)


def _take(
    initializers: MutableMapping[str, onnx_ir.Value], is_taken: Callable[[str, int], bool]
) -> list[tuple[onnx_ir.Value, Any]]:
    """Remove tensors, chosen by their names and sizes."""
    taken = []
    for name, value in list(initializers.items()):
        tensor = value.const_value
        if tensor is None:
            raise UnsupportedModelError(f"torch exported the weight {name!r} without a value")
        if is_taken(name, tensor.size):
            del initializers[name]
            value.const_value = None
            taken.append((value, tensor))
    return taken


def _source(program: torch.onnx.ONNXProgram, specs: Sequence[TensorSpec] = ()) -> OnnxSource:
    """An exported program with its weights; ``specs`` has the names of the free extents of its inputs."""
    weights = {
        str(value.name): Weight(tensor.numpy, tuple(tensor.shape.numpy()), np.dtype(tensor.dtype.numpy()))
        for value, tensor in take_weights(program)
    }
    proto = program.model_proto
    for value, spec in zip(proto.graph.input, specs, strict=bool(specs)):
        for found, dim in zip(value.type.tensor_type.shape.dim, spec.dims, strict=True):
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
def quiet() -> Iterator[None]:
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


def cause(error: BaseException) -> str:
    """The first line of the innermost cause, at most 300 characters."""
    while error.__cause__ is not None:
        error = error.__cause__
    lines = str(error).strip().splitlines()
    return lines[0][:300] if lines else type(error).__name__
