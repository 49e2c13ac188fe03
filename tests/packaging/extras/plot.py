"""The extra `plot` alone: a pass is drawn."""

from pathlib import Path

import numpy as np

import streamrt

layers = [streamrt.Layer("Gemm", np.ones((8, 8), np.float32), activation="Relu")]
with streamrt.Model(streamrt.pack(layers, "small.safetensors"), "1MiB") as model:
    model(np.ones((1, 8), np.float32))
    model.stats.plot("pass.png")
assert Path("pass.png").read_bytes().startswith(b"\x89PNG")
