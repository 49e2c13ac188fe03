"""ConvNeXt as torch's exporters write it: normalisations and dense layers with channels last, between Transposes."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import streamrt
from convert.exported import exported
from convert.support import ops
from kernels.isas import NUMPY
from markers import needs
from streamrt import _core
from streamrt.format import read_header

pytestmark = pytest.mark.extras

torch, torchvision = needs("torch", "torchvision")


def network() -> Any:
    """A ConvNeXt of two stages. Its scales of layers are not near 0, as they are before training."""
    from torchvision.models.convnext import CNBlockConfig, ConvNeXt

    torch.manual_seed(0)
    module = ConvNeXt([CNBlockConfig(12, 20, 2), CNBlockConfig(20, None, 1)], layer_scale=0.7, num_classes=7).eval()
    for part in module.modules():
        if isinstance(part, torch.nn.LayerNorm):
            torch.nn.init.normal_(part.weight)
            torch.nn.init.normal_(part.bias)
    return module


@pytest.mark.parametrize("dynamo", [False, True], ids=["older exporter", "exporter"])
@pytest.mark.parametrize("free", [False, True], ids=["fixed", "free"])
def test_a_file_of_each_exporter(dynamo: bool, free: bool, tmp_path: Path) -> None:
    module = network()
    model = exported(module, (2, 3, 64, 48), dynamo=dynamo, free=free)
    path = streamrt.pack(model, tmp_path / "out")
    found = ops(read_header(path).graph)
    assert found.count("Conv+Gelu") == 3
    assert found.count("Div") == found.count("ReduceMean") // 2 == 5  # all but the last normalisation, of a mean
    assert found.count("LayerNormalization") == 1
    assert "MatMul" not in found
    for size in ((2, 3, 64, 48), *([(1, 3, 520, 72), (1, 3, 8, 8)] if free else [])):
        x = torch.randn(size)
        with torch.no_grad():
            wanted = copy.deepcopy(module).double()(x.double()).numpy()
        with streamrt.Model(path, exact=True) as packed:
            result, least = packed(x.numpy()), packed.min_budget(size)
        assert np.abs(result - wanted).max() <= 1e-5 * np.sqrt(np.mean(wanted**2))
        with streamrt.Model(path, least, exact=True) as packed:
            banded = packed(x.numpy())
            np.testing.assert_allclose(banded, result, rtol=1e-5, atol=1e-6)
            if _core.isa() != NUMPY and size[2] > 500:
                assert [(bands.first, bands.count > 8) for bands in packed.plan_for(size).bands] == [(0, True)]
