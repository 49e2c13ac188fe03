"""Inputs and outputs of all types, through the whole server."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest

from serve import packing
from serve.process import Server
from streamrt.graph import TYPES

pytestmark = pytest.mark.extras

DATATYPES = {"float32": "FP32", "float64": "FP64", "float16": "FP16", "bool": "BOOL"} | {
    dtype: dtype.upper() for dtype in TYPES if "int" in dtype
}


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    folder = tmp_path_factory.mktemp("types")
    packing.types(folder)
    with Server(folder, "--budget", "16MiB") as running:
        yield running


def samples() -> dict[str, Any]:
    whole = np.array([[1, 0], [7, 100]])
    return {dtype: whole.astype(dtype) for dtype in TYPES} | {"int64": whole * 2**50}


def test_metadata(server: Server) -> None:
    _, _, body = server.ask("/v2/models/types")
    told = json.loads(body)
    assert {tensor["name"]: tensor["datatype"] for tensor in told["inputs"]} == DATATYPES
    assert [tensor["datatype"] for tensor in told["outputs"]] == [DATATYPES[dtype] for dtype in TYPES]


@pytest.mark.parametrize("binary", [True, False])
def test_infer(server: Server, binary: bool) -> None:
    tensors, data = [], b""
    for name, array in samples().items():
        told: dict[str, Any] = {"name": name, "shape": [2, 2], "datatype": DATATYPES[name]}
        if binary:
            data += array.tobytes()
            told["parameters"] = {"binary_data_size": array.nbytes}
        else:
            told["data"] = array.tolist()
        tensors.append(told)
    text = json.dumps({"inputs": tensors}).encode()
    headers = {"Inference-Header-Content-Length": str(len(text))} if binary else {}
    status, _, body = server.ask("/v2/models/types/infer", text + data, headers)
    assert status == 200, body
    found = {tensor["name"]: tensor for tensor in json.loads(body)["outputs"]}
    for name, array in samples().items():
        assert found[f"{name}_out"]["datatype"] == DATATYPES[name]
        assert found[f"{name}_out"]["data"] == array.ravel().tolist()


def test_predictions(server: Server) -> None:
    body = json.dumps({name: array.tolist() for name, array in samples().items()})
    status, _, answer = server.ask("/predictions/types", body)
    assert status == 200, answer
    assert json.loads(answer) == {f"{name}_out": array.tolist() for name, array in samples().items()}
    body = json.dumps({name: array.tolist() for name, array in samples().items()} | {"uint8": [[1, 2], [3, 300]]})
    status, _, answer = server.ask("/predictions/types", body)
    assert (status, b"expected whole numbers from 0 to 255" in answer) == (400, True)
