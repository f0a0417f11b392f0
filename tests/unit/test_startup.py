"""The report of the start script: the rule of thumb for each size of card, and what was set by hand."""

from __future__ import annotations

from pathlib import Path

import pytest

from i2v.cli.startup import RuleOfThumb, describe_start, rule_of_thumb
from i2v.machine.devices import Gpu
from i2v.settings import Settings

MIB = 1 << 20
TURING, AMPERE = (7, 5), (8, 6)
PLANNED = "i2v chooses chunks and precision for each job from the memory that is free then"


def card(free_mib: int, capability: tuple[int, int] | None = AMPERE) -> Gpu:
    return Gpu(0, "NVIDIA Test", "570.1", (free_mib + 300) * MIB, 300 * MIB, capability=capability)


def described(gpu: Gpu | None, *, chunk_frames: int | None = None, precision: str | None = None) -> str:
    settings = Settings(Path("/nowhere"), chunk_frames=chunk_frames, precision=precision)
    return "\n".join(describe_start([gpu] if gpu else [], gpu, settings))


@pytest.mark.parametrize(
    ("free_mib", "capability", "chunk_frames", "precision"),
    [
        (7_900, AMPERE, 4, "fp16"),
        (7_900, TURING, 4, "fp16"),
        (11_900, AMPERE, 4, "fp16"),
        (13_999, AMPERE, 4, "fp16"),
        (14_000, AMPERE, 6, "fp16"),
        (15_900, AMPERE, 6, "fp16"),
        (15_900, TURING, 6, "fp16"),
        (17_999, AMPERE, 6, "fp16"),
        (18_000, AMPERE, None, "bf16"),
        (24_100, AMPERE, None, "bf16"),
        (24_100, TURING, None, "fp16"),
        (24_100, None, None, "fp16"),  # the driver does not tell
    ],
)
def test_the_rule_follows_the_free_memory(
    free_mib: int, capability: tuple[int, int] | None, chunk_frames: int | None, precision: str
) -> None:
    rule = rule_of_thumb(card(free_mib, capability))
    assert rule is not None
    assert (rule.chunk_frames, rule.precision) == (chunk_frames, precision)


def test_the_rule_names_the_case_that_applied() -> None:
    assert rule_of_thumb(card(11_900)) == RuleOfThumb(4, "fp16", "below 14000 MiB free")
    assert rule_of_thumb(card(15_900)) == RuleOfThumb(6, "fp16", "below 18000 MiB free")
    assert rule_of_thumb(card(24_100)) == RuleOfThumb(None, "bf16", "from 18000 MiB free")


def test_without_a_card_there_is_no_rule() -> None:
    assert rule_of_thumb(None) is None
    assert described(None).splitlines()[0] == "card     no NVIDIA card"
    assert "rule" not in described(None)
    assert PLANNED in described(None)


def test_the_card_the_rule_and_the_planner_are_named() -> None:
    assert described(card(11_264)).splitlines() == [
        "card     NVIDIA Test, 11264 MiB free",
        "rule     of thumb, below 14000 MiB free: chunks of 4 frames, fp16",
        f"plan     {PLANNED}; set CHUNK_SIZE, USE_FP16 or USE_BF16 to fix them",
    ]
    assert "from 18000 MiB free: whole clip at once, bf16" in described(card(24_100))


@pytest.mark.parametrize(
    ("chunk_frames", "precision", "line"),
    [
        (4, "fp16", "chunks of 4 frames (CHUNK_SIZE), fp16 (USE_FP16)"),
        (1, "bf16", "chunks of 1 frame (CHUNK_SIZE), bf16 (USE_BF16)"),
        (6, None, "chunks of 6 frames (CHUNK_SIZE), i2v chooses the precision for each job"),
        (None, "fp16", "i2v chooses the chunks for each job, fp16 (USE_FP16)"),
    ],
)
@pytest.mark.parametrize("gpu", [None, card(11_264)], ids=["no-card", "card"])
def test_what_was_set_by_hand_takes_the_place_of_the_rule(
    gpu: Gpu | None, chunk_frames: int | None, precision: str | None, line: str
) -> None:
    lines = described(gpu, chunk_frames=chunk_frames, precision=precision).splitlines()
    assert lines[1:] == [f"set      {line}"]


def test_a_precision_the_card_cannot_do_is_said_at_the_start() -> None:
    assert "which this card cannot do: unset USE_BF16" in described(card(15_000, TURING), precision="bf16")
    assert "cannot" not in described(card(15_000, TURING), precision="fp16")


def test_cards_hidden_from_cuda_are_counted() -> None:
    first, *_ = describe_start([card(8_000), card(8_000)], None, Settings(Path("/nowhere")))
    assert first == "card     no NVIDIA card that CUDA_VISIBLE_DEVICES shows (it hides 2)"
