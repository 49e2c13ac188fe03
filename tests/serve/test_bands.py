"""A server whose budget has no room for the activations of a picture answers it in bands."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

import streamrt
from kernels.isas import NUMPY
from markers import needs
from model import zoo
from model.test_bands import unet
from serve.process import Server
from streamrt import _core

pytestmark = pytest.mark.extras
needs("starlette", "uvicorn", "prometheus_client")

SIDE = 128
ENVIRONMENT = {"STREAMRT_ISA": "scalar"} if _core.isa() == NUMPY else {}  # NumPy's convolutions compute no bands


def asked(server: Server, x: NDArray[np.float32]) -> tuple[int, bytes]:
    """The status of a call with a picture in binary, and the bytes of the answer's tensor or its text."""
    tensor = {"name": "x", "shape": x.shape, "datatype": "FP32", "parameters": {"binary_data_size": x.nbytes}}
    text = json.dumps({"inputs": [tensor], "parameters": {"binary_data_output": True}}).encode()
    head = {"Inference-Header-Content-Length": str(len(text)), "Content-Type": "application/octet-stream"}
    status, headers, body = server.ask("/v2/models/unet/infer", text + x.tobytes(), head)
    return status, body[int(headers.get("Inference-Header-Content-Length", 0)) :]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("pictures")
    unet(folder / "unet.safetensors", "nearest", "side", "side", (8, 16, 32))
    return folder


def test_a_picture_that_needs_bands_among_smaller_ones(folder: Path) -> None:
    large, small = (zoo.random_input(1, 3, side, side) for side in (SIDE, 16))
    answers = []
    for exact in (False, True):
        with streamrt.Model(folder / "unet.safetensors", None, exact=exact) as model:
            answers.append((model(small).tobytes(), model(large).tobytes()))
            least, whole = model.min_budget(large.shape), model.plan_for(large.shape).total
    budget = (least + whole) // 2
    with Server(folder, "--budget", budget, environment=ENVIRONMENT) as server:
        for x in (small, large, large, small):
            status, found = asked(server, x)
            assert status == 200, found
            assert found in [answer[x is large] for answer in answers]
        assert server.metric("pool_held_bytes_max") <= budget
    with Server(folder, "--budget", least - 1, environment=ENVIRONMENT) as server:
        status, found = asked(server, large)
        assert status == 507
        assert str(least) in json.loads(found)["error"]
        assert asked(server, small)[0] == 200
