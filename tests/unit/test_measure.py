"""The measures themselves: right about motion and effects that are known, and able to say no."""

from __future__ import annotations

import random
import re

import cv2
import numpy as np
import pytest

from i2v.builtin import measure
from i2v.builtin.follow import Pixels, Track, follow
from i2v.builtin.measure import STILL, ContentMotion, matches, matches_all, measure_motion
from i2v.builtin.one_video import agrees
from i2v.builtin.phrases import draw_instruction
from i2v.builtin.signals import THRESHOLDS, Signals, measure_signals, parallax_of, shown
from i2v.builtin.trials import EFFECTS, Ask, full_trials, reduced_trials
from i2v.builtin.unseen import HELD_OUT
from i2v.models.motion_render import CHANNELS, MotionRenderer

FRAMES, FPS = 24, 12
HEIGHT, WIDTH = 192, 256


def photo() -> Pixels:
    from skimage import data

    return cv2.resize(data.chelsea(), (WIDTH, HEIGHT), interpolation=cv2.INTER_AREA).astype(np.uint8)


def warped(right: float = 0.0, down: float = 0.0, scale: float = 1.0, clockwise: float = 0.0) -> list[Pixels]:
    """A still photograph moved evenly by plain OpenCV: shares of the short side, a factor, radians."""
    picture, frames = photo(), []
    for q in np.linspace(0, 1, FRAMES):
        matrix = cv2.getRotationMatrix2D(
            ((WIDTH - 1) / 2, (HEIGHT - 1) / 2), -float(np.degrees(clockwise) * q), scale**q
        )
        matrix[:, 2] += np.array([right, down]) * HEIGHT * q
        frames.append(
            cv2.warpAffine(
                picture, matrix, (WIDTH, HEIGHT), flags=cv2.INTER_CUBIC, borderMode=cv2.BORDER_REFLECT_101
            ).astype(np.uint8)
        )
    return frames


def rendered(picture: Pixels | None = None, **channels: float | np.ndarray) -> list[Pixels]:
    """Frames of a hand-made field: each channel one number, or a (g, g) map."""
    field = np.zeros((len(CHANNELS), 8, 8, 8), np.float32)
    for name, value in channels.items():
        field[CHANNELS.index(name)] = value
    return list(MotionRenderer().render(photo() if picture is None else picture, field, FRAMES, FPS, seed=3))


def rows() -> np.ndarray:
    """How far down each grid point is, -1 to 1, (8, 8)."""
    return np.repeat(np.linspace(-1, 1, 8, dtype=np.float32)[:, None], 8, axis=1)


LOWER = np.clip((rows() - 0.05) / 0.4, 0, 1)
EFFECT_FIELDS: dict[str, dict[str, float | np.ndarray]] = {
    "ripple": {"ripple": LOWER},
    "sway": {"sway": LOWER},
    "shimmer": {"shimmer": LOWER},
    "shake": {"shake": 1.0},
    "flicker": {"flicker": 1.0},
    "night": {"log_gain": -1.1, "warmth": -0.22},
    "dawn": {"log_gain": 0.4, "warmth": 0.2},
}


@pytest.mark.parametrize(
    ("known", "name", "amount"),
    [
        ({"right": 0.08}, "right", 0.08),
        ({"right": -0.02}, "right", -0.02),
        ({"down": 0.12}, "down", 0.12),
        ({"down": -0.05}, "down", -0.05),
        ({"scale": 1.15}, "grown", None),
        ({"scale": 0.9}, "grown", None),
        ({"clockwise": 0.12}, "turned", None),
        ({"clockwise": -0.05}, "turned", None),
    ],
)
def test_known_camera_motion_is_measured_to_three_percent(known: dict, name: str, amount: float | None) -> None:
    frames = warped(**known)
    radius = float(np.abs(follow(frames[:2]).points).mean())
    expected = amount if amount is not None else radius * (known.get("clockwise") or np.log(known.get("scale", 1.0)))
    motion = measure_motion(frames)
    assert motion.strongest()[0] == name
    assert getattr(motion, name) == pytest.approx(expected, rel=0.03)
    others = [abs(value) for key, value in vars(motion).items() if key != name]
    assert max(others) < max(0.002, 0.05 * abs(expected))


def test_motion_is_measured_through_a_change_of_light() -> None:
    frames = [
        np.clip(frame * np.exp(-1.2 * i / FRAMES), 0, 255).astype(np.uint8) for i, frame in enumerate(warped(0.08))
    ]
    assert measure_motion(frames).right == pytest.approx(0.08, rel=0.05)


def test_motion_is_measured_on_a_nearly_flat_picture() -> None:
    frames = [(128 + (frame.astype(np.float32) - 128) * 0.08).round().astype(np.uint8) for frame in warped(0.06)]
    assert measure_motion(frames).right == pytest.approx(0.06, rel=0.1)


