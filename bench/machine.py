"""The machine and the commit of a measurement."""

from __future__ import annotations

import hashlib
import os
import platform
import subprocess
from functools import cache
from pathlib import Path
from typing import Any, Literal

_ROOT = Path(__file__).parents[1]
#: What is measured: calls of open models and opening them, a pool, or a server.
Kind = Literal["models", "pool", "server"]
#: The folders whose code opens a model and runs a pass: `format` and `host` decide reading, opening and threads.
_MODELS = tuple(f"streamrt/{room}" for room in ("engine", "format", "host", "ops", "plan", "program"))
#: The folders whose code decides the times of each kind, and the ends of the names of their files.
_MEASURED: dict[Kind, tuple[str, ...]] = {
    "models": ("src", *_MODELS),
    "pool": ("src", *_MODELS, "streamrt/pool"),
    "server": ("src", *_MODELS, "streamrt/pool", "streamrt/serve"),
}
_CODE = frozenset({".c", ".h", ".pxd", ".pxi", ".py", ".pyx"})
#: Instruction sets of which float32 kernels are built, by the kernel's names for x86 and Arm.
_INSTRUCTIONS = (
    *("sse4_2", "avx", "fma", "avx2", "avx512f", "avx512vl", "avx512_vnni", "avx512_bf16", "avx512_fp16", "amx_tile"),
    *("asimd", "sve", "sve2"),
)
#: The lines of /proc/cpuinfo that tell processors of one name apart, on x86 and Arm.
_IDENTITY = ("cpu family", "model", "stepping", "CPU implementer", "CPU part")


def describe(data: Path) -> dict[str, Any]:
    """The processor, its cores, the memory, kernel, filesystem and disk of ``data``, and whether it is virtual."""
    processor = _lines("/proc/cpuinfo")
    memory = _lines("/proc/meminfo")
    flags = f"{processor.get('flags', '')} {processor.get('Features', '')}".split()
    return {
        "processor": processor.get("model name", platform.machine()),
        "identity": ", ".join(f"{name} {processor[name]}" for name in _IDENTITY if name in processor),
        "instructions": [name for name in _INSTRUCTIONS if name in flags],
        "cores": len(os.sched_getaffinity(0)),
        "memory": int(memory["MemTotal"].split()[0]) * 1024,
        "kernel": platform.release(),
        "filesystem": _filesystem(data),
        "read_ahead_kb": read_ahead_kb(data),
        "swap": int(memory["SwapTotal"].split()[0]) * 1024,
        "virtual": "hypervisor" in flags,
        "python": platform.python_version(),
    }


@cache
def commit() -> str | None:
    """The commit of this checkout, with a ``+`` where files differ from it; None outside a checkout."""
    git = ["git", "-C", str(_ROOT)]
    try:
        head = subprocess.run([*git, "rev-parse", "--short=12", "HEAD"], capture_output=True, text=True, check=True)
        # The files that runs and reports write do not count as changes.
        written = (":!bench/results", ":!README.md", ":!docs/time-against-memory.svg")
        changed = [*git, "status", "--porcelain", "--", ".", *written]
        status = subprocess.run(changed, capture_output=True, text=True, check=True)
    except (OSError, subprocess.CalledProcessError):
        return None
    return head.stdout.strip() + ("+" if status.stdout.strip() else "")


def sources_digest(package: Path) -> str:
    """A digest of the Python sources of a package: equal for a checkout and an installed copy of it."""
    digest = hashlib.sha256()
    for path in sorted(package.rglob("*.py")):
        digest.update(str(path.relative_to(package)).encode() + b"\0" + path.read_bytes() + b"\0")
    return digest.hexdigest()


def code_digest(kind: Kind, root: Path = _ROOT) -> str:
    """A digest of the code that decides how long a measurement of this kind takes; no two kinds have the same one.

    Lines of results from before kinds were told apart have digests of fewer folders, which equal none of these.
    """
    digest = hashlib.sha256(kind.encode() + b"\0")
    for folder in _MEASURED[kind]:
        for path in sorted((root / folder).rglob("*")):
            if path.suffix in _CODE:
                digest.update(str(path.relative_to(root)).encode() + b"\0" + path.read_bytes() + b"\0")
    return digest.hexdigest()


def is_checkout(installed: str) -> bool:
    """Whether the installed streamrt, with this digest, was made from this checkout."""
    return installed == sources_digest(_ROOT / "streamrt")


def _lines(path: str) -> dict[str, str]:
    """``key: value`` lines, the first of each key."""
    found: dict[str, str] = {}
    for line in Path(path).read_text().splitlines():
        key, _, value = line.partition(":")
        found.setdefault(key.strip(), value.strip())
    return found


def read_ahead_kb(folder: Path, devices: Path = Path("/sys/dev/block")) -> int | None:
    """KiB that the kernel reads ahead on the disk of ``folder``; None if no block device has that filesystem.

    A peer that reads or maps a file without advice depends on it. ``devices`` has a link for each block device.
    """
    device = folder.stat().st_dev
    path = (devices / f"{os.major(device)}:{os.minor(device)}").resolve()
    for disk in (path, path.parent):  # a partition has no queue of its own
        if (setting := disk / "queue" / "read_ahead_kb").exists():
            return int(setting.read_text())
    return None


def _filesystem(folder: Path) -> str:
    device = os.stat(folder).st_dev  # noqa: PTH116
    name = f"{os.major(device)}:{os.minor(device)}"
    for line in Path("/proc/self/mountinfo").read_text().splitlines():
        left, _, right = line.partition(" - ")
        if left.split()[2] == name:
            return right.split()[0]
    return "unknown"
