"""Weights where the plan wants them: moved only where something changed, one component's turn at a time, never half."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from i2v.memory import masters_choice
from i2v.memory.residency import Home, Residency
from i2v.memory.weights import placement as placement_module
from i2v.memory.weights.mapped import is_mapped
from i2v.memory.weights.parked import ParkedWeights, weight_bytes
from i2v.memory.weights.placement import Placement, Streamable
from i2v.models.loading import load_weights
from tests.unit.test_block_stream import ON_META, stacked, where
from tests.unit.test_mapped_weights import CPU, saved
from tests.unit.test_weights import contents, made

META = torch.device("meta")
RESIDENT, TURNS, STREAMED = (Residency(home) for home in Home)


def three(device: torch.device = META) -> tuple[Placement, Any, Any, Any]:
    """An encoder without blocks and two experts with."""
    encoder, first, second = made(lambda: nn.Sequential(nn.Linear(8, 8), nn.Linear(8, 8))), stacked(), stacked()
    components = {
        "encoder": Streamable(encoder),
        "first": Streamable(first, first.blocks),
        "second": Streamable(second, second.blocks),
    }
    return Placement(components, device), encoder, first, second


def devices(module: nn.Module) -> set[str]:
    return {weight.device.type for weight in module.parameters()}


def test_components_live_where_each_is_wanted() -> None:
    placement, encoder, first, second = three()
    placement.arrange({"encoder": RESIDENT, "first": TURNS, "second": STREAMED})
    assert [devices(module) for module in (encoder, first, second)] == [{"meta"}, {"cpu"}, {"cpu"}]
    assert placement.stream("first") is placement.stream("encoder") is None
    with placement.in_use("first"):
        assert devices(first) == {"meta"}
    assert devices(first) == {"cpu"}
    with placement.in_use("second"):
        assert second(ON_META).device.type == "meta"
        assert where(second) == "mccc"
    assert where(second) == "cccc"


def test_a_streamed_component_without_blocks_comes_leaf_by_leaf() -> None:
    placement, encoder, *_ = three()
    placement.arrange({"encoder": STREAMED})
    seen: list[set[str]] = []
    encoder[1].register_forward_pre_hook(lambda *_: seen.append(devices(encoder[0]) | {"then"} | devices(encoder[1])))
    assert encoder(ON_META).device.type == "meta"
    assert seen == [{"cpu", "then", "meta"}]


def test_only_what_changed_is_moved() -> None:
    placement, encoder, first, second = three()
    placement.arrange({"encoder": RESIDENT, "first": TURNS, "second": STREAMED})
    before = [id(weight) for module in (encoder, first) for weight in module.parameters()]
    hooks, stream = len(second.blocks[0]._forward_hooks), placement.stream("second")
    placement.arrange({"encoder": RESIDENT, "first": TURNS, "second": Residency(Home.STREAMED, 2)})
    assert [id(weight) for module in (encoder, first) for weight in module.parameters()] == before
    assert placement.stream("second") is stream
    assert len(second.blocks[0]._forward_hooks) == hooks
    second(ON_META)
    assert where(second) == "mmmc"


def test_how_many_blocks_stay_changes_in_the_middle_of_its_use() -> None:
    placement, _, first, _ = three()
    with placement.in_use("first"):
        for keep, there in [(3, "mmmc"), (1, "mmcc"), (4, "mmmm"), (0, "mccc")]:
            placement.arrange({"first": Residency(Home.STREAMED, keep)})
            first(ON_META)
            assert where(first) == there
    assert where(first) == "cccc"


def test_every_way_follows_every_other_in_the_middle_of_use_and_says_the_same() -> None:
    placement, _, first, _ = three(CPU)
    given = torch.linspace(-1, 1, 8)[None]
    expected = first(given)
    ways = [RESIDENT, TURNS, STREAMED, Residency(Home.STREAMED, 2)]
    with placement.in_use("first"):
        for before in ways:
            for after in ways:
                placement.arrange({"first": before})
                assert torch.equal(first(given), expected)
                placement.arrange({"first": after})
                assert torch.equal(first(given), expected)


# Turns


@pytest.mark.parametrize("way", [TURNS, Residency(Home.STREAMED, 4)])
def test_an_expert_that_comes_sends_the_other_away(way: Residency) -> None:
    placement, _, first, second = three()
    placement.arrange({"first": way, "second": way})
    placement.bring("first")
    placement.bring("first")
    first(ON_META)
    there = first.blocks[0].weight
    placement.bring("second")
    second(ON_META)
    assert devices(first) == {"cpu"}
    assert where(second) == "mmmm"
    placement.drop("second")
    placement.drop("first")
    assert devices(second) == {"cpu"}
    assert there.device.type == "meta"


def test_use_nests_and_the_outer_comes_back_after_the_inner() -> None:
    placement, _, first, second = three()
    placement.arrange({"first": TURNS, "second": TURNS})
    with placement.in_use("first"):
        with placement.in_use("first"):
            there = first.scale
        assert first.scale is there
        with placement.in_use("second"):
            assert (devices(first), devices(second)) == ({"cpu"}, {"meta"})
        assert (devices(first), devices(second)) == ({"meta"}, {"cpu"})
    assert (devices(first), devices(second)) == ({"cpu"}, {"cpu"})


def test_an_exception_in_use_leaves_nothing_on_the_device() -> None:
    placement, _, first, second = three()
    placement.arrange({"first": TURNS, "second": STREAMED})
    with pytest.raises(KeyboardInterrupt), placement.in_use("first"), placement.in_use("second"):
        raise KeyboardInterrupt
    assert (devices(first), devices(second)) == ({"cpu"}, {"cpu"})
    with placement.in_use("first"):
        assert devices(first) == {"meta"}


# Memory that runs out


class SmallCard:
    """Lets a device have so many bytes of weights in all: whoever brings more runs out of memory."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, room_bytes: int):
        self.room_bytes = room_bytes
        make = torch.empty_like

        def empty_like(plain: Tensor, *args: Any, **kwargs: Any) -> Tensor:
            self.take(plain.numel() * plain.element_size())
            return make(plain, *args, **kwargs)

        to = Tensor.to

        def moved(plain: Tensor, *args: Any, **kwargs: Any) -> Tensor:
            if args and args[0] == META:
                self.take(plain.numel() * plain.element_size())
            return to(plain, *args, **kwargs)

        monkeypatch.setattr(torch, "empty_like", empty_like)
        monkeypatch.setattr(Tensor, "to", moved)

    def take(self, size: int) -> None:
        if size > self.room_bytes:
            raise torch.OutOfMemoryError("full")
        self.room_bytes -= size


