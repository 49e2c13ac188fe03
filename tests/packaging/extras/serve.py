"""The extra `serve` alone: the server answers a request, and ends with status 0 on SIGTERM."""

import json
import subprocess
import sys
import urllib.request
from pathlib import Path

import numpy as np

import streamrt

Path("models").mkdir()
streamrt.pack([streamrt.Layer("Gemm", 2 * np.eye(3, dtype=np.float32))], "models/double.safetensors")
with streamrt.Model("models/double.safetensors") as model:
    name = model.inputs[0].name
command = [sys.executable, "-m", "streamrt", "serve", "models", "--port", "0", "--budget", "1MiB"]
with subprocess.Popen(command, stderr=subprocess.PIPE, text=True) as server:
    try:
        lines = (json.loads(line) for line in server.stderr)
        port = next(line["port"] for line in lines if line.get("event") == "listening")
        values = {"name": name, "shape": [1, 3], "datatype": "FP32", "data": [1, 2, 3]}
        body = json.dumps({"inputs": [values]}).encode()
        with urllib.request.urlopen(f"http://127.0.0.1:{port}/v2/models/double/infer", body, timeout=60) as answer:
            assert json.load(answer)["outputs"][0]["data"] == [2, 4, 6]
    finally:
        server.terminate()
    server.communicate(timeout=60)
assert server.returncode == 0
