"""Grafana knows every field of the dashboard, by the types that Grafana Labs publish for programs."""

from __future__ import annotations

import json
from typing import Any

import pytest

from markers import needs
from monitoring.files import dashboard

pytestmark = pytest.mark.extras
SDK = "grafana_foundation_sdk"
encoder, plugins, models = needs(f"{SDK}.cog.encoder", f"{SDK}.cog.plugins", f"{SDK}.models.dashboard")


@pytest.fixture(scope="module", autouse=True)
def panels() -> None:
    """The types of panels and of queries are plugins."""
    plugins.register_default_plugins()


def lost(given: Any, kept: Any, path: str = "") -> list[str]:
    """The paths of all values of `given` that `kept` lacks."""
    if isinstance(given, list) and isinstance(kept, list):
        given, kept = dict(enumerate(given)), dict(enumerate(kept))
    if isinstance(given, dict) and isinstance(kept, dict):
        missing = [f"{path}/{key}" for key in given if key not in kept]
        shared = [key for key in given if key in kept]
        return missing + [found for key in shared for found in lost(given[key], kept[key], f"{path}/{key}")]
    return [] if given == kept else [path]


def unknown(given: dict[str, Any]) -> list[str]:
    """The paths of the fields of a dashboard that Grafana does not know: its types do not keep them."""
    return lost(given, json.loads(encoder.JSONEncoder().encode(models.Dashboard.from_json(given))))


def test_every_field_is_known() -> None:
    assert unknown(dashboard()) == []


@pytest.mark.parametrize(
    "path",
    [
        ("refresh",),
        ("templating", "list", 1, "includeAll"),
        ("panels", 0, "gridPos"),
        ("panels", 0, "options", "reduceOptions"),
        ("panels", 0, "fieldConfig", "defaults", "unit"),
        ("panels", 0, "targets", 0, "expr"),
    ],
)
def test_a_misspelt_field_is_found(path: tuple[str | int, ...]) -> None:
    given = dashboard()
    inner: Any = given
    for key in path[:-1]:
        inner = inner[key]
    inner["misspelt"] = inner.pop(path[-1])
    assert unknown(given) == ["/" + "/".join(str(key) for key in (*path[:-1], "misspelt"))]
