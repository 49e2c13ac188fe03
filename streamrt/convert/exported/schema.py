"""The objects of a program's JSON, read key by key. A key or a kind of value that is not known is an error.

Newer versions of torch add keys, which mean nothing as long as their values are empty.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from streamrt.errors import FormatError
from streamrt.format.layout import MAX_DIMS

#: The keys of each kind of object.
KEYS = {
    "program": "graph_module opset_version range_constraints schema_version verifiers torch_version guards_code",
    "version": "major minor",
    "graph module": "graph signature module_call_graph metadata treespec_namedtuple_fields",
    "graph": "inputs outputs nodes tensor_values sym_int_values sym_bool_values sym_float_values custom_obj_values "
    "is_single_tensor_return",
    "node": "target inputs outputs metadata is_hop_single_tensor_return name",
    "argument": "name arg kind",
    "nested graph": "name graph",
    "named": "name",
    "signature": "input_specs output_specs",
    "user value": "arg",
    "constant": "name value",
    "parameter": "arg parameter_name",
    "buffer": "arg buffer_name persistent",
    "tensor constant": "arg tensor_constant_name",
    "tensor": "dtype sizes requires_grad device strides storage_offset layout",
    "expression": "expr_str hint",
    "payload": "path_name is_param use_pickle tensor_meta",
}
_KEYS = {kind: frozenset(keys.split()) for kind, keys in KEYS.items()}
#: Values that say nothing.
_EMPTY: tuple[object, ...] = (None, False, "", [], {})


class Fields:
    """A JSON object of a known kind.

    Args:
        value: the value that shall be such an object.
        kind: a key of `KEYS`.
        where: the place of the value in errors.

    Raises:
        FormatError: it is another value, or has a key that is not known, with a value that is not empty.
    """

    def __init__(self, value: object, kind: str, where: str) -> None:
        self.where = f"{where}: {kind}"
        self._values = mapping(value, self.where)
        for key, found in self._values.items():
            if key not in _KEYS[kind] and found not in _EMPTY:
                raise FormatError(f"{self.where} has the key {key!r:.80}, which is not known: a newer torch wrote it")

    def get(self, key: str) -> Any:
        """A value, or None if it is missing."""
        return self._values.get(key)

    def text(self, key: str) -> str:
        """A text of at most 1024 characters."""
        return text(self._values.get(key), f"{self.where}: {key}")

    def list(self, key: str) -> list[Any]:
        """A list."""
        return sequence(self._values.get(key), f"{self.where}: {key}")

    def mapping(self, key: str) -> dict[str, Any]:
        """An object with any keys; empty if it is missing."""
        found = self._values.get(key)
        return {} if found is None else mapping(found, f"{self.where}: {key}")

    def count(self, key: str) -> int:
        """An integer of at least 0."""
        return count(self._values.get(key), f"{self.where}: {key}")


def mapping(value: object, where: str) -> dict[str, Any]:
    """The value if it is an object."""
    if not isinstance(value, dict):
        raise wrong(value, where, "an object")
    return value


def sequence(value: object, where: str) -> list[Any]:
    """The value if it is a list."""
    if not isinstance(value, list):
        raise wrong(value, where, "a list")
    return value


def text(value: object, where: str) -> str:
    """The value if it is a text of at most 1024 characters."""
    if not isinstance(value, str) or len(value) > 1024:
        raise wrong(value, where, "a text of at most 1024 characters")
    return value


def count(value: object, where: str) -> int:
    """The value if it is an integer from 0 to 2**63 - 1."""
    if isinstance(value, bool) or not isinstance(value, int) or not 0 <= value < 2**63:
        raise wrong(value, where, "an integer from 0 to 2**63 - 1")
    return value


def union(value: object, where: str) -> tuple[str, Any]:
    """The key and the value of an object with one key."""
    found = mapping(value, where)
    if len(found) != 1:
        raise wrong(value, where, "an object with one key")
    return next(iter(found.items()))


def named(value: object, where: str) -> str:
    """The name in an object ``{"name": ...}``."""
    return Fields(value, "named", where).text("name")


def value_named(value: object, where: str) -> str:
    """The name in ``{"as_tensor": {"name": ...}}`` or ``{"as_sym_int": {"as_name": ...}}``."""
    kind, found = union(value, where)
    if kind == "as_tensor":
        return named(found, where)
    if kind in ("as_sym_int", "as_sym_float", "as_sym_bool"):
        return text(mapping(found, where).get("as_name"), where)
    raise wrong(value, where, "a tensor or an extent")


def numbers(values: Sequence[object], where: str) -> tuple[int, ...]:
    """Extents or strides that are numbers: ``[{"as_int": 3}, ...]``."""
    if len(values) > MAX_DIMS:
        raise FormatError(f"{where} has {len(values)} axes, expected no more than {MAX_DIMS}")
    found = []
    for value in values:
        kind, number = union(value, where)
        if kind != "as_int":
            raise wrong(value, where, "a number")
        found.append(count(number, where))
    return tuple(found)


def wrong(value: object, where: str, expected: str) -> FormatError:
    """The error for a value that is not the expected one."""
    shown = type(value).__name__ if isinstance(value, dict | list) else f"{value!r:.60}"
    return FormatError(f"{where} is {shown}, expected {expected}")
