"""What a saved preset may be, and that it is there again tomorrow."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from i2v.errors import InputError
from i2v.jobs.store import JobStore
from i2v.presets.saved import KEPT_FIELDS, SavedPresets
from i2v.request import GenerationRequest

VALUES: dict[str, Any] = {
    "short_side_px": 256,
    "guidance_scale": 1.5,
    "loop": True,
    "vram_gib": None,
    "formats": ["gif", "webp"],
    "negative_prompt": "blurry “x”",
}


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "i2v.sqlite3"


@pytest.fixture
def presets(path: Path) -> Iterator[SavedPresets]:
    store = JobStore(path)
    yield SavedPresets(store.engine, lambda: 5.0)
    store.close()


def test_a_preset_is_there_after_reopening(presets: SavedPresets, path: Path) -> None:
    saved = presets.save("  Mein Vorschlag 漫画 ", "motion", VALUES)
    assert (saved.name, saved.model, saved.values, saved.created_at) == ("Mein Vorschlag 漫画", "motion", VALUES, 5.0)
    again = JobStore(path)
    assert SavedPresets(again.engine).all("motion") == [saved]
    assert SavedPresets(again.engine).all("i2vgen-xl") == []
    again.close()


def test_a_preset_of_the_same_name_is_replaced(presets: SavedPresets) -> None:
    presets.save("b", "motion", VALUES)
    presets.save("A", "motion", {})
    presets.save("b", "motion", {"fps": 8})
    assert [(preset.name, preset.values) for preset in presets.all("motion")] == [("A", {}), ("b", {"fps": 8})]
    presets.delete("A")
    presets.delete("never there")
    assert [preset.name for preset in presets.all("motion")] == ["b"]


@pytest.mark.parametrize("name", ["", "   ", "x" * 41, "line\nbreak", "\x00", "zero\u200bwidth", "\ud800"])
def test_a_name_that_cannot_be_shown_is_refused(presets: SavedPresets, name: str) -> None:
    with pytest.raises(InputError, match="The name of a preset"):
        presets.save(name, "motion", {})


@pytest.mark.parametrize(
    "values",
    [
        {"prompt": "x"},
        {"seed": 1},
        {"model": "motion"},
        {"fps": {"a": 1}},
        {"fps": [[1]]},
        {"fps": b"x"},
        {"guidance_scale": float("nan")},
        {"vram_gib": float("inf")},
        {"negative_prompt": "x" * 20_000},
    ],
)
def test_what_is_no_setting_is_refused(presets: SavedPresets, values: dict[str, Any]) -> None:
    with pytest.raises(InputError):
        presets.save("a", "motion", values)
    with pytest.raises(InputError):
        presets.save("a", "no-such-model", {})
    assert presets.all("motion") == []


def test_there_are_at_most_fifty(presets: SavedPresets) -> None:
    for number in range(50):
        presets.save(f"preset {number}", "motion", {})
    with pytest.raises(InputError, match="There are 50 saved presets already"):
        presets.save("one more", "motion", {})
    presets.save("preset 7", "i2vgen-xl", {"fps": 8})
    assert len(presets.all("motion")) == 49


def test_what_is_kept_is_part_of_a_request() -> None:
    asked_otherwise = {"short_side_px", "image_fit"}
    assert KEPT_FIELDS - asked_otherwise <= set(GenerationRequest.model_fields)
