"""`pack`: a model of another framework, arrays, or an older weights file, into a weights file."""

from __future__ import annotations

import contextlib
import importlib.util
import math
import os
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from streamrt.convert import limits
from streamrt.convert.cases import joined, possible, share_params
from streamrt.convert.check import lowered, settle_outputs, unknown_operators
from streamrt.convert.codings import check_weights, choose, recoded
from streamrt.convert.conditions import examples_of
from streamrt.convert.draft import Draft, DraftNode, legalise_names
from streamrt.convert.early import move_vectors
from streamrt.convert.exported.archive import is_exported
from streamrt.convert.fold.rewrite import rewrite
from streamrt.convert.inputs import Inputs, fixed
from streamrt.convert.layers import Layer, read_layers
from streamrt.convert.limits import MAX_MEMORY, MAX_SECONDS, Limits
from streamrt.convert.quantized import Quantized
from streamrt.convert.weights import Array, Weight
from streamrt.errors import FormatError, LimitError, StreamrtError, UnsupportedModelError
from streamrt.format import (
    INT64,
    UNCODED,
    Coding,
    Segment,
    Source,
    encoded,
    is_weights_file,
    repack,
    write,
)
from streamrt.ops.sizes import OtherCaseError

if TYPE_CHECKING:
    import onnx
    import torch

    from streamrt.convert.onnx.importer import OnnxSource


def pack(
    source: str | os.PathLike[str] | onnx.ModelProto | torch.nn.Module | torch.export.ExportedProgram | Sequence[Layer],
    dest: str | os.PathLike[str],
    *,
    example: Any = None,
    inputs: Inputs | None = None,
    weights: str | None = None,
    keep: Mapping[str, str] | None = None,
    progress: bool = False,
    max_memory: int | str = MAX_MEMORY,
    max_seconds: float = MAX_SECONDS,
) -> Path:
    """Convert a model and write it as a weights file. One tensor is in memory at a time.

    Extents that an ONNX model leaves free stay free. The graph is lowered for example sizes, and refused if it fits
    none of them. A weights file is written anew in the present version of the format, with the same values bit for bit
    unless ``weights`` or ``keep`` says otherwise.

    Args:
        source: the path of an ONNX file, of a ``.pt2`` file (``torch.export.save``) or of a weights file, an
            ``onnx.ModelProto``, a ``torch.nn.Module``, a ``torch.export.ExportedProgram``, or a list of `Layer`. No
            code of a file runs: another process exports the checked program of a ``.pt2`` file.
        dest: the file to write. It appears when it is complete, and replaces a file of that name.
        example: for a torch module, the tensor or tuple of tensors that it is called with. Axis 0 of each is the batch,
            which stays free.
        inputs: the extents of inputs by name, with names for those that are free: ``{"images": ("N", 3, 224, 224)}``;
            or the extents alone if the model has one input. They take the place of those that the source declares:
            they fix or free extents of an ONNX model, and free more extents of a torch module than the batch. Its
            inputs have the names of the parameters of ``forward``. A list of layers, whose input is ``"input"``, needs
            it unless the first layer is a ``Gemm``. For a weights file it can only fix extents: the values that packing
            computed from the others are in the file. It can fix and rename those that a program leaves free.
        weights: how to store the weights of dense layers and convolutions, and embeddings: ``"float32"``,
            ``"float16"``, ``"bfloat16"``, ``"int8"`` (a scale for each output row) or ``"int4"`` (a scale for each 32
            weights of a row). Arithmetic stays float32. The smallest of these weights, 2 % of them,
            are stored in more bytes: as float16 with integers, else as float32. So are the weights of depthwise
            convolutions. None stores what the source has: float16 and bfloat16, unless a scale is folded into them; and
            the integers of an ONNX model (``DequantizeLinear`` of a constant, ``MatMulNBits``) with the same codes,
            scales and zero points, if a scale is for the tensor, for an output row, or for a block of 16, 32, 48 ...
            weights of a row. Biases, and weights that something else reads, are not affected: they stay as they are in
            a weights file or integers in an ONNX model, and become float32 otherwise. Rows of fewer than 16 or more
            than 2**22 weights do not become integers.
        keep: the types of single weights, by their names in the weights file: ``{"head.weight": "float16"}``.
        progress: show a progress bar.
        max_memory: bytes, or a size such as ``"1GiB"``. Packing may hold as many bytes of computed constants at once,
            beyond 3 times the model's own weights as float32. The file may have 8 times as many bytes of them.
        max_seconds: seconds of processor time that converting and computing may take in the calling thread, at most
            1,000,000. Each 32 MiB of the model's own weights adds one second. Exporting a torch module, reading and
            writing do not count. Exporting a ``.pt2`` file may take 12 to 60 times as long, by its nodes.

    Returns:
        The path of the file.

    Raises:
        UnsupportedModelError: streamrt cannot run the model. The text names every node and attribute that it cannot
            run. Nothing has been written.
        FormatError: the model is malformed, its shapes do not fit together, a weights file is damaged, or a weight is
            beyond the type that it shall have; nothing has been written.
        LimitError: the model needs more than ``max_memory`` or ``max_seconds``; nothing has been written. It is a
            `FormatError`.
        InputError: ``max_memory`` or ``max_seconds`` is not a number above 0, or too large; ``inputs`` names no input,
            or has other extents than it can have; ``weights`` is no type of weights; or ``keep`` names no weight, or a
            type that does not fit it.
        WeightsIOError: a file of the model cannot be read, or has changed meanwhile; nothing has been written.
        ImportError: the source needs the ``onnx`` or ``torch`` package.
    """
    allowed = Limits(max_memory, max_seconds)
    check_weights(weights, keep)
    path = Path(dest)
    with allowed.in_force():
        if isinstance(source, list | tuple):
            layers = list(source)
            if not all(isinstance(layer, Layer) for layer in layers):
                found = next(type(layer).__name__ for layer in layers if not isinstance(layer, Layer))
                raise TypeError(f"the list has an element of type {found}, expected a list of streamrt.Layer")
            draft = read_layers(layers, inputs)
            allowed.add_own(4 * sum(weight.size for weight in draft.params.values()))
            _pack(lambda: [draft], path, progress, weights, keep)
            return path
        if kind := _torch_kind(source):
            if kind == "program" and example is not None:
                raise TypeError("an exported program has its own shapes: leave example= out")
            graph = _torch_source(source, kind, example, inputs)
        elif example is not None:
            raise TypeError("example= is for a torch module: leave it out for other sources")
        elif isinstance(source, str | os.PathLike) and is_weights_file(source):
            codings = partial(recoded, weights=weights, keep=keep)
            repack(source, path, choose=codings, change=partial(fixed, inputs=inputs), progress=progress)
            return path
        elif isinstance(source, str | os.PathLike) and is_exported(source):
            graph = _exported_source(Path(source), inputs)
        elif isinstance(source, str | os.PathLike):
            graph = _onnx_source(Path(source), inputs)
        elif type(source).__name__ == "ModelProto":
            graph = _onnx_source(source, inputs)
        else:
            raise TypeError(
                f"cannot pack {type(source).__name__}: expected the path of an ONNX file, a .pt2 file or a weights "
                "file, an onnx.ModelProto, a torch.nn.Module, a torch.export.ExportedProgram or a list of "
                "streamrt.Layer"
            )
        with contextlib.closing(graph), _as_format_error():
            _pack(graph.convert, path, progress, weights, keep, graph.check)
    return path


