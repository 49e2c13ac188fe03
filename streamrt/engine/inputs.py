"""Inputs of a call: checked against the model's, and copied to and from the workspace."""

from __future__ import annotations

import operator
from collections.abc import Iterator, Mapping, Sequence, Sized
from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray

from streamrt._core import Copies
from streamrt.engine.foreign import Foreign, Readable
from streamrt.errors import InputError, printable
from streamrt.graph import Graph, TensorSpec
from streamrt.ops import Array, Shape
from streamrt.ops.cast import to_integers

#: The most inputs that an error's text names, so that it stays short.
_SHOWN = 20
#: Threads share the copy of an input of so many bytes. Fewer are copied before a second thread is awake.
_SHARED = 1 << 18
#: An array that a caller gives or gets, of the input's or output's type.
Given = NDArray[Any]
Result = NDArray[Any]
Inputs = Mapping[str, Given | Readable]
#: What a call takes.
Feed = Given | Readable | Inputs
#: The same after it was checked.
Source = Given | Foreign
Target = Result | Foreign
Shapes = Shape | Mapping[str, Shape]
A = TypeVar("A", bound=Sized)
T = TypeVar("T")


def requested_graph(graph: Graph, outputs: Sequence[str] | None) -> Graph:
    """The part of ``graph`` that computes ``outputs``; all of it for None.

    Raises:
        InputError: a name that the graph does not compute.
    """
    if outputs is None:
        return graph
    names = tuple(outputs) if isinstance(outputs, (list, tuple)) else ()
    if not names or not all(isinstance(name, str) for name in names) or len(set(names)) != len(names):
        raise InputError(f"outputs: expected a list of different tensor names, found {outputs!r:.200}")
    try:
        return graph.subgraph(names)
    except KeyError as unknown:
        raise InputError(f"outputs: the graph computes no tensor named {unknown}") from None


def check_inputs(x: Feed, specs: Sequence[TensorSpec], needed: Sequence[TensorSpec]) -> dict[str, Source]:
    """The arrays of the inputs ``needed``, by name; ``specs`` are all inputs of the model.

    Raises:
        InputError: a name, shape or dtype does not fit; the text says which was expected.
    """
    given = _by_name(x, specs)
    arrays: dict[str, Source] = {}
    for spec in needed:
        if spec.name not in given:
            raise InputError(f"input {spec.name!r} is missing; the model has {describe(specs)}")
        value = given[spec.name]
        array = Foreign(value, f"input {spec.name!r}") if Foreign.may_be(value) else value
        if not isinstance(array, (np.ndarray, Foreign)) or array.dtype != spec.dtype:
            found = f"one of {array.dtype}" if isinstance(array, (np.ndarray, Foreign)) else f"a {type(array).__name__}"
            hint = f"numpy.asarray(x, {spec.dtype!r}) makes one"
            raise InputError(f"input {spec.name!r}: expected a NumPy array of {spec.dtype}, found {found}; {hint}")
        arrays[spec.name] = array
    check_shapes({name: array.shape for name, array in arrays.items()}, needed)
    return arrays


def check_shapes(shapes: Mapping[str, Shape], specs: Sequence[TensorSpec]) -> None:
    """Raise `InputError` unless ``shapes`` has each of ``specs``, and extents of the same name are equal."""
    free: dict[str, int] = {}
    for spec in specs:
        if spec.name not in shapes:
            raise InputError(f"input {spec.name!r} is missing; expected {describe(specs)}")
        shape = shapes[spec.name]
        bound = {dim: free[dim] for dim in spec.dims if isinstance(dim, str) and dim in free}
        fits = len(shape) == len(spec.dims) and min(shape, default=1) > 0
        for extent, dim in zip(shape, spec.dims, strict=False):
            fits = fits and extent == (free.setdefault(dim, extent) if isinstance(dim, str) else dim)
        if not fits:
            note = f" with {bound}" if bound else ""
            raise InputError(f"input {spec.name!r}: expected shape {_dims(spec)}{note}, found {tuple(shape)}")


def resolve_shapes(shapes: Shapes | None, specs: Sequence[TensorSpec]) -> dict[str, Shape]:
    """Shapes by input name. The caller gave one shape, several by name, or None for a batch of one.

    Raises:
        InputError: they do not fit ``specs``.
    """
    given = default_shapes(specs) if shapes is None else _by_name(shapes, specs)
    try:
        found = {name: tuple(operator.index(extent) for extent in shape) for name, shape in given.items()}
    except TypeError:
        raise InputError(f"expected shapes as tuples of integers, found {shapes!r:.200}") from None
    check_shapes(found, specs)
    return {spec.name: found[spec.name] for spec in specs}


