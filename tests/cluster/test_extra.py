"""Modules that need the extras ``ray`` and ``serve`` are imported only on demand."""

from typing import Any

MODULES = ("fastapi", "prometheus_client", "pydantic", "ray", "starlette", "uvicorn")


def test_importing_streamrt_imports_no_extra(run_python: Any) -> None:
    done = run_python("import sys, streamrt.cli; print(*sys.modules)")
    assert done.returncode == 0, done.stderr
    assert not set(done.stdout.split()) & set(MODULES)


def test_without_ray_the_error_names_the_command(run_python: Any) -> None:
    done = run_python("import sys; sys.modules.update(ray=None, pydantic=None); import streamrt.ray")
    assert done.returncode == 1
    assert done.stderr.endswith("ImportError: streamrt.ray needs the package pydantic: pip install 'streamrt[ray]'\n")
