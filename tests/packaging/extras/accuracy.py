"""The extra `accuracy` alone: every trained network is measured with a few inputs, and none lacks its packages."""

import json
import subprocess
import sys
from pathlib import Path

(root,) = sys.argv[1:]
here = Path.cwd()
command = [sys.executable, "-m", "bench", "accuracy", "--quick", "--data", here / "data", "--results", here / "results"]
subprocess.run(command, cwd=root, check=True)
lines = [json.loads(line) for line in (here / "results" / "accuracy.jsonl").read_text().splitlines()]
assert lines
assert not any(line["kind"] == "skip" for line in lines), "a package is missing"
