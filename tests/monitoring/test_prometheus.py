"""A real Prometheus with the configuration of examples/monitoring reads a real server."""

from __future__ import annotations

import json
import os
import re
import shutil
import socket
import subprocess
import time
import urllib.parse
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from markers import needs
from model import zoo
from monitoring.files import EXAMPLE, expressions, rules, variables
from serve import packing
from serve.process import Server

PROMETHEUS, PROMTOOL = shutil.which("prometheus"), shutil.which("promtool")

pytestmark = [
    pytest.mark.extras,
    pytest.mark.skipif(PROMETHEUS is None or PROMTOOL is None, reason="Prometheus is not installed"),
]
needs("starlette", "uvicorn", "prometheus_client")

#: Seconds between two readings, instead of 15; and the time over which rates are taken.
INTERVAL, RATE = "1s", "10s"


class Prometheus:
    """A Prometheus that reads one server."""

    def __init__(self, folder: Path, target: str) -> None:
        with socket.create_server(("127.0.0.1", 0)) as free:
            self._address = f"127.0.0.1:{free.getsockname()[1]}"
        text = (EXAMPLE / "prometheus.yml").read_text()
        assert text.count("127.0.0.1:8000") == text.count("15s") == 1
        (folder / "prometheus.yml").write_text(text.replace("127.0.0.1:8000", target).replace("15s", INTERVAL))
        shutil.copy(EXAMPLE / "alerts.yml", folder)
        options = [f"--config.file={folder}/prometheus.yml", f"--storage.tsdb.path={folder}/data"]
        options.append(f"--web.listen-address={self._address}")
        self._log = (folder / "log").open("wb")
        assert PROMETHEUS
        self._process = subprocess.Popen([PROMETHEUS, *options], stdout=self._log, stderr=self._log, cwd=folder)

    def ask(self, path: str, **query: str) -> Any:
        """The data of an answer of the HTTP API."""
        address = f"http://{self._address}/api/v1/{path}?{urllib.parse.urlencode(query)}"
        with urllib.request.urlopen(address, timeout=60) as answer:
            found = json.load(answer)
        assert found["status"] == "success", found
        return found["data"]

    def values(self, expression: str) -> list[tuple[dict[str, str], float]]:
        """The labels and the value of each series of an expression, now."""
        return [(one["metric"], float(one["value"][1])) for one in self.ask("query", query=expression)["result"]]

    def is_up(self) -> bool:
        """Whether it has read the server."""
        assert self._process.poll() is None, Path(self._log.name).read_text()
        try:
            return [value for _, value in self.values('up{job="streamrt"}')] == [1]
        except OSError:
            return False

    def close(self) -> None:
        """End it."""
        self._process.terminate()
        self._process.wait(60)
        self._log.close()


@pytest.fixture(scope="module")
def watched(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Prometheus]:
    """A Prometheus of a server that answers requests for two models, and lacks memory for one of them."""
    models, folder = tmp_path_factory.mktemp("models"), tmp_path_factory.mktemp("prometheus")
    zoo.mlp(models, 64, 1024, 512)
    packing.two(models)
    bodies = {"two": '{"a": [[1, 2]], "b": [[3, 4]]}', "mlp": json.dumps(np.zeros((4, 64)).tolist())}
    with Server(models, "--budget", "1MiB") as server:
        prometheus = Prometheus(folder, server.address)
        try:
            zoo.eventually(prometheus.is_up)
            end = time.monotonic() + 6
            while time.monotonic() < end:
                for name, body in bodies.items():
                    assert server.ask(f"/predictions/{name}", body)[0] == 200
                assert server.ask("/predictions/two", "[]")[0] == 400
                time.sleep(0.1)
            yield prometheus
        finally:
            prometheus.close()


def test_promtool_accepts_the_configuration_and_the_alerts() -> None:
    assert PROMTOOL
    for kind, file in (("config", "prometheus.yml"), ("rules", "alerts.yml")):
        done = subprocess.run(
            [PROMTOOL, "check", kind, file], cwd=EXAMPLE, capture_output=True, text=True, check=False, env=os.environ
        )
        assert done.returncode == 0, done.stdout + done.stderr
        assert "SUCCESS" in done.stdout


