"""ONNX Runtime's function: the session is opened once a cold start. It takes the events of examples/serverless.

``BENCH_OPTIONS`` has the settings of the session, as `bench.peers.onnxruntime.Session` sends them. The process has
neither streamrt nor ``bench``.
"""

from __future__ import annotations

import base64
import json
import os
from typing import Any

import numpy as np
import onnxruntime

_told = json.loads(os.environ["BENCH_OPTIONS"])
_options = onnxruntime.SessionOptions()
_options.intra_op_num_threads, _options.inter_op_num_threads = _told["threads"], 1
_options.enable_cpu_mem_arena = _told["arena"]
_options.graph_optimization_level = getattr(onnxruntime.GraphOptimizationLevel, _told["level"])
for _key, _value in _told["entries"]:
    _options.add_session_config_entry(_key, _value)
_session = onnxruntime.InferenceSession(os.environ["BENCH_MODEL"], _options, ["CPUExecutionProvider"])


def handler(event: Any, context: Any) -> dict[str, Any]:
    (given,) = event["inputs"]
    x = np.frombuffer(base64.b64decode(given["base64"]), np.float32).reshape(given["shape"])
    (y,) = _session.run(None, {given["name"]: x})
    told = {"name": "y", "shape": list(y.shape), "datatype": "FP32", "base64": base64.b64encode(y).decode()}
    return {"outputs": [told]}
