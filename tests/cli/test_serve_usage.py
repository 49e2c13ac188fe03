"""``streamrt serve``: wrong usage, errors of one line, and the packages that it needs."""

from __future__ import annotations

from pathlib import Path

import pytest

from cli.commands import MLP, Output, error_line, run

SERVE_USAGE = [
    ["serve"],
    ["serve", "folder", "--port", "70000"],
    ["serve", "folder", "--grpc-port", "-1"],
    ["serve", "folder", "--max-batch", "0"],
    ["serve", "folder", "--policy", "random"],
    ["serve", "folder", "--io", "rdma"],
    ["serve", "folder", "--verify", "never"],
    ["serve", "folder", "--timeout", "soon"],
    ["serve", "folder", "--timeout", "-1"],
    ["serve", "folder", "--timeout", "nan"],
    ["serve", "folder", "--max-body", "lots"],
    ["serve", "folder", "--log-level", "loud"],
    ["serve", "folder", "--token-file", "token"],
]


@pytest.mark.parametrize("args", SERVE_USAGE)
def test_wrong_usage_of_serve_is_exit_code_2(capsys: Output, args: list[str]) -> None:
    assert run(*args) == 2
    assert capsys.readouterr().err.startswith("usage: streamrt serve")


def test_a_token_file_without_control_is_wrong_usage(capsys: Output) -> None:
    assert run("serve", "folder", "--token-file", "token") == 2
    assert "error: --token-file needs --control" in capsys.readouterr().err


@pytest.mark.extras
@pytest.mark.parametrize(
    ("args", "reason"),
    [
        (["serve", "missing"], "missing: No such file or directory"),
        (["serve", MLP], "expected a folder of weights files"),
        (["serve", ".", "--budget", "none"], "a pool needs bytes, a size such as"),
        (["serve", ".", "--max-body", "1GiB"], "max_held (--max-held): expected at least 1073807360 bytes"),
        (["serve", ".", "--host", "256.0.0.1", "--budget", "1MiB"], "cannot listen at '256.0.0.1' (--host)"),
        (["serve", ".", "--control"], "STREAMRT_SERVE_TOKEN: expected a token"),
        (["serve", ".", "--control", "--token-file", "missing"], "missing: No such file or directory"),
    ],
)
def test_errors_of_serve_are_one_line(
    tmp_path: Path, capsys: Output, monkeypatch: pytest.MonkeyPatch, args: list[object], reason: str
) -> None:
    pytest.importorskip("starlette")
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("STREAMRT_SERVE_TOKEN", raising=False)
    assert run(*args) == 1
    assert reason in error_line(capsys)


def test_nothing_but_serving_needs_its_packages(run_python) -> None:
    done = run_python(
        """
        import sys
        for name in ("starlette", "uvicorn", "prometheus_client"):
            sys.modules[name] = None
        import streamrt, streamrt.cli, streamrt.serve.protocol
        assert streamrt.cli.main(["serve", "--help"]) == 0
        assert streamrt.cli.main(["serve", "."]) == 1
        """
    )
    assert done.returncode == 0, done.stderr
    assert done.stderr == "streamrt: error: serving needs the package uvicorn: pip install 'streamrt[serve]'\n"


@pytest.mark.extras
@pytest.mark.parametrize("package", ["grpc", "google.protobuf"])
def test_only_a_port_for_grpc_needs_its_packages(run_python, package: str) -> None:
    pytest.importorskip("starlette")
    done = run_python(
        """
        import sys
        sys.modules[sys.argv[1]] = None
        import streamrt.cli
        assert streamrt.cli.main(["serve", "missing"]) == 1
        assert streamrt.cli.main(["serve", "missing", "--grpc-port", "0"]) == 1
        """,
        package,
    )
    assert done.returncode == 0, done.stderr
    without, with_port = done.stderr.splitlines()
    assert "missing: No such file or directory" in without
    assert with_port.startswith(f"streamrt: error: serving needs the package {package}")
    assert with_port.endswith(": pip install 'streamrt[grpc]'")


def test_importing_streamrt_imports_no_server(run_python) -> None:
    done = run_python("import sys, streamrt; print([name for name in sys.modules if 'serve' in name])")
    assert done.stdout == "[]\n"
