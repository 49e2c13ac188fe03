"""Real architectures against torch: with everything resident, in 64 MiB, and in the smallest budget that works.

The smallest model of every family of torchvision runs. All others have the marker ``variants``, except `ALWAYS`.
"""

import numpy as np
import pytest

import streamrt
from markers import needs
from plan import earlier
from streamrt import _core
from streamrt.format import read_header
from vision.models import images, registry, seeded

pytestmark = pytest.mark.extras
torch, *_ = needs("torch", "torchvision", "onnxscript")

#: Models that run besides the smallest of each family.
ALWAYS = {"vgg16", "resnet50", "squeezenet1_1", "shufflenet_v2_x1_0"}
#: The smallest model of each family; a newer torchvision may have more families.
FAMILIES = {
    *("alexnet", "vgg11", "googlenet", "inception_v3", "squeezenet1_1", "densenet121", "mnasnet0_5"),
    *("resnet18", "resnext50_32x4d", "wide_resnet50_2", "regnet_x_400mf", "regnet_y_400mf"),
    *("mobilenet_v2", "mobilenet_v3_small", "shufflenet_v2_x0_5", "efficientnet_b0", "efficientnet_v2_s"),
    *("convnext_tiny", "fcn_resnet50", "deeplabv3_mobilenet_v3_large", "lraspp_mobilenet_v3_large"),
}
#: (input channels, output channels, height) of the convolutions that Winograd's algorithm must compute.
BY_WINOGRAD = {
    "resnet18": {(64, 64, 56), (128, 128, 28), (256, 256, 14), (512, 512, 7)},
    "vgg16": {
        *((64, 64, 224), (64, 128, 112), (128, 128, 112), (128, 256, 56), (256, 256, 56)),
        *((256, 512, 28), (512, 512, 28), (512, 512, 14)),
    },
}


def marks(name, is_smallest):
    return [] if is_smallest or name in ALWAYS else [pytest.mark.variants]


NAMES = [pytest.param(name, marks=marks(name, name == names[0])) for names in registry() for name in names]


@pytest.fixture(scope="module", params=NAMES)
def packed(request, tmp_path_factory):
    """A packed model, and torch's answers to one and to three images."""
    model = seeded(request.param)
    path = tmp_path_factory.mktemp("vision") / f"{request.param}.safetensors"
    streamrt.pack(model, path, example=images(2, request.param))
    inputs = {batch: images(batch, request.param) for batch in (1, 3)}
    with torch.no_grad():
        yield path, {batch: (x.numpy(), model(x).numpy()) for batch, x in inputs.items()}
    path.unlink()


def assert_close(y, answer):
    assert np.abs(y - answer).max() <= 1e-4 * np.abs(answer).max()


def test_every_family_is_there():
    smallest = {names[0] for names in registry()}
    assert smallest >= FAMILIES


@pytest.mark.parametrize("budget", [None, "64MiB", "least"])
@pytest.mark.parametrize("batch", [1, 3])
def test_the_same_as_torch(packed, budget, batch):
    path, cases = packed
    x, answer = cases[batch]
    if budget == "least":
        with streamrt.Model(path) as model:
            budget = model.min_budget(x.shape)
    with streamrt.Model(path, budget) as model:
        assert_close(model(x), answer)
        if not model.plan.micro_batch:  # else that call was several passes already
            assert_close(model(x), answer)
        assert model.stats.peak_weights + model.stats.workspace <= (model.budget or 2**62)


def test_no_least_budget_rises_with_version_2_of_the_file(packed, tmp_path):
    path, _ = packed
    before, now = earlier.least_budgets(path, tmp_path / "old.safetensors")
    assert now <= before
    file = read_header(path)
    tensors = sum(tensor.nbytes for tensor in file.tensors.values())
    assert file.size <= tensors + max(64 << 10, tensors // 100)


def test_the_same_by_winograds_algorithm_and_without(packed, monkeypatch):
    """Right results do not show which algorithm ran. The arguments of the bound kernels do."""
    path, cases = packed
    x, answer = cases[1]
    taken, bind = set(), _core.Convolution

    def spy(x, w, *rest, winograd=False, **others):
        if winograd:
            taken.add((w.shape[1], w.shape[0], x.shape[2]))
        return bind(x, w, *rest, winograd=winograd, **others)

    monkeypatch.setattr(_core, "Convolution", spy)
    with streamrt.Model(path, None) as model:
        fast = model(x)
    assert taken >= BY_WINOGRAD.get(path.stem, set())
    any_taken = bool(taken)
    taken.clear()
    with streamrt.Model(path, None, exact=True) as model:
        exact = model(x)
    assert not taken
    assert_close(fast, answer)
    assert_close(exact, answer)
    if any_taken:
        assert not np.array_equal(fast, exact)
