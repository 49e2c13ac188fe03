"""Networks over volumes, against torch: a U-Net for scans and a network for video, with all weights and with few."""

import numpy as np
import pytest

import streamrt
from markers import needs
from streamrt.format import read_header
from vision.models import with_statistics

pytestmark = pytest.mark.extras
torch, torchvision, _ = needs("torch", "torchvision", "onnxscript")
nn = torch.nn


def block(channels, outputs):
    layers = []
    for before in (channels, outputs):
        layers += [nn.Conv3d(before, outputs, 3, padding=1, bias=False), nn.BatchNorm3d(outputs), nn.ReLU()]
    return nn.Sequential(*layers)


class UNet(nn.Module):
    """Two levels down by pooling; up by a transposed convolution, then by trilinear interpolation."""

    def __init__(self):
        super().__init__()
        self.first, self.second, self.bottom = block(2, 24), block(24, 64), block(64, 320)
        self.pool = nn.MaxPool3d(2)
        self.up = nn.ConvTranspose3d(320, 64, 2, stride=2)
        self.wide = nn.Upsample(scale_factor=2, mode="trilinear", align_corners=True)
        self.fourth, self.fifth = block(128, 64), block(88, 24)
        self.last = nn.Conv3d(24, 3, 1)

    def forward(self, x):
        first = self.first(x)
        second = self.second(self.pool(first))
        third = self.up(self.bottom(self.pool(second)))
        fourth = self.wide(self.fourth(torch.cat([third, second], 1)))
        return self.last(self.fifth(torch.cat([fourth, first], 1)))


def unet():
    torch.manual_seed(0)
    return with_statistics(UNet())


def video():
    torch.manual_seed(0)
    return with_statistics(torchvision.models.video.r2plus1d_18(weights=None))


def noise(*shape):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(shape[0]))


def assert_close(y, answer):
    assert y.shape == answer.shape
    assert np.abs(y - answer).max() <= 1e-4 * np.abs(answer).max()


@pytest.fixture(scope="module", params=[(unet, (2, 12, 8, 16)), (video, (3, 6, 40, 40))], ids=["unet", "r2plus1d_18"])
def packed(request, tmp_path_factory):
    """A packed model, and torch's answers to one and to two volumes."""
    make, shape = request.param
    model = make()
    path = tmp_path_factory.mktemp("volumes") / "out.safetensors"
    streamrt.pack(model, path, example=noise(2, *shape))
    with torch.no_grad():
        yield path, {batch: (x.numpy(), model(x).numpy()) for batch in (1, 2) for x in [noise(batch, *shape)]}
    path.unlink()


@pytest.mark.parametrize("budget", [None, "quarter", "least"])
@pytest.mark.parametrize("batch", [1, 2])
def test_the_same_as_torch(packed, budget, batch):
    path, cases = packed
    x, answer = cases[batch]
    weights = sum(tensor.nbytes for tensor in read_header(path).tensors.values())
    if budget:
        with streamrt.Model(path) as model:
            least = model.min_budget(x.shape)
        assert least < weights // 4
        budget = weights // 4 if budget == "quarter" else least
    with streamrt.Model(path, budget) as model:
        for _ in range(2):
            assert_close(model(x), answer)
        assert model.stats.peak_weights + model.stats.workspace <= (model.budget or 2**62)


@pytest.mark.parametrize("weights", ["float16", "int8"])
def test_small_weights(packed, weights, tmp_path):
    path, cases = packed
    x, answer = cases[1]
    small = tmp_path / "small.safetensors"
    streamrt.pack(path, small, weights=weights)
    assert small.stat().st_size < path.stat().st_size * (0.52 if weights == "float16" else 0.3)
    with streamrt.Model(small) as model:
        least = model.min_budget(x.shape)
    for budget in (None, least):
        with streamrt.Model(small, budget) as model:
            error = np.linalg.norm(model(x) - answer) / np.linalg.norm(answer - answer.mean())
            assert error < (2e-3 if weights == "float16" else 5e-2)


def test_all_that_a_convolution_can_take_over_is_part_of_it(packed):
    path, _ = packed
    found = {node.op for node in read_header(path).graph.nodes}
    others = {"DepthToSpace", "MaxPool", "Resize", "Concat"} | {"ReduceMean", "Reshape", "Gemm"}  # U-Net, R(2+1)D
    assert found <= {"Conv", *others}


def test_volumes_of_any_size(tmp_path):
    model = unet()
    streamrt.pack(model, tmp_path / "out", example=noise(2, 2, 8, 8, 12), inputs=("N", 2, "D", "H", "W"))
    with streamrt.Model(tmp_path / "out", budget=None) as packed:
        for shape in ((1, 2, 8, 8, 12), (2, 2, 4, 12, 8), (1, 2, 16, 4, 20)):
            x = noise(*shape)
            with torch.no_grad():
                assert_close(packed(x.numpy()), model(x).numpy())
