"""The files of examples/monitoring."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

EXAMPLE = Path(__file__).parents[2] / "examples" / "monitoring"


def dashboard() -> dict[str, Any]:
    """Grafana's dashboard."""
    found: dict[str, Any] = json.loads((EXAMPLE / "grafana/dashboards/streamrt.json").read_text())
    return found


def expressions() -> list[str]:
    """The expressions of all panels."""
    return [target["expr"] for panel in dashboard()["panels"] for target in panel.get("targets", [])]


def variables() -> list[str]:
    """The queries of the dashboard's variables."""
    return [one["query"]["query"] for one in dashboard()["templating"]["list"] if one["type"] == "query"]


def rules() -> list[dict[str, str]]:
    """The name and the expression of each alert. The file has one form, so that no package is needed to read it."""
    text = (EXAMPLE / "alerts.yml").read_text()
    found = re.findall(r"- alert: (\w+)\n(?: +#.*\n)? +expr: (?:>-\n((?: {10}.*\n)+)|(.*)\n)", text)
    assert len(found) == text.count("- alert: ")
    return [{"alert": name, "expr": " ".join((folded or plain).split())} for name, folded, plain in found]