@pytest.mark.parametrize("way", [RESIDENT, TURNS])
def test_a_component_that_does_not_fit_stays_in_main_memory_as_a_whole(
    way: Residency, monkeypatch: pytest.MonkeyPatch
) -> None:
    placement, _, first, _ = three()
    before = contents(first)
    with monkeypatch.context() as patched:
        SmallCard(patched, weight_bytes(first) - 1)
        if way is TURNS:
            placement.arrange({"first": way})
        with pytest.raises(torch.OutOfMemoryError):
            placement.bring("first") if way is TURNS else placement.arrange({"first": way})
    assert devices(first) == {"cpu"}
    assert contents(first) == before
    placement.arrange({"first": STREAMED})
    placement.bring("first")
    assert first(ON_META).device.type == "meta"
    placement.drop("first")
    assert contents(first) == before


def test_what_did_not_fit_fits_when_arranged_with_less(monkeypatch: pytest.MonkeyPatch) -> None:
    placement, encoder, first, second = three()
    card = SmallCard(monkeypatch, weight_bytes(encoder) + weight_bytes(first) - 1)
    with pytest.raises(torch.OutOfMemoryError):
        placement.arrange({"encoder": RESIDENT, "first": RESIDENT, "second": STREAMED})
    assert (devices(encoder), devices(first)) == ({"meta"}, {"cpu"})
    card.room_bytes = 1 << 20
    placement.arrange({"encoder": RESIDENT, "first": RESIDENT, "second": STREAMED})
    assert (devices(encoder), devices(first)) == ({"meta"}, {"meta"})
    assert second(ON_META).device.type == "meta"


# Masters


def test_a_component_in_files_comes_from_them_and_goes_back_to_them(tmp_path: Path) -> None:
    from diffusers import WanTransformer3DModel

    folder = saved(tmp_path, WanTransformer3DModel)
    module: Any = load_weights(folder, "part", WanTransformer3DModel, CPU, torch.bfloat16, keep_mapped=True)
    before = dict(module.named_parameters())
    placement = Placement({"transformer": Streamable(module, module.blocks)}, META)
    for way in (RESIDENT, STREAMED, RESIDENT, TURNS):
        placement.arrange({"transformer": way})
        if way is RESIDENT:
            assert devices(module) == {"meta"}
            assert module.blocks[0].attn1.to_q.weight.dtype == torch.bfloat16
        assert all(is_mapped(weight) for weight in before.values())
    assert all(weight is before[name] for name, weight in module.blocks.named_parameters(prefix="blocks"))


def test_masters_are_pinned_where_they_fit_and_given_back_when_a_component_is_resident(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO")
    pinned: list[int] = []

    def always_pinned(needed: int, free: int, **_: Any) -> Any:
        return masters_choice.MastersChoice(masters_choice.MasterMemory.PINNED, f"{needed} of {free}")

    class Slabs(placement_module.MainMemory):
        def __init__(self, pin: bool):
            super().__init__(pin, lambda size: pinned.append(size) or torch.empty(size, dtype=torch.uint8))  # type: ignore[func-returns-value]

    monkeypatch.setattr(placement_module, "choose_masters", always_pinned)
    monkeypatch.setattr(placement_module, "MainMemory", Slabs)
    placement, _, first, _ = three()
    placement.arrange({"first": STREAMED, "second": RESIDENT})
    assert len(pinned) == 5  # one slab a block, one for what is outside them
    assert sum(pinned) < 2 * weight_bytes(first) + 5 * 512
    assert "weights of first are pinned" in caplog.text
    slabs = placement._pinned["first"]
    placement.arrange({"first": TURNS})
    assert placement._pinned["first"] is slabs
    assert len(pinned) == 5  # they stay where they are
    placement.arrange({"first": RESIDENT})
    assert not placement._pinned
    assert devices(first) == {"meta"}


def test_pinning_starts_where_the_whole_placement_says(monkeypatch: pytest.MonkeyPatch) -> None:
    parked: list[bool] = []
    begin = ParkedWeights.__init__

    def noted(self: ParkedWeights, *args: Any, **kwargs: Any) -> None:
        begin(self, *args, **kwargs)
        parked.append(self.is_pinned)

    monkeypatch.setattr(ParkedWeights, "__init__", noted)
    placement, *_ = three()
    placement.arrange({"encoder": TURNS, "first": STREAMED, "second": TURNS})
    assert parked
    assert not any(parked)  # there is no card
