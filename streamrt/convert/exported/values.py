"""Tensors and extents of a program by number, and the arguments and results of its nodes."""

from __future__ import annotations

import itertools
import re
from collections.abc import Iterator
from typing import Any

from streamrt.convert.exported.schema import count, named, sequence, text, union, value_named, wrong
from streamrt.errors import FormatError, UnsupportedModelError

#: The most characters of an argument that is a text, such as an equation of ``einsum``, and which characters it has.
_TEXT = re.compile(r"[A-Za-z0-9_,.> -]{0,200}")


class Scope:
    """The numbers of the names in a graph.

    Args:
        where: the name of the file in errors.
        numbers: gives the next number of the program.
        names: names with numbers.
    """

    def __init__(self, where: str, numbers: Iterator[int] | None = None, names: dict[str, int] | None = None) -> None:
        self._where = where
        self._numbers = itertools.count() if numbers is None else numbers
        self._names = names or {}

    def nested(self, names: dict[str, int]) -> Scope:
        """A graph inside this one, which reads nothing but ``names``."""
        return Scope(self._where, self._numbers, names)

    def define(self, name: str, number: int | None = None) -> int:
        """Give ``name`` a number: the next one, or that of another value."""
        if name in self._names:
            raise FormatError(f"{self._where}: {name!r:.80} is defined twice")
        return self._names.setdefault(name, next(self._numbers) if number is None else number)

    def number(self, name: str) -> int:
        """The number of ``name``."""
        if name not in self._names:
            raise FormatError(f"{self._where}: {name!r:.80} is read before it is computed")
        return self._names[name]


def argument(value: object, scope: Scope, where: str) -> Any:
    """An argument as `Program` describes it.

    Raises:
        FormatError: it is malformed, or reads a value that is not defined.
        UnsupportedModelError: it is of another kind, such as an object or a graph.
    """
    kind, found = union(value, where)
    match kind:
        case "as_none":
            return None
        case "as_tensor":
            return {"value": scope.number(named(found, where))}
        case "as_bool" | "as_int" | "as_float" | "as_string":
            return _literal(kind[3:], found, where)
        case "as_tensors":
            return [{"value": scope.number(named(each, where))} for each in sequence(found, where)]
        case "as_bools" | "as_ints" | "as_floats":
            return [_literal(kind[3:-1], each, where) for each in sequence(found, where)]
        case "as_sym_int" | "as_sym_float" | "as_sym_bool":
            inner, name = union(found, where)
            if inner == "as_name":
                return {"value": scope.number(text(name, where))}
            return _literal(inner[3:], name, where)
        case "as_optional_tensor":
            inner, name = union(found, where)
            return None if inner == "as_none" else {"value": scope.number(value_named(found, where))}
        case "as_sym_ints" | "as_sym_floats" | "as_sym_bools" | "as_optional_tensors":
            return [argument({kind[:-1]: each}, scope, where) for each in sequence(found, where)]
        case "as_scalar_type" | "as_memory_format" | "as_layout":
            return {"dtype" if kind == "as_scalar_type" else kind[3:]: count(found, where)}
        case "as_device":
            return {"device": 0}  # always the processor, wherever the program was exported
    raise UnsupportedModelError(f"{where}: an argument of kind {kind[:40]!r} is not supported")


def results(outputs: list[Any], scope: Scope, where: str) -> Any:
    """The results of a node as `Program` describes them, with new numbers."""
    found = [_result(each, scope, where) for each in outputs]
    return found[0] if len(found) == 1 else found


def _result(value: object, scope: Scope, where: str) -> Any:
    kind, found = union(value, where)
    if kind == "as_none":
        return None
    if kind == "as_tensors":
        return [scope.define(named(each, where)) for each in sequence(found, where)]
    return scope.define(value_named(value, where))


def _literal(kind: str, value: object, where: str) -> bool | int | float | str:
    """A number, truth value or text of an argument."""
    match kind, value:
        case "bool", bool():
            return value
        case "int", int() if not isinstance(value, bool):
            if -(2**63) <= value < 2**63:
                return value
        case "float", int() | float() | "Infinity" | "-Infinity" | "NaN" if not isinstance(value, bool):
            return float(value)
        case "string", str() if _TEXT.fullmatch(value):
            return value
    raise wrong(value, where, f"an argument of type {kind}")
