"""The extra `test` alone: some of the tests pass."""

import subprocess
import sys

(root,) = sys.argv[1:]
folders = ["tests/test_package.py", "tests/core/test_mapping.py", "tests/end_to_end"]
subprocess.run(["pytest", "-q", "-p", "no:cacheprovider", *folders], cwd=root, check=True)
