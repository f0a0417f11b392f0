"""The sentences the built-in model is trained on: what camera moves, light and effects may be called.

Knows nothing of pictures or fields: it draws an `Instruction` (what moves, how fast) and a sentence that asks for it.
The words are about the camera: "pans left" turns the view left, so the content moves right.
A sentence that holds one of the phrases of unseen.py is never drawn; those are what is measured with.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from i2v.builtin.unseen import HELD_OUT
from i2v.builtin.words import (
    ADJECTIVES,
    CALM,
    DIRECTIONS,
    EFFECTS,
    HOLD,
    LIGHTS,
    NOUNS,
    PLACES,
    SPEEDS,
    STYLES,
    SUBJECTS,
    VERBS,
    Verb,
)

__all__ = ["MOVES", "Instruction", "draw_instruction"]

MOVES = (
    "pan_left",
    "pan_right",
    "tilt_up",
    "tilt_down",
    "zoom_in",
    "zoom_out",
    "roll_clockwise",
    "roll_counter_clockwise",
    "hold",
)
_AXES = (("pan_left", "pan_right"), ("tilt_up", "tilt_down"), ("zoom_in", "zoom_out"))
_ROLLS = ("roll_clockwise", "roll_counter_clockwise")
_CAMERAS = "the camera|the camera|camera|the view|the shot|the lens|the viewpoint|our view|we|the frame"
_JOINERS = (
    " and ",
    " while ",
    ", ",
    " then ",
    " and also ",
    " with ",
    "; ",
    " and at the same time ",
    ", then ",
    ", and ",
    " as ",
)


@dataclass(frozen=True)
class Instruction:
    """What a prompt asks for: camera moves by name, one speed, at most one change of light, effects by name.

    `strength` is how strong the effects are ("slow", "normal", "fast" as for speeds). No moves and `calm` set stands
    for a prompt that asks for nothing the model knows: a slow push-in.
    """

    moves: tuple[str, ...] = ()
    speed: str = "normal"
    light: str | None = None
    effects: tuple[str, ...] = ()
    strength: str = "normal"
    calm: bool = False


def _pick(rng: random.Random, words: str | Sequence[str]) -> str:
    return rng.choice(words.split("|") if isinstance(words, str) else words)


def _adverb(speed: str, rng: random.Random) -> str:
    if speed == "normal":
        return rng.choice(("smoothly", "steadily", "gracefully", "evenly")) if rng.random() < 0.15 else ""
    return _pick(rng, SPEEDS[speed][0])


def _adjective(speed: str, rng: random.Random) -> str:
    if speed == "normal":
        return rng.choice(("smooth", "steady", "nice", "long")) if rng.random() < 0.25 else ""
    return _pick(rng, SPEEDS[speed][1])


def say_move(move: str, speed: str, rng: random.Random) -> str:
    """Draw one way of asking for one camera move at one speed ("slow", "normal" or "fast")."""
    if move == "hold":
        one = _pick(rng, HOLD)
        return one if rng.random() < 0.75 else f"{one}{rng.choice((', ', ' and ', ': ', '. '))}{_pick(rng, HOLD)}"
    verbs, directions = VERBS[move], DIRECTIONS[move]
    verb: Verb = rng.choice(verbs.verbs)
    to = _pick(rng, directions) if directions else ""
    if verb.complete:  # the verb says the direction itself: "rises", "zooms in"
        to = verb.tail if rng.random() < 0.8 else f"{verb.tail} {_pick(rng, verbs.objects)}"
    who, how, adjective = _pick(rng, _CAMERAS), _adverb(speed, rng), _adjective(speed, rng)
    noun = _pick(rng, verbs.nouns)
    does = verb.base if who == "we" else verb.third
    shapes: tuple[Callable[[], str], ...] = (
        lambda: f"{who} {does} {to} {how}",
        lambda: f"{who} {how} {does} {to}",
        lambda: f"{how} {who} {does} {to}",
        lambda: f"{who} {'are' if who == 'we' else 'is'} {how} {verb.ing} {to}",
        lambda: f"{who} {verb.ing} {to} {how}",
        lambda: f"{verb.base} {to} {how}",
        lambda: f"{how} {verb.base} {to}",
        lambda: f"{verb.ing} {to} {how}",
        lambda: f"{how} {verb.ing} {to}",
        lambda: f"{verb.base} the {_pick(rng, 'camera|view|shot|lens')} {how} {to}",
        lambda: f"{verb.ing} the {_pick(rng, 'camera|view|shot|lens')} {to} {how}",
        lambda: f"{_pick(rng, 'a|a|the|one')} {adjective} {noun}",
        lambda: f"{adjective} {_pick(rng, 'camera||shot,')} {noun}",
        lambda: f"{noun} {how}",
        lambda: f"{_pick(rng, 'a shot with|with|make|add|do|please')} {_pick(rng, 'a|the')} {adjective} {noun}",
        lambda: f"{who} makes a {adjective} {noun}",
    )
    if directions and rng.random() < 0.12:  # the direction alone
        return f"{_pick(rng, directions)} {how}"
    return rng.choice(shapes)()


def say_effect(effect: str, strength: str, rng: random.Random) -> str:
    """Draw one way of asking for one effect."""
    text = _pick(rng, EFFECTS[effect])
    if rng.random() < 0.2:
        text = f"{text} {_pick(rng, PLACES)}"
    if rng.random() < 0.12:
        text = f"{text}{rng.choice((', ', ' and '))}{_pick(rng, EFFECTS[effect])}"
    if strength == "normal":
        return text
    word = _pick(
        rng, "gently|slightly|softly|a little|faintly" if strength == "slow" else "strongly|a lot|heavily|wildly"
    )
    return f"{word} {text}" if rng.random() < 0.3 else f"{text} {word}"


def say_light(light: str, rng: random.Random) -> str:
    """Draw one way of asking for one change of light; how fast it comes is the clip's length."""
    text = _pick(rng, LIGHTS[light])
    if rng.random() < 0.12:
        text = f"{text}{rng.choice((', ', ' and ', ' as '))}{_pick(rng, LIGHTS[light])}"
    if rng.random() < 0.3:
        how = _pick(rng, SPEEDS[rng.choice(("slow", "fast"))][0])
        text = f"{text} {how}" if rng.random() < 0.6 else f"{how} {text}"
    return text


