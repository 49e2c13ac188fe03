"""Real architectures against torch: with everything resident, in 64 MiB, and in the smallest budget that works.

Of every family that torchvision has, the smallest model runs; all others have the marker ``variants``.
"""

import numpy as np
import pytest

import streamrt
from vision.models import images, registry, seeded

pytestmark = pytest.mark.extras
torch = pytest.importorskip("torch")
pytest.importorskip("torchvision")
pytest.importorskip("onnxscript")

#: Besides the smallest of their families.
ALWAYS = {"vgg16", "resnet50", "squeezenet1_1", "shufflenet_v2_x1_0"}


def marks(name, is_smallest):
    return [] if is_smallest or name in ALWAYS else [pytest.mark.variants]


NAMES = [pytest.param(name, marks=marks(name, name == names[0])) for names in registry() for name in names]


@pytest.fixture(scope="module", params=NAMES)
def packed(request, tmp_path_factory):
    """A model packed, and what torch makes of one and of three images."""
    model = seeded(request.param)
    path = tmp_path_factory.mktemp("vision") / f"{request.param}.safetensors"
    streamrt.pack(model, path, example=images(2, request.param))
    inputs = {batch: images(batch, request.param) for batch in (1, 3)}
    with torch.no_grad():
        yield path, {batch: (x.numpy(), model(x).numpy()) for batch, x in inputs.items()}
    path.unlink()


def test_every_family_is_there():
    smallest = {names[0] for names in registry()}
    assert len(smallest) >= 21
    assert {"alexnet", "resnet18", "resnext50_32x4d", "wide_resnet50_2", "convnext_tiny", "fcn_resnet50"} <= smallest


@pytest.mark.parametrize("budget", [None, "64MiB", "least"])
@pytest.mark.parametrize("batch", [1, 3])
def test_the_same_as_torch(packed, budget, batch):
    path, cases = packed
    x, answer = cases[batch]
    if budget == "least":
        with streamrt.Model(path) as model:
            budget = model.min_budget(x.shape)
    with streamrt.Model(path, budget) as model:
        for _ in range(2):
            y = model(x)
            assert np.abs(y - answer).max() <= 1e-4 * np.abs(answer).max()
        assert model.stats.peak_weights + model.stats.workspace <= (model.budget or 2**62)
