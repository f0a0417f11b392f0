"""Makes one video that the evaluation asks for, the whole way from engine to MP4 and back, and measures it.

Knows nothing of which videos are asked for, nor of what their numbers add up to.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image

from i2v.builtin import measure
from i2v.builtin.follow import Pixels, follow
from i2v.builtin.measure import STILL, ContentMotion
from i2v.builtin.photographs import portrait
from i2v.builtin.signals import Signals, parallax_of, shown, signals_of
from i2v.builtin.trials import Ask
from i2v.engine.run import Engine, RunSpec
from i2v.jobs.events import RunEvent
from i2v.jobs.folder import JobFolder
from i2v.media.image import fit_picture, save_png
from i2v.media.video import read_frames
from i2v.presets.model_preset import preset_named
from i2v.request import build_request, match_picture

__all__ = ["Outcome", "VideoMaker", "agrees"]

_HOPS = 8  # comparisons that are enough for a camera's way
_ALL_FRAMES = ("effect", "camera_and_effect", "length", "size", "loop")  # groups whose every frame is followed
_MOST_CALM = 0.06  # of the short side; a zoom of normal speed goes farther


@dataclass(frozen=True)
class Outcome:
    """One video's numbers, see measure.py and signals.py; None what was not measured of it."""

    ask: Ask
    agrees: bool
    motion: ContentMotion
    parallax: float
    first_frame_psnr_db: float
    colour_drift: float
    flicker: float
    stillness: float
    border_sharpness: float
    signals: Signals | None
    jerk: float | None
    loop_gap: float
    seconds: float
    stage_seconds: dict[str, float]


class VideoMaker:
    """Holds the engine, with the model loaded after the first video, and a folder to work in."""

    def __init__(self, photos: dict[str, Pixels], folder: Path, short_px: int):
        self._photos, self._folder, self._short_px = photos, JobFolder(folder), short_px
        self._engine = Engine()
        self._picture: tuple[str, bool] | None = None  # which one is in the folder

    def make(self, ask: Ask) -> tuple[Outcome, list[Pixels]]:
        """Make and measure one video; return its frames too."""
        photo = self._photos[ask.photo]
        picture = Image.fromarray(portrait(photo) if ask.upright else photo)
        if self._picture != (ask.photo, ask.upright):
            save_png(picture, self._folder.picture)
            self._picture = (ask.photo, ask.upright)
        size = match_picture(preset_named("motion"), *picture.size, ask.short_px or self._short_px)
        values = {"prompt": ask.prompt, "seed": ask.seed, "width": size[0], "height": size[1]}
        values |= {"num_frames": ask.num_frames, "loop": ask.loop}
        request = build_request(values, picture.size)
        began = time.monotonic()
        result = self._engine.run(RunSpec("evaluate", 1, request, self._folder.path, self._folder), _ignore, _never)
        seconds = time.monotonic() - began
        path = self._folder.file(result.files["mp4"])
        frames = list(read_frames(path))
        path.unlink()
        outcome = _measured(
            ask,
            frames,
            fit_picture(picture, *size),
            request.fps,
            seconds,
            {stage.value: s for stage, s in result.stage_seconds.items()},
        )
        return outcome, frames


def _ignore(event: RunEvent) -> None:
    """Take an event of a run that nobody watches."""


def _never() -> bool:
    return False


def _measured(
    ask: Ask, frames: list[Pixels], picture: Pixels, fps: int, seconds: float, stage_seconds: dict[str, float]
) -> Outcome:
    every = ask.group in _ALL_FRAMES or ask.moves == ("hold",)
    # A loop has come back at its end: what it shows is seen half-way.
    seen = frames[: len(frames) // 2 + 1] if ask.loop and ask.moves else frames
    track = follow(seen if every else _some(seen))
    signals = signals_of(seen, track, fps) if every else None
    motion = measure.motion_of(track)
    return Outcome(
        ask,
        agrees(ask, motion, signals),
        motion,
        parallax_of(track),
        measure.psnr_db(picture, frames[0]),
        measure.colour_drift(frames),
        measure.flicker(frames),
        measure.stillness(frames),
        measure.border_sharpness(seen, track),
        signals,
        measure.jerk(track) if every else None,
        measure.loop_gap(frames),
        seconds,
        stage_seconds,
    )


def _some(frames: Sequence[Pixels]) -> list[Pixels]:
    """Return the first frame, the last, and a few evenly between them."""
    return [frames[i] for i in np.linspace(0, len(frames) - 1, min(_HOPS + 1, len(frames))).round().astype(int)]


def agrees(ask: Ask, motion: ContentMotion, signals: Signals | None) -> bool:
    """Say whether a video shows what was asked for: every move, and every effect by its own signal."""
    if not ask.moves and not ask.effects:
        return motion.strongest()[0] == "grown" and STILL < motion.grown < _MOST_CALM
    moved = measure.matches("hold", motion) if ask.moves == ("hold",) else measure.matches_all(ask.moves, motion)
    return moved and all(signals is not None and shown(effect, signals) for effect in ask.effects)