def test_a_still_video_has_no_motion_and_no_signal() -> None:
    frames = [photo()] * FRAMES
    track = follow(frames)
    assert matches("hold", measure.motion_of(track))
    assert max(abs(amount) for amount in vars(measure.motion_of(track)).values()) < STILL / 10
    signals = measure_signals(frames, FPS)
    assert not any(shown(effect, signals) for effect in EFFECTS)
    assert signals.ripple < THRESHOLDS["ripple"] / 10
    assert abs(parallax_of(track)) < 0.01
    assert measure.jerk(track) == 0.0
    assert measure.border_sharpness(frames, track) == 1.0
    assert max(measure.colour_drift(frames), measure.flicker(frames), measure.stillness(frames)) < 1e-9
    assert measure.loop_gap(frames) == 0


def test_noise_alone_shows_no_effect_and_no_motion() -> None:
    rng, picture = np.random.default_rng(0), photo().astype(np.float32)
    frames = [np.clip(picture + rng.normal(0, 2, picture.shape), 0, 255).astype(np.uint8) for _ in range(FRAMES)]
    assert matches("hold", measure_motion(frames))
    signals = measure_signals(frames, FPS)
    assert [effect for effect in EFFECTS if shown(effect, signals)] == []


@pytest.mark.parametrize("effect", EFFECTS)
def test_each_effect_shows_in_its_own_signal_and_in_no_other(effect: str) -> None:
    signals = measure_signals(rendered(**EFFECT_FIELDS[effect]), FPS)
    assert [name for name in EFFECTS if shown(name, signals)] == [effect]


@pytest.mark.parametrize("field", [{"dx": -0.2}, {"dy": 0.2}, {"dx": rows().T * -0.2, "dy": rows() * -0.2}])
def test_camera_moves_show_no_effect(field: dict) -> None:
    signals = measure_signals(rendered(**field), FPS)
    assert [name for name in EFFECTS if shown(name, signals)] == []


def test_ripple_in_the_lower_half_leaves_the_upper_calm_and_one_everywhere_does_not() -> None:
    assert measure_signals(rendered(ripple=LOWER), FPS).upper_share < 0.1
    assert measure_signals(rendered(ripple=1.0), FPS).upper_share > 0.4


def test_a_stronger_effect_has_a_stronger_signal() -> None:
    weak, strong = (measure_signals(rendered(ripple=LOWER * level), FPS).ripple for level in (0.6, 1.2))
    assert strong > 1.3 * weak > 0


def test_parallax_shows_where_near_moves_farther_and_not_in_an_even_pan() -> None:
    near_below = parallax_of(follow(rendered(dx=-0.2, parallax=0.2 * rows())))
    near_above = parallax_of(follow(rendered(dx=-0.2, parallax=-0.2 * rows())))
    even = parallax_of(follow(rendered(dx=-0.2)))
    turned = parallax_of(follow(warped(right=0.08, clockwise=0.05)))
    assert near_below > 0.1
    assert near_above < -0.1
    assert abs(even) < 0.02
    assert abs(turned) < 0.04


MOTIONS = {
    "pan_left": ContentMotion(0.1, 0, 0, 0),
    "pan_right": ContentMotion(-0.1, 0, 0, 0),
    "tilt_up": ContentMotion(0, 0.1, 0, 0),
    "tilt_down": ContentMotion(0, -0.1, 0, 0),
    "zoom_in": ContentMotion(0, 0, 0.1, 0),
    "zoom_out": ContentMotion(0, 0, -0.1, 0),
    "roll_clockwise": ContentMotion(0, 0, 0, -0.1),
    "roll_counter_clockwise": ContentMotion(0, 0, 0, 0.1),
    "hold": ContentMotion(0.001, 0, 0, 0),
}


@pytest.mark.parametrize("asked", MOTIONS)
def test_a_move_matches_its_own_motion_and_no_other(asked: str) -> None:
    assert [move for move, motion in MOTIONS.items() if matches(asked, motion)] == [asked]


def test_two_moves_match_only_when_both_are_there_and_lead() -> None:
    asked = ("zoom_in", "pan_left")
    assert matches_all(asked, ContentMotion(0.1, 0.01, 0.08, 0.01))
    assert not matches_all(asked, ContentMotion(0.1, 0.01, 0.002, 0))  # one is missing
    assert not matches_all(asked, ContentMotion(-0.1, 0.01, 0.08, 0))  # one goes the wrong way
    assert not matches_all(asked, ContentMotion(0.1, 0.09, 0.08, 0))  # one that was not asked for is stronger


def test_an_unknown_prompt_agrees_with_a_slow_push_in_only() -> None:
    ask = Ask("calm", "chelsea", "a unicorn", 1)
    assert agrees(ask, ContentMotion(0, 0, 0.03, 0), None)
    for wrong in (
        ContentMotion(0, 0, 0, 0),
        ContentMotion(0, 0, -0.03, 0),
        ContentMotion(0.04, 0, 0.03, 0),
        ContentMotion(0, 0, 0.1, 0),
    ):
        assert not agrees(ask, wrong, None)


