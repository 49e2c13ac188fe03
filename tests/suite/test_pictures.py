"""The models of large pictures: mapped inputs, and references that take little memory."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from bench.models import pictures, source, vision
from bench.process import figures
from bench.process.job import Job
from bench.scenarios import SCENARIOS
from markers import needs


def test_every_model_of_the_scenario_is_known() -> None:
    scenario = SCENARIOS["large-pictures"]
    shapes = {case.model: pictures.shape_of(case.model) for case in (*scenario.cases, *scenario.quick)}
    assert None not in shapes.values()
    assert shapes["superresolution-1080x1920"] == (3, 1080, 1920)
    for name in ("unet", "unet-64", "vgg16-64x64", "unet-64x64x64"):
        assert pictures.shape_of(name) is None


def test_networks_are_traced_with_small_pictures_unless_they_keep_the_size() -> None:
    assert pictures.shape_to_trace("unet-2048x48", (3, 2048, 48)) == (3, 64, 48)
    assert pictures.shape_to_trace("fcn_resnet50-2048x2048", (3, 2048, 2048)) == (3, 2048, 2048)
    assert pictures.shape_to_trace("vgg16", (3, 224, 224)) == (3, 224, 224)


def test_an_input_in_a_file_is_mapped(tmp_path: Path) -> None:
    found = source("unet-16x24", tmp_path)
    assert found
    x = found.input(2)
    found.folder.mkdir()
    np.save(found.input_file(2), x)
    mapped = found.input(2)
    assert isinstance(mapped, np.memmap)
    np.testing.assert_array_equal(mapped, x)


@pytest.mark.parametrize("place", [0, 70_000, 131_071])
def test_an_error_in_any_piece_of_an_answer_is_found(place: int, tmp_path: Path) -> None:
    found = source("unet-16x24", tmp_path)
    assert found
    found.folder.mkdir()
    right = np.linspace(-2, 1, 1 << 17).reshape(2, -1)
    np.save(found.answer(1), right)
    y = right.astype(np.float32)
    job = Job("check", str(tmp_path), model=found.name)
    assert figures.error(job, 1, y) < 1e-6
    y.reshape(-1)[place] += 0.5
    assert figures.error(job, 1, y) == pytest.approx(0.25)
    y.reshape(-1)[place] = np.nan
    assert figures.error(job, 1, y) == float("inf")
    assert figures.error(job, 1, y[:1]) == float("inf")


@pytest.mark.extras
@pytest.mark.parametrize("columns", [1, 50_000, 1 << 30])
@pytest.mark.parametrize("name", ["unet-16x24", "resnet18-33x40", "deeplabv3_resnet50-33x40", "superresolution-9x8"])
def test_convolutions_in_strips_are_convolutions(name: str, columns: int, monkeypatch: pytest.MonkeyPatch) -> None:
    (torch,) = needs("torch", "torchvision")[:1]
    torch.manual_seed(0)
    network = pictures.network(name).eval().double()
    shape = pictures.shape_of(name)
    assert shape
    x = torch.randn(1, *shape, dtype=torch.float64)
    with torch.inference_mode():
        wanted = network(x)
        monkeypatch.setattr(pictures, "_COLUMNS", columns)
        pictures.in_strips(network)
        found = network(x)
    assert (found - wanted).abs().max() <= 1e-12 * wanted.abs().max()


@pytest.mark.extras
@pytest.mark.parametrize("meta", [False, True])
def test_the_last_norms_of_residual_branches_of_dense_networks_are_small(meta: bool, tmp_path: Path) -> None:
    needs("torch", "torchvision")
    for kind in ("fcn_resnet50", "deeplabv3_resnet50"):
        state = vision.module(source(f"{kind}-33x40", tmp_path), meta=meta).state_dict()
        norms = [weight for name, weight in state.items() if name.endswith("bn3.weight")]
        assert len(norms) == 16
        if not meta:
            assert all((weight == 0.25).all() for weight in norms)


@pytest.mark.extras
@pytest.mark.parametrize("rows", [1, 4, 9, 20])
def test_a_picture_that_is_enlarged_by_rows_is_the_whole(rows: int) -> None:
    (torch,) = needs("torch")[:1]
    torch.manual_seed(0)
    network = pictures.network("superresolution-9x8").eval().double()
    x = torch.randn(1, 3, 9, 8, dtype=torch.float64)
    with torch.inference_mode():
        wanted = network(x)
        pictures.by_rows(network, rows)
        found = network(x)
    assert found.shape == wanted.shape
    assert (found - wanted).abs().max() <= 1e-12 * wanted.abs().max()
