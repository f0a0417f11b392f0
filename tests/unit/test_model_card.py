"""The built-in model's card and files: figures as recorded, nothing too large, nothing left to fill in."""

from __future__ import annotations

import json
import re

from i2v.builtin.card import CARD, END, START, tables
from i2v.builtin.evaluate import RECORDED
from i2v.presets.model_preset import preset_named


def test_the_tables_are_those_of_the_recorded_evaluation() -> None:
    """When this fails: python -m i2v.builtin.card."""
    card = CARD.read_text(encoding="utf-8")
    written = card[card.index(START) : card.index(END) + len(END)]
    assert written == tables(json.loads(RECORDED.read_text(encoding="utf-8")))


def test_everything_the_card_names_is_there() -> None:
    card = CARD.read_text(encoding="utf-8")
    assert "@" not in card  # nothing was left to fill in
    for name in re.findall(r"\]\(([^)]+)\)", card):
        assert (CARD.parent / name).exists(), name


def test_the_shipped_files_are_small() -> None:
    folder = preset_named("motion").shipped_folder
    assert folder
    sizes = [path.stat().st_size for path in folder.rglob("*") if path.is_file()]
    assert sum(sizes) <= 48 << 20
    assert max(sizes) <= 16 << 20
