"""``python check_compiler.py``: fails unless an installation from source names what it lacks to compile the core.

It needs pip in its environment, and takes the checkout that it is in.
"""

import os
import subprocess
import sys
import tempfile
from pathlib import Path

checkout = Path(__file__).parents[2]
for compiler in ("/nowhere/cc", "cc -nostdinc"):  # one that is missing, and one without the headers of any library
    with tempfile.TemporaryDirectory() as folder:
        done = subprocess.run(
            [sys.executable, "-P", "-m", "pip", "wheel", "--no-deps", "--wheel-dir", folder, checkout],
            cwd=folder,
            env=os.environ | {"CC": compiler},
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            check=False,
        )
    errors = [line.strip() for line in done.stdout.splitlines() if line.lstrip().startswith("error: streamrt")]
    if done.returncode == 0:
        sys.exit(f"CC={compiler!r} compiled the package")
    if len(errors) != 1 or f"`{compiler}`" not in errors[0] or "apt-get install gcc" not in errors[0]:
        sys.exit(f"{done.stdout}\nCC={compiler!r} gives no clear error")
    print(errors[0])
