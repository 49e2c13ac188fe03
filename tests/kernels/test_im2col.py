"""im2col against a gather, whole and by ranges of columns."""

from __future__ import annotations

import numpy as np
import pytest

from kernels.geometry import GEOMETRIES, Geometry
from streamrt._core import im2col


@pytest.mark.parametrize("geometry", GEOMETRIES, ids=str)
def test_columns(rng: np.random.Generator, geometry: Geometry) -> None:
    for channels in (0, 1, 3):
        x = rng.normal(size=(channels, *geometry.input)).astype(np.float32)
        count = geometry.output[0] * geometry.output[1]
        rows = channels * geometry.kernel[0] * geometry.kernel[1]
        whole = geometry.gather(x, 0).transpose(0, 3, 4, 1, 2).reshape(rows, count)
        cuts = sorted({0, count, count // 2, count // 3 + 1, min(5, count), max(0, count - 1)} & set(range(count + 1)))
        for i, first in enumerate(cuts):
            for last in cuts[i:]:
                out = np.full((rows, last - first), 7, np.float32)
                im2col(x, out, geometry.window(), first, last)
                np.testing.assert_array_equal(out, whole[:, first:last])
