"""`pack`'s ``inputs``: extents of a model's inputs, in place of those that the source declares."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import partial

import numpy as np

from streamrt.convert import limits
from streamrt.convert.cases import joined, possible
from streamrt.convert.check import lowered, settle_outputs
from streamrt.convert.conditions import examples_of
from streamrt.convert.draft import Draft, DraftNode
from streamrt.convert.terms import SEPARATOR
from streamrt.convert.weights import Weight
from streamrt.errors import FormatError, InputError, printable
from streamrt.format import INT64, Tensor, WeightsFile
from streamrt.graph import Dims, Graph, TensorSpec

#: Extents of each input by its name, or of the only input. An extent with a name is free.
Inputs = Mapping[str, Sequence[int | str]] | Sequence[int | str]


def with_extents(specs: Sequence[TensorSpec], inputs: Inputs | None) -> list[TensorSpec]:
    """The inputs ``specs`` with the extents ``inputs``; those that it does not name keep their own.

    Raises:
        InputError: a wrong name or number of extents, or a value that is no extent. The text lists the inputs.
    """
    if inputs is None:
        return list(specs)
    if isinstance(inputs, Mapping):
        given = dict(inputs)
    elif len(specs) == 1:
        given = {specs[0].name: inputs}
    else:
        raise InputError(
            f"inputs: extents without a name are for a model with one input, and it has {_listed(specs)}: give "
            "{name: extents}"
        )
    if unknown := [name for name in given if name not in {spec.name for spec in specs}]:
        raise InputError(f"inputs: the model has no input {_shown(unknown[0])}; it has {_listed(specs)}")
    return [_changed(spec, given[spec.name], specs) if spec.name in given else spec for spec in specs]


def bound(specs: Sequence[TensorSpec], inputs: Inputs | None) -> list[TensorSpec]:
    """The inputs ``specs`` of a graph that is right for other values of its free extents, but of no other extents.

    ``inputs`` fixes free extents, or gives them other names, wherever they occur.

    Raises:
        InputError: as `with_extents`, or an extent that is not free would change, or extents that are equal differ.
    """
    found: dict[str, int | str] = {}
    for old, new in zip(specs, with_extents(specs, inputs), strict=True):
        for before, after in zip(old.dims, new.dims, strict=True):
            if after == before:
                continue
            if isinstance(before, int):
                raise InputError(
                    f"inputs: {_shown(new.name)}: {_shown(before)} to {_shown(after)}: only extents that the program "
                    f"leaves free can change; it has {_listed(specs)}"
                )
            if found.setdefault(before, after) != after:
                raise InputError(f"inputs: {_shown(before)} is {found[before]} and {after}, expected one value")
    values = {dim: found.get(dim, dim) for spec in specs for dim in spec.dims if isinstance(dim, str)}
    names = [value for value in values.values() if isinstance(value, str)]
    if len(set(names)) < len(names):
        raise InputError(f"inputs: two free extents have one name; the program has {_listed(specs)}")
    return [_replaced(spec, values) for spec in specs]


def _replaced(spec: TensorSpec, values: Mapping[str, int | str]) -> TensorSpec:
    """The tensor with other values for its free extents."""
    return replace(spec, dims=tuple(values.get(dim, dim) if isinstance(dim, str) else dim for dim in spec.dims))


def fixed(file: WeightsFile, inputs: Inputs | None) -> Graph:
    """The graph of a weights file, with extents of its inputs fixed.

    Raises:
        InputError: as `with_extents`, or an extent would be free or another number.
        FormatError: the graph cannot run with these extents.
    """
    graph = file.graph
    if inputs is None:
        return graph
    specs = with_extents(graph.inputs, inputs)
    values: dict[str, int | str] = {}
    for old, new in zip(graph.inputs, specs, strict=True):
        for before, after in zip(old.dims, new.dims, strict=True):
            if after != before and (isinstance(before, int) or isinstance(after, str)):
                raise InputError(
                    f"inputs: {_shown(new.name)}: {_shown(before)} to {_shown(after)}: extents of a weights file can "
                    f"only be fixed; it has {_listed(graph.inputs)}"
                )
            if after != before and values.setdefault(str(before), after) != after:
                raise InputError(f"inputs: {_shown(before)} is {values[str(before)]} and {after}, expected one value")
    params = {name: _placeholder(tensor) for name, tensor in file.tensors.items()}
    return joined(possible(partial(_settled, _draft(case, values, params)) for case in graph.cases))


def _draft(case: Graph, values: Mapping[str, int | str], params: dict[str, Weight]) -> Draft:
    """A case with other values for its free extents."""
    inner, outer = ([_replaced(spec, values) for spec in ends] for ends in (case.inputs, case.outputs))
    nodes = [
        DraftNode(n.name, n.op, list(n.inputs), list(n.outputs), dict(n.attrs), n.activation, dict(n.sizes))
        for n in case.nodes
    ]
    return Draft(inner, outer, nodes, params)


def _placeholder(tensor: Tensor) -> Weight:
    """A weight of the shape and the type of ``tensor``, whose values nobody reads."""
    weight = Weight.of(np.broadcast_to(np.float32(0), tensor.shape))
    return weight.as_integers() if tensor.coding == INT64 else weight


def _settled(draft: Draft) -> Draft:
    """The draft with the extents of its outputs."""
    problems = []
    for example in examples_of(draft):
        try:
            with limits.current().computing():
                settle_outputs(draft, lowered(draft, example), example)
        except FormatError as error:
            problems.append(error)
        else:
            return draft
    raise problems[0]


def _changed(spec: TensorSpec, extents: object, specs: Sequence[TensorSpec]) -> TensorSpec:
    if isinstance(extents, str) or not isinstance(extents, Sequence):
        found = type(extents).__name__
        raise InputError(
            f"inputs: {_shown(spec.name)}: expected a list of extents, such as ('N', 3, 224, 224); found {found}"
        )
    dims: Dims = tuple(extents)
    for dim in dims:
        is_name = isinstance(dim, str) and dim and SEPARATOR not in dim
        if isinstance(dim, bool) or not ((isinstance(dim, int) and 0 < dim < 2**40) or is_name):
            raise InputError(
                f"inputs: {_shown(spec.name)}: the extent {_shown(dim)}, expected a number from 1 on, or a name for an "
                "extent that is free"
            )
    if len(dims) != len(spec.dims):
        raise InputError(
            f"inputs: {_shown(spec.name)}: {len(dims)} extents, expected {len(spec.dims)}; the model has "
            f"{_listed(specs)}"
        )
    return replace(spec, dims=dims)


def _listed(specs: Sequence[TensorSpec]) -> str:
    shown = [f"{_shown(spec.name)} ({', '.join(str(dim)[:40] for dim in spec.dims)})" for spec in specs]
    return printable(", ".join(shown[:5]) + (f" and {len(shown) - 5} more" if len(shown) > 5 else ""))


def _shown(value: object) -> str:
    return printable(f"{value!r:.80}")
