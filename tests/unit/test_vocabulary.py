"""Which words of a prompt the built-in model knows, and what is said of the others."""

from __future__ import annotations

import json
import random
import re
from pathlib import Path

import pytest

from i2v.builtin import words
from i2v.builtin.phrases import draw_instruction
from i2v.builtin.vocabulary_file import FILE, build_vocabulary
from i2v.errors import ModelFilesError
from i2v.presets.model_preset import preset_named
from i2v.presets.vocabulary import PromptWords, prompt_note, read_prompt, words_of

MOTION = preset_named("motion")
MADE_UP = re.compile(r"([bcdfghklmnprstvwz][aeiou]){1,4}")  # words that phrases.py makes up


def test_the_committed_file_is_what_the_word_lists_give() -> None:
    assert MOTION.vocabulary_path == FILE
    assert json.loads(FILE.read_text(encoding="utf-8")) == build_vocabulary()


def test_every_training_sentence_is_known_but_for_what_has_no_effect() -> None:
    rng = random.Random(4)
    drawn = [draw_instruction(rng) for _ in range(4000)]
    without_effect = set(words_of(words.CALM.lower().replace("|", " ")))
    for _, sentence in drawn:
        unknown = {word.lower() for word in read_prompt(MOTION, sentence).unknown}
        assert not {word for word in unknown - without_effect if not MADE_UP.fullmatch(word)}, sentence
    asking = [read_prompt(MOTION, sentence).asks for instruction, sentence in drawn if not instruction.calm]
    calm = [read_prompt(MOTION, sentence).asks for instruction, sentence in drawn if instruction.calm]
    assert sum(asking) >= 0.999 * len(asking)
    assert sum(calm) <= 0.1 * len(calm)  # "a church on the left" may be read as asking for the left


@pytest.mark.parametrize("prompt", ["", "  ", "Slowly zoom in.", "to the left", "hand-held camera", "blue light"])
def test_nothing_is_said_of_a_prompt_that_is_known(prompt: str) -> None:
    assert prompt_note(MOTION, prompt) == ""


@pytest.mark.parametrize(
    "prompt", ["a dragon", "The woman dances!", "make it come alive", "cinematic, 4k", "🐉", "向左"]
)
def test_a_prompt_that_asks_for_nothing_known_is_told_what_is(prompt: str) -> None:
    assert prompt_note(MOTION, prompt) == MOTION.nothing_known
    assert "push in slowly" in MOTION.nothing_known


def test_unknown_words_are_named_once_as_they_were_written() -> None:
    found = read_prompt(MOTION, "Pan left over 2 Griffins; the griffins’ lair, and it SMILES")
    assert found == PromptWords(True, ("Griffins", "lair", "SMILES"))
    note = prompt_note(MOTION, "pan left, a unicorn smiles")
    assert note == "Not known to this model, so without effect: unicorn, smiles."


def test_of_many_unknown_words_only_some_are_named() -> None:
    note = prompt_note(MOTION, "pan left " + " ".join(f"qx{letter}" for letter in "abcdefghijk"))
    assert note.endswith("qxg, qxh and 3 more.")


def test_a_model_without_a_vocabulary_says_nothing() -> None:
    assert prompt_note(preset_named("i2vgen-xl"), "a unicorn smiles") == ""


def test_the_example_prompts_are_known() -> None:
    assert {prompt_note(MOTION, prompt) for prompt in MOTION.example_prompts} == {""}


def test_a_damaged_vocabulary_is_one_sentence(tmp_path: Path) -> None:
    (tmp_path / "vocabulary.json").write_text('{"telling": []}')
    broken = MOTION.model_copy(update={"vocabulary_file": str(tmp_path / "vocabulary.json")})
    with pytest.raises(ModelFilesError, match=r"vocabulary\.json cannot be read"):
        read_prompt(broken, "pan left")
