"""``python check_wheel.py WHEEL``: fails unless the wheel holds all files that the package needs, and no sources.

It must also be for all versions of CPython from 3.11 on, and have 5 MB or less.
"""

import sys
import zipfile
from pathlib import Path

needed = {
    "streamrt/py.typed",
    "streamrt/_core.pyi",
    "streamrt/__main__.py",
    "streamrt/data/digits_mlp.safetensors",
    "streamrt/data/digits_cnn.safetensors",
    "streamrt/data/digits_test.npz",
    "streamrt/serve/page.html",
    "streamrt/serve/rpc/open_inference.proto",
    "streamrt/serve/rpc/open_inference.binpb",
}
with zipfile.ZipFile(sys.argv[1]) as wheel:
    names = set(wheel.namelist())
top = {name.partition("/")[0] for name in names}
sources = {name for name in names if Path(name).suffix in {".c", ".h", ".pyx", ".pxi", ".pxd"}}
if not any(name.startswith("streamrt/_core.") and name.endswith(".so") for name in names):
    sys.exit("the wheel has no compiled core")
if missing := needed - names:
    sys.exit(f"the wheel lacks {sorted(missing)}")
if sources:
    sys.exit(f"the wheel holds sources: {sorted(sources)}")
if extra := {name for name in top if name != "streamrt" and not name.endswith(".dist-info")}:
    sys.exit(f"the wheel would install {sorted(extra)} beside the package")
path = Path(sys.argv[1])
if "-cp311-abi3-" not in path.name:
    sys.exit(f"{path.name} is not for the stable ABI of CPython 3.11")
if (size := path.stat().st_size) > 5_000_000:
    sys.exit(f"the wheel has {size} bytes, expected at most 5000000")
print(f"{path.name}: {len(names)} files, none missing and none too many")
