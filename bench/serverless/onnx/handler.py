"""ONNX Runtime's function: the session is opened once a cold start. It takes the events of examples/serverless.

The session has the settings of the peers of `bench.peers.onnxruntime`: ``BENCH_MAPPED`` names the one that uses weights
as they lie in the file. The process has neither streamrt nor ``bench``.
"""

from __future__ import annotations

import base64
import os
from typing import Any

import numpy as np
import onnxruntime

_options = onnxruntime.SessionOptions()
_options.intra_op_num_threads = int(os.environ["BENCH_THREADS"])
_options.inter_op_num_threads = 1
if os.environ["BENCH_MAPPED"] == "1":
    _options.add_session_config_entry("session.disable_prepacking", "1")
_session = onnxruntime.InferenceSession(os.environ["BENCH_MODEL"], _options, ["CPUExecutionProvider"])


def handler(event: Any, context: Any) -> dict[str, Any]:
    (given,) = event["inputs"]
    x = np.frombuffer(base64.b64decode(given["base64"]), np.float32).reshape(given["shape"])
    (y,) = _session.run(None, {given["name"]: x})
    told = {"name": "y", "shape": list(y.shape), "datatype": "FP32", "base64": base64.b64encode(y).decode()}
    return {"outputs": [told]}
