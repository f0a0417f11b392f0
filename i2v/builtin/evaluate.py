"""Measures the built-in model on real photographs: `python -m i2v.builtin.evaluate --json`.

Every video goes through the whole way: engine, MP4 file, and back from the file. What is asked for is in trials.py,
what a figure means in figures.py, how it is measured in measure.py and signals.py. The figures recorded with the
shipped weights are in evaluation.json; the tests run the reduced evaluation and compare.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from i2v.builtin.figures import add_up
from i2v.builtin.one_video import Outcome, VideoMaker
from i2v.builtin.photographs import photographs
from i2v.builtin.sheet import Sheet
from i2v.builtin.trials import Ask, full_trials, reduced_trials
from i2v.machine.cuda_environment import cuda_environment

__all__ = ["RECORDED", "evaluate", "main"]

RECORDED = Path(__file__).with_name("evaluation.json")
_REDUCED_PHOTOS = ("chelsea", "astronaut")
_SHEET_GROUPS = ("camera", "compound", "effect", "camera_and_effect", "calm", "loop")


def evaluate(
    photo_limit: int | None = None,
    reduced: bool = False,
    short_px: int = 256,
    sheet: Path | None = None,
    quiet: bool = True,
) -> dict[str, Any]:
    """Make and measure all videos, in a temporary folder, and return the figures. `sheet`: a PNG to write."""
    began, photos = time.monotonic(), photographs(photo_limit)
    if reduced:
        photos = {name: photos[name] for name in _REDUCED_PHOTOS if name in photos} or photos
    asks = (reduced_trials if reduced else full_trials)(list(photos))
    drawn, rows = Sheet(), _rows_of(asks) if sheet else []
    outcomes = []
    with tempfile.TemporaryDirectory() as folder:
        maker = VideoMaker(photos, Path(folder), short_px)
        for ask in asks:
            outcome, frames = maker.make(ask)
            outcomes.append(outcome)
            if ask in rows:
                drawn.add(ask.photo, ask.prompt, frames)
            if not quiet:
                _say(outcome)
    if sheet:
        drawn.save(sheet)
    return add_up(outcomes) | {"reduced": reduced, "minutes": round((time.monotonic() - began) / 60, 1)}


def _rows_of(asks: Sequence[Ask]) -> list[Ask]:
    """Choose a video for each thing that is asked for, with the photographs taking turns."""
    kinds: dict[tuple[Any, ...], list[Ask]] = {}
    for ask in asks:
        if ask.group in _SHEET_GROUPS:
            kinds.setdefault((ask.group, ask.moves, ask.effects), []).append(ask)
    return [alike[number % len(alike)] for number, alike in enumerate(kinds.values())]


def _say(outcome: Outcome) -> None:
    ask = outcome.ask
    way = " ".join(f"{name} {amount:+.3f}" for name, amount in vars(outcome.motion).items())
    line = f"{'ok ' if outcome.agrees else 'NO '} {ask.group:18} {ask.photo:10} {ask.prompt:44} {way}"
    print(line, f"{outcome.seconds:.2f} s", file=sys.stderr, flush=True)


def main() -> None:
    """Read the command line, measure, print."""
    os.environ.update(cuda_environment())
    parser = argparse.ArgumentParser(description="Measure the built-in model on real photographs.")
    parser.add_argument("--json", action="store_true", help="print one JSON object on standard output")
    parser.add_argument("--photos", type=int, help="only so many photographs, at least 4 for the whole evaluation")
    parser.add_argument("--reduced", action="store_true", help="thirty videos instead of 560")
    parser.add_argument("--short-side", type=int, default=256, help="pixels")
    parser.add_argument("--sheet", type=Path, metavar="OUT.png", help="write a contact sheet")
    args = parser.parse_args()
    figures = evaluate(args.photos, args.reduced, args.short_side, args.sheet, quiet=args.json)
    if args.json:
        print(json.dumps(figures, indent=2))
        return
    for name, value in figures.items():
        print(f"{name:30} {value}")


if __name__ == "__main__":
    main()
