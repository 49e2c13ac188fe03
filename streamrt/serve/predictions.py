"""Bodies of ``POST /predictions/{model}``: a nested list for a model with one input, or an object of lists by input."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from streamrt.engine.inputs import Given, Result, describe
from streamrt.graph import TensorSpec
from streamrt.serve.jsontext import JsonText, dump_json, kind_of, parse_json
from streamrt.serve.protocol import to_array, to_json, to_numbers
from streamrt.serve.refusal import ProtocolError


def parse_prediction(text: JsonText, specs: Sequence[TensorSpec]) -> dict[str, Given]:
    """The inputs of a model with inputs ``specs``, as arrays of their types by name, with the shapes of the lists.

    Raises:
        ProtocolError: the text is not JSON, or not of this form.
    """
    found = parse_json(text)
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
    values = {name: to_json(array, name) for name, array in results.items()}
    return dump_json(next(iter(values.values())) if len(values) == 1 else values)


def _array(data: Any, name: str, dtype: np.dtype[Any]) -> Given:
    shape, numbers = to_numbers(data, name, dtype)
    return to_array(numbers, shape, name, dtype)
