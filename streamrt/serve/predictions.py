"""Bodies of ``POST /predictions/{model}``: a nested list for a model with one input, or an object of lists by input."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from streamrt.engine.inputs import Given, Result, describe
from streamrt.graph import TensorSpec
from streamrt.serve.protocol import ProtocolError, kind_of, parse_json, to_array, to_lists, to_numbers


def parse_prediction(body: bytes | bytearray, specs: Sequence[TensorSpec], max_json: int) -> dict[str, Given]:
    """The inputs of a model with inputs ``specs``, as arrays of their types by name, with the shapes of the lists.

    Raises:
        ProtocolError: the body is not JSON, or not of this form.
    """
    found = parse_json(body, max_json)
    if type(found) is list and len(specs) == 1:
        found = {specs[0].name: found}
    if type(found) is not dict:
        raise ProtocolError(
            f"expected a JSON object with a list of numbers for each of {describe(specs)}, found {kind_of(found)}"
        )
    types = {spec.name: np.dtype(spec.dtype) for spec in specs}
    return {name: _array(data, name, types.get(name, np.dtype(np.float32))) for name, data in found.items()}


def encode_prediction(results: Mapping[str, Result]) -> bytes:
    """The only result as nested lists, or an object of the results by name.

    Raises:
        UnrepresentableError: a value is infinite or NaN.
    """
    lists = {name: to_lists(array, name) for name, array in results.items()}
    told: Any = next(iter(lists.values())) if len(lists) == 1 else lists
    return json.dumps(told, allow_nan=False, separators=(",", ":")).encode()


def _array(data: Any, name: str, dtype: np.dtype[Any]) -> Given:
    shape, numbers = to_numbers(data, name, dtype)
    return to_array(numbers, shape, name, dtype)
