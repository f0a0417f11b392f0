"""What the start script says of the machine: `python -m i2v.cli.startup` prints the card and how jobs are run on it.

The rule of thumb it shows is that of the guide to I2VGen-XL on small cards; what a job gets is planned when it starts,
from the memory that is free then, unless CHUNK_SIZE, USE_FP16 or USE_BF16 fix it. No torch.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from dataclasses import dataclass

from i2v.errors import I2VError
from i2v.machine import devices
from i2v.machine.devices import Gpu
from i2v.memory.abilities import precisions_of
from i2v.settings import Settings, set_up_logging

__all__ = ["RuleOfThumb", "describe_start", "main", "rule_of_thumb"]

_MIB = 1 << 20
_BANDS = ((14_000, 4), (18_000, 6))  # below so many MiB free: chunks of so many frames, in fp16


@dataclass(frozen=True)
class RuleOfThumb:
    """What the rule says of one card, and the case that applied (`band`). `chunk_frames`: None for the whole clip."""

    chunk_frames: int | None
    precision: str
    band: str


def rule_of_thumb(card: Gpu | None) -> RuleOfThumb | None:
    """Return what the free memory of a card suggests, None without a card."""
    if card is None:
        return None
    free_mib = card.free_bytes // _MIB
    for limit_mib, frames in _BANDS:
        if free_mib < limit_mib:
            return RuleOfThumb(frames, "fp16", f"below {limit_mib} MiB free")
    precision = "bf16" if "bf16" in precisions_of("cuda", card.capability) else "fp16"
    return RuleOfThumb(None, precision, f"from {_BANDS[-1][0]} MiB free")


def describe_start(cards: Sequence[Gpu], card: Gpu | None, settings: Settings) -> list[str]:
    """Return the lines to print: the card that will be used of those there are, and how jobs will be run on it."""
    if card:
        lines = [f"card     {card.name}, {card.free_bytes // _MIB} MiB free"]
    else:
        hidden = f" that CUDA_VISIBLE_DEVICES shows (it hides {len(cards)})" if cards else ""
        lines = [f"card     no NVIDIA card{hidden}"]
    by_hand = _set_by_hand(card, settings)
    if by_hand:
        return [*lines, f"set      {by_hand}"]
    rule = rule_of_thumb(card)
    if rule:
        lines.append(f"rule     of thumb, {rule.band}: {_chunk_words(rule.chunk_frames)}, {rule.precision}")
    return [
        *lines,
        "plan     i2v chooses chunks and precision for each job from the memory that is free then; "
        "set CHUNK_SIZE, USE_FP16 or USE_BF16 to fix them",
    ]


def _set_by_hand(card: Gpu | None, settings: Settings) -> str:
    """Say what the environment fixes and who decides the rest; nothing when it fixes nothing."""
    chunk_frames, precision = settings.chunk_frames, settings.precision
    if chunk_frames is None and precision is None:
        return ""
    left = "i2v chooses the {} for each job"
    chunks = f"{_chunk_words(chunk_frames)} (CHUNK_SIZE)" if chunk_frames else left.format("chunks")
    if precision is None:
        return f"{chunks}, {left.format('precision')}"
    variable = f"USE_{precision.upper()}"
    possible = precisions_of("cuda", card.capability) if card else precisions_of("cpu", None)
    refused = "" if precision in possible else f", which this card cannot do: unset {variable}"
    return f"{chunks}, {precision} ({variable}){refused}"


def _chunk_words(chunk_frames: int | None) -> str:
    if chunk_frames is None:
        return "whole clip at once"
    return f"chunks of {chunk_frames} frame{'' if chunk_frames == 1 else 's'}"


def main() -> int:
    """Print the lines and return the exit status."""
    try:
        settings = Settings.from_environment()
    except I2VError as error:
        print(f"i2v: {error}", file=sys.stderr)
        return error.exit_status
    set_up_logging("WARNING")
    cards = devices.gpus()
    print("\n".join(describe_start(cards, devices.first_visible_gpu(cards), settings)))
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
