"""The package's names all exist, and their modules are imported when they are first used."""

from __future__ import annotations

import subprocess
from collections.abc import Callable

import pytest

import streamrt

RunPython = Callable[..., subprocess.CompletedProcess[str]]


@pytest.mark.parametrize("name", streamrt.__all__)
def test_every_name_is_there(name: str) -> None:
    assert getattr(streamrt, name) is not None


def test_unknown_name() -> None:
    name = "repack"
    with pytest.raises(AttributeError, match=r"module 'streamrt' has no attribute 'repack'"):
        getattr(streamrt, name)


def test_a_big_endian_processor_is_refused(run_python: RunPython) -> None:
    done = run_python("import sys; sys.byteorder = 'big'; import streamrt")
    assert done.returncode != 0
    assert "ImportError: streamrt runs on little-endian processors only" in done.stderr


def test_importing_loads_few_modules(run_python: RunPython) -> None:
    """Importing the package imports no packing, no pool and no progress bars."""
    code = """
        import sys
        before = set(sys.modules)
        import streamrt
        heavy = {"streamrt.convert", "streamrt.pool", "tqdm", "asyncio", "email"} & (sys.modules.keys() - before)
        print(sorted(heavy), set(streamrt.__all__) <= set(dir(streamrt)))
        from streamrt import *
        print(pack is streamrt.convert.pack, ModelPool is streamrt.pool.ModelPool)
    """
    done = run_python(code)
    assert done.stdout.split() == ["[]", "True", "True", "True"], done.stderr
