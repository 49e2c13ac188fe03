"""Shuffles of channels as torch's exporters write them: ChannelShuffle, and a unit of torchvision's ShuffleNetV2."""

from __future__ import annotations

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
nn = torch.nn


class Shuffle(nn.Module):
    def forward(self, x: Any) -> Any:
        return torchvision.models.shufflenetv2.channel_shuffle(x, 3)


def network(name: str) -> Any:
    shuffles = {"a function": Shuffle(), "ChannelShuffle": nn.ChannelShuffle(3)}
    if name in shuffles:
        return nn.Sequential(nn.Conv2d(3, 12, 3, stride=2), shuffles[name], nn.Conv2d(12, 12, 3, padding=1))
    residual = torchvision.models.shufflenetv2.InvertedResidual
    return nn.Sequential(nn.Conv2d(3, 12, 3, stride=2), residual(12, 12, 1), residual(12, 16, 2), residual(16, 16, 1))


@pytest.mark.parametrize("free", [False, True], ids=["fixed", "free"])
@pytest.mark.parametrize(
    ("name", "dynamo"),
    [
        *(("a function", False), ("a function", True)),
        ("ChannelShuffle", True),  # the older exporter does not know it
        *(("units", False), ("units", True)),
    ],
)
def test_a_file_of_each_exporter(name: str, dynamo: bool, free: bool, tmp_path: Path) -> None:
    torch.manual_seed(0)
    module = network(name).eval()
    path = streamrt.pack(exported(module, (2, 3, 65, 48), dynamo=dynamo, free=free), tmp_path / "out")
    found = ops(read_header(path).graph)
    assert "Transpose" not in found
    assert found.count("Gather") == (3 if name == "units" else 1)
    for size in ((2, 3, 65, 48), *([(1, 3, 513, 70)] if free else [])):
        x = torch.randn(size)
        with torch.no_grad():
            wanted = module.double()(x.double()).numpy()
        with streamrt.Model(path, exact=True) as model:
            result, least = model(x.numpy()), model.min_budget(size)
        assert np.abs(result - wanted).max() <= 1e-5 * np.sqrt(np.mean(wanted**2))
        with streamrt.Model(path, least, exact=True) as model:
            assert model(x.numpy()).tobytes() == result.tobytes()
            if _core.isa() != NUMPY and size[2] > 500:
                assert [(bands.first, bands.count > 8) for bands in model.plan_for(size).bands] == [(0, True)]
