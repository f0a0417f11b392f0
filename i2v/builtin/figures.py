"""Adds up what single videos measured to the figures that the evaluation prints.

Knows outcomes; nothing of how they came about.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from itertools import pairwise
from typing import Any

import numpy as np

from i2v.builtin.one_video import Outcome
from i2v.builtin.phrases import MOVES
from i2v.builtin.signals import PARALLAX, THRESHOLDS, shown
from i2v.builtin.trials import EFFECTS

__all__ = ["FASTER", "add_up"]

FASTER = 1.15  # "fast" must go at least this much farther than "slow"


def add_up(outcomes: Sequence[Outcome]) -> dict[str, Any]:
    """Return all figures. What each means:

    `first_frame_psnr_db`: the first frame out of the MP4 against the picture; the worst video.
    `colour_drift`, `flicker`: of videos that should hold still, in 1/255; the worst.
    `camera_agreement`: prompts for one move, never drawn in training. `per_move`: the same by move.
    `direction_words_agreement`: a direction and nothing else; those may have been drawn in training.
    `speed_order_agreement`: pairs with one seed in which "fast" goes at least 1.15 times as far as "slow", both the
    right way. `compound_agreement`: both moves in one prompt, each stronger than anything not asked for.
    `effects`: of each, the share of prompts whose video shows it by its own signal, the mean signal, that of videos
    that hold still, and how often it shows where another effect was asked for (`shown_elsewhere`).
    `camera_and_effect_agreement`: both a move and an effect. `calm_agreement`: unknown prompts, a slow push-in.
    `seconds_per_video`: median, from the request to the finished file, model loaded.
    """
    groups = {name: [o for o in outcomes if o.ask.group == name] for name in {o.ask.group for o in outcomes}}
    camera = groups.get("camera", [])
    holds = [o for o in camera if o.ask.moves == ("hold",)]
    pairs = _pairs(groups.get("speed", []))
    figures = {
        "videos": len(outcomes),
        "photos": sorted({o.ask.photo for o in outcomes}),
        "first_frame_psnr_db": _round(min(o.first_frame_psnr_db for o in outcomes), 2),
        "colour_drift": _worst(o.colour_drift for o in holds),
        "flicker": _worst(o.flicker for o in holds),
        "camera_agreement": _agreement(camera),
        "direction_words_agreement": _agreement(groups.get("direction_words", [])),
        "speed_order_agreement": _share([_ordered(*pair) for pair in pairs]),
        "speed_pairs": len(pairs),
        "speed_ratio_median": _median([_ratio(*pair) for pair in pairs]),
        "compound_agreement": _agreement(groups.get("compound", [])),
        "effects": _effects(groups.get("effect", []), holds, camera),
        "camera_and_effect_agreement": _agreement(groups.get("camera_and_effect", [])),
        "calm_agreement": _agreement(groups.get("calm", [])),
        "seconds_per_video": _median([o.seconds for o in camera]),
    }
    figures["hold"] = {
        "agreement": _agreement(holds),
        "colour_drift_mean": _mean([o.colour_drift for o in holds]),
        "stillness_mean": _mean([o.stillness for o in holds]),
        "stillness_worst": _worst(o.stillness for o in holds),
    }
    figures["per_move"] = {move: _of_move([o for o in camera if o.ask.moves == (move,)], move) for move in MOVES}
    figures["lengths"] = _table(groups.get("length", []), lambda o: str(o.ask.num_frames))
    figures["sizes"] = _table(groups.get("size", []), _size_name)
    figures["loops"] = {
        "agreement": _agreement(groups.get("loop", [])),
        "loop_gap_worst": _worst(o.loop_gap for o in groups.get("loop", [])),
    }
    moving = [o for o in camera if o.ask.moves != ("hold",)]
    figures["moving"] = {
        "flicker_worst": _worst(o.flicker for o in moving),
        "border_sharpness_mean": _mean([o.border_sharpness for o in moving]),
        "border_sharpness_worst": _round(min((o.border_sharpness for o in moving), default=1.0)),
    }
    stages = {stage for o in camera for stage in o.stage_seconds}
    figures["stage_seconds"] = {s: _median([o.stage_seconds.get(s, 0.0) for o in camera]) for s in sorted(stages)}
    figures["disagreements"] = [_said(o) for o in outcomes if not o.agrees] + [
        f"speed order, {slow.ask.photo}: {slow.ask.prompt} / {fast.ask.prompt} ({_ratio(slow, fast):.2f})"
        for slow, fast in pairs
        if not _ordered(slow, fast)
    ]
    return figures


def _pairs(outcomes: Sequence[Outcome]) -> list[tuple[Outcome, Outcome]]:
    return [(a, b) for a, b in pairwise(outcomes) if (a.ask.speed, b.ask.speed) == ("slow", "fast")]


def _ratio(slow: Outcome, fast: Outcome) -> float:
    move = slow.ask.moves[0]
    return fast.motion.towards(move) / max(slow.motion.towards(move), 1e-3)


def _ordered(slow: Outcome, fast: Outcome) -> bool:
    return slow.agrees and fast.agrees and _ratio(slow, fast) > FASTER


def _effects(asked: Sequence[Outcome], holds: Sequence[Outcome], camera: Sequence[Outcome]) -> dict[str, Any]:
    table: dict[str, Any] = {}
    for effect in EFFECTS:
        own = [o for o in asked if o.ask.effects == (effect,)]
        others = [o for o in asked if o.ask.effects != (effect,)]
        table[effect] = {
            "agreement": _agreement(own),
            "mean_signal": _mean_signal(own, effect),
            "signal_of_hold": _mean_signal(holds, effect),
            "threshold": THRESHOLDS[effect],
            "shown_elsewhere": _share([o.signals is not None and shown(effect, o.signals) for o in others]),
        }
    ripples = [o.signals.upper_share for o in asked if o.ask.effects == ("ripple",) and o.signals]
    table["ripple"]["upper_share_mean"], table["ripple"]["upper_share_worst"] = _mean(ripples), _worst(ripples)
    pans = [o for o in camera if o.ask.moves in (("pan_left",), ("pan_right",))]
    table["parallax"] = {
        "agreement": _share([o.parallax > PARALLAX for o in pans]),
        "mean_signal": _mean([o.parallax for o in pans]),
        "signal_of_hold": _mean([o.parallax for o in holds]),
        "threshold": PARALLAX,
    }
    return table


def _mean_signal(outcomes: Sequence[Outcome], effect: str) -> float:
    return _round(_mean([float(getattr(o.signals, effect)) for o in outcomes if o.signals], 7), 6)


def _of_move(outcomes: Sequence[Outcome], move: str) -> dict[str, float]:
    ways = [max(map(abs, vars(o.motion).values())) if move == "hold" else o.motion.towards(move) for o in outcomes]
    return {"videos": len(outcomes), "agreement": _agreement(outcomes), "mean_displacement": _mean(ways)}


def _table(outcomes: Sequence[Outcome], name_of: Callable[[Outcome], str]) -> dict[str, dict[str, float]]:
    """Agreement, greatest jerk and time by length or by size."""
    rows: dict[str, list[Outcome]] = {}
    for outcome in outcomes:
        rows.setdefault(name_of(outcome), []).append(outcome)
    return {
        name: {
            "agreement": _agreement(row),
            "jerk_worst": _worst(o.jerk or 0.0 for o in row),
            "seconds": _median([o.seconds for o in row]),
        }
        for name, row in rows.items()
    }


def _size_name(outcome: Outcome) -> str:
    return f"{outcome.ask.short_px} {'portrait' if outcome.ask.upright else 'landscape'}"


def _said(outcome: Outcome) -> str:
    ask, motion = outcome.ask, outcome.motion
    way = " ".join(f"{name} {amount:+.3f}" for name, amount in vars(motion).items())
    signals = [f"{e} {getattr(outcome.signals, e):.5f}" for e in ask.effects if outcome.signals]
    return f"{ask.group}, {ask.photo}, seed {ask.seed}: {ask.prompt} ({', '.join([way, *signals])})"


def _agreement(outcomes: Sequence[Outcome]) -> float:
    return _share([o.agrees for o in outcomes])


def _share(agreed: Sequence[bool]) -> float:
    return _round(sum(agreed) / len(agreed)) if agreed else 0.0


def _mean(values: Sequence[float], digits: int = 4) -> float:
    return _round(float(np.mean(values)), digits) if values else 0.0


def _median(values: Sequence[float]) -> float:
    return _round(float(np.median(values)), 3) if values else 0.0


def _worst(values: Iterable[float]) -> float:
    return _round(max(values, default=0.0))


def _round(value: float, digits: int = 4) -> float:
    return round(float(value), digits)
