"""The extra `completion` alone: scripts for all shells are made."""

import subprocess

for shell in ("bash", "zsh", "fish"):
    done = subprocess.run(["streamrt", "completion", shell], capture_output=True, text=True, check=True)
    assert "inspect" in done.stdout, shell
