"""Measures the built-in model on real photographs: `python -m i2v.builtin.evaluate --json`.

The photographs are those bundled in scikit-image and scikit-learn; none was used in training. Every video goes through
the whole way: engine, MP4 file, and back from the file. Light changes are not judged here, camera moves are.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from i2v.builtin.measure import ContentMotion, matches, measure_motion, psnr_db
from i2v.builtin.phrases import MOVES, UNSEEN_PHRASES
from i2v.engine.run import Engine, RunSpec
from i2v.media.image import fit_picture, load_picture, save_png
from i2v.media.video import read_frames
from i2v.request import build_request

__all__ = ["main", "photographs"]


@dataclass(frozen=True)
class Trial:
    """One photograph, one prompt, and what came of it."""

    photo: str
    move: str
    prompt: str
    unseen: bool
    motion: ContentMotion
    agrees: bool
    first_frame_psnr_db: float
    seconds: float


def photographs(limit: int | None = None) -> dict[str, np.ndarray]:
    """Return the bundled photographs, (H, W, 3) uint8, by name."""
    from skimage import data
    from sklearn.datasets import load_sample_images

    china, flower = load_sample_images().images
    photos = {
        "china": china,
        "chelsea": data.chelsea(),
        "astronaut": data.astronaut(),
        "coffee": data.coffee(),
        "rocket": data.rocket(),
        "flower": flower,
        "coins": np.repeat(data.coins()[..., None], 3, axis=2),
        "camera": np.repeat(data.camera()[..., None], 3, axis=2),
    }
    return dict(list(photos.items())[:limit])


def _prompts(per_move: int) -> list[tuple[str, str, bool]]:
    """Return (move, prompt, never used in training)."""
    trials = []
    for move, phrases in MOVES.items():
        trials += [(move, phrase, False) for phrase in phrases[: max(1, per_move // 2)]]
        trials += [(move, phrase, True) for phrase in UNSEEN_PHRASES[move][: per_move // 2]]
    return trials


def _run_trial(
    engine: Engine, folder: Path, name: str, trial: tuple[str, str, bool], short_px: int, seed: int
) -> Trial:
    move, prompt, unseen = trial
    picture = load_picture(folder / "picture.png")
    scale = short_px / min(picture.size)
    width, height = (round(side * scale / 8) * 8 for side in picture.size)
    values = {"model": "motion", "prompt": prompt, "seed": seed, "width": width, "height": height}
    request = build_request(values, picture.size)
    began = time.monotonic()
    result = engine.run(RunSpec(name, 1, request, folder, folder), lambda *_: None, lambda: False)
    seconds = time.monotonic() - began
    frames = list(read_frames(folder / result["files"]["mp4"]))
    motion = measure_motion(frames)
    psnr = psnr_db(fit_picture(picture, width, height), frames[0])
    return Trial(name, move, prompt, unseen, motion, matches(move, motion), psnr, seconds)


def evaluate(photo_limit: int | None, per_move: int, short_px: int, quiet: bool = True) -> dict[str, Any]:
    """Run all trials and return the figures."""
    photos, prompts = photographs(photo_limit), _prompts(per_move)
    engine, trials = Engine(), list[Trial]()
    with tempfile.TemporaryDirectory() as folder_name:
        folder = Path(folder_name)
        for name, photo in photos.items():
            save_png(Image.fromarray(photo), folder / "picture.png")
            for prompt in prompts:
                trials.append(_run_trial(engine, folder, name, prompt, short_px, seed=len(trials) + 1))
                if not quiet:
                    _say(trials[-1])
    return _figures(list(photos), trials)


def _say(trial: Trial) -> None:
    m = trial.motion
    print(
        f"{'ok ' if trial.agrees else 'NO '} {trial.photo:10} {trial.move:24} {trial.prompt:40} "
        f"right {m.right:+.3f} down {m.down:+.3f} grown {m.grown:+.3f} turned {m.turned:+.3f}",
        file=sys.stderr,
        flush=True,
    )


def _figures(photos: list[str], trials: list[Trial]) -> dict[str, Any]:
    def share(chosen: list[Trial]) -> float:
        return round(sum(t.agrees for t in chosen) / len(chosen), 4) if chosen else 0.0

    per_move = {}
    for move in MOVES:
        chosen = [t for t in trials if t.move == move]
        amounts = [t.motion.strongest()[1] for t in chosen]
        per_move[move] = {"agreement": share(chosen), "mean_displacement": round(float(np.mean(amounts)), 4)}
    return {
        "photos": photos,
        "prompts": sorted({t.prompt for t in trials}),
        "videos": len(trials),
        "first_frame_psnr_db": round(min(t.first_frame_psnr_db for t in trials), 2),
        "camera_agreement": share(trials),
        "camera_agreement_unseen_phrases": share([t for t in trials if t.unseen]),
        "seconds_per_video": round(float(np.median([t.seconds for t in trials])), 2),
        "disagreements": [f"{t.photo}: {t.prompt}" for t in trials if not t.agrees],
    } | per_move


def main() -> None:
    """Read the command line, measure, print."""
    parser = argparse.ArgumentParser(description="Measure the built-in model on real photographs.")
    parser.add_argument("--json", action="store_true", help="print one JSON object on standard output")
    parser.add_argument("--photos", type=int, help="only so many photographs")
    parser.add_argument("--per-move", type=int, default=2, help="prompts per move, half of them never trained on")
    parser.add_argument("--short-side", type=int, default=256, help="pixels")
    args = parser.parse_args()
    figures = evaluate(args.photos, args.per_move, args.short_side, quiet=args.json)
    if args.json:
        print(json.dumps(figures, indent=2))
        return
    for name, value in figures.items():
        print(f"{name:34} {value}")


if __name__ == "__main__":
    main()
