"""Pages of the site as programs: their blocks of code, run in order, and the outputs that they show.

Blocks of `sh` and `python` run. A block of `output` is what the block before it prints. There ``...`` stands for any
text, also of several lines, and a number with a unit of time, or of speed, for any such number. In a block of `console`
the lines behind ``$`` run; the others, and `text`, are a record of another machine, and are compared with nothing.
"""

from __future__ import annotations

import re
import shlex
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path

ROOT = Path(__file__).parents[2]

_FENCE = re.compile(r"^(?P<indent> *)```(?P<language>\S*)\n(?P<text>.*?)^(?P=indent)```$", re.DOTALL | re.MULTILINE)
_MEASURED = re.compile(r"\d+(?:\.\d+)? (?:ns|us|ms|s|[KMG]iB/s)\b")
_ANYTHING = re.compile(r"\s*\.\.\.\s*")


@dataclass(frozen=True)
class Block:
    """A fenced block of a page. ``line`` is that of its fence, counted from 1."""

    language: str
    text: str
    line: int

    @property
    def commands(self) -> str:
        """What a reader would paste into a shell; empty if there is nothing."""
        if self.language == "console":
            return "".join(re.findall(r"^\$ (.*\n)", self.text, re.MULTILINE))
        return self.text if self.language == "sh" else ""

    @property
    def runs(self) -> bool:
        """Whether a reader would paste it into a shell or an interpreter."""
        return self.language == "python" or self.commands != ""


def blocks(page: str) -> list[Block]:
    """All fenced blocks of a page, which is named by its path in the checkout."""
    text = (ROOT / page).read_text()
    fences = _FENCE.finditer(text)
    return [Block(found["language"], found["text"], text.count("\n", 0, found.start()) + 1) for found in fences]


def program(found: list[Block], folder: Path) -> str:
    """A program for bash that runs the blocks of a page in order, in one shell.

    What a block prints goes into a file of ``folder``, which is named by the block's line.
    """
    lines = []
    for block in found:
        out = shlex.quote(str(folder / str(block.line)))
        if block.language == "python":
            (folder / f"{block.line}.py").write_text(block.text)
            lines += [f"python {out}.py > {out}"]
        elif block.runs:
            lines += ["{", block.commands, f"}} > {out}"]
    return "\n".join(lines)


def expected(found: list[Block]) -> list[tuple[Block, str]]:
    """Each block that runs and whose output is shown, with that output."""
    return [(block, after.text) for block, after in pairwise(found) if after.language == "output"]


def matches(shown: str, printed: str) -> bool:
    """Whether a page shows what was printed."""
    parts = [".*?".join(map(_literal, _ANYTHING.split(text))) for text in _MEASURED.split(shown.rstrip())]
    return re.fullmatch(_MEASURED.pattern.join(parts), printed.rstrip(), re.DOTALL) is not None


def _literal(text: str) -> str:
    """A pattern for this text. The width of a column depends on the times in it."""
    return r"\s+".join(map(re.escape, re.split(r"\s+", text)))
