"""Real architectures against torch: with everything resident, in 64 MiB, and in the smallest budget that works."""

import numpy as np
import pytest

import streamrt
from vision.models import images, seeded

pytestmark = pytest.mark.extras
torch = pytest.importorskip("torch")
pytest.importorskip("torchvision")
pytest.importorskip("onnxscript")

NAMES = [
    "vgg16",
    "resnet50",
    "mobilenet_v2",
    "densenet121",
    "squeezenet1_1",
    "googlenet",
    "shufflenet_v2_x1_0",
    "efficientnet_b0",
]


@pytest.fixture(scope="module", params=NAMES)
def packed(request, tmp_path_factory):
    """A model packed, and what torch makes of one and of three images."""
    model = seeded(request.param)
    path = tmp_path_factory.mktemp("vision") / f"{request.param}.safetensors"
    streamrt.pack(model, path, example=images(2))
    with torch.no_grad():
        yield path, {batch: model(images(batch)).numpy() for batch in (1, 3)}
    path.unlink()


@pytest.mark.parametrize("budget", [None, "64MiB", "least"])
@pytest.mark.parametrize("batch", [1, 3])
def test_the_same_as_torch(packed, budget, batch):
    path, answers = packed
    x = images(batch).numpy()
    if budget == "least":
        with streamrt.Model(path) as model:
            budget = model.min_budget(x.shape)
    with streamrt.Model(path, budget) as model:
        for _ in range(2):
            y = model(x)
            assert np.abs(y - answers[batch]).max() <= 1e-4 * np.abs(answers[batch]).max()
        assert model.stats.peak_weights + model.stats.workspace <= (model.budget or 2**62)
