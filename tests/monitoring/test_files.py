"""The files of examples/monitoring name metrics that the server has, and agree with each other."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest

from markers import needs
from monitoring.files import EXAMPLE, dashboard, expressions, rules, variables
from serve import packing
from serve.process import Server

pytestmark = pytest.mark.extras
needs("starlette", "uvicorn", "prometheus_client")

BODY = '{"a": [[1, 2]], "b": [[3, 4]]}'
#: A name of a metric, and its labels in braces if there are any.
METRIC = re.compile(r"(streamrt_\w+)(?:\{(.*?)\})?")


@pytest.fixture(scope="module")
def series(tmp_path_factory: pytest.TempPathFactory) -> dict[str, set[str]]:
    """The labels of each series of a server, by the name of the series."""
    folder = tmp_path_factory.mktemp("repository")
    packing.two(folder)
    with Server(folder, "--budget", "1MiB") as server:
        assert server.ask("/predictions/two", BODY)[0] == 200
        text = server.ask("/metrics")[2].decode()
    found: dict[str, set[str]] = {}
    for name, labels in re.findall(r"^(\w+)(?:\{(.*)\})? ", text, re.MULTILINE):
        found.setdefault(name, set()).update(re.findall(r'(\w+)="', labels))
    return found


def test_every_metric_and_label_of_the_files_exists(series: dict[str, set[str]]) -> None:
    texts = [*expressions(), *(rule["expr"] for rule in rules()), *variables()]
    used = [found for text in texts for found in METRIC.findall(text)]
    assert len(used) >= 50
    for name, matchers in used:
        assert name in series, name
        labels = set(re.findall(r"(\w+)\s*=~?", matchers)) - {"instance"}  # Prometheus adds that
        assert labels <= series[name], (name, labels)
    for text in texts:
        for labels in re.findall(r"\bby \((.*?)\)", text):
            known = {"instance"}.union(*(series[name] for name, _ in METRIC.findall(text)))
            assert set(labels.split(", ")) <= known, text


def test_the_dashboard_shows_all_stages() -> None:
    text = " ".join(expressions())
    for stage in ("queue", "load", "read", "compute", "encode"):
        assert f"streamrt_{stage}_seconds_bucket" in text
        assert f"streamrt_{stage}_seconds_sum" in text


def test_panels_do_not_overlap() -> None:
    taken: set[tuple[int, int]] = set()
    for panel in dashboard()["panels"]:
        at = panel["gridPos"]
        cells = {(x, y) for x in range(at["x"], at["x"] + at["w"]) for y in range(at["y"], at["y"] + at["h"])}
        assert max(x for x, _ in cells) < 24
        assert not cells & taken, panel["title"]
        taken |= cells
    assert len({panel["id"] for panel in dashboard()["panels"]}) == len(dashboard()["panels"])


def test_everything_comes_from_one_data_source() -> None:
    sources = [panel["datasource"] for panel in dashboard()["panels"] if panel["type"] != "row"]
    sources += [target["datasource"] for panel in dashboard()["panels"] for target in panel.get("targets", [])]
    assert all(source == {"type": "prometheus", "uid": "${datasource}"} for source in sources)


def test_grafana_finds_prometheus_and_the_dashboard() -> None:
    readme = (EXAMPLE / "README.md").read_text()
    source = (EXAMPLE / "grafana/provisioning/datasources/prometheus.yml").read_text()
    (address,) = re.findall(r"--web.listen-address=(\S+)", readme)
    assert f"url: http://{address}\n" in source
    interval = re.findall(r"scrape_interval: (\S+)", (EXAMPLE / "prometheus.yml").read_text())
    assert re.findall(r"timeInterval: (\S+)", source) == interval
    provider = (EXAMPLE / "grafana/provisioning/dashboards/streamrt.yml").read_text()
    (variable,) = re.findall(r"path: \$(\w+)", provider)
    assert f"{variable}=$PWD/grafana/dashboards" in readme
    for file in re.findall(r"^\| `([^`]+)`", readme, re.MULTILINE):
        assert (EXAMPLE / file).exists(), file


def test_the_dashboard_is_written_as_its_json() -> None:
    """So that a change in Grafana's editor shows as a small difference."""
    path: Path = EXAMPLE / "grafana/dashboards/streamrt.json"
    assert path.read_text() == json.dumps(dashboard(), indent=1) + "\n"
