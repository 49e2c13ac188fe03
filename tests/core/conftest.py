"""Fixtures of the core's tests."""

from __future__ import annotations

from pathlib import Path

import pytest

from core.files import MakeFile, content, evict


@pytest.fixture
def make_file(tmp_path: Path) -> MakeFile:
    """Writes a file of ``size`` bytes; with ``cold``, none of them stays in the page cache."""

    def make(size: int, *, cold: bool = True, name: str = "weights") -> Path:
        path = tmp_path / name
        path.write_bytes(content(0, size))
        if cold:
            evict(path)
        return path

    return make
