"""Settings near the wanted ones that do fit, for a request of which no plan fits. No torch."""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from i2v.request import match_picture

if TYPE_CHECKING:
    from i2v.memory.ladder import Ladder

__all__ = ["Suggestion", "suggest"]


@dataclass(frozen=True)
class Suggestion:
    """Settings near the wanted ones that fit, and how to ask for them on the command line."""

    width: int
    height: int
    num_frames: int
    flag: str
    words: str
    precision: str | None = None


def suggest(ladder: Ladder) -> list[Suggestion]:
    """Return settings that do fit: the most frames at this size, the largest size with these frames, and last the
    approximate precision that fits these settings, if one does. All of them are legal for the model.
    """
    request, found = ladder.request, []
    frames = ladder.family.rules.frames.legal(int(ladder.preset.num_frames.low), request.num_frames - 1)
    settings = [(request.width, request.height, count) for count in frames]
    if largest := _largest_that_fits(ladder, settings):
        count = largest[2]
        found.append(Suggestion(request.width, request.height, count, f"--frames {count}", f"{count} frames"))
    settings = [(width, height, request.num_frames) for width, height in _smaller_sizes(ladder)]
    if largest := _largest_that_fits(ladder, settings):
        width, height, _ = largest
        found.append(Suggestion(width, height, request.num_frames, f"--size {width}x{height}", f"{width} × {height}"))
    rounded = (rung.plan.precision for rung in ladder.rungs if rung.fits and not ladder.may_choose(rung.plan))
    if precision := next(rounded, None):
        size = (request.width, request.height, request.num_frames)
        words = f"weights rounded to {precision} (approximate)"
        found.append(Suggestion(*size, f"--precision {precision}", words, precision))
    return found


def _largest_that_fits(ladder: Ladder, settings: Sequence[tuple[int, int, int]]) -> tuple[int, int, int] | None:
    """Return the last of (width, height, num_frames) that fits, of settings that grow; None if none does."""
    most = bisect_left(settings, True, key=lambda setting: not ladder.would_nearly_fit(*setting))
    while most and not ladder.would_fit(*settings[most - 1]):
        most -= 1
    return settings[most - 1] if most else None


def _smaller_sizes(ladder: Ladder) -> list[tuple[int, int]]:
    """Return sizes of the same aspect, smallest first."""
    width, height, preset = ladder.request.width, ladder.request.height, ladder.preset
    short = min(width, height)
    if preset.rules.sizes:
        return sorted(
            size for size in preset.rules.sizes if min(size) < short and (size[0] < size[1]) == (width < height)
        )
    step = preset.rules.size_multiple * 8
    sides = range(-(-int(preset.side_px.low) // step) * step, short, step)
    sizes = [match_picture(preset, width, height, side) for side in sides]
    return [size for size in sizes if min(size) < short]
