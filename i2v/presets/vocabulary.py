"""Which words of a prompt a model knows: what the page says below the prompt before anything runs. No torch.

Knows a model's vocabulary file, {"telling": [...], "seen": [...]}, through its preset; not how the file was made.
"""

from __future__ import annotations

import json
import re
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

from i2v.errors import ModelFilesError
from i2v.presets.model_preset import ModelPreset

__all__ = ["PromptWords", "prompt_note", "read_prompt", "words_of"]

_MOST_NAMED = 8
_WORD = re.compile(r"[^\W_]+(?:'[^\W\d_]+)?")


@dataclass(frozen=True)
class PromptWords:
    """What a model makes of a prompt's words.

    `asks`: at least one of them, or one phrase, asks for something the model knows. `unknown`: those it never saw, each
    once, in the order and in the letters of the prompt.
    """

    asks: bool
    unknown: tuple[str, ...] = ()


def words_of(text: str) -> list[str]:
    """Split into words as they stand: "A hand-held camera, 4k" gives A, hand, held, camera, 4k."""
    return _WORD.findall(text.replace("’", "'"))


def read_prompt(preset: ModelPreset, prompt: str) -> PromptWords:
    """Look every word of a prompt up. A model without a vocabulary file is taken to know them all."""
    if preset.vocabulary_path is None:
        return PromptWords(asks=True)
    telling, seen = _vocabulary(preset.vocabulary_path)
    written = words_of(prompt)
    line = f" {' '.join(written).lower()} "
    unknown: dict[str, str] = {}
    for word in written:
        if word.lower() not in seen and not word.isdecimal():  # a bare number is a count or part of a style
            unknown.setdefault(word.lower(), word)
    return PromptWords(any(f" {entry} " in line for entry in telling), tuple(unknown.values()))


def prompt_note(preset: ModelPreset, prompt: str) -> str:
    """Say in a sentence or two what of a prompt will have no effect; "" when there is nothing to say."""
    if not prompt.strip():
        return ""
    found = read_prompt(preset, prompt)
    if not found.asks:
        return preset.nothing_known
    if not found.unknown:
        return ""
    more = len(found.unknown) - _MOST_NAMED
    named = ", ".join(found.unknown[:_MOST_NAMED]) + (f" and {more} more" if more > 0 else "")
    return f"Not known to this model, so without effect: {named}."


@lru_cache(maxsize=4)
def _vocabulary(path: Path) -> tuple[frozenset[str], frozenset[str]]:
    """Return the telling words and phrases, and the seen words. Raises ModelFilesError."""
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
        return frozenset(found["telling"]), frozenset(found["seen"])
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise ModelFilesError(f"the vocabulary {path} cannot be read", "Install i2v again.") from error
