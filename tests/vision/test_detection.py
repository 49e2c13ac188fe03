"""The bodies of torchvision's detectors: all layers before the boxes. Each body has several maps as outputs."""

import numpy as np
import pytest

import streamrt
from markers import needs
from vision.models import detectors, seeded_body

pytestmark = pytest.mark.extras
torch, *_ = needs("torch", "torchvision", "onnxscript")

#: No extent is far below 300 pixels: from 300 pixels SSD's last map has a single value.
SIZES = [(1, 3, 320, 320), (2, 3, 300, 352), (1, 3, 331, 317)]
NAMES = [
    pytest.param(name, marks=[] if position == 0 else pytest.mark.variants)
    for names in detectors()
    for position, name in enumerate(names)
]


def test_every_detector_is_there():
    from torchvision import models

    found = [name for names in detectors() for name in names]
    assert sorted(found) == sorted(models.list_models(module=models.detection))
    assert {"BackboneWithFPN", "SSDFeatureExtractorVGG", "SSDLiteFeatureExtractorMobileNet"} <= {
        type(seeded_body(names[0])).__name__ for names in detectors()
    }


@pytest.mark.parametrize("name", NAMES)
def test_the_same_as_torch_at_any_size(name, tmp_path):
    body = seeded_body(name)
    path = tmp_path / "out.safetensors"
    streamrt.pack(body, path, example=torch.randn(2, 3, 320, 320), inputs=("N", 3, "H", "W"))
    for shape in SIZES:
        x = torch.randn(*shape, generator=torch.Generator().manual_seed(0))
        with torch.no_grad():
            wanted = [value.numpy() for value in body(x).values()]
        with streamrt.Model(path) as model:
            least = model.min_budget(shape)
        for budget in (None, least):
            with streamrt.Model(path, budget) as model:
                found = model(x.numpy())
                assert model.stats.peak_weights + model.stats.workspace <= (model.budget or 2**62)
            assert len(found) == len(wanted) > 1
            for spec, reference in zip(model.outputs, wanted, strict=True):
                y = found[spec.name]
                assert y.shape == reference.shape
                assert np.abs(y - reference).max() <= 1e-4 * np.abs(reference).max()
    path.unlink()
