"""The built-in model's quality: the reduced evaluation against the figures recorded with the shipped weights.

Thirty videos of two photographs instead of 560 of eight, through engine and MP4. Figures of which more is better must
reach 90 % of the recorded ones. Those of which less is better may be 1.1 times the recorded ones, plus a floor: a
recorded drift of nearly nothing should not make a drift of a little more than nothing a failure. Seconds are not
compared: they are the machine's.
"""

from __future__ import annotations

import json
from typing import Any

import pytest

from i2v.builtin.evaluate import RECORDED, evaluate
from i2v.builtin.trials import EFFECTS

HIGHER = (
    "first_frame_psnr_db",
    "camera_agreement",
    "direction_words_agreement",
    "speed_order_agreement",
    "compound_agreement",
    "camera_and_effect_agreement",
    "calm_agreement",
)
# With floors in levels of 255, a quarter of what "hold still" allows.
LOWER = {"colour_drift": 0.25, "flicker": 0.25}
# What the recorded figures themselves must reach.
BARS = {"camera_agreement": 0.97, "speed_order_agreement": 0.95, "compound_agreement": 0.90}


@pytest.fixture(scope="module")
def recorded() -> dict[str, Any]:
    figures: dict[str, Any] = json.loads(RECORDED.read_text(encoding="utf-8"))
    assert not figures["reduced"], "recorded must be the whole evaluation"
    return figures


@pytest.fixture(scope="module")
def reduced() -> dict[str, Any]:
    return evaluate(reduced=True)


def test_both_evaluations_have_the_same_figures(recorded: dict[str, Any], reduced: dict[str, Any]) -> None:
    assert set(reduced) == set(recorded)
    assert set(reduced["effects"]) == set(recorded["effects"]) == {*EFFECTS, "parallax"}
    assert reduced["seconds_per_video"] > 0


@pytest.mark.parametrize("figure", HIGHER)
def test_no_figure_falls_below_nine_tenths_of_the_recorded_one(
    figure: str, recorded: dict[str, Any], reduced: dict[str, Any]
) -> None:
    assert reduced[figure] >= 0.9 * recorded[figure], reduced["disagreements"]


@pytest.mark.parametrize("figure", LOWER)
def test_what_should_be_small_stays_small(figure: str, recorded: dict[str, Any], reduced: dict[str, Any]) -> None:
    assert reduced[figure] <= 1.1 * recorded[figure] + LOWER[figure]


@pytest.mark.parametrize("effect", [*EFFECTS, "parallax"])
def test_every_effect_still_shows(effect: str, recorded: dict[str, Any], reduced: dict[str, Any]) -> None:
    now, then = reduced["effects"][effect], recorded["effects"][effect]
    assert now["agreement"] >= 0.9 * then["agreement"], reduced["disagreements"]
    assert now["mean_signal"] > now["threshold"] > now["signal_of_hold"]


def test_ripple_leaves_the_upper_half_calm(reduced: dict[str, Any]) -> None:
    assert reduced["effects"]["ripple"]["upper_share_worst"] < 0.25


def test_the_recorded_figures_reach_the_bars(recorded: dict[str, Any]) -> None:
    assert {name: recorded[name] for name, bar in BARS.items() if recorded[name] < bar} == {}
    assert sum(move["videos"] for move in recorded["per_move"].values()) >= 200
    assert max(recorded["colour_drift"], recorded["hold"]["stillness_worst"]) <= 1.0
