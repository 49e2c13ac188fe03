"""A checked program as an ONNX graph: a module calls its operators one after the other, and torch traces the module.

So nothing that the file says of shapes inside the program has to be true, and names of the file never reach torch:
torch makes Python code of them. The names of inputs and weights are put into the finished graph.
"""

from __future__ import annotations

import math
import mmap
import operator
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import onnx_ir
import torch

from streamrt.convert.exported.operators import FUNCTIONS
from streamrt.convert.torch import onnx_program, quiet, take_weights
from streamrt.errors import FormatError
from streamrt.format import FileIdentity

#: Types by the numbers that torch's schema has for them.
_DTYPES = {
    1: torch.uint8,
    2: torch.int8,
    3: torch.int16,
    4: torch.int32,
    5: torch.int64,
    6: torch.float16,
    7: torch.float32,
    8: torch.float64,
    12: torch.bool,
    13: torch.bfloat16,
}
_MEMORY_FORMATS = {
    1: torch.contiguous_format,
    2: torch.channels_last,
    3: torch.channels_last_3d,
    4: torch.preserve_format,
}
_LAYOUTS = {7: torch.strided}
_MODULES = {"_operator": operator, "math": math, "torch": torch}
_ATEN = "torch.ops.aten."


def onnx_model(request: dict[str, Any]) -> bytes:
    """The serialised ONNX model of a request of `process.export`, without weights.

    Raises:
        Exception: torch cannot trace or export the program, or an extent is not free as the file says.
    """
    inputs, weights = request["inputs"], request["weights"]
    args = tuple(
        torch.zeros([dim if isinstance(dim, int) else dim[1] for dim in dims], dtype=_DTYPES[dtype])
        for _, dtype, dims in inputs
    )
    free = tuple(
        {axis: torch.export.Dim.AUTO for axis, dim in enumerate(dims) if not isinstance(dim, int)}
        for _, _, dims in inputs
    )
    with torch.no_grad(), quiet():
        torch.set_num_threads(1)
        module = _Program(request)
        program = torch.export.export(module, args, dynamic_shapes=(free,) if args else None, strict=False)
        found = onnx_program(program)
        graph = found.model.graph
        stored = {id(graph.initializers[name].const_value): name for name in graph.initializers}
        taken = take_weights(found)
    _make_room(graph, {*weights, *(name for name, _, _ in inputs)}, [value for value, _ in taken])
    names = {f"w{number}": name for number, name in enumerate(weights)}
    for value, tensor in taken:
        name = names.get(stored.get(id(tensor), ""))
        if name is not None:
            value.name = name
        else:  # a number of the program, or computed by the optimiser
            value.const_value = tensor
            graph.initializers.add(value)
    _name_inputs(graph, inputs)
    for node in graph.all_nodes():
        node.metadata_props.clear()
    model: bytes = found.model_proto.SerializeToString()
    return model


class _Program(torch.nn.Module):
    """Calls the operators of a request."""

    def __init__(self, request: dict[str, Any]) -> None:
        super().__init__()
        self._nodes = request["nodes"]
        self._outputs = request["outputs"]
        self._names = []
        first: dict[str, str] = {}
        for number, (name, tensor) in enumerate(zip(request["weights"], _tensors(request), strict=True)):
            if name not in first:  # otherwise two weights share their values
                first[name] = f"w{number}"
                self.register_buffer(first[name], tensor)
            self._names.append(first[name])

    def forward(self, *args: torch.Tensor) -> tuple[Any, ...]:
        values: dict[int, Any] = dict(enumerate([*(getattr(self, name) for name in self._names), *args]))
        for target, arguments, results in self._nodes:
            given = [(name, _value(argument, values)) for name, argument in arguments]
            _keep(results, _call(target, given), values)
        return tuple(values[number] for number in self._outputs)