def _both_at_once(moves: list[str], speed: str, rng: random.Random) -> str:
    """Say two moves aside and upright with one verb: "moves up and to the right"."""
    verb: Verb = rng.choice([v for v in VERBS["pan_left"].verbs if v.base != "truck"])
    to = [_pick(rng, DIRECTIONS[move]) for move in moves]
    way, how = rng.choice((" and ", " and ", " and then ", ", ")).join(to), _adverb(speed, rng)
    who = _pick(rng, _CAMERAS)
    does = verb.base if who == "we" else verb.third
    shapes = (
        f"{who} {how} {does} {way}",
        f"{who} {does} {way} {how}",
        f"{verb.base} {way} {how}",
        f"{verb.ing} {way}{how and ' '}{how}",
    )
    return rng.choice(shapes)


def _subject(rng: random.Random) -> str:
    if rng.random() < 0.4:
        return rng.choice(SUBJECTS)
    words = [rng.choice(("a", "the", "the", "an", "one", "some", "my", "two", ""))]
    words += [rng.choice(ADJECTIVES) for _ in range(rng.choice((0, 0, 1, 1, 2)))]
    words.append(rng.choice(NOUNS))
    if rng.random() < 0.35:
        words.append(rng.choice(PLACES))
    if rng.random() < 0.15:
        words += ["with", rng.choice(("a", "the")), rng.choice(NOUNS)]
    return " ".join(words)


def _dress(core: str, rng: random.Random) -> str:
    """Surround the words that matter with words that do not."""
    roll = rng.random()
    subject, style = _subject(rng), rng.choice(STYLES)
    if roll < 0.45:
        text = core
    elif roll < 0.6:
        text = f"{subject}, {core}"
    elif roll < 0.7:
        text = f"{core}, {style}"
    elif roll < 0.76:
        text = f"{core}, {subject}"
    elif roll < 0.82:
        text = f"{subject}. {core}"
    elif roll < 0.88:
        text = f"{subject}, {style}, {core}, {rng.choice(STYLES)}"
    elif roll < 0.94:  # as long as people write for larger models
        words = [_subject(rng) for _ in range(rng.randint(1, 2))] + rng.sample(STYLES, rng.randint(2, 5))
        words.insert(rng.randint(0, len(words)), core)
        text = ", ".join(words)
    else:
        text = f"{core} {rng.choice(('over', 'on', 'past', 'with', 'around', 'of'))} {subject}"
    return text + rng.choice(("", "", ".", "!"))


