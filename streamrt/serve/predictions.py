"""Bodies of ``POST /predictions/{model}``: a nested list for a model of one input, or lists by name of the input."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

from streamrt.engine.inputs import Result, describe
from streamrt.graph import TensorSpec
from streamrt.ops import Array
from streamrt.serve.protocol import ProtocolError, parse_json, to_array, to_floats, to_lists


def parse_prediction(body: bytes | bytearray, specs: Sequence[TensorSpec], max_json: int) -> dict[str, Array]:
    """The inputs in ``body`` by name, for a model with inputs ``specs``; float32, of the shape that their lists have.

    Raises:
        ProtocolError: it is no JSON, or something else than such lists.
    """
    found = parse_json(body, max_json)
    if type(found) is list and len(specs) == 1:
        found = {specs[0].name: found}
    if type(found) is not dict:
        raise ProtocolError(f"expected a JSON object with a list of numbers for each of {describe(specs)}")
    return {name: _array(data, name) for name, data in found.items()}


def encode_prediction(results: Mapping[str, Result]) -> bytes:
    """The only result as nested lists, or several by name.

    Raises:
        UnrepresentableError: a value is infinite or NaN.
    """
    lists = {name: to_lists(array, name) for name, array in results.items()}
    told: Any = next(iter(lists.values())) if len(lists) == 1 else lists
    return json.dumps(told, allow_nan=False, separators=(",", ":")).encode()


def _array(data: Any, name: str) -> Array:
    shape, numbers = to_floats(data, name)
    return to_array(numbers, shape, name)
