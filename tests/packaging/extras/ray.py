"""The extra `ray` alone: a replica on a local Ray answers a request."""

import json
import urllib.request
from pathlib import Path

import numpy as np
import ray
from ray import serve

import streamrt
from streamrt.ray import Options, application

Path("models").mkdir()
streamrt.pack([streamrt.Layer("Gemm", 2 * np.eye(3, dtype=np.float32))], "models/double.safetensors")
with streamrt.Model("models/double.safetensors") as model:
    name = model.inputs[0].name
ray.init(num_cpus=2, include_dashboard=False, object_store_memory=80 << 20, _node_ip_address="127.0.0.1")
serve.start(http_options={"host": "127.0.0.1", "port": 18431})
serve.run(application(Options(repository=str(Path("models").resolve()), budget="1MiB")), route_prefix="/")
body = json.dumps({"inputs": [{"name": name, "shape": [1, 3], "datatype": "FP32", "data": [1, 2, 3]}]}).encode()
request = urllib.request.Request(
    "http://127.0.0.1:18431/v2/models/double/infer", body, {"serve_multiplexed_model_id": "double"}
)
with urllib.request.urlopen(request, timeout=120) as answer:
    assert json.load(answer)["outputs"][0]["data"] == [2, 4, 6]
serve.shutdown()
ray.shutdown()
