"""Exact chunking of I2VGenXLUNet: the same prediction, from a fraction of the memory."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest
import torch
from diffusers import I2VGenXLUNet

from i2v.memory.exact.pieces import first_pieces_only
from i2v.memory.exact.unet import ExactForward, layers_in_order
from i2v.memory.forecast.count import LiveStorage
from i2v.memory.forecast.trace import fake_module, fake_tensors
from i2v.models.binding import build_component
from i2v.models.i2vgen_xl import FAMILY
from i2v.presets.model_preset import preset_named

GIB = 1 << 30


def small_unet(widths: tuple[int, ...] = (8, 16), layers: int = 2) -> I2VGenXLUNet:
    """Build a random UNet in which no layer is zero, so that every layer shows in the result."""
    torch.manual_seed(1)
    deeper = len(widths) - 1
    unet = I2VGenXLUNet(
        sample_size=8,
        down_block_types=("CrossAttnDownBlock3D",) * deeper + ("DownBlock3D",),
        up_block_types=("UpBlock3D",) + ("CrossAttnUpBlock3D",) * deeper,
        block_out_channels=widths,
        layers_per_block=layers,
        norm_num_groups=4,
        cross_attention_dim=12,
        attention_head_dim=4,
    )
    for parameter in unet.parameters():
        torch.nn.init.normal_(parameter, mean=0.0 if parameter.ndim > 1 else 0.3, std=0.2)
    return unet.eval().requires_grad_(False)


def inputs(batch: int, frames: int, height: int, width: int) -> dict[str, torch.Tensor]:
    torch.manual_seed(2)
    size = (batch, 4, frames, height, width)
    return {
        "sample": torch.randn(size),
        "timestep": torch.tensor(371),
        "fps": torch.full((batch,), 16),
        "image_latents": torch.randn(size),
        "image_embeddings": torch.randn(batch, 1, 12),
        "encoder_hidden_states": torch.randn(batch, 7, 12),
    }


def relative_error(found: torch.Tensor, wanted: torch.Tensor) -> float:
    return float((found - wanted).abs().max() / wanted.abs().max())


@contextmanager
def exact(unet: I2VGenXLUNet) -> Iterator[ExactForward]:
    forward = ExactForward(unet)
    try:
        yield forward
    finally:
        forward.remove()


@pytest.mark.parametrize("widths", [(8,), (8, 16), (8, 16, 16, 24)], ids=str)
@pytest.mark.parametrize("size", [(1, 5, 8, 8), (2, 7, 9, 13), (1, 13, 17, 11), (1, 2, 8, 24)], ids=str)
@torch.inference_mode()
def test_any_chunk_of_any_clip_predicts_the_same(widths: tuple[int, ...], size: tuple[int, int, int, int]) -> None:
    unet, given = small_unet(widths), inputs(*size)
    before = {name: value.clone() for name, value in given.items()}
    whole = unet(**given).sample
    with exact(unet) as forward:
        for frames in (1, 2, 3, 5, 100):
            forward.chunk_frames = frames
            assert relative_error(unet(**given).sample, whole) <= 1e-5
    assert all(torch.equal(given[name], before[name]) for name in given), "an input was written to"


@torch.inference_mode()
def test_parked_skip_connections_predict_the_same() -> None:
    unet, given = small_unet((8, 16, 16)), inputs(1, 7, 9, 11)
    whole = unet(**given).sample
    with exact(unet) as forward:
        forward.chunk_frames, forward.parks_skips = 2, True
        assert relative_error(unet(**given).sample, whole) <= 1e-5


@torch.inference_mode()
def test_the_model_is_itself_again_after_removal() -> None:
    unet, given = small_unet(), inputs(1, 4, 8, 8)
    whole = unet(**given).sample
    with exact(unet) as forward:
        forward.chunk_frames = 1
        unet(**given)
        forward.chunk_frames = None
        assert torch.equal(unet(**given).sample, whole)
    assert "forward" not in vars(unet)
    assert torch.equal(unet(**given, return_dict=False)[0], whole)


def test_the_layers_in_order_hold_every_weight_once() -> None:
    unet = small_unet((8, 16, 16, 24))
    held = [id(parameter) for layer in layers_in_order(unet) for parameter in layer.parameters()]
    assert sorted(held) == sorted(id(parameter) for parameter in unet.parameters())


@torch.inference_mode()
def test_large_common_offsets_do_not_cancel_in_the_statistics() -> None:
    """Group norm over values far from zero, where the naive sum of squares would lose every digit."""
    from i2v.memory.exact.group_norm import GroupStatistics

    norm = torch.nn.GroupNorm(4, 16).requires_grad_(False)
    values = torch.randn(3, 16, 7, 9) + 1000
    statistics = GroupStatistics(norm)
    for piece in values.split(1):
        statistics.add(piece)
    together = values.transpose(0, 1).unsqueeze(0).double()  # all three pieces are one place to normalise over
    wanted = torch.nn.functional.group_norm(together, 4, eps=norm.eps)[0].transpose(0, 1)
    assert relative_error(statistics.normalise(values).double(), wanted) < 1e-3


@pytest.mark.parametrize(
    ("side", "frames", "most_gib"),
    [(512, 16, 0.35), (768, 24, 1.0), pytest.param(1024, 32, 2.1, marks=pytest.mark.slow)],
    ids=["512", "768", "1024"],
)
def test_one_full_size_step_in_chunks_of_two_stays_within_its_memory(side: int, frames: int, most_gib: float) -> None:
    assert traced_peak(side, frames, chunk=2) <= most_gib * GIB


def test_the_plain_step_is_what_it_is_compared_with() -> None:
    assert traced_peak(512, 16, chunk=None, batch=2) == pytest.approx(2.59 * GIB, rel=0.01)


def traced_peak(side: int, frames: int, chunk: int | None, batch: int = 1) -> int:
    """Return the peak of activations of one denoiser call of the full-size model in float16."""
    with fake_tensors():
        unet: Any = fake_module(
            lambda: build_component(FAMILY.part("unet"), preset_named("i2vgen-xl").architecture["unet"]), torch.float16
        )
        size = (batch, 4, frames, side // 8, side // 8)
        given = {
            "sample": torch.empty(size, dtype=torch.float16),
            "timestep": torch.tensor(1),
            "fps": torch.full((batch,), 16),
            "image_latents": torch.empty(size, dtype=torch.float16),
            "image_embeddings": torch.empty((batch, 1, 1024), dtype=torch.float16),
            "encoder_hidden_states": torch.empty((batch, 77, 1024), dtype=torch.float16),
        }
        with exact(unet) as forward, LiveStorage() as counter, first_pieces_only():
            counter.adopt(*unet.parameters(), *given.values())
            forward.chunk_frames = chunk
            unet(**given)
    return counter.peak_bytes
