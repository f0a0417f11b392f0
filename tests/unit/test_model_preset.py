"""Presets that contradict themselves, or the rules of their family, are refused by file, key and reason."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from copy import deepcopy
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import yaml

from i2v.errors import InputError
from i2v.family import FrameRule, Rules
from i2v.models import motion
from i2v.presets import model_preset
from i2v.presets.model_preset import CONFIG_FOLDER, declared_family, default_model, load_presets
from i2v.presets.tiers import load_tiers

ROOT = Path(__file__).parents[2]
PRESET = yaml.safe_load((CONFIG_FOLDER / "models" / "motion.yaml").read_text(encoding="utf-8"))
GONE = object()


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A folder of presets of its own, and beside the shipped families one of 4k+1 frames and one of fixed sizes."""
    four = Rules(size_multiple=16, frames=FrameRule(step=4))
    sizes = Rules(size_multiple=16, sizes=((832, 480), (480, 832)))
    for name, rules in (("four", four), ("fixed", sizes)):
        family = replace(motion.FAMILY, name=name, rules=rules)
        monkeypatch.setitem(sys.modules, f"i2v.models.{name}", SimpleNamespace(FAMILY=family))
    monkeypatch.setattr(model_preset, "CONFIG_FOLDER", tmp_path)
    (tmp_path / "models").mkdir()
    for cache in (declared_family, load_presets, load_tiers):
        cache.cache_clear()
    yield tmp_path / "models"
    for cache in (declared_family, load_presets, load_tiers):
        cache.cache_clear()


def changed(changes: dict[str, Any]) -> dict[str, Any]:
    """Return the built-in preset with values changed, by dotted keys; GONE takes one out."""
    values: dict[str, Any] = yaml.safe_load(yaml.safe_dump(PRESET))
    for key, value in changes.items():
        *parents, last = key.split(".")
        inner = values
        for parent in parents:
            inner = inner[parent]
        if value is GONE:
            del inner[last]
        else:
            inner[last] = deepcopy(value)
    return values


def refusal(folder: Path, text: str) -> str:
    """Return the one sentence that a preset is refused with, without the file that it names."""
    path = folder / "wrong.yaml"
    path.write_text(text, encoding="utf-8")
    with pytest.raises(InputError) as refused:
        load_presets()
    said = str(refused.value)
    assert said.startswith(f"{path} is not a valid model preset: ")
    assert "\n" not in said
    return said.removeprefix(f"{path} is not a valid model preset: ")


FOUR = {"family": "four", "num_frames": {"low": 5, "high": 81}, "defaults.num_frames": 21, "draft": GONE, "best": GONE}
FIXED = {"family": "fixed", "side_px": {"low": 64, "high": 1280}}


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"family": "sora"}, "family: there is no model family 'sora'"),
        ({"family": "lazy"}, "family: there is no model family 'lazy'"),  # a module that declares none
        ({"family": "motion.field"}, "family: there is no model family 'motion.field'"),
        ({"family": "no.such"}, "family: there is no model family 'no.such'"),
        ({"family": ""}, "family: there is no model family ''"),
        ({"family": GONE}, "family: Field required"),
        ({"colour": "red"}, "colour: Extra inputs are not permitted"),
        ({"defaults.size": 3}, "defaults.size: Extra inputs are not permitted"),
        ({"num_frames": {"low": 24, "high": 2}}, "num_frames: low is 24, more than high, 2"),
        ({"fps.low": 61}, "fps: low is 61, more than high, 60"),
        ({"guidance_scale.high": float("nan")}, "guidance_scale.high: Input should be a finite number"),
        ({"side_px.high": float("inf")}, "side_px.high: Input should be a finite number"),
        ({"side_px": {"low": 65, "high": 71}}, "side_px: no side within them is a multiple of 8, as motion wants"),
        ({"package_folder": GONE}, "hub: the files are neither there nor in a package_folder"),
        ({"architecture.vae": {}}, "architecture.vae: the family motion has no such component"),
        ({"architecture.unet": GONE}, "architecture.unet: is left out, a component of the family motion"),
        ({"defaults.num_frames": 241}, "defaults.num_frames: 241 is not within 2 to 240"),
        ({"defaults.guidance_scale": 9}, "defaults.guidance_scale: 9 is not within 1 to 4"),
        ({"draft.num_inference_steps": 0}, "draft.num_inference_steps: 0 is not within 1 to 100"),
        ({"best.short_side_px": 8000}, "best.short_side_px: 8000 is not within 64 to 3840"),
        ({"defaults.short_side_px": 500}, "defaults.short_side_px: 500 is no multiple of 8"),
        (FOUR | {"defaults.num_frames": 24}, "defaults.num_frames: 24 is not 4k+1, as four wants"),
        (FOUR | {"num_frames": {"low": 6, "high": 8}}, "num_frames: no number of frames within them is 4k+1"),
        (FOUR | {"defaults.short_side_px": 488}, "defaults.short_side_px: 488 is no multiple of 16"),
        (FIXED | {"side_px.high": 720}, "side_px: 64 to 720 leaves out 832x480, a size of fixed"),
        (FIXED | {"max_pixels": 399_359}, "max_pixels: 832x480, a size of fixed, has more"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_a_preset_with_unknown_or_contradictory_rules_is_refused_by_file_key_and_reason(
    folder: Path, changes: dict[str, Any], words: str
) -> None:
    assert refusal(folder, yaml.safe_dump(changed(changes))).startswith(words)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("", "the file: Input should be a valid dictionary"),
        ("- a\n- list\n", "the file: Input should be a valid dictionary"),
        ("name: [\n", "while parsing a flow node"),
        ("name: !!python/object/apply:os.getcwd []\n", "could not determine a constructor"),
    ],
)
def test_a_file_that_is_no_preset_is_refused(folder: Path, text: str, words: str) -> None:
    assert words in refusal(folder, text)


