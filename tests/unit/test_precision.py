"""Weights rounded as asked, reported as they are, and refused where a device or a package is missing."""

from __future__ import annotations

import subprocess
import sys

import pytest
import torch
from diffusers import I2VGenXLUNet
from torch import nn

from i2v.errors import GenerationError, InputError
from i2v.memory.abilities import APPROXIMATE, EXACT, precisions_of, refuse_unless_possible
from i2v.memory.weights.parked import weight_bytes
from i2v.memory.weights.precision import DTYPES, check_weights_are, quantise
from tests import small_checkpoint
from tests.unit.test_weights import made, unet_inputs


def unet(compute: str = "fp32", precision: str = "") -> I2VGenXLUNet:
    if precision == "int8":
        pytest.importorskip("torchao")
    model = made(small_checkpoint._unet).to(DTYPES[compute])
    quantise(model, precision or compute, DTYPES[compute])
    return model


def predicted(model: I2VGenXLUNet, compute: str = "fp32") -> torch.Tensor:
    inputs = unet_inputs()
    cast = {name: t.to(DTYPES[compute]) if t.is_floating_point() else t for name, t in inputs.items()}
    with torch.inference_mode():
        return model(**cast).sample.float()


# Rounding


@pytest.mark.parametrize("compute", ["fp32", "bf16", "fp16"])
@pytest.mark.parametrize("precision", ["fp8", "int8"])
def test_rounded_weights_predict_nearly_the_same(precision: str, compute: str) -> None:
    exact = predicted(unet())
    rounded = predicted(unet(compute, precision), compute)
    apart = float((rounded - exact).norm() / exact.norm())
    assert 1e-4 < apart < 0.2


@pytest.mark.parametrize("precision", EXACT)
def test_an_exact_precision_changes_no_weight(precision: str) -> None:
    plain = made(small_checkpoint._unet).to(DTYPES[precision]).state_dict()
    model = unet(precision)
    assert all(torch.equal(weight, plain[name]) for name, weight in model.state_dict().items())
    report = check_weights_are(model, precision, DTYPES[precision])
    assert report.quantised_share == 1
    assert report.total_bytes == weight_bytes(model)


def test_int8_does_not_overflow_when_computing_in_fp16() -> None:
    pytest.importorskip("torchao")
    layer = made(lambda: nn.Sequential(nn.Linear(1280, 64, bias=False))).half()
    layer[0].weight.data.copy_(torch.randn(64, 1280, generator=torch.Generator().manual_seed(0)) * 0.03)
    given = torch.full((1, 1280), 60.0, dtype=torch.float16) * layer[0].weight[:1].sign()
    expected = layer(given).float()
    quantise(layer, "int8", torch.float16)
    torch.testing.assert_close(layer(given).float(), expected, rtol=0.02, atol=8.0)


def test_nf4_packs_the_linear_layers_that_fill_whole_blocks() -> None:
    pytest.importorskip("bitsandbytes")
    layers = made(lambda: nn.Sequential(nn.Linear(128, 64), nn.Linear(64, 64, bias=False), nn.Linear(4, 4)))
    given = torch.linspace(-1, 1, 256).view(2, 128)
    before = layers[:2](given)
    quantise(layers, "nf4", torch.float32)
    report = check_weights_are(layers, "nf4", torch.float32)
    assert 0.9 < report.quantised_share < 1
    assert report.bytes_by_dtype["uint8"] == (128 * 64 + 64 * 64) // 2
    assert report.total_bytes == weight_bytes(layers)
    assert float((layers[:2](given) - before).norm() / before.norm()) < 0.2
    assert type(layers[2]) is nn.Linear
    assert not layers.training


@pytest.mark.parametrize(("precision", "package"), [("int8", "torchao"), ("nf4", "bitsandbytes")])
def test_a_missing_package_is_named_with_what_to_install(
    precision: str, package: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in [name for name in sys.modules if name.partition(".")[0] == package]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, package, None)
    with pytest.raises(InputError, match=f"pip install {package}==") as raised:
        quantise(nn.Sequential(nn.Linear(64, 2)), precision, torch.float32)
    assert raised.value.field == "precision"


def test_an_unknown_precision_is_a_mistake_of_the_caller() -> None:
    with pytest.raises(ValueError, match="fp7"):
        quantise(nn.Linear(2, 2), "fp7", torch.float32)


