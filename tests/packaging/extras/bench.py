"""The extra `bench` alone: a scenario is measured, with the peers that it installs."""

import os
import subprocess
import sys
from pathlib import Path

(root,) = sys.argv[1:]
here = Path.cwd()
command = [sys.executable, "-m", "bench", "run", "--quick", "import", "cnn-warm"]
subprocess.run([*command, "--data", here / "data", "--results", here / "results"], cwd=root, check=True, env=os.environ)
lines = [line for file in (here / "results").glob("*.jsonl") for line in file.read_text().splitlines()]
assert any('"timing"' in line for line in lines)
assert not any("not installed" in line for line in lines), "a peer is missing"
