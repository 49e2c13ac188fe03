"""The extra `grpc` alone: the server answers a call with the messages of its own file, and ends on SIGTERM."""

import json
import subprocess
import sys
from pathlib import Path

import grpc
import numpy as np

import streamrt
from streamrt.serve.rpc.messages import METHODS, SERVICE

Path("models").mkdir()
streamrt.pack([streamrt.Layer("Gemm", 2 * np.eye(3, dtype=np.float32))], "models/double.safetensors")
with streamrt.Model("models/double.safetensors") as model:
    name = model.inputs[0].name
method = METHODS["ModelInfer"]
request = method.request(model_name="double", raw_input_contents=[np.float32([1, 2, 3]).tobytes()])
request.inputs.add(name=name, shape=[1, 3], datatype="FP32")
command = [sys.executable, "-m", "streamrt", "serve", "models", "--port", "0", "--grpc-port", "0", "--budget", "1MiB"]
with subprocess.Popen(command, stderr=subprocess.PIPE, text=True) as server:
    try:
        lines = (json.loads(line) for line in server.stderr)
        port = next(line["port"] for line in lines if line.get("event") == "listening for gRPC")
        with grpc.insecure_channel(f"127.0.0.1:{port}") as channel:
            call = channel.unary_unary(f"/{SERVICE}/ModelInfer", method.request.SerializeToString)
            answer = method.response.FromString(call(request, timeout=60))
        assert np.frombuffer(answer.raw_output_contents[0], np.float32).tolist() == [2, 4, 6]
    finally:
        server.terminate()
    server.communicate(timeout=60)
assert server.returncode == 0
