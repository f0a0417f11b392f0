"""Draws which room of i2v imports which, from the code: `python -m docs.import_drawing [--write | --check]`.

An import is a statement, or the name of a module of i2v in a string: what `import_module` is given, and what
`python -m` starts. tests/unit/test_architecture.py holds every file to the rows below.
"""

from __future__ import annotations

import argparse
import ast
import re
import sys
from collections.abc import Iterator
from pathlib import Path

__all__ = ["PACKAGE", "ROWS", "drawing", "files_of", "imported_rooms", "named_rooms", "room_of", "row_of", "texts_in"]

ROOT = Path(__file__).parents[1]
PACKAGE = ROOT / "i2v"
# An import may point to the same row or to one above.
ROWS = (
    ("errors", "settings", "log_file"),
    ("machine", "media", "jobs"),
    ("family", "presets", "request"),
    ("memory",),
    ("models",),
    ("engine",),
    ("builtin",),
    ("worker",),
    ("service",),
    ("rest", "ui", "cli", "web", "__main__"),
)
_ORDER = [room for row in ROWS for room in row]
_MARKS = ("<!-- import-drawing -->\n```\n", "```\n<!-- /import-drawing -->\n")
_NAMED = re.compile(r"(?<![\w./-])i2v\.(\w+)")


def room_of(path: Path) -> str:
    """Return the room that a file of the package is in: its folder, or itself."""
    return path.relative_to(PACKAGE).parts[0].removesuffix(".py")


def row_of(room: str) -> int:
    """Return the row of a room, 0 at the top. Raises StopIteration for one that has none."""
    return next(index for index, rooms in enumerate(ROWS) if room in rooms)


def files_of(room: str) -> list[Path]:
    """Return the files of a room."""
    return [path for path in sorted(PACKAGE.rglob("*.py")) if room_of(path) == room]


def imported_rooms(tree: ast.AST) -> set[str]:
    """Return the rooms that import statements name."""
    rooms: set[str] = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom) and node.module and node.module.split(".")[0] == "i2v":
            parts = node.module.split(".")
            rooms |= {parts[1]} if len(parts) > 1 else {alias.name for alias in node.names}
        elif isinstance(node, ast.Import):
            rooms |= {alias.name.split(".")[1] for alias in node.names if alias.name.startswith("i2v.")}
    return {room for room in rooms if not room.startswith("__version")}


def named_rooms(tree: ast.AST) -> set[str]:
    """Return the rooms that strings name, whole or up to a hole: "i2v.models.build_forms", f"i2v.models.{name}"."""
    return {room for text in texts_in(tree) for room in _NAMED.findall(text.value) if room in _ORDER}


def texts_in(tree: ast.AST) -> Iterator[ast.Constant]:
    """Yield every string but docstrings."""
    documentation = {
        id(node.body[0].value)
        for node in ast.walk(tree)
        if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef)
        and isinstance(node.body[0], ast.Expr)
    }
    for node in ast.walk(tree):
        if isinstance(node, ast.Constant) and isinstance(node.value, str) and id(node) not in documentation:
            yield node


def drawing() -> str:
    """Return the drawing: every room by rows, and what it imports."""
    blocks = ["".join(f"{_line(room)}\n" for room in row) for row in ROWS]
    return f"{'─' * 24}\n".join(blocks)


def _line(room: str) -> str:
    trees = [ast.parse(path.read_text(encoding="utf-8")) for path in files_of(room)]
    imported = set[str]().union(*(imported_rooms(tree) for tree in trees)) - {room}
    named = set[str]().union(*(named_rooms(tree) for tree in trees)) - imported - {room}
    arrows = [f"→ {', '.join(sorted(imported, key=_ORDER.index))}"] if imported else []
    arrows += [f"by name → {', '.join(sorted(named, key=_ORDER.index))}"] if named else []
    return f"{room:10} {'; '.join(arrows)}".rstrip()


def main() -> int:
    """Print the drawing; or put it into the README, or say whether the README has it. Return the exit status."""
    parser = argparse.ArgumentParser(description="Draw which room of i2v imports which.")
    parser.add_argument("--write", action="store_true", help="put it between its marks in the README")
    parser.add_argument("--check", action="store_true", help="fail unless the README has it as it is now")
    args = parser.parse_args()
    readme, drawn = ROOT / "README.md", drawing()
    text = readme.read_text(encoding="utf-8")
    before, _, rest = text.partition(_MARKS[0])
    old, _, after = rest.partition(_MARKS[1])
    if args.check:
        if old == drawn:
            return 0
        sys.stderr.write("README.md has another drawing than the code: run python -m docs.import_drawing --write\n")
        return 1
    if args.write:
        readme.write_text(f"{before}{_MARKS[0]}{drawn}{_MARKS[1]}{after}", encoding="utf-8")
        return 0
    sys.stdout.write(drawn)
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
