"""Tiers: what suits each size of card, and a file that is wrong is refused before the app starts."""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml

from i2v.errors import InputError
from i2v.presets.model_preset import preset_named
from i2v.presets.tiers import load_tiers, tier_for
from i2v.request import build_request

ROOT = Path(__file__).parents[2]
MIB = 1 << 20
SMALL, MIDDLE, LARGE = (512, 12, 40, 4), (768, 16, 50, 6), (1024, 24, 80, None)


@pytest.mark.parametrize(
    ("vram_mib", "expected"),
    [
        (4_096, SMALL),
        (8_192, SMALL),
        (12_288, SMALL),  # RTX 3060
        (15_360, MIDDLE),  # T4, error correction on
        (16_376, MIDDLE),  # RTX 4060 Ti
        (19_190, LARGE),  # 20 GB, error correction on
        (24_564, LARGE),  # RTX 4090
        (143_771, LARGE),  # H200
    ],
)
def test_each_card_gets_the_settings_for_its_size(vram_mib: int, expected: tuple[int, int, int, int | None]) -> None:
    tier = tier_for(vram_mib * MIB, "i2vgen-xl")
    assert tier is not None
    assert (tier.short_side_px, tier.num_frames, tier.num_inference_steps, tier.chunk_frames) == expected
    assert tier_for(vram_mib * MIB) == tier


def test_without_a_card_or_for_another_model_there_is_no_tier() -> None:
    assert tier_for(None) is None
    assert tier_for(0) is None
    assert tier_for(24_564 * MIB, "motion") is None


def test_bf16_is_preferred_only_where_tier_and_card_have_it() -> None:
    small, _, large = load_tiers()
    assert large.precision_among(("fp32", "fp16", "bf16")) == "bf16"
    assert large.precision_among(("fp32", "fp16")) == "fp16"
    assert small.precision_among(("fp32", "fp16", "bf16")) == "fp16"
    assert small.precision_among(()) == "fp16"


def test_every_tier_makes_a_request_that_is_accepted() -> None:
    for tier in load_tiers():
        for model in tier.models:
            side = (
                tier.short_side_px // preset_named(model).rules.size_multiple * preset_named(model).rules.size_multiple
            )
            values: dict[str, Any] = {
                "model": model,
                "prompt": "papers floating",
                "width": side,
                "height": side,
                "num_frames": tier.num_frames,
                "num_inference_steps": tier.num_inference_steps,
            }
            for precision in tier.precisions:
                assert build_request(values | {"precision": precision}, (side, side)).num_frames == tier.num_frames


def tier(**changes: Any) -> dict[str, Any]:
    """One good tier for i2vgen-xl, with changes; a change to ... takes the key away."""
    good = {
        "title": "Cards",
        "models": ["i2vgen-xl"],
        "from_vram_gib": 0,
        "short_side_px": 512,
        "num_frames": 12,
        "num_inference_steps": 40,
        "chunk_frames": 4,
        "precisions": ["fp16"],
    }
    return {key: value for key, value in (good | changes).items() if value is not ...}


def write(path: Path, *tiers: dict[str, Any]) -> Path:
    path.write_text(yaml.safe_dump({"tiers": list(tiers)}), encoding="utf-8")
    return path


def test_a_tier_may_be_for_one_model_or_for_all(tmp_path: Path) -> None:
    first, second = load_tiers(write(tmp_path / "tiers.yaml", tier(), tier(models=["motion"])))
    assert [first.is_for("i2vgen-xl"), first.is_for("motion"), second.is_for("motion")] == [True, False, True]
    (for_all,) = load_tiers(write(tmp_path / "all.yaml", tier(models=...)))
    assert for_all.is_for("i2vgen-xl")
    assert for_all.is_for("motion")


