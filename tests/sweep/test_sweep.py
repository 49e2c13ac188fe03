"""The sweep over models: it goes on where it stopped, and a model that fails, hangs or dies has its reason."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from markers import needs
from sweep import sweep, zoo
from sweep.zoo import Entry

A, B = Entry("timm", "a/a", "a_tiny"), Entry("torchvision", "b", "b")
PASSED = {"outcome": "passed", "error": 1e-6, "least": 3 << 20, "parameters": 2_500_000}


@pytest.mark.parametrize(
    ("name", "family"),
    [
        ("resnet18", "resnet"),
        ("regnetz_b16_evos", "regnetz"),
        ("convnext_xxlarge", "convnext"),
        ("swin_s3_tiny_224", "swin"),
        ("vit_base_patch16_224", "vit_patch"),
        ("tf_efficientnet_el", "tf_efficientnet"),
        ("cait_xxs24_224", "cait"),
        ("visformer_tiny", "visformer"),
        ("ese_vovnet19b_dw", "ese_vovnet"),
        ("dpn48b", "dpn"),
    ],
)
def test_families(name: str, family: str) -> None:
    assert zoo.stem(name) == family


def test_the_smallest_of_a_family() -> None:
    names = ["vit_base_8", "vit_tiny_16", "vit_tiny_8", "vit_large_8", "vit_16"]
    assert min(names, key=zoo.by_size) == "vit_tiny_8"
    assert min(["net101", "net50", "net18"], key=zoo.by_size) == "net18"
    assert min(["net_m", "net_s", "net_xl"], key=zoo.by_size) == "net_s"


@pytest.mark.extras
def test_all_of_torchvision_and_many_families() -> None:
    needs("torch", "torchvision", "timm")
    entries = zoo.entries()
    assert len({(entry.source, entry.name) for entry in entries}) == len(entries)
    timm = [entry for entry in entries if entry.source == "timm"]
    assert len({entry.family for entry in timm}) == len(timm) >= 250
    assert {"resnet18", "fcn_resnet50", "retinanet_resnet50_fpn"} <= {e.name for e in entries if e.source != "timm"}


def test_an_interrupted_run_goes_on(tmp_path: Path) -> None:
    results, asked = tmp_path / "results.jsonl", []

    def one(entry: Entry, seconds: float) -> dict[str, Any]:
        asked.append(entry.name)
        if len(asked) == 2:
            raise KeyboardInterrupt
        return PASSED

    with pytest.raises(KeyboardInterrupt):
        sweep.run([A, B], results, 9, one)
    with (tmp_path / "results.partial.jsonl").open("a") as file:
        file.write('{"source": "torn')
    assert not results.exists()
    found = sweep.run([A, B], results, 9, one)
    assert asked == ["a_tiny", "b", "b"]
    assert found == sweep.read(results)
    assert [path.name for path in tmp_path.iterdir()] == ["results.jsonl"]


def test_models_that_passed_before() -> None:
    before = {("timm", "a"): PASSED, ("timm", "b"): PASSED, ("timm", "c"): {"outcome": "failed"}}
    now = {key: {"outcome": "failed"} for key in (*before, ("timm", "d"))} | {("timm", "b"): PASSED}
    assert sweep.lost(before, now) == ["a"]


def test_the_table() -> None:
    failed = {"outcome": "failed", "reason": "a | b"}
    text = sweep.table([A._asdict() | failed, B._asdict() | PASSED])
    assert text.index("## torchvision: 1 of 1") < text.index("## timm: 0 of 1")
    assert "| b | b | 2.5 | 3.0 | 1e-06 |" in text
    assert "* 1: a | b (a_tiny)" in text
    assert "| a/a | a_tiny |  |  | failed |" in text


def test_equal_reasons_have_equal_texts() -> None:
    reasons = {sweep.short(f"node 'x{index}' (TopK): input 1 is computed\nmore") for index in range(3)}
    assert reasons == {"TopK: input 1 is computed"}
    assert len(sweep.short("long" * 100)) == 160


@pytest.mark.parametrize(
    ("program", "limit", "reason"),
    [
        ("import time; time.sleep(600)", 3, "more than 3 s"),
        ("import os; os.kill(os.getpid(), 9)", 300, "when memory runs out"),
        ("import os; os.kill(os.getpid(), 15)", 300, "code -15"),
        ("raise MemoryError('all of it')", 300, "code 1: MemoryError: all of it"),
    ],
)
def test_a_process_that_hangs_or_dies(
    program: str, limit: float, reason: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    script = tmp_path / "one.py"
    script.write_text(program)
    monkeypatch.setattr(sweep, "_ONE", script)
    facts = sweep.in_a_process(A, limit)
    assert facts["outcome"] == "failed"
    assert reason in facts["reason"]


@pytest.mark.extras
def test_a_small_model_and_one_that_does_not_exist() -> None:
    needs("torch", "timm", "onnxscript")
    facts = sweep.in_a_process(Entry("timm", "", "test_resnet"), 300)
    assert facts["outcome"] == "passed", facts
    assert facts["error"] < 1e-4
    assert 0 < facts["least"] < facts["size"] * 4
    facts = sweep.in_a_process(Entry("timm", "", "nonsense"), 300)
    assert "nonsense" in facts["reason"]


@pytest.mark.extras
def test_the_command_names_unknown_models(tmp_path: Path) -> None:
    command = [sys.executable, "-P", str(Path(sweep.__file__).parent), "--only", "nonsense"]
    command += ["--results", str(tmp_path / "r.jsonl"), "--table", str(tmp_path / "t.md")]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 2
    assert "nonsense" in done.stderr
    assert list(tmp_path.iterdir()) == []
