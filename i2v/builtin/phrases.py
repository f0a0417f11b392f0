"""The sentences the built-in model is trained on: what each camera move and light change may be called.

Knows nothing of pictures or fields: it draws an `Instruction` (what moves, how fast) and a sentence that asks for it.
The words are about the camera: "pans left" turns the view left, so the content moves right.
"""

from __future__ import annotations

import random
from dataclasses import dataclass

__all__ = ["LIGHTS", "MOVES", "SPEEDS", "UNSEEN_PHRASES", "Instruction", "draw_instruction"]

_PAN = (
    "the camera pans {d}|pan {d}|pan to the {d}|camera pans to the {d}|the camera is panning {d}|panning {d}"
    "|a slow-paced shot panning to the {d}|the camera moves {d}|move the camera to the {d}|camera moves to the {d}"
    "|the view slides {d}|slide to the {d}|the camera turns {d}|turn {d}|look to the {d}|look {d}|truck {d}"
    "|the shot drifts to the {d}|{d}ward pan|pan {d}wards|to the {d}|a {d} pan|camera pan {d}|the view pans {d}"
)
_TILT = (
    "the camera tilts {d}|tilt {d}|camera tilting {d}|tilting {d}|the camera moves {d}|move the camera {d}"
    "|the view moves {d}|look {d}|the camera looks {d}|{d}ward tilt|tilt {d}wards|the shot tilts {d}|pan {d}"
    "|the camera pans {d}|a {d}ward move|camera tilt {d}|pedestal {d}|{d}wards"
)
_ZOOM_IN = (
    "the camera zooms in|zoom in|zooming in|camera zoom in|a zoom in|zoom into the scene|the camera moves closer"
    "|move closer|push in|the camera pushes in|dolly in|the shot zooms in on the subject|get closer|move in"
    "|the camera moves forward|move forward|moving forward|come closer to the subject|approach the subject"
)
_ZOOM_OUT = (
    "the camera zooms out|zoom out|zooming out|camera zoom out|a zoom out|zoom out of the scene|pull back"
    "|the camera pulls back|the camera pulls out|dolly out|the shot zooms out|move away|the camera moves away"
    "|move back|the camera moves backward|moving backward|back away|the camera backs away|pull away"
)
_ROLL = (
    "the camera rolls {d}|roll {d}|rolling {d}|the camera rotates {d}|rotate {d}|rotate the camera {d}"
    "|camera roll {d}|the view rotates {d}|a {d} roll|a {d} rotation|spin {d}|the camera spins {d}|turn {d}|twist {d}"
)
_HOLD = (
    "the camera holds still|hold still|a still shot|the camera does not move|static camera|no camera movement"
    "|the camera stays still|keep the camera still|a static shot|fixed camera|locked-off shot|stay still|freeze"
    "|nothing moves|no motion|the camera is still|stand still|do not move|keep still"
)


def _spread(patterns: str, *words: str) -> tuple[str, ...]:
    return tuple(p.format(d=w) for p in patterns.split("|") for w in (words or ("",)))


_COUNTER = ("counter-clockwise", "counterclockwise", "anticlockwise", "anti-clockwise")

MOVES: dict[str, tuple[str, ...]] = {
    "pan_left": _spread(_PAN, "left"),
    "pan_right": _spread(_PAN, "right"),
    "tilt_up": _spread(_TILT, "up"),
    "tilt_down": _spread(_TILT, "down"),
    "zoom_in": _spread(_ZOOM_IN),
    "zoom_out": _spread(_ZOOM_OUT),
    "roll_clockwise": _spread(_ROLL, "clockwise"),
    "roll_counter_clockwise": _spread(_ROLL, *_COUNTER),
    "hold": _spread(_HOLD),
}

LIGHTS: dict[str, tuple[str, ...]] = {
    "darker": (
        "night falls",
        "it gets dark",
        "the light fades",
        "it grows darker",
        "the scene darkens",
        "fade to dark",
    ),
    "brighter": (
        "it gets brighter",
        "the light grows",
        "the scene brightens",
        "it becomes bright",
        "the day breaks",
    ),
    "warmer": (
        "the light turns golden",
        "warm evening light",
        "golden hour",
        "the colours get warmer",
        "warm light",
    ),
    "colder": ("the light turns cold", "cold blue light", "the colours get colder", "the scene turns blue"),
}

SPEEDS: dict[str, tuple[str, ...]] = {
    "slow": ("slowly", "gently", "very slowly", "slow", "softly", "at a slow pace"),
    "fast": ("fast", "quickly", "rapidly", "at high speed", "swiftly", "very fast"),
}

