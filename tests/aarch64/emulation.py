"""A plugin of pytest for tests that run under qemu: leaves out those of excluded.txt, each for its reason."""

from __future__ import annotations

from pathlib import Path

import pytest

EXCLUDED = Path(__file__).with_name("excluded.txt")


def _excluded() -> list[str]:
    """The names of tests that are left out. A line is ``FILE::TEST  # REASON``, or begins with a number sign."""
    names = []
    for line in EXCLUDED.read_text().splitlines():
        name, _, reason = line.partition("  # ")
        if not name.startswith("#"):
            if "::" not in name or not reason:
                raise pytest.UsageError(f"{EXCLUDED}: {line!r} is not FILE::TEST  # REASON")
            names.append(name)
    return names


def _is(test: str, name: str) -> bool:
    """Whether ``name`` is a test, or a test with all its parameters."""
    return test == name or test.startswith(name + "[")


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    excluded = _excluded()
    if not any("::" in argument for argument in config.args):  # files are collected whole
        files = {item.nodeid.partition("::")[0] for item in items}
        for name in excluded:
            if name.partition("::")[0] in files and not any(_is(item.nodeid, name) for item in items):
                raise pytest.UsageError(f"{EXCLUDED}: there is no test {name}")
    left_out = [item for item in items if any(_is(item.nodeid, name) for name in excluded)]
    config.hook.pytest_deselected(items=left_out)
    items[:] = [item for item in items if item not in left_out]
