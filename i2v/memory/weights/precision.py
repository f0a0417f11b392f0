"""How the denoiser's weights are stored: rounds them where that is asked for, and says what they really are.

Computing stays in one of `DTYPES` throughout; a rounded weight is turned back into it for the time of its layer. Which
layers are rounded is the libraries' own choice:

- fp8 (diffusers' layerwise casting): every linear layer and convolution, but no norm and nothing that diffusers names
  as delicate in that model. Half the bytes of fp16. There is no way back other than loading again.
- int8 (torchao) and nf4 (bitsandbytes): linear layers only, which hold 41 % of I2VGenXLUNet.

Weights may be on any device; they stay there. Names and devices: abilities.py. Knows nothing of families.
"""

from __future__ import annotations

import importlib
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import is_traceable_wrapper_subclass

from i2v.errors import GenerationError, InputError
from i2v.memory.abilities import APPROXIMATE, precisions_of, refuse_unless_possible
from i2v.memory.weights.mapped import cast_own, is_mapped, wished_dtype
from i2v.memory.weights.masters import plain_tensors

__all__ = [
    "APPROXIMATE",
    "DTYPES",
    "WeightReport",
    "check_weights_are",
    "precisions_of",
    "quantise",
    "refuse_unless_possible",
]

DTYPES = {"fp32": torch.float32, "fp16": torch.float16, "bf16": torch.bfloat16}

_NF4_BLOCK = 64  # numbers that share a scale: bitsandbytes' default


def quantise(denoiser: nn.Module, precision: str, compute_dtype: torch.dtype) -> None:
    """Round the denoiser's weights in place, layer by layer; an exact precision leaves them as they are.

    They must have been loaded in `compute_dtype`, and are best still in main memory, so that a card never holds them
    unrounded: only nf4 is packed on the card where there is one, one layer at a time. A layer's unrounded weights are
    free as soon as it is rounded; only fp8 needs a copy of them all where their files have another dtype. Raises
    InputError when the library that does it is not installed.
    """
    if precision == "fp8":
        for part in denoiser.modules():
            cast_own(part)
        denoiser.enable_layerwise_casting(torch.float8_e4m3fn, compute_dtype)  # type: ignore[operator]
    elif precision == "int8":
        _to_int8(denoiser, compute_dtype)
    elif precision == "nf4":
        _to_nf4(denoiser, compute_dtype)
    elif precision not in DTYPES:
        raise ValueError(f"there is no precision {precision!r}")


def _library(name: str, package: str, precision: str) -> Any:
    """Import a library that only some precisions need. Raises InputError."""
    try:
        return importlib.import_module(name)
    except ImportError as error:
        raise InputError(
            f"{precision} needs {name.partition('.')[0]}, which is not installed",
            f"Run: pip install {package}",
            field="precision",
        ) from error


def _linear_layers(module: nn.Module) -> Iterator[tuple[nn.Module, str, nn.Linear]]:
    """Yield every linear layer with its parent and its name there."""
    for parent in list(module.modules()):
        for name, child in list(parent.named_children()):
            if isinstance(child, nn.Linear):
                yield parent, name, child


