"""Builds streamrt._core, the compiled half of the package; all metadata is in pyproject.toml.

STREAMRT_SANITIZE=address,undefined (or thread) compiles it under those sanitizers: see CONTRIBUTING.md.
"""

import os
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from Cython.Build import cythonize
from setuptools import Extension, setup
from setuptools.command.build_ext import build_ext

sanitizers = os.environ.get("STREAMRT_SANITIZE", "")
flags = ["-std=gnu11", "-O3", "-Wall", "-Wextra", "-Wno-unused-parameter", "-fvisibility=hidden"]
# Where the kernels fuse a multiplication and an addition they say so: the compiler does not choose.
flags.append("-ffp-contract=off")
# Python's own flags ask for debug sections, which take half of the compiler's time and nine tenths of the module.
flags.append("-g0")
link = ["-pthread"]
if sanitizers:
    # -O1: the checks make -O3 compile for minutes, and tests need no speed. -g1: reports have lines.
    flags += [f"-fsanitize={sanitizers}", "-fno-omit-frame-pointer", "-O1", "-g1"]
    link += [f"-fsanitize={sanitizers}"]


class BuildExt(build_ext):
    """Compiles the C files side by side, as many at once as there are processors."""

    def build_extension(self, extension: Extension) -> None:
        """Compile and link ``extension``."""
        one_after_the_other = self.compiler.compile

        def side_by_side(sources: list[str], **options: object) -> list[str]:
            with ThreadPoolExecutor(len(os.sched_getaffinity(0))) as threads:
                objects = threads.map(lambda source: one_after_the_other([source], **options), sources)
                return [name for names in objects for name in names]

        self.compiler.compile = side_by_side
        try:
            super().build_extension(extension)
        finally:
            self.compiler.compile = one_after_the_other


here = Path(__file__).parent
paths = [path.relative_to(here) for path in (here / "src").rglob("*.c") if path.stem != "_core"]
# The kernels of an instruction set take the longest: they come first. Beside them the others are soon compiled.
paths.sort(key=lambda path: (path.parent.name != "simd", str(path)))
core = Extension(
    "streamrt._core",
    sources=[*map(str, paths), "src/_core.pyx"],
    depends=sorted(str(path.relative_to(here)) for path in (here / "src").rglob("*.[hp]*")),
    include_dirs=["src"],
    extra_compile_args=flags,
    extra_link_args=link,
)
setup(
    cmdclass={"build_ext": BuildExt},
    ext_modules=cythonize([core], build_dir="build", include_path=["src"], compiler_directives={"language_level": 3}),
)
