"""How the function starts: where its model is, that it opens it once, and how it tells that it cannot."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from markers import needs
from model import zoo
from serverless.function import array, event, function, local

pytestmark = pytest.mark.extras
needs("awslambdaric")


def test_warm_calls_reuse_the_model_that_the_start_has_opened(tmp_path: Path) -> None:
    packed = zoo.mlp(tmp_path, 8, 16, 4, seed=1)
    x = zoo.random_input(3, 8)
    wanted = packed.answer(x)
    with function(tmp_path, packed.path) as running:
        running.started()
        zoo.mlp(tmp_path, 8, 16, 4, seed=2)  # replaces the file by another
        for _ in range(3):
            zoo.assert_close(array(running.result(event(x))), wanted)


@pytest.mark.parametrize(
    ("environ", "kind", "text"),
    [
        ({"STREAMRT_MODEL": "/nowhere/model.safetensors"}, "WeightsIOError", "/nowhere/model.safetensors"),
        ({"STREAMRT_MODEL": "{folder}/text.safetensors"}, "FormatError", "text.safetensors"),
        (
            {"STREAMRT_MODEL": "{folder}/copy.safetensors", "STREAMRT_MODEL_FROM": "/nowhere/model.safetensors"},
            "FileNotFoundError",
            "/nowhere/model.safetensors",
        ),
        ({"AWS_LAMBDA_FUNCTION_MEMORY_SIZE": "much"}, "ValueError", "much"),
    ],
)
def test_a_start_that_fails_is_told_to_the_platform(
    tmp_path: Path, environ: dict[str, str], kind: str, text: str
) -> None:
    packed = zoo.mlp(tmp_path, 8, 4)
    (tmp_path / "text.safetensors").write_text("no weights file at all")
    environ = {name: value.format(folder=tmp_path) for name, value in environ.items()}
    with (
        pytest.raises(local.FunctionError, match="did not start") as caught,
        function(tmp_path, packed.path, **environ) as running,
    ):
        running.started()
    told = json.loads(str(caught.value).partition(": ")[2])
    assert told["errorType"] == kind
    assert text in told["errorMessage"]
    assert not (tmp_path / "copy.safetensors").exists()


def test_a_function_without_enough_memory_tells_how_much_the_model_needs(tmp_path: Path) -> None:
    packed = zoo.mlp(tmp_path, 8, 4)
    with function(tmp_path, packed.path, memory=64) as running:
        answer = running.invoke(event(zoo.random_input(1, 8)))
        body = json.dumps({"inputs": [{"name": "input", "shape": [1, 8], "datatype": "FP32", "data": [0] * 8}]})
        response = running.result({"requestContext": {}, "body": body})
    assert response["statusCode"] == 400
    assert json.loads(response["body"])["type"] == "BudgetError"
    assert answer.failed
    assert answer.value["errorType"] == "BudgetError"
    assert "budget" in answer.value["errorMessage"]


def test_local_prints_answers_and_fails_if_one_is_an_error(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    packed = zoo.mlp(tmp_path, 8, 4)
    (tmp_path / "good.json").write_text(json.dumps(event(zoo.random_input(1, 8))))
    (tmp_path / "bad.json").write_text("[]")
    monkeypatch.setenv("STREAMRT_MODEL", str(packed.path))
    good, bad = (str(tmp_path / name) for name in ("good.json", "bad.json"))
    assert local.main([good, good]) == 0
    assert local.main([good, bad]) == 1
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == 4
    assert all('"outputs"' in line for line in lines[:3])
    assert '"errorType": "ProtocolError"' in lines[3]