# Never drawn in training: kept to measure whether the model understands, not remembers.
UNSEEN_PHRASES: dict[str, tuple[str, ...]] = {
    "pan_left": ("the camera glides to the left side", "a smooth panning shot going left"),
    "pan_right": ("the camera glides to the right side", "a smooth panning shot going right"),
    "tilt_up": ("the camera slowly lifts its view up", "tilting the camera up"),
    "tilt_down": ("the camera lowers its view down", "tilting the camera down"),
    "zoom_in": ("zooming the camera in on the scene", "the lens zooms in"),
    "zoom_out": ("zooming the camera out of the scene", "the lens zooms out"),
    "roll_clockwise": ("rolling the camera clockwise", "a clockwise spin of the view"),
    "roll_counter_clockwise": ("rolling the camera counterclockwise", "an anticlockwise spin of the view"),
    "hold": ("a static camera, nothing moves", "keep the view still"),
}

_SUBJECTS = (
    "a lake|mountains at dusk|a portrait of a woman|an old man reading|a cat on a sofa|a red car|a busy street|a forest"
    "|a cup of coffee|the sea|a city at night|a field of flowers|a castle|a dog running|a bowl of fruit|a bridge|a boat"
    "|a temple in china|a rocket|a garden|a snowy village|a kitchen|a bird on a branch|a dancer|a desert road|a train"
    "|a stormy sky|a child with a kite|an astronaut|waves on a beach|a wooden table|a robot|a horse|a waterfall"
    "|a market|a tall building|clouds|a candle|a bookshop|a rainy window|the moon|a lighthouse|a river|a smiling girl"
)
_STYLES = (
    "cinematic|high quality|4k|photorealistic|soft light|beautiful|film grain|detailed|dramatic|masterpiece|realistic"
    "|shallow depth of field|vivid colours|wide shot|close up|documentary|smooth|hdr|calm|moody"
)
_UNKNOWN = (
    "make it come alive|animate this picture|the person smiles|the wind blows|she waves her hand|something happens"
    "|a beautiful video|the dog barks|he walks away from us|the car drives off|magic|the flowers bloom|dancing"
)
_SUBJECT_LIST, _STYLE_LIST, _UNKNOWN_LIST = _SUBJECTS.split("|"), _STYLES.split("|"), _UNKNOWN.split("|")


@dataclass(frozen=True)
class Instruction:
    """What a prompt asks for: camera moves by name, one speed, at most one change of light.

    No moves and `calm` set stands for a prompt that asks for nothing the model knows: a slow push-in.
    """

    moves: tuple[str, ...]
    speed: str = "normal"
    light: str | None = None
    calm: bool = False


def _with_speed(phrase: str, speed: str, rng: random.Random) -> str:
    if speed == "normal":
        return phrase
    word = rng.choice(SPEEDS[speed])
    return f"{word} {phrase}" if rng.random() < 0.4 else f"{phrase} {word}"


def _dress(core: str, rng: random.Random) -> str:
    """Surround the words that matter with words that do not."""
    roll = rng.random()
    subject, style = rng.choice(_SUBJECT_LIST), rng.choice(_STYLE_LIST)
    if roll < 0.45:
        text = core
    elif roll < 0.65:
        text = f"{subject}, {core}"
    elif roll < 0.8:
        text = f"{core}, {style}"
    elif roll < 0.85:
        text = f"{subject}, {style}, {core}, {rng.choice(_STYLE_LIST)}"
    elif roll < 0.92:  # as long as people write for larger models
        words = rng.sample(_SUBJECT_LIST, rng.randint(1, 4)) + rng.sample(_STYLE_LIST, rng.randint(2, 6))
        words.insert(rng.randint(0, len(words)), core)
        text = ", ".join(words)
    else:
        text = f"{core} over {subject}"
    return text + rng.choice(("", "", "."))


_AXES = (("pan_left", "pan_right"), ("tilt_up", "tilt_down"), ("zoom_in", "zoom_out"))
_JOINERS = (" and ", " while ", ", ", " then ")


def draw_instruction(rng: random.Random) -> tuple[Instruction, str]:
    """Draw what is asked for and one sentence that asks for it. Deterministic for a given `rng` state."""
    roll = rng.random()
    speed = rng.choices(("normal", "slow", "fast"), weights=(0.6, 0.2, 0.2))[0]
    if roll < 0.70:
        move = rng.choice(tuple(MOVES))
        speed = "normal" if move == "hold" else speed
        return Instruction((move,), speed), _dress(_with_speed(rng.choice(MOVES[move]), speed, rng), rng)
    if roll < 0.80:
        moves = tuple(rng.choice(axis) for axis in rng.sample(_AXES, 2))
        core = rng.choice(_JOINERS).join(rng.choice(MOVES[m]) for m in moves)
        return Instruction(moves, speed), _dress(_with_speed(core, speed, rng), rng)
    if roll < 0.92:
        light = rng.choice(tuple(LIGHTS))
        words = rng.choice(LIGHTS[light])
        if rng.random() < 0.5:
            return Instruction(("hold",), light=light), _dress(words, rng)
        move = rng.choice(tuple(MOVES))
        core = rng.choice(MOVES[move]) + rng.choice((" as ", " while ", ", ")) + words
        return Instruction((move,), light=light), _dress(core, rng)
    texts = ("", rng.choice(_SUBJECT_LIST), rng.choice(_UNKNOWN_LIST), rng.choice(_STYLE_LIST))
    return Instruction((), calm=True), rng.choice(texts)
