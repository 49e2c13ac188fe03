"""Runs `streamrt.ray` on a local Ray with two replicas. Each line of input is a command as JSON."""

from __future__ import annotations

import json
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import ray
from ray import serve

from streamrt.ray import Options, application


def main(repository: str, budget: str, models: str, port: str, scratch: str) -> None:
    """Run commands until the input ends."""
    ray.init(
        num_cpus=2,
        include_dashboard=False,
        log_to_driver=False,
        object_store_memory=80 << 20,
        _temp_dir=scratch,
        _node_ip_address="127.0.0.1",
    )
    options = Options(
        repository=repository, budget=budget, replicas=2, models_per_replica=int(models), threads=1, rescan=0.5
    )
    serve.start(http_options={"host": "127.0.0.1", "port": int(port)})
    handle = serve.run(application(options), name="streamrt", route_prefix="/")
    tell("ready")
    for line in sys.stdin:
        command, *arguments = line.split()
        if command == "stats":
            tell(stats(handle))
        else:
            tell(infer(handle, command, *arguments))
    serve.shutdown()
    ray.shutdown()
    tell("ended")


def stats(handle: Any) -> dict[str, Any]:
    """Statistics of both replicas, by name. Ray chooses the replica, so this asks until both have answered."""
    found: dict[str, Any] = {}
    deadline = time.monotonic() + 60
    while len(found) < 2:
        told = handle.stats.remote().result()
        found[told.pop("replica")] = told
        assert time.monotonic() < deadline, found
    return found


def infer(handle: Any, model: str, file: str, *outputs: str) -> Any:
    """The types and values of the results of a call between deployments, or the error; ``file`` has the inputs."""
    with np.load(Path(file)) as arrays:
        inputs = dict(arrays)
    try:
        found = handle.options(multiplexed_model_id=model).infer.remote(inputs, outputs or None).result()
    except Exception as error:
        return {"error": type(error).__name__, "cause": type(getattr(error, "cause", None)).__name__}
    return {name: [str(array.dtype), array.tolist()] for name, array in found.items()}


def tell(value: Any) -> None:
    """Print one line of JSON."""
    print(json.dumps(value), flush=True)


if __name__ == "__main__":
    main(*sys.argv[1:])
