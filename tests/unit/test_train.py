"""Training the built-in model: a few steps of it, interrupted and gone on with."""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors import safe_open

from i2v.builtin import train
from i2v.models.motion import Pipeline
from i2v.presets.model_preset import preset_named


def arguments(folder: Path, **changes: Any) -> argparse.Namespace:
    values = {
        "work": folder / "work",
        "out": folder / "model",
        "text_steps": 3,
        "text_batch": 4,
        "text_rate": 2e-3,
        "steps": 2,
        "batch": 2,
        "rate": 1e-3,
        "device": "cpu",
        "export_only": False,
    }
    (folder / "work").mkdir(exist_ok=True)
    return argparse.Namespace(**(values | changes))


def steps_done(folder: Path, name: str) -> int:
    with safe_open(folder / "work" / f"{name}.safetensors", "pt") as file:
        return int(file.metadata()["step"])


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("train")
    train.train(arguments(folder))
    return folder


@pytest.fixture(scope="module", autouse=True)
def _few_sentences() -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(train, "CORPUS_SENTENCES", 1000)
        yield


def test_a_trained_folder_is_a_model_that_loads(trained: Path) -> None:
    pipeline = Pipeline.load(trained / "model", preset_named("motion"), torch.device("cpu"), torch.float32)
    assert pipeline.renderer.config.num_keyframes == 8
    largest = max(path.stat().st_size for path in (trained / "model").rglob("*") if path.is_file())
    assert largest < 16 << 20


def test_curves_are_drawn_and_steps_counted(trained: Path) -> None:
    assert (steps_done(trained, "text"), steps_done(trained, "field")) == (3, 2)
    assert (trained / "work" / "loss.png").stat().st_size > 1000


def test_an_interrupted_training_goes_on_where_it_stopped(trained: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    calls = []
    whole = train.Stage.advance

    def counted(stage: train.Stage, batch: dict[str, torch.Tensor]) -> float:
        calls.append((stage.plan.name, stage.step))
        return whole(stage, batch)

    monkeypatch.setattr(train.Stage, "advance", counted)
    train.train(arguments(trained, steps=4))
    assert calls == [("field", 2), ("field", 3)]


def test_going_on_is_the_same_as_never_having_stopped(tmp_path: Path) -> None:
    """The optimizer's state, the averages and the step come back; fed the same batches, the weights are the same."""

    def loss(net: torch.nn.ModuleDict, batch: dict[str, torch.Tensor], _: torch.Generator) -> torch.Tensor:
        return ((net["layer"](batch["x"]) - 1) ** 2).mean()

    def stage(folder: Path) -> train.Stage:
        torch.manual_seed(1)
        folder.mkdir(exist_ok=True)
        plan = train.Plan("toy", 6, 1e-2, loss)
        return train.Stage(plan, folder, {"layer": torch.nn.Linear(3, 2)}, torch.device("cpu"))

    batches = [{"x": torch.randn(4, 3, generator=torch.Generator().manual_seed(i))} for i in range(6)]
    through = stage(tmp_path / "a")
    for batch in batches:
        through.advance(batch)
    first = stage(tmp_path / "b")
    for batch in batches[:3]:
        first.advance(batch)
    first.save()
    second = stage(tmp_path / "b")
    second.resume()
    for batch in batches[3:]:
        second.advance(batch)
    assert torch.equal(through.net["layer"].weight, second.net["layer"].weight)
    assert torch.equal(through.average["layer.weight"], second.average["layer.weight"])
