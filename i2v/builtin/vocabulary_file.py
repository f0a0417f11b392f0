"""Writes the file of words the built-in model knows, from its word lists: `python -m i2v.builtin.vocabulary_file`.

"telling" holds the words that ask for something: those of camera moves, holding still, light, effects and speeds.
Where such a word also describes a picture ("golden", "lake"), it tells nothing alone, and a phrase that is made only
of such words ("golden light") stands there whole. "seen" holds every word whose use the model learnt, subjects and
styles too. The words of CALM are not among them: those sentences taught it that smiling and barking have no effect,
and the page is to say so.
"""

from __future__ import annotations

import json
from collections.abc import Iterable
from pathlib import Path

from i2v.builtin import words
from i2v.presets.vocabulary import words_of

__all__ = ["FILE", "build_vocabulary", "main"]

FILE = Path(__file__).parent / "weights" / "vocabulary.json"
# Always telling, though places and styles hold them too: "on the left", "close up".
_WAYS = ("left", "right", "up", "down")
# They hold sentences together, or name what is looked with; none of them asks for anything by itself.
_FUNCTION_WORDS = frozenset(
    words_of(
        "a an the this that these those one two some my our your his her its their it he she they we us you i me him "
        "them and or but then while as with without of to in into on onto at by for from over under above below "
        "behind near past around out off against between through along across after before until if so than not no do "
        "does don't doesn't did is are was were be been being has have had it's there here where when what which who "
        "how make makes making made let lets add please get gets getting keep keeps become becomes becoming begin "
        "begins more most less very really quite too also same time all only just again some any something everything "
        "nothing way side direction towards toward further hand place bit lot camera view shot lens viewpoint frame "
        "cam image picture photo photograph video clip scene subject footage show bring take give"
    )
)
# Of effects and light, but in many pictures ("a pond"), or what anyone may do in one ("make it come alive").
_AMBIGUOUS = frozenset(
    words_of(
        "air blades branches bushes plants pond pool ocean meadow foliage reeds fire flame surface lights day hour "
        "moment first new whole full change centre ends sets filmed come comes coming fly flies flying falls grows "
        "breaks breaking look looks looking stands turn close run"
    )
)
# What phrases.py puts around the words of words.py.
_FRAME_WORDS = frozenset(
    words_of(
        "smoothly steadily gracefully evenly smooth steady nice long gently slightly softly little faintly strongly "
        "heavily wildly add make makes do please"
    )
)


def build_vocabulary() -> dict[str, list[str]]:
    """Return {"telling", "seen"}: lower-case words, and phrases of several words, sorted."""
    moves = words.VERBS.values()
    forms = [form for move in moves for verb in move.verbs for form in _forms(verb)]
    phrases = [phrase for move in moves for text in (move.nouns, move.objects) for phrase in text.split("|")]
    phrases += [f"{form} {verb.tail}" for move in moves for verb in move.verbs for form in _forms(verb) if verb.tail]
    asked = (*words.DIRECTIONS.values(), words.HOLD, *words.LIGHTS.values(), *words.EFFECTS.values())
    phrases += [phrase for text in asked for phrase in text.split("|")]
    speeds = [word for pair in words.SPEEDS.values() for text in pair for word in text.split("|")]
    describing = _words((*words.SUBJECTS, *words.NOUNS, *words.ADJECTIVES, *words.PLACES, *words.STYLES))

    nothing_alone = _FUNCTION_WORDS | _AMBIGUOUS
    telling = (_words((*phrases, *speeds)) - describing | _words(forms) | set(_WAYS)) - nothing_alone
    whole = {_without_article(phrase) for phrase in phrases if not telling & _words((phrase,))}
    whole = {phrase for phrase in whole if " " in phrase and not _words((phrase,)) <= _FUNCTION_WORDS}
    seen = _words((*phrases, *speeds, *forms)) | describing | nothing_alone | _FRAME_WORDS
    return {"telling": sorted(telling | whole), "seen": sorted(seen)}


def _forms(verb: words.Verb) -> tuple[str, str, str]:
    return verb.base, verb.third, verb.ing


def _words(texts: Iterable[str]) -> set[str]:
    return {word for text in texts for word in words_of(text.lower())}


def _without_article(phrase: str) -> str:
    said = words_of(phrase.lower())
    return " ".join(said[1:] if said[:1] in (["a"], ["the"]) else said)


def main() -> None:
    """Write the file."""
    FILE.write_text(json.dumps(build_vocabulary(), indent=0) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