def _nonsense(rng: random.Random) -> str:
    """A word that does not exist, so that unknown words come to mean nothing."""
    return "".join(rng.choice("bcdfghklmnprstvwz") + rng.choice("aeiou") for _ in range(rng.randint(1, 4)))


def _draw(rng: random.Random) -> tuple[Instruction, str]:
    roll = rng.random()
    speed = rng.choices(("normal", "slow", "fast"), weights=(0.5, 0.25, 0.25))[0]
    strength = rng.choices(("normal", "slow", "fast"), weights=(0.7, 0.15, 0.15))[0]
    if roll < 0.42:
        move = rng.choice(MOVES)
        speed = "normal" if move == "hold" else speed
        return Instruction((move,), speed), say_move(move, speed, rng)
    if roll < 0.58:
        moves = [rng.choice(axis) for axis in rng.sample(_AXES, 2)]
        if rng.random() < 0.3:
            moves[rng.randrange(2)] = rng.choice(_ROLLS)
        rng.shuffle(moves)
        aside = all(DIRECTIONS[move] and move not in _ROLLS for move in moves)
        if aside and rng.random() < 0.5:
            said = [_both_at_once(moves, speed, rng)]
        else:
            said = [say_move(moves[0], speed, rng), say_move(moves[1], "normal" if rng.random() < 0.7 else speed, rng)]
        light, effects = None, tuple[str, ...]()
        if rng.random() < 0.12:
            light = rng.choice(tuple(LIGHTS))
            said.append(say_light(light, rng))
        elif rng.random() < 0.12:
            effects = (rng.choice(tuple(EFFECTS)),)
            said.append(say_effect(effects[0], strength, rng))
        strength = strength if effects else "normal"
        return Instruction(tuple(sorted(moves)), speed, light, effects, strength), rng.choice(_JOINERS).join(said)
    if roll < 0.70:
        effect = rng.choice(tuple(EFFECTS))
        text = say_effect(effect, strength, rng)
        if rng.random() < 0.3:
            text = rng.choice((f"{_pick(rng, HOLD)}, {text}", f"{text}, {_pick(rng, HOLD)}"))
        return Instruction(("hold",), effects=(effect,), strength=strength), text
    if roll < 0.83:
        light = rng.choice(tuple(LIGHTS))
        text = say_light(light, rng)
        if rng.random() < 0.5:
            return Instruction(("hold",), light=light), text
        move = rng.choice(MOVES)
        said = [say_move(move, speed, rng), text]
        rng.shuffle(said)
        speed = "normal" if move == "hold" else speed
        return Instruction((move,), speed, light), rng.choice(_JOINERS).join(said)
    if roll < 0.92:
        move, effect = rng.choice(MOVES[:-1]), rng.choice(tuple(EFFECTS))
        said = [say_move(move, speed, rng), say_effect(effect, strength, rng)]
        rng.shuffle(said)
        return Instruction((move,), speed, None, (effect,), strength), rng.choice(_JOINERS).join(said)
    kinds: tuple[Callable[[], str], ...] = (
        lambda: "",
        lambda: _subject(rng),
        lambda: _pick(rng, CALM),
        lambda: f"{_subject(rng)} {_pick(rng, CALM)}",
        lambda: f"{_subject(rng)} and {_subject(rng)}",
        lambda: f"{_subject(rng)}, {rng.choice(STYLES)}",
        lambda: rng.choice(STYLES),
        lambda: " ".join(_nonsense(rng) for _ in range(rng.randint(1, 6))),
        lambda: f"{_subject(rng)} {_nonsense(rng)} {_nonsense(rng)}",
    )
    return Instruction(calm=True), rng.choice(kinds)()


def draw_instruction(rng: random.Random) -> tuple[Instruction, str]:
    """Draw what is asked for and one sentence that asks for it. Deterministic for a given `rng` state."""
    while True:
        instruction, core = _draw(rng)
        core = " ".join(core.split())
        text = core if instruction.calm else _dress(core, rng)
        text = text.replace(" ,", ",").strip()
        if not instruction.calm and rng.random() < 0.1:
            text = f"{text} {_nonsense(rng)}" if rng.random() < 0.5 else f"{_nonsense(rng)} {text}"
        if rng.random() < 0.3:
            text = text[:1].upper() + text[1:]
        lowered = text.lower()
        if not any(phrase in lowered for phrase in HELD_OUT):
            return instruction, text