def default_shapes(specs: Sequence[TensorSpec]) -> dict[str, Shape]:
    """The shapes of a batch of one.

    Raises:
        InputError: an extent other than the first is free.
    """
    for spec in specs:
        if any(isinstance(dim, str) for dim in spec.dims[1:]):
            raise InputError(f"input {spec.name!r} has free extents {_dims(spec)}: say which shape is meant")
    return {spec.name: tuple(1 if isinstance(dim, str) else dim for dim in spec.dims) for spec in specs}


def batch_of(shapes: Mapping[str, Shape], specs: Sequence[TensorSpec]) -> int:
    """The extent of the batch: the first axis, if it is free and common to all inputs. 0 if there is no such axis."""
    names = {spec.dims[0] if spec.dims else None for spec in specs}
    if len(names) != 1 or not isinstance(next(iter(names)), str):
        return 0
    return shapes[specs[0].name][0]


def with_batch(shapes: Mapping[str, Shape], batch: int) -> dict[str, Shape]:
    """``shapes`` with another extent of the first axis."""
    return {name: (batch, *shape[1:]) for name, shape in shapes.items()}


def copy_in(parts: Sequence[Source], begin: int, target: Array) -> None:
    """Fill ``target`` with rows of ``parts``, joined along the first axis, from row ``begin`` on.

    ``parts`` may have another type: NumPy converts a few thousand values at a time. Rows of ``target`` behind the last
    row of ``parts`` become zero.
    """
    if len(parts) == 1 and target.shape == parts[0].shape:
        _fill(target, parts[0], ...)
        return
    for part, rows, covered in _overlaps(parts, begin, target):
        _fill(target[covered], part, rows)
    target[max(0, sum(map(len, parts)) - begin) :] = 0


def _fill(target: Array, source: Source, place: Any) -> None:
    """Copy ``source[place]`` to ``target``."""
    if not isinstance(source, np.ndarray) or source.dtype != target.dtype:
        with np.errstate(all="ignore"):
            np.copyto(target, source[place], casting="unsafe")
        return
    values = source[place]
    flags = values.flags
    if values.nbytes < _SHARED or not (flags.c_contiguous and flags.aligned):
        np.copyto(target, values)
    else:
        Copies([(target, values.view(target.dtype))])(0, 1)  # a type may name its order of bytes, as "<f4"


def copy_out(source: Array, begin: int, parts: Sequence[Target]) -> None:
    """Copy the rows of ``source`` to ``parts``, joined, from row ``begin`` on.

    ``parts`` may have another type. If that is integers, they are those of `streamrt.ops.cast`.
    """
    if len(parts) == 1 and source.shape == parts[0].shape:
        _copy(source, parts[0], ...)
        return
    for part, rows, covered in _overlaps(parts, begin, source):
        _copy(source[covered], part, rows)


def _copy(values: Array, target: Target, place: Any) -> None:
    if isinstance(target, np.ndarray) and target.dtype == values.dtype:
        target[place] = values
        return
    with np.errstate(all="ignore"):
        if isinstance(target, np.ndarray) and target.dtype.kind in "iu":
            to_integers(values, target[place])
        else:
            target[place] = values


def _overlaps(parts: Sequence[A], begin: int, whole: Array) -> Iterator[tuple[A, slice, slice]]:
    """Each of ``parts`` that shares rows with ``whole``, which begins at row ``begin``, and these rows in both."""
    start = 0
    for part in parts:
        first, last = max(start, begin), min(start + len(part), begin + len(whole))
        if first < last:
            yield part, slice(first - start, last - start), slice(first - begin, last - begin)
        start += len(part)


def describe(specs: Sequence[TensorSpec]) -> str:
    """Names, extents and types other than float32, for error texts."""
    shown = ", ".join(f"{spec.name!r:.80} {_dims(spec)}{_type(spec)}" for spec in specs[:_SHOWN]) or "no inputs"
    return shown if len(specs) <= _SHOWN else f"{shown} and {len(specs) - _SHOWN} more"


def _type(spec: TensorSpec) -> str:
    return "" if spec.dtype == "float32" else f" {spec.dtype}"


def _dims(spec: TensorSpec) -> str:
    dims = ", ".join(printable(str(dim)) for dim in spec.dims)
    return "(" + dims + ("," if len(spec.dims) == 1 else "") + ")"


def _by_name(value: T | Mapping[str, T], specs: Sequence[TensorSpec]) -> dict[str, T]:
    if not isinstance(value, np.ndarray) and isinstance(value, Mapping):  # the second check is slow
        if unknown := value.keys() - {spec.name for spec in specs}:
            raise InputError(f"no input is named {sorted(map(str, unknown))[:5]}; the model has {describe(specs)}")
        return dict(value)
    if len(specs) != 1:
        raise InputError(f"the model has {len(specs)} inputs: pass a dictionary with {describe(specs)}")
    return {specs[0].name: value}