def _to_int8(denoiser: nn.Module, compute_dtype: torch.dtype) -> None:
    torchao = _library("torchao.quantization", "torchao==0.18.0", "int8")
    for _, _, layer in _linear_layers(denoiser):
        cast_own(layer)
        # With one scale per row torchao multiplies before it scales: the sums are up to a thousand times the result,
        # and in fp16 become infinite. With two it turns the weight back first.
        in_halves = compute_dtype == torch.float16 and layer.in_features % 2 == 0
        granularity = torchao.PerGroup(layer.in_features // 2) if in_halves else torchao.PerRow()
        torchao.quantize_(layer, torchao.Int8WeightOnlyConfig(granularity=granularity, set_inductor_config=False))


def _to_nf4(denoiser: nn.Module, compute_dtype: torch.dtype) -> None:
    bitsandbytes = _library("bitsandbytes", "bitsandbytes==0.50.2", "nf4").nn
    for parent, name, layer in _linear_layers(denoiser):
        if _suits_nf4(layer):
            cast_own(layer)
            setattr(parent, name, _four_bit(bitsandbytes, layer, compute_dtype))


def _suits_nf4(layer: nn.Linear) -> bool:
    """Whether rows fill whole blocks; the few others are tiny, and bitsandbytes is slow at them."""
    return layer.in_features % _NF4_BLOCK == 0


def _four_bit(bitsandbytes: Any, layer: nn.Linear, compute_dtype: torch.dtype) -> nn.Module:
    """Return a linear layer with the weight rounded: on a card where there is one, as bitsandbytes is made for that."""
    kind: dict[str, Any] = {"compress_statistics": False, "quant_type": "nf4"}
    packed: nn.Module = bitsandbytes.Linear4bit(
        layer.in_features, layer.out_features, layer.bias is not None, compute_dtype, device="meta", **kind
    )
    packed.weight = bitsandbytes.Params4bit(layer.weight.detach(), requires_grad=False, module=packed, **kind)
    packed.bias = layer.bias
    home = layer.weight.device
    workshop = torch.device("cuda") if home.type == "cpu" and torch.cuda.is_available() else home
    return packed.to(workshop).to(home).train(layer.training).requires_grad_(False)


@dataclass(frozen=True)
class WeightReport:
    """What the denoiser's weights really are. `quantised_share`: of its parameters, how many are stored as asked."""

    precision: str
    total_bytes: int
    bytes_by_dtype: dict[str, int]
    quantised_share: float

    @classmethod
    def together(cls, reports: Sequence[WeightReport]) -> WeightReport:
        """Return one report of several denoisers. The share is the least: none may be left as it was."""
        sizes = Counter[str]()
        for report in reports:
            sizes.update(report.bytes_by_dtype)
        share = min(report.quantised_share for report in reports)
        return cls(reports[0].precision, sizes.total(), dict(sizes), share)

    def to_dict(self) -> dict[str, Any]:
        return asdict(self)

    def sentence(self, name: str = "denoiser") -> str:
        """Say it in words, for the log and the page."""
        gib = self.total_bytes / (1 << 30)
        return f"{name}: {gib:.2f} GiB of weights, {100 * self.quantised_share:.0f} % as {self.precision}"


def check_weights_are(denoiser: nn.Module, precision: str, compute_dtype: torch.dtype) -> WeightReport:
    """Report what the weights are, once they are loaded. Raises GenerationError when that is not what was asked for."""
    for name, weight in denoiser.named_parameters():
        if not _may_be(name, weight, denoiser, precision, compute_dtype):
            raise _not_as_asked(precision, f"{name} is {weight.dtype}")
    if precision in ("int8", "nf4"):
        for parent, name, layer in _linear_layers(denoiser):
            if not _is_stored_as(precision, layer.weight) and (precision == "int8" or _suits_nf4(layer)):
                raise _not_as_asked(precision, f"{name} of {type(parent).__name__} is {layer.weight.dtype}")
    report = _report(denoiser, precision)
    if not report.quantised_share:
        raise _not_as_asked(precision, "no weight is")
    return report


def _not_as_asked(precision: str, what: str) -> GenerationError:
    return GenerationError(f"the weights are not stored as {precision}: {what}", "Choose another precision.")


def _may_be(name: str, weight: Tensor, denoiser: nn.Module, precision: str, compute_dtype: torch.dtype) -> bool:
    """Whether a weight is as asked, or in the precision that is computed in, or float32 by its model's own wish."""
    if _is_stored_as(precision, weight) or not weight.is_floating_point():
        return True
    wished = any(part in name for part in getattr(denoiser, "_keep_in_fp32_modules", None) or ())
    dtype = wished_dtype(weight)
    return dtype == compute_dtype or (wished and dtype == torch.float32)


def _is_stored_as(precision: str, weight: Tensor) -> bool:
    if precision == "int8":
        return is_traceable_wrapper_subclass(weight) and any(p.dtype == torch.int8 for p in plain_tensors(weight))
    if precision == "nf4":
        return getattr(getattr(weight, "quant_state", None), "quant_type", None) == "nf4"
    dtype = torch.float8_e4m3fn if precision == "fp8" else DTYPES[precision]
    return wished_dtype(weight) == dtype and not is_traceable_wrapper_subclass(weight)


def _report(denoiser: nn.Module, precision: str) -> WeightReport:
    as_asked, total = 0, 0
    sizes: Counter[str] = Counter()
    for weight in denoiser.parameters():
        state = getattr(weight, "quant_state", None)
        count = weight.numel() if state is None else state.shape.numel()
        total += count
        as_asked += count if _is_stored_as(precision, weight) else 0
        for plain in plain_tensors(weight):
            dtype = wished_dtype(weight) if is_mapped(weight) else plain.dtype
            sizes[str(dtype).removeprefix("torch.")] += plain.numel() * dtype.itemsize
    return WeightReport(precision, sizes.total(), dict(sizes), as_asked / max(total, 1))
