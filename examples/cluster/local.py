"""Two replicas on this machine, each with a pool. Requests for a model go to the replica that has it warm.

python examples/cluster/local.py    # needs the extra ray
"""

from __future__ import annotations

import json
import os
import time
import urllib.request
from pathlib import Path

os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")  # Ray sends usage statistics otherwise

import numpy as np
import ray
from ray import serve

import streamrt
from streamrt.ray import Options, application

PORT = 8000
DATA = Path(streamrt.__file__).parent / "data"


def infer(model: str, image: np.ndarray) -> list[float]:
    """The model's answer over HTTP. The header names the model for Ray's proxy."""
    tensor = {"name": "image", "shape": image.shape, "datatype": "FP32", "data": image.ravel().tolist()}
    request = urllib.request.Request(
        f"http://127.0.0.1:{PORT}/v2/models/{model}/infer",
        json.dumps({"inputs": [tensor]}).encode(),
        {"serve-multiplexed-model-id": model},
    )
    with urllib.request.urlopen(request) as answer:
        return json.load(answer)["outputs"][0]["data"]


ray.init(num_cpus=2, include_dashboard=False, log_to_driver=False)
try:
    serve.start(http_options={"host": "127.0.0.1", "port": PORT})
    handle = serve.run(application(Options(repository=str(DATA), budget="4MiB", replicas=2)))

    with np.load(DATA / "digits_test.npz") as test:
        images, labels = (test["images"][:50, None] / 16).astype(np.float32), test["labels"][:50]
    for model in ("digits_mlp", "digits_cnn"):
        infer(model, images[:1])
        time.sleep(1)  # the proxy learns which replica has the model; until then, any replica may get a request
        right = sum(np.argmax(infer(model, images[i : i + 1])) == labels[i] for i in range(50))
        print(f"{model}: {right} of 50 are right")

    found: dict[str, dict[str, int]] = {}
    while len(found) < 2:  # any replica answers
        stats = handle.stats.remote().result()
        found[stats.pop("replica")] = stats
    for replica, stats in found.items():
        print(f"replica {replica}: {stats['requests']} requests, {stats['loads']} loads, {stats['held']} bytes held")
finally:
    serve.shutdown()
    ray.shutdown()
