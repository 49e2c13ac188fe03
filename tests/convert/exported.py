"""Files of torch's two exporters for ONNX. Tests that import it have the mark `extras`."""

from __future__ import annotations

import io
import warnings
from typing import Any

from markers import needs

torch, onnx, _ = needs("torch", "onnx", "onnxscript")


def exported(module: Any, size: tuple[int, ...], *, dynamo: bool, free: bool) -> Any:
    """The model that the newer exporter (``dynamo``) or the older one writes for an input ``x`` of ``size``.

    Samples, rows and columns are ``free`` or fixed.
    """
    options: dict[str, Any] = {}
    if free and dynamo:
        options["dynamic_shapes"] = (dict.fromkeys((0, 2, 3), torch.export.Dim.DYNAMIC),)
    elif free:
        options["dynamic_axes"] = {"x": {0: "N", 2: "H", 3: "W"}}
    buffer = io.BytesIO()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        made = torch.onnx.export(
            module,
            (torch.randn(size),),
            None if dynamo else buffer,
            dynamo=dynamo,
            verbose=False,
            input_names=["x"],
            **options,
        )
    return made.model_proto if dynamo else onnx.load_from_string(buffer.getvalue())
