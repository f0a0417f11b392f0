"""Loading for a card: the weights are rounded in main memory, and the card gets only what is left of them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from i2v.engine import run
from i2v.engine.run import load_pipeline
from i2v.memory.plan import Plan
from i2v.memory.weights.mapped import is_mapped
from i2v.memory.weights.masters import plain_tensors
from i2v.memory.weights.parked import weight_bytes
from i2v.models.i2vgen_xl import FAMILY
from i2v.presets.model_preset import preset_named
from tests.small_checkpoint import save_small_checkpoint

CARD = "meta"


class Arrivals(TorchDispatchMode):
    """Counts the bytes that are copied from main memory to the device that stands for a card."""

    def __init__(self) -> None:
        super().__init__()
        self.bytes = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        sources = [arg for arg in args if isinstance(arg, Tensor) and arg.device.type == "cpu"]
        if isinstance(result, Tensor) and result.device.type == CARD and sources and "copy" in func.__name__:
            self.bytes += result.numel() * result.element_size()
        return result


@pytest.fixture
def checkpoint(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    folder = save_small_checkpoint(tmp_path / "model")
    monkeypatch.setattr(run, "model_folder", lambda preset, home: folder)
    return folder


@pytest.mark.parametrize("precision", ["fp16", "fp8", "int8"])
def test_the_card_gets_no_byte_more_than_the_rounded_weights(precision: str, checkpoint: Path, tmp_path: Path) -> None:
    if precision == "int8":
        pytest.importorskip("torchao")
    plan = Plan.of(FAMILY, CARD, "fp16", precision)
    pipeline, found = load_pipeline(preset_named("i2vgen-xl"), tmp_path, plan)
    modules = pipeline.modules().values()
    assert {weight.device.type for module in modules for weight in module.parameters()} == {"cpu"}
    with Arrivals() as arrivals:
        pipeline.arrange(plan)
    plains = [plain for module in modules for weight in module.parameters() for plain in plain_tensors(weight)]
    assert {plain.device.type for plain in plains} == {CARD}
    stored = sum(weight_bytes(module) for module in modules)
    assert arrivals.bytes == stored == found.total_bytes
    whole = sum(weight.numel() for module in modules for weight in module.parameters()) * 2
    assert (stored < whole) == (precision != "fp16")


@pytest.mark.parametrize("precision", ["fp16", "fp32"])
def test_an_exact_model_for_a_card_stays_in_its_files_until_it_is_placed(
    precision: str, checkpoint: Path, tmp_path: Path
) -> None:
    plan = Plan.of(FAMILY, CARD, precision)
    pipeline, found = load_pipeline(preset_named("i2vgen-xl"), tmp_path, plan)
    assert str(pipeline.dtype).endswith({"fp16": "float16", "fp32": "float32"}[precision])
    assert all(is_mapped(weight) for module in pipeline.modules().values() for weight in module.parameters())
    assert found.quantised_share == 1
    numbers = sum(w.numel() for module in pipeline.modules().values() for w in module.parameters())
    assert found.total_bytes >= numbers * (2 if precision == "fp16" else 4)


def test_on_the_cpu_nothing_is_mapped(checkpoint: Path, tmp_path: Path) -> None:
    pipeline, _ = load_pipeline(preset_named("i2vgen-xl"), tmp_path, Plan.of(FAMILY, "cpu", "fp32"))
    assert not any(is_mapped(weight) for module in pipeline.modules().values() for weight in module.parameters())
    assert torch.equal(pipeline.unet.conv_in.bias, pipeline.unet.conv_in.bias.float())
