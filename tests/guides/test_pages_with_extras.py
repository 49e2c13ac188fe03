"""`test_pages.py`, for pages whose commands need packages and programs beyond the extra `test`."""

from __future__ import annotations

import os
import tempfile
from pathlib import Path

import pytest

from guides import running
from markers import needs

pytestmark = pytest.mark.extras
os.environ["KERAS_BACKEND"] = "torch"  # Keras imports its backend, by default a package that no extra has
needs("awslambdaric", "keras", "kubernetes_validate", "matplotlib", "PIL", "prometheus_client", "shtab", "torch")
needs("ray", "tritonclient", "uvicorn")


#: Small models of the names that docs/command-line.md uses, two digits, and the folders of shells for completions.
_MODELS = """
mkdir -p ~/.local/share/bash-completion/completions ~/.config/fish/completions
fpath=("" "$HOME")
seq 0 9 > digits.txt
cp streamrt/data/digits_cnn.safetensors cnn.safetensors
python - <<END
import numpy as np
import streamrt
from PIL import Image

layers = [streamrt.Layer("Gemm", np.full((256, 256), 0.01, np.float32), activation="Relu") for _ in range(8)]
streamrt.pack(layers, "mlp.safetensors")
with np.load("streamrt/data/digits_test.npz") as test:
    for index in range(2):
        Image.fromarray((test["images"][index] / 16 * 255).astype(np.uint8)).save(f"digit{index}.png")
END
"""


def test_command_line(tmp_path: Path) -> None:
    running.run("docs/command-line.md", tmp_path, before=_MODELS)


def test_sources(tmp_path: Path) -> None:
    running.run("docs/guides/sources.md", tmp_path)


def test_serving(tmp_path: Path) -> None:
    running.run("docs/serving.md", tmp_path)


@pytest.mark.slow
def test_cluster(tmp_path: Path) -> None:
    running.run("examples/cluster/README.md", tmp_path)


def test_containers(tmp_path: Path) -> None:
    daemon = "there may be no daemon and no cluster; tests/containers tries the numbers of the files"
    running.run("examples/containers/README.md", tmp_path, without={"docker build": daemon, "kubectl": daemon})


def test_edge_boxes(tmp_path: Path) -> None:
    running.run("examples/edge/README.md", tmp_path)


def test_load_balancer() -> None:
    """In a folder that every user can read: root's nginx has workers of another user."""
    with tempfile.TemporaryDirectory(prefix="streamrt-page-") as name:
        folder = Path(name)
        folder.chmod(0o755)
        running.run("examples/loadbalancer/README.md", folder)


def test_monitoring(tmp_path: Path) -> None:
    grafana = "neither Debian nor the package index has Grafana; tests/monitoring runs all expressions of the dashboard"
    running.run("examples/monitoring/README.md", tmp_path, without={"GF_PATHS_PROVISIONING": grafana})


def test_serverless(tmp_path: Path) -> None:
    docker = "there may be no daemon; tests/serverless builds the package from the files that the image takes"
    running.run("examples/serverless/README.md", tmp_path, without={"docker build": docker})
