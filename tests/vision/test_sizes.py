"""Fully convolutional networks, and networks that end in global pooling, packed once for images of any size."""

import numpy as np
import pytest

import streamrt
from markers import needs
from vision.models import seeded

pytestmark = pytest.mark.extras
torch, *_ = needs("torch", "torchvision", "onnxscript")

#: They have strides, sums, channel shuffle, squeeze and excitation, sizes taken from the input, pooling at 2 scales.
NAMES = [
    *("resnet18", "shufflenet_v2_x0_5", "mobilenet_v3_small", "squeezenet1_1", "convnext_tiny"),
    *("fcn_resnet50", "deeplabv3_mobilenet_v3_large"),
]
SIZES = [(1, 3, 224, 224), (2, 3, 97, 131), (1, 3, 160, 64)]


@pytest.mark.parametrize("name", NAMES)
def test_the_same_as_torch_at_any_size(name, tmp_path):
    network = seeded(name)
    path = tmp_path / "out.safetensors"
    streamrt.pack(network, path, example=torch.randn(2, 3, 96, 128), inputs=("N", 3, "H", "W"))
    try:
        with streamrt.Model(path, budget=None) as model:
            assert model.inputs[0].dims == ("N", 3, "H", "W")
            plans = {}
            for shape in [*SIZES, SIZES[0]]:
                x = torch.randn(*shape, generator=torch.Generator().manual_seed(0))
                with torch.no_grad():
                    wanted = network(x).numpy()
                found = model(x.numpy())
                assert found.shape == wanted.shape
                assert np.abs(found - wanted).max() <= 1e-4 * np.abs(wanted).max()
                assert plans.setdefault(shape, model.plan) is model.plan
            assert len({plan.workspace for plan in plans.values()}) == len(SIZES)
    finally:
        path.unlink()
