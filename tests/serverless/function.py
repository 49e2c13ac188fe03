"""The function of examples/serverless, under Lambda's runtime client and the local copy of Lambda's interface."""

from __future__ import annotations

import base64
import importlib.util
import json
import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
from numpy.typing import NDArray

from bench.process.cgroup import Cgroup

EXAMPLE = Path(__file__).parents[2] / "examples" / "serverless"


def _load(name: str) -> ModuleType:
    spec = importlib.util.spec_from_file_location(f"serverless_{name}", EXAMPLE / f"{name}.py")
    assert spec
    assert spec.loader
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module  # dataclasses look their module up
    spec.loader.exec_module(module)
    return module


local = _load("local")


class Function:
    """A process of the function."""

    def __init__(self, interface: Any, process: subprocess.Popen[bytes], log: Path) -> None:
        self._interface, self.process, self._log = interface, process, log

    def invoke(self, event: Any) -> Any:
        """The answer to an event: bytes, or what becomes JSON."""
        text = event if isinstance(event, bytes) else json.dumps(event).encode()
        return self._interface.invoke(text, self.process)

    def result(self, event: Any) -> Any:
        """The value of an answer that is no error."""
        answer = self.invoke(event)
        assert not answer.failed, answer.body
        return answer.value

    def started(self) -> None:
        """Wait until the model is open."""
        self._interface.wait_until_started(self.process)

    def log(self) -> str:
        return self._log.read_text()


@contextmanager
def function(
    scratch: Path, model: Path, *, memory: int = 256, group: Cgroup | None = None, **environ: str
) -> Iterator[Function]:
    """The function with a model. It is told ``memory``, in MB, and is in ``group`` from its first instruction on."""
    log = scratch / "function.log"
    with local.Interface() as interface, log.open("wb") as output:
        told = local.environment(interface, memory) | {"STREAMRT_MODEL": str(model)} | environ
        command = local.command()
        if group:
            command = ["/bin/sh", "-c", 'echo $$ > "$0" && exec "$@"', str(group.procs), *command]
        with subprocess.Popen(command, env=os.environ | told, cwd=scratch, stdout=output, stderr=output) as process:
            try:
                yield Function(interface, process, log)
            finally:
                process.kill()


def tensor(x: NDArray[Any], name: str, datatype: str = "FP32") -> dict[str, Any]:
    """A tensor of an event, in base64."""
    text = base64.b64encode(x.astype(x.dtype.newbyteorder("<")).tobytes()).decode()
    return {"name": name, "shape": list(x.shape), "datatype": datatype, "base64": text}


def event(x: NDArray[np.float32], name: str = "input") -> dict[str, Any]:
    """An event with one tensor; its answer is in base64."""
    return {"inputs": [tensor(x, name)], "parameters": {"binary_data_output": True}}


def array(answer: Any) -> NDArray[np.float32]:
    """The only tensor of an answer."""
    (told,) = answer["outputs"]
    assert told["datatype"] == "FP32"
    found = np.frombuffer(base64.b64decode(told["base64"]), "<f4") if "base64" in told else told["data"]
    return np.asarray(found, np.float32).reshape(told["shape"])
