"""Pack two layers of NumPy weights, run them under a budget smaller than the weights, and print each call's work.

python examples/quickstart.py
"""

import tempfile
from pathlib import Path

import numpy as np

import streamrt

rng = np.random.default_rng(0)
first = rng.normal(0, 0.03, (2048, 1024)).astype(np.float32)  # (outputs, inputs)
second = rng.normal(0, 0.03, (512, 2048)).astype(np.float32)
layers = [streamrt.Layer("Gemm", first, activation="Relu"), streamrt.Layer("Gemm", second)]
x = rng.normal(size=(4, 1024)).astype(np.float32)

with tempfile.TemporaryDirectory() as folder:
    path = Path(folder) / "model.safetensors"
    streamrt.pack(layers, path)
    with streamrt.Model(path, budget="8MiB") as model:  # the weights are 12 MiB
        for _ in range(2):  # the second call reads only the weights that did not stay in memory
            y = model(x)
            print(model.stats)

expected = np.maximum(x @ first.T, 0) @ second.T
print("largest difference from NumPy:", np.abs(y - expected).max())
