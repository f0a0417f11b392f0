"""Writes the measured tables of MODEL_CARD.md from evaluation.json: `python -m i2v.builtin.card`."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from i2v.builtin.evaluate import RECORDED

__all__ = ["CARD", "END", "START", "tables"]

CARD = Path(__file__).parent / "MODEL_CARD.md"
START, END = "<!-- measured -->", "<!-- /measured -->"


def tables(figures: Mapping[str, Any]) -> str:
    """Return the tables as Markdown, between their marks."""
    hold, moving = figures["hold"], figures["moving"]
    above = _percent(figures["effects"]["ripple"]["upper_share_worst"])
    rows = [
        ("camera moves, phrases never drawn in training", _percent(figures["camera_agreement"])),
        ("direction words alone", _percent(figures["direction_words_agreement"])),
        (f"speeds in the right order, {figures['speed_pairs']} pairs", _percent(figures["speed_order_agreement"])),
        ("fast against slow, median", f"{figures['speed_ratio_median']:.1f} times as far"),
        ("two moves in one prompt", _percent(figures["compound_agreement"])),
        ("a move and an effect in one prompt", _percent(figures["camera_and_effect_agreement"])),
        ("unknown prompts push in slowly", _percent(figures["calm_agreement"])),
        ("hold still: worst colour drift, of 255", f"{figures['colour_drift']:.3f}"),
        ("hold still: worst mean difference of consecutive frames, of 255", f"{hold['stillness_worst']:.3f}"),
        ("first frame out of the MP4 against the picture, worst", f"{figures['first_frame_psnr_db']:.1f} dB"),
        ("detail in what enters the frame, of the picture's; mean, worst", _pair(moving, "border_sharpness")),
        ("loops: last to first frame, in median steps, worst", f"{figures['loops']['loop_gap_worst']:.2f}"),
    ]
    parts = [
        f"{figures['videos']} videos of {len(figures['photos'])} photographs.",
        _table(("", ""), rows),
        _table(
            ("move", "obeyed", "mean displacement, of the short side"),
            [
                (move.replace("_", " "), _percent(found["agreement"]), f"{found['mean_displacement']:.3f}")
                for move, found in figures["per_move"].items()
            ],
        ),
        _table(
            ("effect", "shown", "its signal", "the same in holds", "threshold"),
            [
                (name, _percent(found["agreement"]), *(_number(found[key]) for key in _SIGNALS))
                for name, found in figures["effects"].items()
            ],
        ),
        f"Of a ripple's motion, at most {above} is in the upper half.",
        _table(
            ("frames, or size", "obeyed", "jerk, worst", "seconds, loaded"),
            [
                (name, _percent(found["agreement"]), f"{found['jerk_worst']:.2f}", f"{found['seconds']:.1f}")
                for group in ("lengths", "sizes")
                for name, found in figures[group].items()
            ],
        ),
    ]
    failures = figures["disagreements"]
    parts.append("What was not obeyed:" if failures else "Nothing was disobeyed.")
    parts += ["\n".join(f"- {failure}" for failure in failures)] if failures else []
    return "\n\n".join([START, *parts, END])


_SIGNALS = ("mean_signal", "signal_of_hold", "threshold")


def _percent(share: float) -> str:
    return f"{share:.1%}".replace(".0%", "%")


def _number(value: float) -> str:
    return f"{value:.5f}".rstrip("0").rstrip(".")


def _pair(found: Mapping[str, float], name: str) -> str:
    return f"{found[f'{name}_mean']:.2f}, {found[f'{name}_worst']:.2f}"


def _table(head: tuple[str, ...], rows: Sequence[tuple[str, ...]]) -> str:
    lines = [head, ("---",) * len(head), *rows]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)


def main() -> None:
    """Put the tables into the card."""
    text = CARD.read_text(encoding="utf-8")
    before, after = text[: text.index(START)], text[text.index(END) + len(END) :]
    found = tables(json.loads(RECORDED.read_text(encoding="utf-8")))
    CARD.write_text(before + found + after, encoding="utf-8")


if __name__ == "__main__":
    main()
