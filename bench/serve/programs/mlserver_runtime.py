"""MLServer's model: a custom inference runtime over ONNX Runtime, as MLServer's manual describes one.

It runs in MLServer's environment, which has neither streamrt nor ``bench``.
"""

from __future__ import annotations

import onnxruntime
from mlserver import MLModel
from mlserver.codecs import NumpyCodec
from mlserver.types import InferenceRequest, InferenceResponse


class OnnxModel(MLModel):
    """The ONNX file at ``parameters.uri``."""

    async def load(self) -> bool:
        uri = self.settings.parameters.uri
        self._session = onnxruntime.InferenceSession(uri, providers=["CPUExecutionProvider"])
        self._output = self._session.get_outputs()[0].name
        return True

    async def predict(self, payload: InferenceRequest) -> InferenceResponse:
        (x,) = (NumpyCodec.decode_input(request) for request in payload.inputs)
        (y,) = self._session.run([self._output], {payload.inputs[0].name: x})
        return InferenceResponse(model_name=self.name, outputs=[NumpyCodec.encode_output(self._output, y)])
