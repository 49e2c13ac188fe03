"""The extra `docs` alone: the site is built without a warning, and all of its links lead somewhere."""

import subprocess
import sys
from pathlib import Path

root = Path(sys.argv[1])
subprocess.run(["sphinx-build", "-q", "-W", "--keep-going", "-c", root / "docs", root, "site"], check=True)
subprocess.run([sys.executable, "-P", root / "docs" / "check_site.py", "site"], check=True)
