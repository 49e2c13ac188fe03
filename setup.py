"""Builds streamrt._core, the compiled half of the package; all metadata is in pyproject.toml.

STREAMRT_SANITIZE=address,undefined (or thread) compiles it under those sanitizers: see CONTRIBUTING.md.
"""

import os
from pathlib import Path

from Cython.Build import cythonize
from setuptools import Extension, setup

sanitizers = os.environ.get("STREAMRT_SANITIZE", "")
flags = ["-std=gnu11", "-O3", "-Wall", "-Wextra", "-Wno-unused-parameter", "-fvisibility=hidden"]
# Where the kernels fuse a multiplication and an addition they say so: the compiler does not choose.
flags.append("-ffp-contract=off")
link = ["-pthread"]
if sanitizers:
    flags += [f"-fsanitize={sanitizers}", "-fno-omit-frame-pointer", "-g"]
    link += [f"-fsanitize={sanitizers}"]

here = Path(__file__).parent
sources = sorted(str(path.relative_to(here)) for path in (here / "src").rglob("*.c") if path.stem != "_core")
core = Extension(
    "streamrt._core",
    sources=["src/_core.pyx", *sources],
    depends=sorted(str(path.relative_to(here)) for path in (here / "src").rglob("*.[hp]*")),
    include_dirs=["src"],
    extra_compile_args=flags,
    extra_link_args=link,
)
setup(ext_modules=cythonize([core], build_dir="build", compiler_directives={"language_level": 3}))