def _pack(
    convert: Callable[[], list[Draft]],
    dest: Path,
    progress: bool,
    weights: str | None,
    keep: Mapping[str, str] | None,
    check: Callable[[], None] | None = None,
) -> None:
    """Convert and write; ``check`` raises if a file with weights has changed since it was opened."""
    with limits.current().computing():
        drafts = possible(partial(_folded, draft) for draft in convert())
        nodes = [node for draft in drafts for node in draft.nodes]
        share_params(drafts)
        legalise_names(drafts)
        params = {name: weight for draft in reversed(drafts) for name, weight in draft.params.items()}
        _check_size(nodes, params)
        graph = joined(drafts)
        graph.check(params)
        shapes = {name: weight.shape for name, weight in params.items()}
        present = {name: _smaller(weight) for name, weight in params.items()}
        others = {name: coding for name, coding in present.items() if coding.is_integer or coding == INT64}
        codings = choose(nodes, shapes, present, weights, keep, others)
    if check is not None:
        check()
    write(dest, graph, _segments(nodes, params, codings, check), progress=progress)


def _smaller(weight: Weight) -> Coding:
    """How the source has a weight, unless that takes more bytes than float32, as short rows of integers do."""
    coding = weight.coding
    saves = not coding.is_integer or math.prod(coding.stored(weight.shape)[1]) < 4 * weight.size
    return coding if saves else UNCODED


@contextlib.contextmanager
def _as_format_error(what: str = "the ONNX model") -> Iterator[None]:
    """Turn an exception of another package into a `FormatError`: a malformed model can cause any exception."""
    try:
        yield
    except (StreamrtError, MemoryError, Warning):
        raise
    except Exception as error:
        text = " ".join(str(error).split())[:300]
        raise FormatError(f"{what} cannot be converted: {type(error).__name__}: {text}") from error


