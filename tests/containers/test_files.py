"""The numbers in the files of examples/containers and examples/edge. tests/guides has tools check the files."""

from __future__ import annotations

import json
import shlex
import threading
import time
from collections import Counter
from collections.abc import Callable
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

import pytest

from bench.process.cgroup import Cgroup
from loadbalancer.client import Client, binary, infer_path
from markers import needs
from model import zoo
from serve.process import Server
from streamrt.host.budget import parse_size

pytestmark = pytest.mark.extras
yaml, _ = needs("yaml", "uvicorn")

EXAMPLES = Path(__file__).parents[2] / "examples"
DOCKERFILE = EXAMPLES / "containers" / "Dockerfile"
MODELS = 10
#: Clients, whose bodies have more bytes than the limit.
CLIENTS = 40


def pod() -> dict[str, Any]:
    """The specification of the deployment's pods."""
    deployment, _ = yaml.safe_load_all((EXAMPLES / "containers" / "kubernetes.yml").read_text())
    spec: dict[str, Any] = deployment["spec"]["template"]["spec"]
    return spec


def instruction(name: str) -> list[str]:
    """The arguments of the only instruction of this name that has a list."""
    (line,) = [line for line in DOCKERFILE.read_text().splitlines() if line.startswith(f"{name} [")]
    found: list[str] = json.loads(line.removeprefix(name))
    return found


def test_the_service_finds_the_pods() -> None:
    deployment, service = yaml.safe_load_all((EXAMPLES / "containers" / "kubernetes.yml").read_text())
    labels = deployment["spec"]["template"]["metadata"]["labels"]
    assert deployment["spec"]["selector"]["matchLabels"] == service["spec"]["selector"] == labels
    (container,) = pod()["containers"]
    (port,), (target,) = container["ports"], service["spec"]["ports"]
    assert target["targetPort"] == port["name"]
    assert str(port["containerPort"]) in instruction("ENTRYPOINT")
    (mount,) = container["volumeMounts"]
    assert mount["mountPath"] in instruction("ENTRYPOINT")


def test_a_pod_is_not_killed_before_its_requests_have_ended() -> None:
    (container,) = pod()["containers"]
    arguments = container["args"]
    grace = int(arguments[arguments.index("--grace") + 1])
    before = container["lifecycle"]["preStop"]["sleep"]["seconds"]
    assert before + grace < pod()["terminationGracePeriodSeconds"]


def test_the_image_and_the_pod_have_the_same_limits() -> None:
    assert pod()["containers"][0]["args"][:8] == instruction("CMD")


def test_the_package_is_built_as_for_the_function() -> None:
    """tests/serverless tries these steps without a container."""
    first, other = (
        path.read_text().partition("AS build\n")[2].partition("\nFROM")[0]
        for path in (DOCKERFILE, EXAMPLES / "serverless" / "Dockerfile")
    )
    assert first == other.replace("[serverless]", "[serve]")


def in_the_pod() -> tuple[list[str], int]:
    """Arguments of the server, and its limit of memory in MiB."""
    (container,) = pod()["containers"]
    return container["args"], int(container["resources"]["limits"]["memory"].removesuffix("Mi"))


def in_the_unit() -> tuple[list[str], int]:
    """The same of the unit for systemd."""
    text = (EXAMPLES / "edge" / "streamrt.service").read_text()
    values = dict(line.split("=", 1) for line in text.splitlines() if line[:1].isalpha())
    return shlex.split(values["ExecStart"])[3:], int(values["MemoryHigh"].removesuffix("M"))


@pytest.mark.parametrize("placed", [in_the_pod, in_the_unit])
def test_a_loaded_server_stays_in_the_limit(
    tmp_path: Path,
    memory_cgroup: Callable[[int | None], AbstractContextManager[Cgroup]],
    placed: Callable[[], tuple[list[str], int]],
) -> None:
    """Models that are larger than the budget, bodies that are nearly the largest, and probes meanwhile."""
    arguments, limit = placed()
    largest = parse_size(arguments[arguments.index("--max-body") + 1])
    width = largest // 140  # a request of 32 samples of float32 takes 91 % of the largest body
    for seed in range(MODELS):
        zoo.mlp(tmp_path, width, 64, seed=seed).path.rename(tmp_path / f"m{seed}.safetensors")
    body, length = binary(zoo.random_input(32, width))
    assert CLIENTS * len(body) > limit << 20
    statuses: Counter[int] = Counter()
    ended = threading.Event()

    def ask(number: int) -> None:
        """Try again, as clients do, until there is an answer that is not 503."""
        client = Client(int(server.address.rpartition(":")[2]))
        path = infer_path(f"m{number % MODELS}")
        while (found := client.request("POST", path, body, Inference_Header_Content_Length=length).status) == 503:
            time.sleep(0.1)
        statuses[found] += 1
        client.close()

    def probe() -> None:
        while not ended.wait(0.1):
            probed.extend(server.ask(path)[0] for path in paths)

    (container,) = pod()["containers"]
    paths = {container[f"{name}Probe"]["httpGet"]["path"] for name in ("startup", "liveness", "readiness")}
    probed: list[int] = []
    with memory_cgroup(limit << 20) as group, Server(tmp_path, *arguments, procs=group.procs) as server:
        threads = [threading.Thread(target=ask, args=(number,)) for number in range(CLIENTS)]
        prober = threading.Thread(target=probe)
        for thread in (*threads, prober):
            thread.start()
        for thread in threads:
            thread.join()
        ended.set()
        prober.join()
        assert group.kills() == 0
    assert set(probed) == {200}
    assert statuses == {200: CLIENTS}
