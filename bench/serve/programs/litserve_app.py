"""LitServe's server: one ``LitAPI`` that holds all models, over ONNX Runtime.

It takes ``settings.json``, whose path is the first argument. An endpoint of its own for each model would take a process
for each model, so the request names its model, as LitServe's manual does for several models. A body is the JSON of the
Open Inference Protocol with the model's name beside it; or a form with the tensor as a file, since LitServe takes bytes
only in forms.

It runs in LitServe's environment, which has neither streamrt nor ``bench``.
"""

import json
import sys
from pathlib import Path
from typing import Any

import litserve
import numpy as np
import onnxruntime
from fastapi import Response


class OnnxAPI(litserve.LitAPI):
    """ONNX files by name.

    Args:
        models: the path of each model.
        binary: whether requests are forms and answers are bytes.
        batching: ``max_batch_size`` and ``batch_timeout``, or nothing.
    """

    def __init__(self, models: dict[str, str], binary: bool, **batching: Any) -> None:
        super().__init__(**batching)
        self._paths, self._binary = models, binary

    def setup(self, device: str) -> None:
        providers = ["CPUExecutionProvider"]
        self._sessions = {
            name: onnxruntime.InferenceSession(path, providers=providers) for name, path in self._paths.items()
        }

    # LitServe takes the types of a body and an answer from annotations; without them it takes a body as it is.
    def decode_request(self, request):
        if self._binary:
            shape = [int(extent) for extent in request["shape"].split(",")]
            return request["model"], np.frombuffer(request["tensor"].file.read(), np.float32).reshape(shape)
        (given,) = request["inputs"]
        return request["model"], np.array(given["data"], np.float32).reshape(given["shape"])

    def batch(self, inputs: list[tuple[str, Any]]) -> list[tuple[str, Any]]:
        return inputs

    def predict(self, x: Any) -> Any:
        if isinstance(x, tuple):
            return self._run(*x)
        places: dict[str, list[int]] = {}
        for place, (name, _) in enumerate(x):
            places.setdefault(name, []).append(place)
        answers: list[Any] = [None] * len(x)
        for name, of_model in places.items():
            y = self._run(name, np.concatenate([x[place][1] for place in of_model]))
            for sample, place in enumerate(of_model):
                answers[place] = y[sample : sample + 1]
        return answers

    def unbatch(self, output: list[Any]) -> list[Any]:
        return output

    def encode_response(self, output):
        if self._binary:
            return Response(output.tobytes(), media_type="application/octet-stream")
        told = {"name": "y", "shape": list(output.shape), "datatype": "FP32", "data": output.ravel().tolist()}
        return {"outputs": [told]}

    def _run(self, name: str, x: Any) -> Any:
        session = self._sessions[name]
        return session.run(None, {session.get_inputs()[0].name: x})[0]


if __name__ == "__main__":
    settings = json.loads(Path(sys.argv[1]).read_text())
    api = OnnxAPI(settings["models"], settings["binary"], **settings["batching"])
    server = litserve.LitServer(api, accelerator="cpu")
    server.run(host="127.0.0.1", port=settings["port"], generate_client_file=False, log_level="warning")
