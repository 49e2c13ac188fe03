"""Modules that need the extras ``ray`` and ``serve`` are imported only on demand."""

from typing import Any

MODULES = ("fastapi", "prometheus_client", "pydantic", "ray", "starlette", "uvicorn")


def test_importing_streamrt_imports_no_extra(run_python: Any) -> None:
    done = run_python("import sys, streamrt.cli; print(*sys.modules)")
    assert done.returncode == 0, done.stderr
    assert not set(done.stdout.split()) & set(MODULES)
