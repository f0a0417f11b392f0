"""What the README says of the code is so: the drawing of the imports, and the tree of files."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

from docs.import_drawing import PACKAGE, drawing, files_of, room_of

ROOT = Path(__file__).parents[2]
README = (ROOT / "README.md").read_text(encoding="utf-8")


def test_the_drawing_of_the_imports_is_that_of_the_code() -> None:
    drawn = drawing()
    assert f"\n```\n{drawn}```\n" in README, "run: python -m docs.import_drawing --write"
    lines = {line.split()[0]: line for line in drawn.splitlines()}
    assert lines["presets"].endswith("by name → models")
    assert lines["__main__"].endswith("→ cli")
    assert lines["errors"] == "errors"


def entries() -> Iterator[tuple[Path, str]]:
    """Yield every path of the tree, a pattern may be in it, with the words beside it."""
    tree = README.partition("## Where things are\n\n```\n")[2].partition("```")[0]
    assert tree
    folders: list[Path] = []
    for line in tree.splitlines():
        depth = (len(line) - len(line.lstrip())) // 2
        names, words = line[:27].strip(), line[27:].strip()
        del folders[depth:]
        folder = folders[-1] if folders else ROOT
        for name in names.split(", "):
            yield folder / name, words
        if names.endswith("/") and ", " not in names:
            folders.append(folder / names)


def test_the_tree_names_what_is_there_in_five_words_or_so() -> None:
    for path, words in entries():
        assert list(path.parent.glob(path.name)), f"{path} is not there"
        assert len(re.findall(r"\w+", words)) <= 8, path
        assert words or path == PACKAGE, path


def test_every_room_is_in_the_tree() -> None:
    told = {room_of(path) for path, _ in entries() if path.is_relative_to(PACKAGE) and path != PACKAGE}
    rooms = {room_of(path) for path in PACKAGE.rglob("*.py")} - {"__init__", "__main__"}
    assert rooms - told == set()
    assert all(files_of(room) for room in rooms)
