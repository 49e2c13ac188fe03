"""The extra `serverless` alone: the example answers an event under Lambda's runtime client."""

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np

import streamrt

(root,) = sys.argv[1:]
streamrt.pack([streamrt.Layer("Gemm", 2 * np.eye(3, dtype=np.float32))], "double.safetensors")
with streamrt.Model("double.safetensors") as model:
    name = model.inputs[0].name
given = {"name": name, "shape": [1, 3], "datatype": "FP32", "data": [1, 2, 3]}
Path("event.json").write_text(json.dumps({"inputs": [given]}))
done = subprocess.run(
    [sys.executable, Path(root) / "examples/serverless/local.py", "event.json"],
    env=os.environ | {"STREAMRT_MODEL": str(Path("double.safetensors").resolve())},
    capture_output=True,
    text=True,
    check=True,
)
assert json.loads(done.stdout.partition("s: ")[2])["outputs"][0]["data"] == [2, 4, 6], done.stdout
