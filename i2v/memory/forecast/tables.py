"""Finds the memory formulas of a model: in the table that ships with i2v, or in what was traced on this machine before.

A table belongs to one architecture and one version of torch and diffusers, by its key. No torch; tracing is done
elsewhere (build_forms.py) when there is no table.
"""

from __future__ import annotations

import ast
import hashlib
import json
import logging
from collections.abc import Mapping
from functools import lru_cache
from importlib import metadata
from pathlib import Path
from typing import Any

from i2v.family import Family
from i2v.memory.forecast.forms import FORMAT, ModelForms
from i2v.presets.model_preset import ModelPreset, added_folders

__all__ = [
    "architecture_of",
    "code_of",
    "find_forms",
    "forms_path",
    "shipped_forms",
    "table_key",
    "table_path",
    "width_of",
]

_TABLES = Path(__file__).parent / "tables"
_log = logging.getLogger(__name__)


def architecture_of(preset: ModelPreset, folder: Path) -> dict[str, dict[str, Any]]:
    """Return what decides the memory of a model: the preset's keys, with the values that the folder's files have.

    A component whose configuration is not there, or a key that it leaves out, is as the preset says.
    """
    found = {}
    for name, expected in preset.architecture.items():
        try:
            config = json.loads((folder / name / "config.json").read_text(encoding="utf-8"))
        except (OSError, ValueError):
            config = {}
        found[name] = {key: config.get(key, value) for key, value in expected.items()}
    return found


def width_of(precision: str) -> str:
    """Return the table's name for numbers of a precision's size."""
    return "fp32" if precision == "fp32" else "fp16"


def table_key(preset: ModelPreset, architecture: Mapping[str, Any]) -> str:
    """Return what a table is looked up by: family, architecture, format, and the code that it was traced with."""
    family = preset.declared
    parts = [family.name, _declared(family), architecture, FORMAT, versions(), _digest(family.code)]
    return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()[:16]


def _declared(family: Family) -> list[Any]:
    """Return what of a declaration decides its table: components with their blocks, and the ways it is run in."""
    parts = [[part.name, part.cls, part.blocks, part.held_at_once] for part in family.parts]
    return [parts, [[knob.name, knob.way, list(knob.stages)] for knob in family.knobs]]


@lru_cache(maxsize=16)
def _digest(modules: tuple[str, ...]) -> str:
    """Return a digest of the code of modules of i2v: their comments and docstrings do not count."""
    root = Path(__file__).parents[2]
    sources = ((root / f"{module.replace('.', '/')}.py").read_text(encoding="utf-8") for module in modules)
    return hashlib.sha256("".join(map(code_of, sources)).encode()).hexdigest()


def code_of(source: str) -> str:
    """Return a module's syntax tree as text, without docstrings."""
    tree = ast.parse(source)
    for node in ast.walk(tree):
        match getattr(node, "body", None):
            case [ast.Expr(value=ast.Constant(value=str())), *_] as body:
                del body[0]
    return ast.dump(tree)


def versions() -> dict[str, str]:
    """Return the versions that decide what a model's code allocates."""
    return {name: metadata.version(name).partition("+")[0] for name in ("torch", "diffusers")}


def forms_path(home: Path, key: str) -> Path:
    """Return where a table that was traced here is kept."""
    return home / "forecast" / f"{key}.json"


def table_path(preset: ModelPreset) -> Path:
    """Return where the table is that comes with a preset: with i2v's own, or beside a preset that was added."""
    added = (folder for folder in added_folders() if (folder / f"{preset.name}.yaml").is_file())
    return next(added, _TABLES) / f"{preset.name}.json"


def shipped_forms(preset: ModelPreset) -> ModelForms | None:
    """Return the table that comes with a preset, of whatever versions it is."""
    return ModelForms.load(table_path(preset))


def find_forms(preset: ModelPreset, folder: Path, home: Path, precision: str) -> ModelForms | None:
    """Return the formulas of the model in a folder, or None when they have to be traced first."""
    key = table_key(preset, architecture_of(preset, folder))
    for path in (table_path(preset), forms_path(home, key)):
        forms = ModelForms.load(path)
        if forms and forms.key == key and forms.knows(precision):
            return forms
    return None
