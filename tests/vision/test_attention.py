"""Networks of attention, made small: the same as torch at any budget."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import streamrt
from convert.support import ops
from markers import needs
from streamrt.format import read_header

pytestmark = pytest.mark.extras
torch, timm, torchvision, *_ = needs("torch", "timm", "torchvision", "onnxscript")


def vit() -> Any:
    return torchvision.models.VisionTransformer(
        image_size=64, patch_size=16, num_layers=2, num_heads=4, hidden_dim=64, mlp_dim=128, num_classes=10
    )


def swin(**kind: Any) -> Any:
    return torchvision.models.SwinTransformer(
        patch_size=[4, 4], embed_dim=24, depths=[2, 2], num_heads=[2, 4], window_size=[4, 4], num_classes=10, **kind
    )


def swin_v2() -> Any:
    module = torchvision.models.swin_transformer
    return swin(block=module.SwinTransformerBlockV2, downsample_layer=module.PatchMergingV2)


def maxvit() -> Any:
    return torchvision.models.MaxVit(
        input_size=(64, 64),
        stem_channels=16,
        partition_size=4,
        block_channels=[16, 32],
        block_layers=[1, 1],
        head_dim=8,
        stochastic_depth_prob=0.0,
        num_classes=10,
    )


def of_timm(name: str, **changes: Any) -> Any:
    return timm.create_model(name, **changes)


def mixer(**kind: Any) -> Any:
    return timm.models.mlp_mixer.MlpMixer(
        img_size=64, patch_size=16, num_blocks=2, embed_dim=64, num_classes=10, **kind
    )


def gmlp() -> Any:
    return mixer(mlp_ratio=4, block_layer=timm.models.mlp_mixer.SpatialGatingBlock, mlp_layer=timm.layers.GatedMlp)


def clip() -> Any:
    return of_timm("vit_base_patch32_clip_224", depth=2, embed_dim=128, num_heads=4, img_size=96)


#: By name: what makes it, the size of its images, and the number of Attention nodes.
NETWORKS: dict[str, tuple[Callable[[], Any], int, int]] = {
    "vit": (vit, 64, 0),
    "swin": (swin, 64, 2),
    "swin_v2": (swin_v2, 64, 0),
    "maxvit": (maxvit, 64, 4),
    "deit": (lambda: of_timm("deit_tiny_patch16_224", depth=2, img_size=64), 64, 2),
    "clip": (clip, 96, 2),
    "mixer": (mixer, 64, 0),
    "gmlp": (gmlp, 64, 0),
    "convnextv2": (lambda: of_timm("convnextv2_atto"), 64, 0),
    "coatnet": (lambda: of_timm("coatnet_nano_rw_224", img_size=64), 64, 9),
}


@pytest.mark.parametrize(
    "name", [n if n in ("swin", "clip") else pytest.param(n, marks=pytest.mark.variants) for n in NETWORKS]
)
def test_the_same_as_torch(name: str, tmp_path: Path) -> None:
    make, size, attentions = NETWORKS[name]
    torch.manual_seed(0)
    network = make().eval()
    for parameter in network.parameters():
        if not parameter.any():  # a new network's last layer would hide errors
            torch.nn.init.normal_(parameter, std=0.1)
    x = torch.randn(2, 3, size, size)
    path = tmp_path / "out.safetensors"
    streamrt.pack(network, path, example=x)
    graph = read_header(path).graph
    assert ops(graph).count("Attention") == attentions
    assert isinstance(graph.inputs[0].dims[0], str)
    with torch.no_grad():
        wanted = network(x).numpy()
    with streamrt.Model(path) as model:
        least = model.min_budget(tuple(x.shape))
    for budget in (None, max(least, path.stat().st_size // 4), least):
        with streamrt.Model(path, budget) as model:
            y = model(x.numpy())
            assert model.stats.peak_weights + model.stats.workspace <= (model.budget or 2**62)
        assert np.abs(y - wanted).max() <= 1e-4 * np.abs(wanted).max()