def _tensors(request: dict[str, Any]) -> list[torch.Tensor]:
    """The weights, in the mapped file."""
    if not request["tensors"]:
        return []
    with Path(request["file"]).open("rb") as file:
        data = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
    if not FileIdentity(*request["identity"]).is_at(request["file"]):
        raise FormatError("the file has changed since it was opened")
    stored = torch.frombuffer(data, dtype=torch.uint8)
    found = []
    for dtype, shape, strides, offset in request["tensors"]:
        length = 1 + sum((extent - 1) * stride for extent, stride in zip(shape, strides, strict=True))
        if not math.prod(shape):
            found.append(torch.empty(shape, dtype=_DTYPES[dtype]))
            continue
        size = _DTYPES[dtype].itemsize
        values = stored[offset : offset + length * size]
        if offset % size:  # another program wrote the zip archive; torch does not take such a view
            values = values.clone()
        found.append(values.view(_DTYPES[dtype]).as_strided(shape, strides))
    return found


def _call(target: str, given: Sequence[tuple[str, Any]]) -> Any:
    """The results of an operator, or of a function of extents."""
    if target in FUNCTIONS:
        module, name = target.split(".")
        result = getattr(_MODULES[module], name)(*(value for _, value in given))
        if isinstance(result, int) and abs(result) >= 2**63:
            raise OverflowError(f"{target}: the result has over 63 bits")
        return result
    name, overload = target.removeprefix(_ATEN).split(".")
    packet = getattr(torch.ops.aten, name)
    if overload not in packet.overloads():
        raise ValueError(f"{target}: this torch has no such operator")
    function: torch._ops.OpOverload[..., Any] = getattr(packet, overload)
    arguments = {name: value for name, value in given if name != "pin_memory"}
    positional: list[Any] = []
    keywords: dict[str, Any] = {}
    is_positional = True
    for parameter in function._schema.arguments:
        is_positional &= parameter.name in arguments and not parameter.kwarg_only
        if is_positional:
            positional.append(arguments.pop(parameter.name))
        elif parameter.name in arguments:
            keywords[parameter.name] = arguments.pop(parameter.name)
    if arguments:
        raise ValueError(f"{target} has no argument {next(iter(arguments))!r:.80}")
    return function(*positional, **keywords)


def _value(argument: Any, values: dict[int, Any]) -> Any:
    """The value of an argument as `Program` describes it."""
    if isinstance(argument, list):
        return [_value(each, values) for each in argument]
    if not isinstance(argument, dict):
        return argument
    ((kind, number),) = argument.items()
    if kind == "device":
        return torch.device("cpu")
    return {"value": values, "dtype": _DTYPES, "memory_format": _MEMORY_FORMATS, "layout": _LAYOUTS}[kind][number]


def _keep(results: Any, found: Any, values: dict[int, Any]) -> None:
    """Give the results of a node their numbers."""
    if isinstance(results, int):
        values[results] = found
    elif isinstance(results, list) and results:
        for number, value in zip(results, found, strict=True):
            _keep(number, value, values)


def _make_room(graph: onnx_ir.Graph, names: set[str], constants: Sequence[onnx_ir.Value]) -> None:
    """Rename values of the graph, and ``constants``, that have one of ``names``."""
    values = [*constants, *(value for node in graph.all_nodes() for value in node.outputs)]
    taken = names | {str(value.name) for value in values}
    for value in values:
        name = str(value.name)
        if name in names:
            while name in taken:
                name += "_"
            taken.add(name)
            value.name = name


def _name_inputs(graph: onnx_ir.Graph, inputs: Sequence[Any]) -> None:
    """Give the inputs and their free extents the names that the file has for them."""
    names: dict[str, str] = {}
    for value, (name, _, dims) in zip(graph.inputs, inputs, strict=True):
        for axis, dim in enumerate(dims):
            if isinstance(dim, int):
                continue
            if value.shape is None:
                raise ValueError(f"torch made no shape of input {name!r:.80}")
            found = value.shape[axis]
            if isinstance(found, int):
                raise ValueError(f"axis {axis} of input {name!r:.80} is free in the file, but nodes fix it at {found}")
            value.shape[axis] = names.setdefault(str(found), dim[0] or f"{name}_{axis}")
        value.name = name