def test_an_effect_with_a_camera_move_needs_both() -> None:
    ask = Ask("camera_and_effect", "chelsea", "-", 1, ("pan_left",), ("ripple",))
    rippling, calm = (Signals(ripple, 0, 0, 0, 0, 0, 0, 0) for ripple in (1e-3, 0.0))
    assert agrees(ask, MOTIONS["pan_left"], rippling)
    assert not agrees(ask, MOTIONS["pan_left"], calm)
    assert not agrees(ask, MOTIONS["pan_right"], rippling)


def made_track(way: np.ndarray) -> Track:
    """A track of a picture that goes right by these amounts, (T,)."""
    count = len(way)
    poses = np.stack([np.ones(count), way], axis=1).astype(np.complex128)
    points = np.array([[0.5 + 0j, -0.5 + 0j]], np.complex64)
    empty = np.zeros((count, 1, 2), np.complex64)
    return Track(poses, empty, np.ones((count, 1, 2), np.float32), np.zeros((count, 3)), points)


def test_jerk_tells_an_even_way_from_one_that_starts_late() -> None:
    t = np.linspace(0, 1, FRAMES)
    assert measure.jerk(made_track(0.1 * t)) < 1e-6
    assert measure.jerk(made_track(0.1 * np.maximum(0, 2 * t - 1))) > 0.9
    jump = 0.1 * t
    jump[12:] += 0.02
    assert measure.jerk(made_track(jump)) > 3


def test_border_sharpness_tells_a_mirrored_border_from_a_smeared_one() -> None:
    picture, shares = photo(), {}
    for name, border in (("mirrored", cv2.BORDER_REFLECT), ("smeared", cv2.BORDER_REPLICATE)):
        matrix = np.array([[1, 0, 0.12 * HEIGHT], [0, 1, 0]])
        last = cv2.warpAffine(picture, matrix, (WIDTH, HEIGHT), borderMode=border).astype(np.uint8)
        frames = [picture, last]
        shares[name] = measure.border_sharpness(frames, made_track(np.array([0, 0.12])))
    assert shares["mirrored"] > 0.9
    assert shares["smeared"] < 0.5


def test_light_measures_count_in_levels_of_255() -> None:
    grey = np.full((32, 32, 3), 100, np.uint8)
    brighter = (grey + np.array([2, 4, 6])).astype(np.uint8)
    assert measure.colour_drift([grey, brighter]) == pytest.approx(4)
    assert measure.stillness([grey, grey + np.uint8(2), grey]) == pytest.approx(2)
    fade = [grey + np.uint8(i) for i in range(12)]
    assert measure.flicker(fade) < 1e-6  # an even fade is no flicker
    assert measure.flicker([grey + np.uint8(10 * (i % 2)) for i in range(12)]) > 9


def test_loop_gap_is_about_one_in_a_loop_and_large_in_a_pan() -> None:
    there_and_back = warped(0.08)[::2]
    loop = there_and_back + there_and_back[-2:0:-1]
    assert measure.loop_gap(loop) < 1.5
    assert measure.loop_gap(warped(0.08)) > 3


def test_psnr_of_a_known_error() -> None:
    black, dark = np.zeros((8, 8, 3), np.uint8), np.full((8, 8, 3), 5, np.uint8)
    assert measure.psnr_db(black, dark) == pytest.approx(20 * np.log10(255 / 5))
    assert measure.psnr_db(black, black) == 99


def test_no_held_out_phrase_is_ever_drawn_but_their_words_are() -> None:
    rng, words = random.Random(11), set[str]()
    for _ in range(20_000):
        text = draw_instruction(rng)[1].lower()
        assert not any(phrase in text for phrase in HELD_OUT), text
        words |= set(re.findall(r"[a-z]+", text))
    asked = {word for phrase in HELD_OUT for word in re.findall(r"[a-z]+", phrase)}
    # These say nothing of a move or an effect, and the model copes without them.
    assert asked - words <= {"across", "its", "let", "spread", "take", "that"}


def test_no_prompt_but_bare_direction_words_is_ever_drawn() -> None:
    asks = full_trials(["china", "chelsea", "astronaut", "coffee", "rocket", "flower", "coins", "camera"])
    known = [a.prompt for a in asks if a.group not in ("direction_words", "calm") and not _holds_unseen(a.prompt)]
    assert known == []
    assert sum(ask.group == "camera" for ask in asks) >= 200
    assert sum(ask.group == "speed" for ask in asks) >= 96
    assert sum(ask.group == "compound" for ask in asks) >= 64


def _holds_unseen(prompt: str) -> bool:
    return any(phrase in prompt for phrase in HELD_OUT)


def test_the_reduced_evaluation_asks_for_every_move_and_effect() -> None:
    photos = ["chelsea", "astronaut"]
    reduced, full = reduced_trials(photos), full_trials(photos)
    assert {ask.group for ask in full} - {ask.group for ask in reduced} == {"size"}
    assert {ask.moves for ask in reduced if ask.group == "camera"} == {(move,) for move in MOTIONS}
    assert {ask.effects for ask in reduced if ask.group == "effect"} == {(effect,) for effect in EFFECTS}
