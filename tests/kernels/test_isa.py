"""The switch that forces an instruction set."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from kernels.isas import EXTENSIONS, NUMPY
from streamrt import _core

PRINT = "from streamrt import _core; print(_core.isa(), _core.threads())"


def run(environment: dict[str, str]) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-c", PRINT], env=os.environ | environment, capture_output=True, text=True, check=False
    )


def test_every_instruction_set_of_the_processor_is_found() -> None:
    """Otherwise no test would notice kernels that are never used."""
    lines = Path("/proc/cpuinfo").read_text().splitlines()
    flags = set(next((line for line in lines if line.startswith(("flags", "Features"))), "").split())
    assert _core._isas() == (NUMPY, *(name for name, needed in EXTENSIONS.items() if needed <= flags))


def test_the_environment_forces_one(isa: str) -> None:
    assert run({"STREAMRT_ISA": NUMPY}).stdout.split()[0] == NUMPY
    assert run({"STREAMRT_ISA": isa}).stdout.split()[0] == isa


@pytest.mark.parametrize("name", ["sse9", "AVX2", "scalar "])
def test_unknown_names_fail_the_import(name: str) -> None:
    result = run({"STREAMRT_ISA": name})
    assert result.returncode != 0
    assert "ImportError: STREAMRT_ISA" in result.stderr


def test_defaults_are_the_best_set_and_the_affinity_mask() -> None:
    environment = {"STREAMRT_ISA": ""}
    assert run(environment).stdout.split() == [_core._isas()[-1], str(min(256, len(os.sched_getaffinity(0))))]


def test_unknown_names_are_refused_in_process() -> None:
    before = _core.isa()
    with pytest.raises(ValueError, match="no instruction set"):
        _core._use_isa("sse9")
    assert _core.isa() == before
