"""Parameters as they lie in a mapped weights file."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from streamrt._core import Coded
from streamrt.format import INT64, UNCODED, Tensor, WeightsFile
from streamrt.ops import Param


def params_of(file: WeightsFile, data: NDArray[np.uint8]) -> dict[str, Param]:
    """The parameters of a file by name: views of its bytes ``data``."""
    return {name: _param(tensor, data) for name, tensor in file.tensors.items()}


def _param(tensor: Tensor, file: NDArray[np.uint8]) -> Param:
    data = file[tensor.offset : tensor.offset + tensor.nbytes]
    if tensor.coding in (UNCODED, INT64):
        return data.view("<f4" if tensor.coding == UNCODED else "<i8").reshape(tensor.shape)
    return Coded(data.data, tensor.dtype, tensor.shape, tensor.block, tensor.zeros)
