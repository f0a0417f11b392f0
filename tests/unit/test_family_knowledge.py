"""Only a family's own files know it: nothing else names a component, a class or a model."""

from __future__ import annotations

import ast
import json
import re
import subprocess
import sys
from pathlib import Path

import pytest

from docs.import_drawing import PACKAGE, texts_in
from i2v.family import Family
from i2v.presets.model_preset import declared_family, load_presets

ROOT = Path(__file__).parents[2]
FAMILIES = {preset.family: preset.declared for preset in load_presets().values()}
# Where a family may be named, and why.
ALLOWED = {
    **{f"models/{name}.py": "the family itself" for name in FAMILIES},
    "models/motion_": "what only the built-in family is made of",
    "builtin/": "trains, measures and ships the built-in model",
    "engine/bench.py": "measures one model against the library that it comes from",
    "models/traced_parts.py": "the calls of encoders and autoencoders that several families have",
    "models/text.py": "reads with a CLIP text encoder, for the families that have one",
    "memory/exact/": "executors, each for one class of diffusers",
}


def names_of(family: Family) -> set[str]:
    """Return what a family calls its components, and their classes."""
    classes = {path.partition(":")[2] for part in family.parts for path in (part.cls, part.config_cls) if path}
    return {part.name for part in family.parts} | set(family.configured) | classes


NAMES = set().union(*(names_of(family) for family in FAMILIES.values()))
MODELS = set(FAMILIES) | set(load_presets())


def identifiers_in(tree: ast.AST) -> set[str]:
    found: set[str] = set()
    for node in ast.walk(tree):
        found |= {getattr(node, key) for key in ("id", "attr", "arg", "name", "asname") if hasattr(node, key)}
        found |= set((getattr(node, "module", None) or "").split("."))
    return {name for name in found if isinstance(name, str)}


def known_of_families(tree: ast.AST) -> set[str]:
    """Return the components, classes and models that code names: as identifiers, or as words of a string."""
    words = {word for text in texts_in(tree) for word in re.findall(r"[\w-]+", text.value)}
    models = {text.value for text in texts_in(tree)} & MODELS  # "motion" is a word of English too
    return ((identifiers_in(tree) | words) & NAMES) | models


@pytest.mark.parametrize(
    ("source", "named"),
    [
        ('weights = modules["unet"]', "unet"),
        ("pipeline.vae.decode(latents)", "vae"),
        ("def load(text_encoder): ...", "text_encoder"),
        ("from diffusers import AutoencoderKL", "AutoencoderKL"),
        ('raise InputError(f"{folder} has no image_encoder")', "image_encoder"),
        ('preset_named(values.get("model") or "motion")', "motion"),
        ("from i2v.models.motion_field import PromptHint as Hint", "PromptHint"),
    ],
)
def test_code_that_knows_a_family_is_recognised(source: str, named: str) -> None:
    assert known_of_families(ast.parse(source)) == {named}


def test_prose_about_motion_and_docstrings_know_no_family() -> None:
    source = '"""Moves the unet."""\nlabel = "the motion of the picture"\ndenoiser = 1'
    assert known_of_families(ast.parse(source)) == set()


def test_nothing_else_names_a_component_a_class_or_a_model() -> None:
    found = {
        path.relative_to(PACKAGE).as_posix(): known_of_families(ast.parse(path.read_text(encoding="utf-8")))
        for path in PACKAGE.rglob("*.py")
    }
    assert {name: sorted(known) for name, known in found.items() if known and not name.startswith(tuple(ALLOWED))} == {}
    for allowed in ALLOWED:  # and none that needs it no more
        assert any(known for name, known in found.items() if name.startswith(allowed)), allowed


def test_every_family_is_declared_without_torch() -> None:
    code = f"""
import json, sys
from i2v.presets.model_preset import declared_family
for name in {sorted(FAMILIES)!r}:
    assert declared_family(name).parts
print(json.dumps([name for name in ("torch", "diffusers", "transformers", "numpy") if name in sys.modules]))
"""
    run = [sys.executable, "-c", code]
    finished = subprocess.run(run, cwd=ROOT, capture_output=True, text=True, check=False)
    assert finished.returncode == 0, finished.stderr
    assert "torch" not in json.loads(finished.stdout)
    assert set(json.loads(finished.stdout)) <= {"numpy"}


def test_every_family_has_a_preset() -> None:
    files = [path for path in (PACKAGE / "models").glob("*.py") if re.search(r"^FAMILY = ", path.read_text(), re.M)]
    assert {path.stem for path in files} == set(FAMILIES)
    assert all(declared_family(name).name == name for name in FAMILIES)
