"""GroupNormalization as torch's exporters write it, in all ranks, and a residual block of a decoder."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import streamrt
from convert.exported import exported
from convert.support import ops
from markers import needs
from streamrt.format import read_header
from streamrt.graph import Graph

pytestmark = pytest.mark.extras

(torch,) = needs("torch")
nn = torch.nn
FREE = ("N", "C", "H", "W", "D")


def residual(inner: int, outer: int) -> Any:
    """A block as in the decoders of latent diffusion."""
    from torch import nn

    class Residual(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.norm1, self.conv1 = nn.GroupNorm(32, inner, eps=1e-6), nn.Conv2d(inner, outer, 3, padding=1)
            self.norm2, self.conv2 = nn.GroupNorm(32, outer, eps=1e-6), nn.Conv2d(outer, outer, 3, padding=1)
            self.act = nn.SiLU()
            self.short = nn.Conv2d(inner, outer, 1) if inner != outer else nn.Identity()

        def forward(self, x: Any) -> Any:
            h = self.conv1(self.act(self.norm1(x)))
            return self.short(x) + self.conv2(self.act(self.norm2(h)))

    return Residual()


def randomised(module: Any) -> Any:
    """The module with other parameters than ones and zeros."""
    torch.manual_seed(0)
    for part in module.modules():
        if isinstance(part, nn.GroupNorm | nn.InstanceNorm2d) and part.weight is not None:
            nn.init.normal_(part.weight)
            nn.init.normal_(part.bias)
    return module.eval()


def compare(module: Any, path: Path, size: tuple[int, ...]) -> None:
    """Results must be within 1e-5 of the RMS of torch's in float64."""
    x = torch.randn(size)
    with torch.no_grad():
        wanted = copy.deepcopy(module).double()(x.double()).numpy()
    with streamrt.Model(path, budget=None) as packed:
        found = packed(x.numpy())
    assert found.shape == wanted.shape
    assert np.abs(found - wanted).max() <= 1e-5 * np.sqrt(np.mean(wanted**2))


def graph_of(path: Path) -> Graph:
    return read_header(path).graph


@pytest.mark.parametrize("rank", [2, 3, 4, 5])
@pytest.mark.parametrize(
    ("groups", "affine", "free"), [(1, True, True), (2, True, False), (2, False, True), (6, True, False)]
)
def test_a_module(groups: int, affine: bool, free: bool, rank: int, tmp_path: Path) -> None:
    module = randomised(nn.Sequential(nn.GroupNorm(groups, 6, affine=affine), nn.SiLU()))
    size = (2, 6, 5, 4, 3)[:rank]
    inputs = {"input": ("N", 6, *FREE[2:rank])} if free else None
    path = streamrt.pack(module, tmp_path / "out", example=torch.randn(size), inputs=inputs)
    assert ops(graph_of(path)) == ["GroupNormalization+Swish"]
    assert graph_of(path).nodes[0].attrs["num_groups"] == groups
    for other in (size, (3, 6, 3, 7, 2)[:rank] if free else (3, *size[1:])):
        compare(module, path, other)


@pytest.mark.parametrize("dynamo", [False, True], ids=["older exporter", "exporter"])
@pytest.mark.parametrize("free", [False, True], ids=["fixed", "free"])
@pytest.mark.parametrize("op", ["GroupNormalization", "InstanceNormalization"])
@pytest.mark.parametrize("affine", [False, True])
def test_a_file_of_each_exporter(affine: bool, op: str, free: bool, dynamo: bool, tmp_path: Path) -> None:
    group = nn.GroupNorm(2, 4, affine=affine)
    inner = group if op == "GroupNormalization" else nn.InstanceNorm2d(4, affine=affine)
    module = randomised(nn.Sequential(nn.Conv2d(3, 4, 3, stride=2), inner, nn.ReLU()))
    model = exported(module, (2, 3, 9, 8), dynamo=dynamo, free=free)
    path = streamrt.pack(model, tmp_path / "out")
    assert ops(graph_of(path)) == ["Conv", f"{op}+Relu"]
    for size in ((2, 3, 9, 8), *([(1, 3, 12, 20)] if free else [])):
        compare(module, path, size)


@pytest.mark.parametrize("inner", [64, 96])
@pytest.mark.parametrize("free", [False, True], ids=["batch", "all"])
def test_a_residual_block(inner: int, free: bool, tmp_path: Path) -> None:
    module = randomised(residual(inner, 64))
    inputs = {"x": ("N", inner, "H", "W")} if free else None
    path = streamrt.pack(module, tmp_path / "out", example=torch.randn(2, inner, 12, 10), inputs=inputs)
    graph = graph_of(path)
    rest = ["Conv"] if inner != 64 else []
    assert sorted(ops(graph)) == sorted(["GroupNormalization+Swish", "Conv"] * 2 + rest)
    assert len(graph.nodes) == 4 + len(rest)
    for size in ((1, inner, 12, 10), *([(2, inner, 17, 9)] if free else [])):
        compare(module, path, size)