def test_two_presets_of_one_name_are_refused_and_so_is_none_at_all(folder: Path) -> None:
    with pytest.raises(InputError, match="There is no model preset in"):
        load_presets()
    (folder / "first.yaml").write_text(yaml.safe_dump(PRESET), encoding="utf-8")
    assert "name: there is another preset 'motion'" in refusal(folder, yaml.safe_dump(PRESET))


def test_a_preset_of_a_family_with_rules_of_its_own_is_taken(folder: Path) -> None:
    (folder / "one.yaml").write_text(yaml.safe_dump(changed(FOUR | {"name": "one"})), encoding="utf-8")
    (folder / "two.yaml").write_text(yaml.safe_dump(changed(FIXED | {"name": "two"})), encoding="utf-8")
    presets = load_presets()
    assert presets["one"].rules.frames.words() == "4k+1"
    assert presets["two"].rules.sizes
    assert default_model() == "one"


@pytest.mark.parametrize(
    ("values", "words"),
    [
        ({"num_frames": 24}, r"tiers\.0\.num_frames: 24 is not 4k\+1, as four wants"),
        ({"short_side_px": 488}, r"tiers\.0\.short_side_px: 488 is no multiple of 16"),
    ],
)
def test_a_tier_that_a_models_family_forbids_is_refused(folder: Path, values: dict[str, Any], words: str) -> None:
    (folder / "four.yaml").write_text(yaml.safe_dump(changed(FOUR | {"name": "four"})), encoding="utf-8")
    tier = {"title": "t", "from_vram_gib": 0, "short_side_px": 480, "num_frames": 25, "num_inference_steps": 9}
    path = folder.parent / "tiers.yaml"
    path.write_text(yaml.safe_dump({"tiers": [tier | {"precisions": ["fp16"]} | values]}), encoding="utf-8")
    with pytest.raises(InputError, match=words):
        load_tiers(path)
    path.write_text(yaml.safe_dump({"tiers": [tier | {"precisions": ["fp16"]}]}), encoding="utf-8")
    load_tiers.cache_clear()
    assert load_tiers(path)[0].num_frames == 25


@pytest.mark.parametrize(
    "command",
    [("app.py", "--port", "0"), ("-m", "i2v", "models"), ("-m", "i2v", "forecast")],
    ids=lambda c: " ".join(c),
)
def test_the_app_does_not_start_with_such_a_preset_but_says_so_in_one_line(
    tmp_path: Path, command: tuple[str, ...]
) -> None:
    shutil.copytree(ROOT / "i2v", tmp_path / "i2v", ignore=shutil.ignore_patterns("__pycache__", "weights", "gallery"))
    shutil.copytree(ROOT / "configs", tmp_path / "configs")
    shutil.copy(ROOT / "app.py", tmp_path)
    path = tmp_path / "configs" / "models" / "motion.yaml"
    path.write_text(yaml.safe_dump(changed({"num_frames": {"low": 24, "high": 2}})), encoding="utf-8")
    finished = subprocess.run(
        [sys.executable, *command],
        cwd=tmp_path,
        env=os.environ | {"I2V_HOME": str(tmp_path / "home"), "PYTHONPATH": ""},
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    said = f"i2v: {path} is not a valid model preset: num_frames: low is 24, more than high, 2.\n"
    assert (finished.returncode, finished.stdout, finished.stderr) == (2, "", said)
    assert not (tmp_path / "home").exists()
