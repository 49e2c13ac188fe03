"""The docstring of `streamrt.engine` names five files that show how a pass works, short enough to be read."""

import re
from importlib.util import find_spec
from pathlib import Path

import streamrt.engine


def test_five_files_of_at_most_1000_lines_together_show_how_a_pass_works():
    named = re.findall(r"^\d\. `([\w.]+)`", streamrt.engine.__doc__, re.MULTILINE)
    specs = [find_spec(name if "." in name else f"streamrt.engine.{name}") for name in named]
    assert len(specs) == 5
    assert sum(len(Path(spec.origin).read_text().splitlines()) for spec in specs) <= 1000


def test_the_docstring_names_every_file_of_the_room():
    folder = Path(streamrt.engine.__file__).parent
    assert {path.stem for path in folder.glob("*.py")} - {"__init__"} <= set(
        re.findall(r"`(\w+)`", streamrt.engine.__doc__)
    )