@pytest.mark.parametrize(
    ("changes", "key"),
    [
        ({"colour": "red"}, "colour"),
        ({"title": ...}, "title"),
        ({"title": ""}, "title"),
        ({"from_vram_gib": -1}, "from_vram_gib"),
        ({"from_vram_gib": float("nan")}, "from_vram_gib"),
        ({"from_vram_gib": float("inf")}, "from_vram_gib"),
        ({"from_vram_gib": "12"}, "from_vram_gib"),
        ({"num_frames": "12"}, "num_frames"),
        ({"num_frames": 12.0}, "num_frames"),
        ({"num_frames": True}, "num_frames"),
        ({"num_frames": 1}, "num_frames"),
        ({"num_frames": 65}, "num_frames"),
        ({"num_inference_steps": 501}, "num_inference_steps"),
        ({"num_inference_steps": 0}, "num_inference_steps"),
        ({"short_side_px": 32}, "short_side_px"),
        ({"short_side_px": 1280}, "short_side_px"),  # within the sides, and never within the pixels
        ({"chunk_frames": 0}, "chunk_frames"),
        ({"chunk_frames": 13}, "chunk_frames"),
        ({"precisions": []}, "precisions"),
        ({"precisions": ["fp64"]}, "precisions"),
        ({"precisions": "fp16"}, "precisions"),
        ({"models": ["nobody"]}, "models"),
    ],
)
def test_what_cannot_be_is_refused_with_file_key_and_reason(tmp_path: Path, changes: dict[str, Any], key: str) -> None:
    path = write(tmp_path / "tiers.yaml", tier(), tier(**({"from_vram_gib": 14} | changes)))
    with pytest.raises(InputError) as refused:
        load_tiers(path)
    assert str(path) in str(refused.value)
    assert f"tiers.1.{key}" in str(refused.value)
    assert "\n" not in str(refused.value)


@pytest.mark.parametrize("thresholds", [(14, 12), (14, 14), (0, 18, 14)])
def test_thresholds_must_rise(tmp_path: Path, thresholds: tuple[int, ...]) -> None:
    path = write(tmp_path / "tiers.yaml", *(tier(from_vram_gib=threshold) for threshold in thresholds))
    with pytest.raises(InputError, match=rf"tiers\.{len(thresholds) - 1}\.from_vram_gib: .* is not more than"):
        load_tiers(path)


def test_a_tier_for_all_must_not_repeat_a_threshold_of_one_model(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="from_vram_gib"):
        load_tiers(write(tmp_path / "tiers.yaml", tier(), tier(models=...)))


@pytest.mark.parametrize(
    "content",
    [b"", b"- a\n- list\n", b"tiers: []\n", b"tiers: [\n", b"tiers: {}\nmore: 1\n", b"\xff\xfe\x00", b"tiers: \x07\n"],
    ids=["empty", "list", "none", "cut", "more", "no-utf8", "control"],
)
def test_a_file_of_another_form_is_one_sentence(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "tiers.yaml"
    path.write_bytes(content)
    with pytest.raises(InputError) as refused:
        load_tiers(path)
    assert str(path) in str(refused.value)
    assert "\n" not in str(refused.value)


def test_a_missing_file_is_one_sentence(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="cannot be read: No such file"):
        load_tiers(tmp_path / "tiers.yaml")


def test_the_app_does_not_start_with_a_broken_file(tmp_path: Path, home: Path) -> None:
    for folder in ("i2v", "configs"):
        shutil.copytree(ROOT / folder, tmp_path / folder, ignore=shutil.ignore_patterns("__pycache__", "weights"))
    shutil.copy(ROOT / "app.py", tmp_path)
    write(tmp_path / "configs" / "tiers.yaml", tier(num_frames=1000))
    finished = subprocess.run(
        [sys.executable, "app.py", "--port", "0"],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert finished.returncode == 2
    assert finished.stdout == ""
    (line,) = finished.stderr.splitlines()
    assert "configs/tiers.yaml is not a valid list of tiers: tiers.0.num_frames: 1000 is not between" in line
    assert not home.exists()
