"""The rooms of the project: which way imports point, who knows a family, and what stays out of the web process."""

from __future__ import annotations

import ast
import subprocess
import sys
from pathlib import Path

import pytest

from docs.import_drawing import PACKAGE, ROWS, imported_rooms, named_rooms, room_of, row_of

ROOT = Path(__file__).parents[2]
# The one arrow down, by a name that stands in a preset: to what a family declares, which needs no torch (see below).
DECLARATIONS = ("presets/model_preset.py", "models")
FILES = sorted(path for path in PACKAGE.rglob("*.py") if path != PACKAGE / "__init__.py")


def tree_of(path: Path) -> ast.Module:
    return ast.parse(path.read_text(encoding="utf-8"))


def place(path: Path) -> str:
    return path.relative_to(PACKAGE).as_posix()


@pytest.mark.parametrize("path", FILES, ids=place)
def test_imports_point_to_the_same_row_or_above(path: Path) -> None:
    here, tree = row_of(room_of(path)), tree_of(path)
    wrong = {room for room in imported_rooms(tree) if row_of(room) > here}
    assert not wrong, f"{path} imports {wrong} from below"
    named = {room for room in named_rooms(tree) if row_of(room) > here and (place(path), room) != DECLARATIONS}
    assert not named, f"{path} names {named} from below"


def test_every_room_has_a_place_in_a_row() -> None:
    assert sorted({room_of(path) for path in FILES}) == sorted(room for row in ROWS for room in row)


def test_no_arrow_leads_from_memory_to_models() -> None:
    arrows = {place(path): imported_rooms(tree_of(path)) | named_rooms(tree_of(path)) for path in FILES}
    assert "models" in arrows[DECLARATIONS[0]]  # one would be seen
    assert [name for name, rooms in arrows.items() if name.startswith("memory/") and "models" in rooms] == []


@pytest.mark.parametrize(
    "source",
    [
        'import_module(f"i2v.models.{name}")',
        'importlib.import_module("i2v.models.base")',
        '__import__("i2v.models.base")',
        'command = [sys.executable, "-m", "i2v.models.build_forms", "--ship"]',
        'run("python -m i2v.models.build_forms", shell=True)',
        'blocks = "i2v.models.base:Pipeline"',
    ],
)
def test_a_module_that_a_string_names_is_an_arrow(source: str) -> None:
    assert named_rooms(ast.parse(source)) == {"models"}


def test_a_docstring_a_path_and_a_command_are_no_arrows() -> None:
    source = '"""See i2v.models.base."""\npath = "i2v.mp4", "/i2v.models", "python -m i2v models"'
    assert named_rooms(ast.parse(source)) == set()


@pytest.mark.parametrize("module", ["i2v.service", "i2v.cli.main", "i2v.web.app", "i2v.web.launch", "i2v.cli.startup"])
def test_the_web_process_never_imports_torch(module: str) -> None:
    code = f"import {module}, sys; sys.exit('torch' in sys.modules or 'diffusers' in sys.modules)"
    finished = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=False)
    assert finished.returncode == 0, finished.stderr[-500:]


def test_building_and_updating_the_page_never_imports_torch(home: Path) -> None:
    code = """
import sys
from i2v.service import Service
from i2v.settings import Settings
from i2v.web.app import create_app
from i2v.ui.language import languages
from i2v.ui.panel import idle_panel
service = Service(Settings.from_environment())
create_app(service)
service.models(), service.doctor(), service.history(), idle_panel(languages()["zh-CN"])
service.close()
sys.exit("torch" in sys.modules)
"""
    finished = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=False)
    assert finished.returncode == 0, finished.stderr[-500:]


@pytest.mark.parametrize("folder", ["media", "jobs", "rest"])
def test_these_rooms_know_neither_torch_nor_gradio(folder: str) -> None:
    for path in (PACKAGE / folder).rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            names = [a.name for a in node.names] if isinstance(node, ast.Import) else []
            names += [node.module or ""] if isinstance(node, ast.ImportFrom) else []
            assert not {name.split(".")[0] for name in names} & {"torch", "gradio", "diffusers"}, path


def names_of(path: Path) -> set[str]:
    """Return what a module names: variables that are read, attributes, imported names, and texts (a getattr's)."""
    found: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        match node:
            case ast.Name(id=name, ctx=ast.Load()) | ast.Attribute(attr=name) | ast.Constant(value=str(name)):
                found.add(name)
            case ast.ImportFrom(names=aliases):
                found |= {alias.name for alias in aliases}
    return found


def test_no_function_or_class_is_there_for_nothing() -> None:
    """A name counts as used where it is read in its own module, or named in another one, be it a test."""
    folders = (PACKAGE, ROOT / "tests", ROOT / "benchmarks")
    paths = [ROOT / "app.py", *(path for folder in folders for path in folder.rglob("*.py"))]
    named = {path: names_of(path) for path in paths}
    dead = []
    for path in PACKAGE.rglob("*.py"):
        if "versions" in path.parts:  # Alembic calls what is in there
            continue
        tree = ast.parse(path.read_text(encoding="utf-8"))
        elsewhere = set().union(*(names for other, names in named.items() if other != path))
        read = {node.id for node in ast.walk(tree) if isinstance(node, ast.Name) and isinstance(node.ctx, ast.Load)}
        defined = [node.name for node in tree.body if isinstance(node, ast.FunctionDef | ast.ClassDef)]
        dead += [f"{path.name}: {name}" for name in defined if name not in read | elsewhere]
    assert not dead


def test_no_bare_or_silent_except() -> None:
    for path in PACKAGE.rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.ExceptHandler):
                assert node.type is not None, f"{path}:{node.lineno} catches everything"
                silent = len(node.body) == 1 and isinstance(node.body[0], ast.Pass)
                broad = isinstance(node.type, ast.Name) and node.type.id in ("Exception", "BaseException")
                assert not (silent and broad), f"{path}:{node.lineno} swallows everything"


def test_shipped_weights_are_safetensors_within_their_size() -> None:
    files = [p for p in (PACKAGE / "builtin" / "weights").rglob("*") if p.is_file()]
    assert files
    assert {p.suffix for p in files} <= {".json", ".safetensors"}
    assert max(p.stat().st_size for p in files) <= 16 << 20
    assert sum(p.stat().st_size for p in files) <= 32 << 20