def _torch_kind(source: object) -> str:
    """``"module"`` or ``"program"`` for an object of torch; empty for others."""
    torch = sys.modules.get("torch")  # without it in memory, ``source`` cannot be an object of torch
    if torch is None:
        return ""
    if isinstance(source, torch.nn.Module):
        return "module"
    return "program" if isinstance(source, torch.export.ExportedProgram) else ""


def _onnx_source(source: Any, inputs: Inputs | None) -> OnnxSource:
    try:
        from streamrt.convert.onnx.importer import OnnxSource
    except ImportError as error:
        raise ImportError("packing an ONNX model needs the onnx package: pip install 'streamrt[onnx]'") from error
    with _as_format_error():
        return OnnxSource(source, inputs=inputs)


def _exported_source(path: Path, inputs: Inputs | None) -> OnnxSource:
    try:
        from streamrt.convert.exported.source import read_exported
    except ImportError as error:
        raise ImportError("packing a .pt2 file needs the onnx package: pip install 'streamrt[torch]'") from error
    for package in ("torch", "onnxscript"):  # another process imports them
        if importlib.util.find_spec(package) is None:
            raise ImportError(f"packing a .pt2 file needs the {package} package: pip install 'streamrt[torch]'")
    with _as_format_error("the exported program"):
        return read_exported(path, inputs)


def _torch_source(source: Any, kind: str, example: Any, inputs: Inputs | None) -> OnnxSource:
    try:
        from streamrt.convert.torch import read_module, read_program
    except ImportError as error:
        raise ImportError("packing a torch module needs the onnx package too: pip install 'streamrt[torch]'") from error
    return read_program(source, inputs) if kind == "program" else read_module(source, example, inputs)


def _folded(draft: Draft) -> Draft:
    """The draft, rewritten. It is lowered before and after, so that a graph that cannot run is refused.

    Raises:
        UnsupportedModelError: an operator is not supported.
        FormatError: the graph runs with none of the examples. A `LimitError` is raised rather than another error, else
            the error of the first example that leads to this case, if any does.
    """
    if problems := unknown_operators(draft):
        raise UnsupportedModelError(problems)
    refused: list[FormatError] = []
    for example in examples_of(draft):
        try:
            program = lowered(draft, example)
        except FormatError as error:
            refused.append(error.with_traceback(None))
            continue
        rewrite(draft, program.shapes)
        program = lowered(draft, example)
        settle_outputs(draft, program, example)
        move_vectors(draft, program.shapes)
        return draft
    refused.sort(key=lambda error: (not isinstance(error, LimitError), isinstance(error, OtherCaseError)))
    raise refused[0]


def _check_size(nodes: Sequence[DraftNode], params: Mapping[str, Weight]) -> None:
    """Raise `LimitError` if the file would have too many weights: see `Limits.check_written`."""

    def added(node: DraftNode) -> int:
        return sum(params[name].size for name in node.inputs if name in params)

    largest = max(nodes, key=added, default=None)
    if largest is not None:
        with limits.current().at(f"node {largest.name!r} ({largest.op})"):
            limits.current().check_written(4 * sum(weight.size for weight in params.values()))


def _segments(
    nodes: Sequence[DraftNode],
    params: Mapping[str, Weight],
    codings: Mapping[str, Coding],
    check: Callable[[], None] | None,
) -> list[Segment]:
    """The weights in execution order: a segment for each node that is the first to read any.

    Small weights come first in a segment, because the first tile needs the whole bias.
    """
    written: set[str] = set()
    segments = []
    for node in nodes:
        names = [name for name in dict.fromkeys(node.inputs) if name in params and name not in written]
        names.sort(key=lambda name: params[name].size)
        written.update(names)
        if names:
            segments.append(Segment(tensors=[_source(name, params[name], codings[name], check) for name in names]))
    return segments


def _source(name: str, weight: Weight, coding: Coding, check: Callable[[], None] | None) -> Source:
    def chunks() -> Iterator[Array | NDArray[np.uint8]]:
        with limits.current().at(f"weight {name!r}"):
            if isinstance(weight, Quantized) and coding == weight.coding != UNCODED:
                yield from weight.stored(name)
            elif coding == INT64:
                yield from (block.view(np.uint8) for block in weight.integer_blocks())
            else:
                yield from encoded(coding, name, weight.shape, weight.blocks())
        if check is not None:
            check()

    return Source(name=name, shape=weight.shape, chunks=chunks, coding=coding)
