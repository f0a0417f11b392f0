"""An autoencoder in bands of rows: the same numbers, from less memory, with the model as it was."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from diffusers import AutoencoderKL
from diffusers.models.downsampling import Downsample2D
from diffusers.models.resnet import ResnetBlock2D
from torch import Tensor

from i2v.memory.exact.kl import decode_in_bands, encode_in_bands
from i2v.memory.exact.pieces import first_pieces_only
from i2v.memory.forecast.count import LiveStorage
from i2v.memory.forecast.trace import fake_module, fake_tensors

GIB = 1 << 30
ROWS = [1, 2, 3, 7, 1000, None]
LEVELS = {"two levels": (8, 16), "four levels": (8, 16, 32, 32), "narrowing": (12, 16, 8)}
SIZES = [(5, 7), (9, 16), (1, 3)]
REAL = {
    "block_out_channels": (128, 256, 512, 512),
    "down_block_types": ("DownEncoderBlock2D",) * 4,
    "up_block_types": ("UpDecoderBlock2D",) * 4,
    "layers_per_block": 2,
    "norm_num_groups": 32,
    "sample_size": 512,
}


def small_vae(channels: tuple[int, ...], **settings: Any) -> AutoencoderKL:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        vae = AutoencoderKL(
            down_block_types=("DownEncoderBlock2D",) * len(channels),
            up_block_types=("UpDecoderBlock2D",) * len(channels),
            block_out_channels=channels,
            norm_num_groups=4,
            layers_per_block=settings.pop("layers_per_block", 2),
            **settings,
        )
        for name, parameter in vae.named_parameters():
            if name.endswith("bias") or "norm" in name:  # fresh ones are 0 or 1 and would show nothing
                torch.nn.init.normal_(parameter, mean=1.0 if name.endswith("weight") else 0.0, std=0.3)
    return vae.eval()


def noise(*shape: int) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(1))


def error_between(found: Tensor, wanted: Tensor) -> float:
    assert found.shape == wanted.shape
    assert found.dtype == wanted.dtype
    return float((found - wanted).abs().max() / wanted.abs().max())


@torch.no_grad()
def plain(vae: AutoencoderKL, given: Tensor, way: str) -> Tensor:
    return vae.decode(given).sample if way == "decode" else vae.encode(given).latent_dist.parameters


def in_bands(vae: AutoencoderKL, given: Tensor, way: str, rows: int | None) -> Tensor:
    if way == "decode":
        return decode_in_bands(vae, given, rows)
    return encode_in_bands(vae, given, rows).parameters


def given_to(vae: AutoencoderKL, way: str, size: tuple[int, int], more: int = 0) -> Tensor:
    """Return a random latent of this size, or the picture that it would come from and `more` pixels."""
    if way == "decode":
        return noise(1, vae.config.latent_channels, *size)
    scale = 2 ** (len(vae.config.block_out_channels) - 1)
    return noise(1, 3, *(side * scale + more for side in size))


@pytest.mark.parametrize("rows", ROWS)
@pytest.mark.parametrize("channels", LEVELS.values(), ids=LEVELS.keys())
@pytest.mark.parametrize("way", ["decode", "encode"])
def test_bands_of_any_height_give_the_models_numbers(way: str, channels: tuple[int, ...], rows: int | None) -> None:
    vae = small_vae(channels)
    for size in SIZES:
        given = given_to(vae, way, size)
        before = given.clone()
        assert error_between(in_bands(vae, given, way, rows), plain(vae, given, way)) < 1e-5, size
        assert torch.equal(given, before)


@pytest.mark.parametrize("rows", [1, 3, 8])
def test_pictures_that_do_not_halve_evenly_are_encoded_the_same(rows: int) -> None:
    vae = small_vae((8, 16, 16))
    for more in (1, 2, 3):
        picture = given_to(vae, "encode", (5, 7), more)
        assert error_between(in_bands(vae, picture, "encode", rows), plain(vae, picture, "encode")) < 1e-5


@pytest.mark.parametrize("rows", [1, 2, 5])
def test_downsampler_with_padding_on_both_sides_gives_the_same(rows: int) -> None:
    vae = small_vae((8, 16, 16))
    for block in vae.encoder.down_blocks[:-1]:
        conv = block.downsamplers[0].conv
        block.downsamplers[0] = Downsample2D(conv.in_channels, use_conv=True, padding=1, name="op")
    for more in (0, 1):
        picture = given_to(vae, "encode", (6, 9), more)
        assert error_between(in_bands(vae, picture, "encode", rows), plain(vae, picture, "encode")) < 1e-5


@pytest.mark.parametrize("way", ["decode", "encode"])
@pytest.mark.parametrize(
    "settings",
    [
        {"mid_block_add_attention": False},
        {"use_quant_conv": False, "use_post_quant_conv": False},
        {"act_fn": "gelu"},
        {"layers_per_block": 1},
        {"latent_channels": 16},
    ],
    ids=str,
)
def test_other_settings_of_the_model_give_the_same(way: str, settings: dict[str, Any]) -> None:
    vae = small_vae((8, 16), **settings)
    given = given_to(vae, way, (9, 5))
    assert error_between(in_bands(vae, given, way, 3), plain(vae, given, way)) < 1e-5


@pytest.mark.parametrize("way", ["decode", "encode"])
def test_scaled_results_and_several_heads_give_the_same(way: str) -> None:
    vae = small_vae((8, 16))
    for module in vae.modules():
        if isinstance(module, ResnetBlock2D):
            module.output_scale_factor = 1.5
    for coder in (vae.encoder, vae.decoder):
        attention = coder.mid_block.attentions[0]
        attention.heads, attention.rescale_output_factor = 2, 1.5
    given = given_to(vae, way, (9, 5))
    assert error_between(in_bands(vae, given, way, 2), plain(vae, given, way)) < 1e-5


@pytest.mark.parametrize("way", ["decode", "encode"])
def test_half_precision_is_as_near_to_float32_as_the_models_own(way: str) -> None:
    vae = small_vae((8, 16, 32))
    given = given_to(vae, way, (9, 16))
    wanted = plain(vae, given, way)
    vae, given = vae.to(torch.bfloat16), given.to(torch.bfloat16)
    own = error_between(plain(vae, given, way).float(), wanted)
    assert error_between(in_bands(vae, given, way, 3).float(), wanted) < 1.5 * own


def test_hooks_fire_and_nothing_of_the_model_changes() -> None:
    vae = small_vae((8, 16))
    leaves = [m for m in vae.modules() if isinstance(m, torch.nn.Conv2d | torch.nn.Linear)]
    seen: set[torch.nn.Module] = set()
    handles = [leaf.register_forward_hook(lambda module, *_: seen.add(module)) for leaf in leaves]
    state = {name: tensor.clone() for name, tensor in vae.state_dict().items()}
    attributes = {name: set(vars(module)) for name, module in vae.named_modules()}
    encode_in_bands(vae, given_to(vae, "encode", (4, 4)), 3)
    decode_in_bands(vae, given_to(vae, "decode", (4, 4)), 3)
    assert seen == set(leaves)
    for handle in handles:
        handle.remove()
    assert {name: set(vars(module)) for name, module in vae.named_modules()} == attributes
    assert all(torch.equal(tensor, state[name]) for name, tensor in vae.state_dict().items())


@pytest.mark.parametrize("way", ["decode", "encode"])
def test_weights_stored_smaller_are_computed_with_as_in_the_model(way: str) -> None:
    vae = small_vae((8, 16))
    vae.enable_layerwise_casting(storage_dtype=torch.float8_e4m3fn, compute_dtype=torch.float32)
    assert vae.decoder.up_blocks[0].resnets[0].conv1.weight.dtype == torch.float8_e4m3fn
    given = given_to(vae, way, (9, 5))
    assert error_between(in_bands(vae, given, way, 3), plain(vae, given, way)) < 1e-5


def test_several_pictures_are_refused() -> None:
    vae = small_vae((8, 16))
    with pytest.raises(ValueError, match="one picture at a time, not 2"):
        decode_in_bands(vae, noise(2, 4, 4, 4))


def test_unknown_layers_are_refused() -> None:
    vae = small_vae((8, 16))
    vae.decoder.up_blocks[0].resnets[1] = torch.nn.Identity()
    with pytest.raises(TypeError, match="Identity"):
        decode_in_bands(vae, noise(1, 4, 4, 4))


# Memory: traced on fake tensors, at full size


def peak_bytes(vae: AutoencoderKL, way: str, size: tuple[int, int], rows: int | None, bands: bool = True) -> int:
    given = torch.empty_like(given_to(vae, way, size), dtype=vae.dtype)
    counter = LiveStorage()
    counter.adopt(given, *vae.parameters())
    with counter:
        result = in_bands(vae, given, way, rows) if bands else plain(vae, given, way)
    assert counter.live_bytes <= 2 * result.nbytes  # a distribution has its deviation worked out
    return counter.peak_bytes


def full_size_vae() -> Any:
    return fake_module(lambda: AutoencoderKL(**REAL), torch.float16)


@pytest.mark.parametrize("way", ["decode", "encode"])
def test_the_first_two_bands_show_the_peak(way: str) -> None:
    with fake_tensors():
        vae = full_size_vae()
        with first_pieces_only():
            found = peak_bytes(vae, way, (24, 8), 32)
        assert found == peak_bytes(vae, way, (24, 8), 32)


@pytest.mark.parametrize(("way", "limit_gib"), [("decode", 0.7), ("encode", 0.6)])
def test_a_picture_of_1024_pixels_takes_less_than_half_the_memory(way: str, limit_gib: float) -> None:
    with fake_tensors(), first_pieces_only():
        vae = full_size_vae()
        found = peak_bytes(vae, way, (128, 128), None)
        whole = peak_bytes(vae, way, (128, 128), None, bands=False)
    assert found < limit_gib * GIB
    assert found < 0.5 * whole


@pytest.mark.parametrize("way", ["decode", "encode"])
def test_lower_bands_take_less_memory(way: str) -> None:
    with fake_tensors(), first_pieces_only():
        vae = full_size_vae()
        peaks = [peak_bytes(vae, way, (64, 64), rows) for rows in (16, 32, 64, 128)]
    assert peaks == sorted(set(peaks))