def test_promtool_accepts_the_metrics(tmp_path: Path) -> None:
    """It also checks that names and explanations keep Prometheus' conventions."""
    packing.two(tmp_path)
    with Server(tmp_path, "--budget", "1MiB") as server:
        assert server.ask("/predictions/two", '{"a": [[1, 2]], "b": [[3, 4]]}')[0] == 200
        text = server.ask("/metrics")[2]
    assert PROMTOOL
    done = subprocess.run([PROMTOOL, "check", "metrics"], input=text, capture_output=True, check=False)
    complaints = [line for line in (done.stdout + done.stderr).decode().splitlines() if "_created" not in line]
    assert [line for line in complaints if re.match(r"streamrt_\w+_seconds ", line)] == []
    assert b"error while linting" not in done.stderr


def filled(expression: str) -> str:
    """An expression with values in the place of Grafana's variables."""
    text = expression.replace("$__rate_interval", RATE).replace("$instance", ".*").replace("$model", ".*")
    assert "$" not in text
    return text


@pytest.mark.parametrize("expression", expressions())
def test_every_expression_of_the_dashboard_has_data(watched: Prometheus, expression: str) -> None:
    found = watched.values(filled(expression))
    assert found, expression
    assert all(value == value and value >= 0 for _, value in found), found  # no NaN
    if "by (model)" in expression or "by (le, model)" in expression:
        assert {"mlp", "two"} <= {labels["model"] for labels, _ in found}


@pytest.mark.parametrize("query", variables())
def test_every_variable_of_the_dashboard_has_values(watched: Prometheus, query: str) -> None:
    ((series, label),) = re.findall(r"^label_values\((.*), (\w+)\)$", query)
    assert watched.ask(f"label/{label}/values", **{"match[]": filled(series)})


def test_the_stages_tell_where_the_time_goes(watched: Prometheus) -> None:
    """A model that does not fit in the budget waits for weights, and a model without weights does not."""
    found = {labels["model"]: value for labels, value in watched.values("sum by (model) (streamrt_read_seconds_sum)")}
    assert found["mlp"] > 0
    assert found["two"] == 0


def test_alerts_can_be_evaluated_and_are_quiet(watched: Prometheus) -> None:
    for rule in rules():
        assert watched.values(rule["expr"]) == [], rule
    groups = watched.ask("rules")["groups"]
    assert {rule["name"]: rule["health"] for group in groups for rule in group["rules"]}.keys() == {
        rule["alert"] for rule in rules()
    }
    assert watched.ask("alerts")["alerts"] == []


def test_alerts_fire(tmp_path: Path) -> None:
    """Prometheus' own test of rules, with series that should and should not cause each alert."""
    shutil.copy(EXAMPLE / "alerts.yml", tmp_path)
    labels = '{job="streamrt", instance="%s", model="m", outcome="%s"}'

    def series(name: str, values: str) -> dict[str, str]:
        return {"series": name, "values": values}

    requests = "streamrt_requests_total" + labels
    inputs = [
        series('up{job="streamrt", instance="down"}', "1x2 0x30"),
        series('up{job="streamrt", instance="good"}', "1x32"),
        series(requests % ("good", "ok"), "0+100x32"),
        series(requests % ("good", "busy"), "0+2x32"),
        series(requests % ("good", "failed"), "0x32"),
        series(requests % ("busy", "ok"), "0+100x32"),
        series(requests % ("busy", "busy"), "0+10x32"),
        series(requests % ("bad", "failed"), "0x20 1x12"),
        series('streamrt_pool_load_failures_total{job="streamrt", instance="broken"}', "0x20 1x12"),
    ]
    expected = {"StreamrtDown": {"down"}, "StreamrtBusy": {"busy"}, "StreamrtFailures": {"bad", "broken"}}
    summaries = {
        "StreamrtDown": "%s does not answer",
        "StreamrtBusy": "%s refuses requests: it needs a larger budget, or more servers",
        "StreamrtFailures": "%s has failures: its log has the reasons",
    }
    alerts = [
        {
            "eval_time": "25m",
            "alertname": name,
            "exp_alerts": [
                {
                    "exp_labels": {
                        "severity": "ticket" if name == "StreamrtFailures" else "page",
                        "instance": instance,
                        **({"job": "streamrt"} if name == "StreamrtDown" else {}),
                    },
                    "exp_annotations": {"summary": summaries[name] % instance},
                }
                for instance in sorted(instances)
            ],
        }
        for name, instances in expected.items()
    ]
    tests = {
        "rule_files": ["alerts.yml"],
        "evaluation_interval": "1m",
        "tests": [{"interval": "1m", "input_series": inputs, "alert_rule_test": alerts}],
    }
    (tmp_path / "tests.yml").write_text(json.dumps(tests))  # JSON is YAML
    assert PROMTOOL
    done = subprocess.run(
        [PROMTOOL, "test", "rules", "tests.yml"], cwd=tmp_path, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr
