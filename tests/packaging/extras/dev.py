"""The extra `dev` alone: its tools run, and the tests that need the heavy packages pass."""

import subprocess
import sys

(root,) = sys.argv[1:]
for command in (
    ["ruff", "check", "."],
    ["mypy", "streamrt"],
    ["clang-format", "--version"],
    ["cython-lint", "--version"],
    ["pytest", "-q", "-p", "no:cacheprovider", "-m", "extras", "tests/convert", "tests/serve/test_conformance.py"],
    ["pytest", "-q", "-p", "no:cacheprovider", "-m", "extras", "tests/serve/rpc/test_conformance.py"],
):
    subprocess.run(command, cwd=root, check=True)
