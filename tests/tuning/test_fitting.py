"""`streamrt.fits`: its sizes and budgets against files that were really packed."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

import streamrt
from model import zoo
from streamrt.convert.codings import recoded
from streamrt.errors import InputError
from streamrt.format import read_header, stored_as
from streamrt.host import rates
from streamrt.tuning.fitting import AS_PACKED, TYPES


@pytest.fixture(scope="module")
def path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return zoo.mlp(tmp_path_factory.mktemp("model"), 256, 1024, 1024, 64).path


@pytest.mark.parametrize("weights", TYPES)
def test_what_would_be_packed_is_what_pack_writes(path: Path, tmp_path: Path, weights: str) -> None:
    file = read_header(path)
    expected = stored_as(file, recoded(file, weights))
    packed = streamrt.pack(path, tmp_path / "packed.safetensors", weights=weights)
    written = read_header(packed)
    assert expected.data_offset == written.data_offset  # both headers have a page
    assert expected.size == written.size
    assert dict(expected.tensors) == dict(written.tensors)
    rows = [row for row in streamrt.fits(path, "2MiB").rows if row.weights == weights]
    with streamrt.Model(packed, "2MiB") as model:
        assert rows[0].minimum == pytest.approx(model.min_budget(), abs=4096)
        assert rows[0].size == sum(tensor.nbytes for tensor in written.tensors.values())
        assert rows[0].predicted is not None


def test_batches_are_doubled_until_one_does_not_fit(path: Path) -> None:
    found = streamrt.fits(path, "1MiB")
    assert found.memory == 1 << 20
    for weights in TYPES:
        rows = [row for row in found.rows if row.weights == weights]
        assert [row.batch for row in rows] == [1 << power for power in range(len(rows))]
        assert all(row.fits for row in rows[:-1])
        assert all(row.fits == (row.minimum <= 1 << 20) for row in rows)
        assert not rows[-1].fits or len(rows) == 7
        assert [row.minimum for row in rows] == sorted(row.minimum for row in rows)
    divided = [row for row in found.rows if not row.fits]
    assert divided
    for row in divided:
        assert 0 < row.micro_batch < row.batch
        assert row.predicted is not None
        with streamrt.Model(path, row.minimum) as model:
            if row.packed:
                assert not model.plan_for((row.batch, 256)).micro_batch
    for row in divided:
        if row.packed:
            with streamrt.Model(path, row.minimum - 1) as model:
                assert model.plan_for((row.batch, 256)).micro_batch


def test_nothing_fits(path: Path) -> None:
    found = streamrt.fits(path, "4KiB")
    assert len(found.rows) == len(TYPES)
    assert not any(row.fits or row.predicted or row.micro_batch for row in found.rows)
    assert str(found).count(" no\n") == len(TYPES)


def test_the_type_of_the_file_is_marked(path: Path, tmp_path: Path) -> None:
    assert {row.weights for row in streamrt.fits(path, "1GiB").rows if row.packed} == {"float32"}
    small = streamrt.pack(path, tmp_path / "small.safetensors", weights="int8")
    assert {row.weights for row in streamrt.fits(small, "1GiB").rows if row.packed} == {"int8"}
    mixed = streamrt.pack(path, tmp_path / "mixed.safetensors", keep={"layer1.weight": "float16"})
    found = streamrt.fits(mixed, "1GiB")
    assert {row.weights for row in found.rows if row.packed} == {AS_PACKED}
    assert found.rows[0].size == sum(tensor.nbytes for tensor in read_header(mixed).tensors.values())


def test_text_and_json(path: Path) -> None:
    found = streamrt.fits(path, "1MiB", shapes=(2, 256))
    text = found.to_text(80)
    assert max(map(len, text.split("\n"))) <= 80
    assert "float32 *" in text
    assert "in parts of " in text
    assert "estimates from shapes" in " ".join(text.split())
    assert "which is assumed" in " ".join(text.split())
    content = json.loads(json.dumps(found.to_json()))
    assert content["memory"] == 1 << 20
    assert content["rows"][0]["batch"] == 2
    assert content["shapes"] == {"input": [2, 256]}
    assert not content["disk_measured"]


def test_a_measured_speed_is_used(path: Path) -> None:
    before = streamrt.fits(path, "1MiB")
    rates.remember_disk(read_header(path).identity.device, 1e7)
    after = streamrt.fits(path, "1MiB")
    assert after.disk_measured
    assert after.disk == 1e7
    assert (after.rows[0].predicted or 0) > 10 * (before.rows[0].predicted or 0)


def test_a_model_whose_batch_is_fixed(tmp_path: Path) -> None:
    fixed = streamrt.pack(
        [streamrt.Layer("Gemm", np.ones((64, 64), np.float32))], tmp_path / "f.safetensors", inputs=(3, 64)
    )
    found = streamrt.fits(fixed, "1MiB")
    assert {row.batch for row in found.rows} == {1}
    assert len(found.rows) == len(TYPES)


def test_wrong_arguments(path: Path) -> None:
    with pytest.raises(InputError, match="size 'lots'"):
        streamrt.fits(path, "lots")
    with pytest.raises(InputError, match="expected shape"):
        streamrt.fits(path, "1MiB", shapes=(1, 9))
    with pytest.raises(InputError, match="memory: expected"):
        streamrt.fits(path, None)
