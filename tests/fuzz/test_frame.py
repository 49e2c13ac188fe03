"""The frame finds each sort of fault, repeats the same cases, and continues after the last run."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

from fuzz.selftest import FAULTS, HUNT
from fuzz.worker import rng_of

COMMAND = [sys.executable, "-P", str(Path(__file__).parent), "selftest"]


def run(folder: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([*COMMAND, *arguments], cwd=folder, capture_output=True, text=True, timeout=120, check=False)


def test_it_finds_each_fault_and_goes_on(tmp_path: Path) -> None:
    total = 0
    for count in (150, 40):
        result = run(tmp_path, "--count", str(count), "--jobs", "2", "--seed", "12", "--resume", "state.json")
        assert result.returncode == 1, result.stderr
        total += count
    state = json.loads((tmp_path / "state.json").read_text())
    assert state["next"] == {"12": total}
    assert sum(state["outcomes"].values()) == total
    made = [HUNT.make(rng_of(12, case)) for case in range(total)]
    expected = {kind: sum(data == fault for data in made) for fault, kind in FAULTS.items()}
    assert min(expected.values()) > 0, "choose another seed: some fault is never made"
    found = {
        kind: sum(f["count"] for k, f in state["findings"].items() if k.startswith(kind)) for kind in FAULTS.values()
    }
    assert found == expected
    assert state["outcomes"]["refused"] == made.count(b"refused")
    for kind, finding in state["findings"].items():
        for stem in finding["inputs"]:
            folder = tmp_path / "findings"
            assert (folder / f"{stem}.txt").read_text().startswith(kind)
            assert (folder / f"{stem}.bin").read_bytes() in FAULTS


def test_one_case_alone(tmp_path: Path) -> None:
    case = next(case for case in range(1000) if HUNT.make(rng_of(0, case)) == b"wrong")
    result = run(tmp_path, "--case", str(case))
    assert result.returncode == 1
    assert "41 instead of 42" in result.stdout
    assert run(tmp_path, "--case", str(case), "--write", "x.bin").returncode == 0
    assert (tmp_path / "x.bin").read_bytes() == b"wrong"
    assert "41 instead of 42" in run(tmp_path, "--input", "x.bin").stdout
