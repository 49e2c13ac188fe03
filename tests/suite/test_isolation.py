"""The driver imports no measured package, and its children measure the installed package, not the checkout."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

import streamrt
from bench import machine
from bench.process import spawn
from bench.process.job import Job

MEASURED = {"streamrt", "torch", "onnxruntime", "openvino", "ncnn", "accelerate", "safetensors", "onnx"}


def in_checkout(checkout: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    """Python as a user starts it there: the folder is first on its path."""
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONSAFEPATH"}
    return subprocess.run(
        [sys.executable, *arguments],
        cwd=checkout,
        env=environment | {"PYTHONDONTWRITEBYTECODE": "1"},
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )


def test_the_driver_imports_no_measured_package(checkout: Path) -> None:
    code = """
import sys, bench.__main__, bench.driver, bench.layers.driver, bench.layers.table, bench.serve.driver, bench.serve.table
from pathlib import Path
from bench.models import source
from bench.peers import peers
from bench.scenarios import SCENARIOS
assert len(peers()) > 5 and len(SCENARIOS) > 5
source("vgg16", Path("/"))
print(bench.__file__, *{name.partition(".")[0] for name in sys.modules})
"""
    done = in_checkout(checkout, "-c", code)
    assert done.returncode == 0, done.stderr
    file, *modules = done.stdout.split()
    assert Path(file) == checkout / "bench" / "__init__.py"
    assert "numpy" in modules
    assert not MEASURED & set(modules)


def test_the_checkout_would_shadow_the_installed_package(checkout: Path) -> None:
    """The reason for the care: Python started in the checkout finds the uncompiled package."""
    found = "import importlib.util; print(importlib.util.find_spec('streamrt').origin)"
    assert Path(in_checkout(checkout, "-c", found).stdout.strip()) == checkout / "streamrt" / "__init__.py"


def test_children_find_the_installed_package(checkout: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    installed = Path(streamrt.__file__).parent
    assert installed != checkout / "streamrt"
    monkeypatch.chdir(checkout)
    monkeypatch.delenv("PYTHONSAFEPATH", raising=False)
    monkeypatch.setenv("PYTHONPATH", str(checkout))
    probe = spawn.run(Job("probe", data=str(tmp_path)))
    assert probe.status == "ok", probe.reason
    assert probe.values["streamrt"] == machine.sources_digest(installed)
    assert probe.values["peers"]["streamrt"]["versions"]["streamrt"] == streamrt.__version__
    imported = spawn.run(Job("import", data=str(tmp_path), modules=("streamrt",)))
    assert imported.status == "ok", imported.reason  # the uncompiled package cannot be imported
    assert imported.values["seconds"] > 0


def test_a_peer_that_is_not_installed_is_named(tmp_path: Path) -> None:
    found = spawn.run(Job("probe", data=str(tmp_path))).values["peers"]
    for name, peer in found.items():
        assert peer.keys() in ({"missing"}, {"versions"}), name
    assert "numpy" in found["numpy.memmap"]["versions"]


def test_digests_tell_packages_apart(tmp_path: Path) -> None:
    (tmp_path / "inner").mkdir()
    (tmp_path / "__init__.py").write_text("x = 1\n")
    (tmp_path / "inner" / "a.py").write_text("")
    before = machine.sources_digest(tmp_path)
    (tmp_path / "_core.so").write_bytes(b"compiled")
    assert machine.sources_digest(tmp_path) == before
    (tmp_path / "inner" / "a.py").rename(tmp_path / "inner" / "b.py")
    renamed = machine.sources_digest(tmp_path)
    (tmp_path / "__init__.py").write_text("x = 2\n")
    assert len({before, renamed, machine.sources_digest(tmp_path)}) == 3


def test_list_and_unknown_names(checkout: Path, tmp_path: Path) -> None:
    listed = in_checkout(checkout, "-m", "bench", "list")
    assert listed.returncode == 0, listed.stderr
    assert "mlp-capped" in listed.stdout
    assert "numpy.memmap" in listed.stdout
    data = tmp_path / "data"
    for arguments, told in (
        (["nothing"], "no scenario named nothing; choose from mlp-capped"),
        (["--peers", "nobody"], "no peer named nobody; choose from streamrt"),
    ):
        refused = in_checkout(checkout, "-m", "bench", "run", *arguments, "--data", str(data))
        assert refused.returncode == 2
        assert told in refused.stderr
    assert not data.exists()