# Reporting


def test_fp8_report_shows_almost_everything_rounded() -> None:
    report = check_weights_are(unet("fp16", "fp8"), "fp8", torch.float16)
    assert set(report.bytes_by_dtype) == {"float8_e4m3fn", "float16"}
    assert report.quantised_share > 0.95
    assert report.total_bytes == sum(report.bytes_by_dtype.values())


def test_int8_report_shows_that_convolutions_are_left() -> None:
    model = unet("bf16", "int8")
    report = check_weights_are(model, "int8", torch.bfloat16)
    linear = sum(m.weight.numel() for m in model.modules() if isinstance(m, nn.Linear))
    assert report.quantised_share == pytest.approx(linear / sum(p.numel() for p in model.parameters()))
    assert report.bytes_by_dtype.keys() == {"int8", "float32", "bfloat16"}
    assert report.total_bytes == weight_bytes(model)


def test_report_reads_as_a_sentence_and_as_plain_values() -> None:
    report = check_weights_are(unet(), "fp32", torch.float32)
    assert report.sentence("unet") == "unet: 0.00 GiB of weights, 100 % as fp32"
    assert report.to_dict() == {
        "precision": "fp32",
        "total_bytes": report.total_bytes,
        "bytes_by_dtype": {"float32": report.total_bytes},
        "quantised_share": 1.0,
    }


@pytest.mark.parametrize("precision", ["fp8", "int8", "fp16"])
def test_weights_that_were_left_as_they_were_are_noticed(precision: str) -> None:
    with pytest.raises(GenerationError, match=f"not stored as {precision}"):
        check_weights_are(unet(), precision, torch.float16 if precision == "fp16" else torch.float32)


def test_a_linear_layer_that_was_forgotten_is_noticed() -> None:
    model = unet("fp32", "int8")
    model.time_embedding.linear_1 = nn.Linear(8, 32)
    with pytest.raises(GenerationError, match=r"linear_1 of TimestepEmbedding is torch\.float32"):
        check_weights_are(model, "int8", torch.float32)


def test_a_single_weight_in_another_precision_is_noticed() -> None:
    model = unet("fp16")
    model.conv_out.float()
    with pytest.raises(GenerationError, match=r"conv_out\.weight is torch\.float32"):
        check_weights_are(model, "fp16", torch.float16)


def test_weights_a_model_wants_in_float32_may_be(monkeypatch: pytest.MonkeyPatch) -> None:
    model = unet("bf16")
    model.conv_out.float()
    monkeypatch.setattr(type(model), "_keep_in_fp32_modules", ["conv_out"])
    assert 0.9 < check_weights_are(model, "bf16", torch.bfloat16).quantised_share < 1


# Devices


@pytest.mark.parametrize(
    ("device", "capability", "possible"),
    [
        ("cpu", None, {"fp32", "bf16", "fp16", "fp8", "int8"}),
        ("cuda", (5, 2), {"fp32", "fp16", "fp8"}),
        ("cuda", (7, 5), {"fp32", "fp16", "fp8", "nf4"}),
        ("cuda", (8, 0), {*EXACT, *APPROXIMATE}),
        ("cuda", (12, 0), {*EXACT, *APPROXIMATE}),
        ("cuda", None, {"fp32", "fp16", "fp8"}),
        ("mps", None, {"fp32"}),
    ],
)
def test_what_devices_can_do(device: str, capability: tuple[int, int] | None, possible: set[str]) -> None:
    assert set(precisions_of(device, capability)) == possible
    for precision in (*EXACT, *APPROXIMATE):
        if precision in possible:
            refuse_unless_possible(precision, device, capability, "the device")
        else:
            with pytest.raises(InputError, match="Use one of: fp32"):
                refuse_unless_possible(precision, device, capability, "the device")


def test_refusal_names_the_device_and_the_field() -> None:
    with pytest.raises(InputError) as raised:
        refuse_unless_possible("bf16", "cuda", (7, 5), "GeForce RTX 2060")
    assert str(raised.value) == "GeForce RTX 2060 cannot do bf16. Use one of: fp32, fp16, fp8, nf4."
    assert raised.value.field == "precision"


def test_abilities_are_known_without_torch() -> None:
    code = "import i2v.memory.abilities, sys; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
