"""Networks of attention and of products, as large as people use them: the same as torch at any budget."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import streamrt
from markers import needs

pytestmark = [pytest.mark.extras, pytest.mark.variants]
torch, timm, torchvision, *_ = needs("torch", "timm", "torchvision", "onnxscript")
nn = torch.nn


class Encoder(nn.Module):
    """An encoder of texts of the size of BERT-base: 12 layers of 768 channels and 12 heads, 30,522 words."""

    def __init__(self, words: int = 30_522, width: int = 768, layers: int = 12, heads: int = 12) -> None:
        super().__init__()
        self.words, self.positions = nn.Embedding(words, width), nn.Embedding(512, width)
        self.types, self.norm = nn.Embedding(2, width), nn.LayerNorm(width)
        layer = nn.TransformerEncoderLayer(width, heads, 4 * width, activation="gelu", batch_first=True)
        self.layers = nn.TransformerEncoder(layer, layers, enable_nested_tensor=False)
        self.pool = nn.Linear(width, width)

    def forward(self, ids: Any, mask: Any, types: Any) -> Any:
        places = torch.arange(ids.shape[1], device=ids.device)
        x = self.norm(self.words(ids) + self.positions(places) + self.types(types))
        x = self.layers(x, src_key_padding_mask=mask == 0)
        return x, torch.tanh(self.pool(x[:, 0]))


def of_torchvision(name: str) -> Callable[[], Any]:
    return lambda: torchvision.models.get_model(name, weights=None)


def of_timm(name: str) -> Callable[[], Any]:
    return lambda: timm.create_model(name, pretrained=False)


def pictures(size: int) -> Callable[[int], tuple[Any, ...]]:
    return lambda batch: (torch.randn(batch, 3, size, size),)


def texts(batch: int) -> tuple[Any, ...]:
    """Ids of 48 words, a mask that ends at another word in each text, and types 0 and 1."""
    ids = torch.randint(30_522, (batch, 48))
    ends = torch.randint(5, 48, (batch, 1))
    return ids, (torch.arange(48) < ends).to(torch.int64), (torch.arange(48) > ends // 2).to(torch.int64)


#: By name: what makes a network, and what makes its inputs for a batch.
NETWORKS: dict[str, tuple[Callable[[], Any], Callable[[int], tuple[Any, ...]]]] = {
    "vit_b_16": (of_torchvision("vit_b_16"), pictures(224)),
    "vit_l_16": (of_torchvision("vit_l_16"), pictures(224)),
    "deit_base": (of_timm("deit_base_patch16_224"), pictures(224)),
    "swin_t": (of_torchvision("swin_t"), pictures(224)),
    "swin_v2_t": (of_torchvision("swin_v2_t"), pictures(256)),
    "maxvit_t": (of_torchvision("maxvit_t"), pictures(224)),
    "clip": (of_timm("vit_base_patch16_clip_224"), pictures(224)),
    "convnextv2_tiny": (of_timm("convnextv2_tiny"), pictures(224)),
    "mixer_b16": (of_timm("mixer_b16_224"), pictures(224)),
    "gmlp_s16": (of_timm("gmlp_s16_224"), pictures(224)),
    "coatnet_0": (of_timm("coatnet_0_rw_224"), pictures(224)),
    "encoder": (Encoder, texts),
}


@pytest.mark.parametrize("name", NETWORKS)
def test_the_same_as_torch(name: str, tmp_path: Path) -> None:
    make, example = NETWORKS[name]
    torch.manual_seed(0)
    network = make().eval()
    for parameter in network.parameters():
        if not parameter.any():  # zeros of a new network would hide errors
            nn.init.normal_(parameter, std=0.1)
    path = streamrt.pack(network, tmp_path / "out.safetensors", example=example(2))
    for batch in (1, 3):
        inputs = example(batch)
        with torch.no_grad():
            answer = network(*inputs)
        wanted = [y.numpy() for y in (answer if isinstance(answer, tuple) else (answer,))]
        with streamrt.Model(path) as model:
            named = {spec.name: x.numpy() for spec, x in zip(model.inputs, inputs, strict=True)}
            shapes = {name: x.shape for name, x in named.items()}
            least = model.min_budget(shapes if len(shapes) > 1 else inputs[0].shape)
        quarter = path.stat().st_size // 4
        assert least < quarter
        for budget in (None, quarter, least):
            with streamrt.Model(path, budget) as model:
                result = model(named if len(named) > 1 else inputs[0].numpy())
                found = [result[spec.name] for spec in model.outputs] if len(model.outputs) > 1 else [result]
                assert model.stats.peak_weights + model.stats.workspace <= (model.budget or 2**62)
            for y, reference in zip(found, wanted, strict=True):
                assert np.abs(y - reference).max() <= 1e-4 * np.abs(reference).max()
