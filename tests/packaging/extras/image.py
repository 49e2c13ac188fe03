"""The extra `image` alone: a picture is classified."""

import subprocess
from importlib.resources import as_file, files
from pathlib import Path

import numpy as np
from PIL import Image

with np.load(str(files("streamrt.data") / "digits_test.npz")) as test:
    Image.fromarray((test["images"][0] * 15).astype(np.uint8)).save("seven.png")
Path("labels.txt").write_text("\n".join(map(str, range(10))))
with as_file(files("streamrt.data") / "digits_cnn.safetensors") as model:
    command = ["streamrt", "run", model, "seven.png", "--labels", "labels.txt"]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
assert done.stdout.splitlines()[1].split()[1] == "7", done.stdout
