"""Fixtures that tests of every folder may use."""

from __future__ import annotations

import importlib.util
import os
import shutil
import signal
import subprocess
import sys
import textwrap
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from typing import Any

import hypothesis
import pytest
from threadpoolctl import threadpool_limits

from markers import LACKING_INSTRUCTIONS, LACKING_PACKAGE

SHIMS = Path(__file__).parent / "shims"

# Processes that tests start must import the installed package, and not the uncompiled one of a checkout.
os.environ["PYTHONSAFEPATH"] = "1"
# A shell's background jobs ignore SIGINT, and so do their children. Tests that send it need its usual effect.
signal.signal(signal.SIGINT, signal.default_int_handler)
# Examples have no time limit: on a busy machine it would fail right tests. Every run tries the same examples, unless
# STREAMRT_TEST_EXAMPLES=5000 asks for 5000 random examples a test.
_EXAMPLES = os.environ.get("STREAMRT_TEST_EXAMPLES")
hypothesis.settings.register_profile("same", deadline=None, derandomize=True)
hypothesis.settings.register_profile("others", deadline=None, max_examples=int(_EXAMPLES or 100))
hypothesis.settings.load_profile("others" if _EXAMPLES else "same")


def _load_bench() -> None:
    """Import ``bench`` by its path: with the checkout in ``sys.path``, its uncompiled ``streamrt`` would come first."""
    folder = Path(__file__).parents[1] / "bench"
    spec = importlib.util.spec_from_file_location(
        "bench", folder / "__init__.py", submodule_search_locations=[str(folder)]
    )
    assert spec
    assert spec.loader
    sys.modules["bench"] = module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)


if "bench" not in sys.modules:  # the micro-benchmarks may have been collected before
    _load_bench()

from bench.process import cgroup  # noqa: E402
from streamrt.host import rates  # noqa: E402

# As many processes run tests as there are processors. In each of them, threads of BLAS would wait busily for products
# and take half of the time. Processes that tests start have the usual number of threads.
if "PYTEST_XDIST_WORKER" in os.environ:
    threadpool_limits(1, user_api="blas")


@pytest.fixture(autouse=True)
def fresh_rates(monkeypatch: pytest.MonkeyPatch) -> None:
    """Each test begins without the disk speeds that earlier tests measured."""
    monkeypatch.setattr(rates, "_disks", {})


@pytest.fixture
def run_python(tmp_path: Path) -> Callable[..., subprocess.CompletedProcess[str]]:
    """Runs Python code in a new process: ``run_python(code, *arguments, **environment)``.

    Returns when it has ended. After five minutes it is killed, and the test fails. A negative ``returncode`` is a
    signal.
    """

    def run(code: str, *arguments: object, **environment: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [sys.executable, "-c", textwrap.dedent(code), *map(str, arguments)],
            env=os.environ | environment,
            cwd=tmp_path,  # not the checkout, whose package is not compiled
            capture_output=True,
            text=True,
            timeout=300,
            check=False,
        )

    return run


@pytest.fixture
def run_limited(run_python: Callable[..., subprocess.CompletedProcess[str]]) -> Callable[..., Any]:
    """`run_python`, for code that imports `memory_limit`."""
    path = os.pathsep.join(filter(None, [str(Path(__file__).parent), os.environ.get("PYTHONPATH")]))
    return lambda code, *arguments, **environment: run_python(code, *arguments, PYTHONPATH=path, **environment)


@pytest.fixture(scope="session")
def slow_reads(tmp_path_factory: pytest.TempPathFactory) -> Callable[..., dict[str, str]]:
    """Environment of a process whose prefetch thread reads at most ``speed`` bytes per second.

    With a second argument, a path, all prefetch threads of the process together read at most that much, and only while
    there is a file at that path. The file grows by a byte with each of these reads.
    """
    preload = _build_shim("slow_reads", tmp_path_factory.mktemp("shims"))

    def environment(speed: float, switch: Path | None = None) -> dict[str, str]:
        found = preload | {"SLOW_READS_BYTES_PER_SECOND": str(speed)}
        return found | ({"SLOW_READS_SWITCH": str(switch)} if switch else {})

    return environment


@pytest.fixture(scope="session")
def failing_io(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], dict[str, str]]:
    """Environment of a process whose system calls fail; tests/shims/failing_io.c has the syntax of ``wish``."""
    preload = _build_shim("failing_io", tmp_path_factory.mktemp("shims"))
    return lambda wish: preload | {"FAILING_IO": wish}


@pytest.fixture(scope="session")
def page_size(tmp_path_factory: pytest.TempPathFactory) -> Callable[[int], dict[str, str]]:
    """Environment of a process that sees pages of ``size`` bytes: 16384 or 65536."""
    preload = _build_shim("page_size", tmp_path_factory.mktemp("shims"))
    return lambda size: preload | {"PAGE_SIZE": str(size)}


def _build_shim(name: str, folder: Path) -> dict[str, str]:
    """The environment that preloads a library of tests/shims after the libraries that are preloaded already."""
    compiler = shutil.which("cc")
    assert compiler, "the tests need the C compiler that the package was built with"
    library = folder / f"{name}.so"
    subprocess.run([compiler, "-O1", "-shared", "-fPIC", "-o", library, SHIMS / f"{name}.c", "-ldl"], check=True)
    preloaded = [path for path in (os.environ.get("LD_PRELOAD"), str(library)) if path]
    return {"LD_PRELOAD": ":".join(preloaded)}


@pytest.fixture
def memory_cgroup() -> Callable[[int | None], AbstractContextManager[cgroup.Cgroup]]:
    """`cgroup.memory_cgroup`, except that the test is skipped, with the reason, if no group can be made."""

    @contextmanager
    def make(limit: int | None) -> Iterator[cgroup.Cgroup]:
        try:
            with cgroup.memory_cgroup(limit) as group:
                yield group
        except cgroup.NoCgroupError as error:
            pytest.skip(str(error))

    return make


def _refuse_skip(report: Any, *accepted: str) -> None:
    """With STREAMRT_TEST_NO_SKIP set, a skipped test fails unless its reason begins with an accepted text."""
    if os.environ.get("STREAMRT_TEST_NO_SKIP") and report.skipped and not hasattr(report, "wasxfail"):
        reason = report.longrepr[2].removeprefix("Skipped: ")
        if not reason.startswith(accepted):
            report.outcome = "failed"
            report.longrepr = f"skipped, though STREAMRT_TEST_NO_SKIP is set: {report.longrepr}"


@pytest.hookimpl(tryfirst=True)  # before tests are deselected
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """CI finds slow tests by a text of their files, and collects no others with them."""
    for path in {item.path for item in items if item.get_closest_marker("slow")}:
        if "mark.slow" not in path.read_text():
            raise pytest.UsageError(f"{path}: a slow test without the text 'mark.slow', by which .ci/run finds it")


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport() -> Iterator[None]:
    report = yield
    _refuse_skip(report, LACKING_INSTRUCTIONS)
    return report


@pytest.hookimpl(wrapper=True)
def pytest_make_collect_report(collector: pytest.Collector) -> Iterator[None]:
    report = yield
    # Files are imported before their tests are deselected, so a run without extras accepts this reason.
    _refuse_skip(report, *[LACKING_PACKAGE] * ("not extras" in collector.config.option.markexpr))
    return report
