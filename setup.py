"""Builds streamrt._core, the compiled part of the package. All metadata is in pyproject.toml.

STREAMRT_SANITIZE=address,undefined (or thread) compiles it under those sanitizers: see CONTRIBUTING.md.
"""

import os
import sysconfig
import tempfile
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from Cython.Build import cythonize
from setuptools import Extension, setup
from setuptools.command.build_ext import build_ext
from setuptools.errors import CompileError

sanitizers = os.environ.get("STREAMRT_SANITIZE", "")
flags = ["-std=gnu11", "-O3", "-Wall", "-Wextra", "-Wno-unused-parameter", "-fvisibility=hidden"]
# The source of the kernels says where a multiplication and an addition are fused. The compiler must not fuse others.
flags.append("-ffp-contract=off")
# Python's own flags ask for debug sections, which take half of the compiler's time and 90 % of the module's size.
flags.append("-g0")
link = ["-pthread"]
if sanitizers:
    # -O1, because -O3 with the checks compiles for minutes, and tests need no speed. -g1, so that reports name lines.
    flags += [f"-fsanitize={sanitizers}", "-fno-omit-frame-pointer", "-O1", "-g1"]
    link += [f"-fsanitize={sanitizers}"]


#: The last line of a build without a working compiler.
NEEDED = (
    "streamrt's core cannot be compiled: `{}` is missing, or finds no header of C or Python (see above). "
    "Install a C compiler and these headers (Debian, Ubuntu: apt-get install gcc libc6-dev python3-dev; "
    "Fedora: dnf install gcc python3-devel; Alpine: apk add gcc musl-dev python3-dev), "
    "or name another compiler in the variable CC"
)

#: src/kernels/simd/bodies.h is compiled in this many parts for each instruction set, so that no unit takes most of the
#: time.
PARTS = 4


class BuildExt(build_ext):
    """Compiles as many C files at the same time as there are processors, if there is a compiler."""

    def try_compiler(self) -> None:
        """Raise CompileError, which says what to install, unless a file compiles that includes Python's header."""
        with tempfile.TemporaryDirectory() as folder:
            source = Path(folder, "try.c")
            source.write_text("#include <Python.h>\n")
            try:
                self.compiler.compile([str(source)], output_dir=folder)
            except (CompileError, OSError):
                name = os.environ.get("CC", self.compiler.compiler_so[0])
                raise CompileError(NEEDED.format(name)) from None

    def build_extension(self, extension: Extension) -> None:
        """Compile and link ``extension``."""
        self.try_compiler()
        compile_some = self.compiler.compile

        def side_by_side(
            sources: list[str], output_dir: str, macros: list[tuple[str, str]], **options: Any
        ) -> list[str]:
            def compile_unit(unit: tuple[str, int | None]) -> list[str]:
                source, part = unit
                if part is None:
                    return compile_some([source], output_dir=output_dir, macros=macros, **options)
                folder, macro = f"{output_dir}/part{part}", ("PART", str(part))
                return compile_some([source], output_dir=folder, macros=[*macros, macro], **options)

            units = [(source, part) for source in sources for part in parts_of(source)]
            with ThreadPoolExecutor(len(os.sched_getaffinity(0))) as threads:
                return [name for names in threads.map(compile_unit, units) for name in names]

        self.compiler.compile = side_by_side
        try:
            super().build_extension(extension)
        finally:
            self.compiler.compile = compile_some


def parts_of(source: str) -> list[int] | list[None]:
    """The values of PART with which a source is compiled; [None] means once, without PART."""
    return list(range(PARTS)) if Path(source).parent.name == "simd" else [None]


# One module is for CPython 3.11 and all later ones, because it uses no more than the stable ABI of 3.11. Free-threaded
# CPython cannot load such a module, and gets one of its own.
stable = not sysconfig.get_config_var("Py_GIL_DISABLED")
here = Path(__file__).parent
paths = [path.relative_to(here) for path in (here / "src").rglob("*.c") if path.stem != "_core"]
# The kernels of an instruction set take the longest. They come first, so that other files compile beside the last of
# them.
paths.sort(key=lambda path: (path.parent.name != "simd", str(path)))
core = Extension(
    "streamrt._core",
    sources=[*map(str, paths), "src/_core.pyx"],
    depends=sorted(str(path.relative_to(here)) for path in (here / "src").rglob("*.[hp]*")),
    include_dirs=["src"],
    extra_compile_args=flags,
    extra_link_args=link,
    define_macros=[("Py_LIMITED_API", "0x030B0000")] if stable else [],
    py_limited_api=stable,
)
setup(
    cmdclass={"build_ext": BuildExt},
    options={"bdist_wheel": {"py_limited_api": "cp311"}} if stable else {},
    ext_modules=cythonize([core], build_dir="build", include_path=["src"], compiler_directives={"language_level": 3}),
)
