"""What the built-in model is asked for when it is measured: photographs, prompts, seeds, lengths and sizes.

Knows nothing of how videos are made or measured. All camera and effect prompts hold a phrase of unseen.py, which is
never drawn in training; only the direction words alone may have been.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from i2v.builtin.phrases import MOVES
from i2v.builtin.unseen import CAMERA_AND_EFFECT_PHRASES, COMPOUND_PHRASES, UNSEEN_PHRASES

__all__ = ["EFFECTS", "LENGTHS", "Ask", "full_trials", "reduced_trials"]

EFFECTS = ("ripple", "sway", "shimmer", "shake", "flicker", "night", "dawn")
LENGTHS = (16, 24, 48, 120)
_SIZES = ((256, False), (512, False), (512, True), (1080, False), (1080, True))  # short side, upright
_DIRECTION_WORDS = {
    "to the left": "pan_left",
    "to the right": "pan_right",
    "upwards": "tilt_up",
    "downwards": "tilt_down",
    "left": "pan_left",
    "towards the right": "pan_right",
    "clockwise": "roll_clockwise",
}
# Around an unseen phrase, so that the whole sentence is unseen too.
_SPEED_FORMS = (
    ("slowly, {}", "quickly, {}"),
    ("{} at a slow pace", "{} at a fast pace"),
    ("{}, very slowly", "{}, very fast"),
    ("gently, {}", "rapidly, {}"),
)
# Nothing in these is known to the model, so that it should push in slowly and calmly.
_UNKNOWN = ("a unicorn juggles pancakes", "she whispers a secret", "make it funny", "qwzx brlp", "the king yawns")
_LENGTH_MOVES = ("pan_right", "tilt_up", "zoom_in", "roll_clockwise")


@dataclass(frozen=True)
class Ask:
    """One video to be made, and what it should show.

    `moves` empty and no `effects`: a slow, calm push-in. `speed`: "slow" or "fast" in a pair that has the same `seed`.
    `short_px`: of the video, None as the evaluation has it; `upright`: the photograph is cut to 9:16.
    """

    group: str
    photo: str
    prompt: str
    seed: int
    moves: tuple[str, ...] = ()
    effects: tuple[str, ...] = ()
    speed: str = ""
    num_frames: int = 24
    short_px: int | None = None
    upright: bool = False
    loop: bool = False


def full_trials(photos: Sequence[str]) -> list[Ask]:
    """Return all trials, about 560 with eight photographs."""
    asks = [*_camera(photos), *_direction_words(photos[:4]), *_speeds(photos), *_compounds(photos[:6])]
    asks += _effects(photos)
    asks += [ask for photo in photos[:4] for ask in _camera_and_effects(photo)]
    asks += [Ask("calm", photo, _UNKNOWN[i % len(_UNKNOWN)], 900 + i) for i, photo in enumerate(photos)]
    asks += [ask for count in LENGTHS for ask in _lengths(photos[:2], count)]
    asks += [ask for photo in photos[:1] for ask in _sizes(photo)]
    asks += [ask for i, photo in enumerate(photos[:3]) for ask in _loops(photo, 1200 + 10 * i)]
    return asks


def reduced_trials(photos: Sequence[str]) -> list[Ask]:
    """Return about thirty of the trials, of every group some; two photographs take turns."""
    one, other = photos[0], photos[-1]
    first, second = list(_camera((one,)))[:9], list(_camera((one, other)))[27 + 9 : 27 + 18]
    asks = [(first, second)[i % 2][i] for i in range(9)]  # each move once, with one phrase or another
    asks += [ask for ask in _direction_words((one,)) if ask.prompt == "to the left"]
    asks += [ask for ask in _speeds((other,)) if ask.moves[0] in ("pan_left", "zoom_out")]
    asks += list(_compounds((one,)))[::8]
    asks += list(_effects((other,)))
    asks += list(_camera_and_effects(one))[:2]
    asks += [Ask("calm", one, _UNKNOWN[0], 900)]
    asks += [next(_lengths((one,), 48))]
    asks += [next(_loops(one, 1200))]
    return asks


def _camera(photos: Sequence[str]) -> Iterator[Ask]:
    """Photo by photo, all moves with the first phrase, then all with the second, then the third."""
    seed = 0
    for photo in photos:
        for number in range(3):
            for move in MOVES:
                seed += 1
                yield Ask("camera", photo, UNSEEN_PHRASES[move][number], seed, (move,))


def _direction_words(photos: Sequence[str]) -> Iterator[Ask]:
    for i, photo in enumerate(photos):
        for j, (words, move) in enumerate(_DIRECTION_WORDS.items()):
            yield Ask("direction_words", photo, words, 300 + 10 * i + j, (move,))


def _speeds(photos: Sequence[str]) -> Iterator[Ask]:
    for i, photo in enumerate(photos):
        for j, move in enumerate(MOVES[:-1]):
            phrase = UNSEEN_PHRASES[move][(i + j) % 3]
            for speed, form in zip(("slow", "fast"), _SPEED_FORMS[(i + j) % 4], strict=True):
                yield Ask("speed", photo, form.format(phrase), 400 + 10 * i + j, (move,), speed=speed)


def _compounds(photos: Sequence[str]) -> Iterator[Ask]:
    for i, photo in enumerate(photos):
        for j, (moves, phrase) in enumerate(COMPOUND_PHRASES.items()):
            yield Ask("compound", photo, phrase, 500 + 20 * i + j, moves)


def _effects(photos: Sequence[str]) -> Iterator[Ask]:
    for i, photo in enumerate(photos):
        for j, effect in enumerate(EFFECTS):
            yield Ask("effect", photo, UNSEEN_PHRASES[effect][(i + j) % 2], 700 + 10 * i + j, effects=(effect,))


def _camera_and_effects(photo: str) -> Iterator[Ask]:
    for j, ((move, effect), phrase) in enumerate(CAMERA_AND_EFFECT_PHRASES.items()):
        yield Ask("camera_and_effect", photo, phrase, 800 + j, (move,), (effect,))


def _lengths(photos: Sequence[str], num_frames: int) -> Iterator[Ask]:
    for i, photo in enumerate(photos):
        for j, move in enumerate(_LENGTH_MOVES):
            phrase = UNSEEN_PHRASES[move][i % 3]
            yield Ask("length", photo, phrase, 1000 + 10 * i + j, (move,), num_frames=num_frames)


def _sizes(photo: str) -> Iterator[Ask]:
    for i, (short_px, upright) in enumerate(_SIZES):
        for j, move in enumerate(("pan_left", "zoom_out")):
            phrase = UNSEEN_PHRASES[move][(i + 1) % 3]
            yield Ask("size", photo, phrase, 1100 + 10 * i + j, (move,), short_px=short_px, upright=upright)


def _loops(photo: str, seed: int) -> Iterator[Ask]:
    for j, (move, effect) in enumerate((("pan_right", ""), ("", "sway"))):
        moves, effects = (move,) if move else (), (effect,) if effect else ()
        phrase = UNSEEN_PHRASES[move or effect][0]
        yield Ask("loop", photo, phrase, seed + j, moves, effects, loop=True)
