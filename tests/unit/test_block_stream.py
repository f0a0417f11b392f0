"""Blocks streamed by hooks: equal to the bit, little on the device, failures and changes between two calls harmless."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from diffusers import WanTransformer3DModel
from torch import Tensor, nn
from transformers import T5Config, T5EncoderModel, UMT5Config, UMT5EncoderModel

from i2v.memory.weights.block_stream import BlockStream
from i2v.memory.weights.leaf_stream import LeafStream
from i2v.memory.weights.parked import ParkedWeights, weight_bytes
from tests import small_checkpoint
from tests.unit.test_weights import IDS, OneDevice, bytes_brought, contents, encode_text, made, stored_as


def wan() -> WanTransformer3DModel:
    return WanTransformer3DModel(
        patch_size=(1, 2, 2),
        num_attention_heads=2,
        attention_head_dim=12,
        in_channels=4,
        out_channels=4,
        text_dim=16,
        freq_dim=32,
        ffn_dim=32,
        num_layers=4,
        rope_max_seq_len=32,
    )


def run_wan(model: Any, device: str) -> Tensor:
    generator = torch.Generator().manual_seed(2)
    video = torch.randn(1, 4, 2, 4, 6, generator=generator).to(device)
    words = torch.randn(1, 5, 16, generator=generator).to(device)
    dtype = model.patch_embedding.weight.dtype
    result: Tensor = model(video.to(dtype), torch.tensor([500], device=device), words.to(dtype), return_dict=False)[0]
    return result


def umt5() -> UMT5EncoderModel:
    return UMT5EncoderModel(UMT5Config(vocab_size=50, d_model=16, d_kv=8, d_ff=32, num_layers=3, num_heads=2))


def t5() -> T5EncoderModel:
    return T5EncoderModel(T5Config(vocab_size=50, d_model=16, d_kv=8, d_ff=32, num_layers=3, num_heads=2))


def run_t5(model: Any, device: str) -> Tensor:
    result: Tensor = model(IDS[:, :9].to(device)).last_hidden_state
    return result


MODELS: dict[str, tuple[Callable[[], nn.Module], Callable[[Any], Any], Callable[[Any, str], Tensor]]] = {
    "wan": (wan, lambda model: model.blocks, run_wan),
    "umt5": (umt5, lambda model: model.encoder.block, run_t5),
    "t5": (t5, lambda model: model.encoder.block, run_t5),
    "clip": (small_checkpoint._text_encoder, lambda model: model.encoder.layers, encode_text),
}


def stacked() -> Any:
    """Four equal blocks between a head and a tail, with a weight of the whole's own."""

    class Stacked(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.head, self.tail = nn.Linear(8, 8, bias=False), nn.Linear(8, 8, bias=False)
            self.blocks = nn.ModuleList(nn.Linear(8, 8, bias=False) for _ in range(4))
            self.scale = nn.Parameter(torch.ones(8))

        def forward(self, states: Tensor) -> Tensor:
            states = self.head(states) * self.scale
            for block in self.blocks:
                states = block(states).tanh()
            return self.tail(states)

    return made(Stacked)


def where(model: Any) -> str:
    return "".join("m" if block.weight.device.type == "meta" else "c" for block in model.blocks)


def hooks_of(model: nn.Module) -> list[list[Any]]:
    return [
        [list(of) for of in (part._forward_hooks, part._forward_pre_hooks, part._forward_hooks_always_called)]
        for part in model.modules()
    ]


ON_META = torch.zeros(1, 8, device="meta")


# The same numbers


@pytest.mark.parametrize("prefetch", [False, True])
@pytest.mark.parametrize("kind", ["plain", "bf16", "int8"])
@pytest.mark.parametrize("name", MODELS)
def test_streamed_and_kept_blocks_say_the_same_and_leave_no_trace(name: str, kind: str, prefetch: bool) -> None:
    build, blocks_of, run = MODELS[name]
    model = stored_as(kind, made(build))
    with torch.inference_mode():
        resident = run(model, "cpu")
        before, hooks = contents(model), hooks_of(model)
        stream = BlockStream(model, blocks_of(model), "cpu", prefetch=prefetch)
        with bytes_brought(model) as most:
            for keep in (0, 1, len(blocks_of(model)), 2, 0):
                stream.set_keep(keep)
                most[0] = 0
                assert torch.equal(run(model, "cpu"), resident)
                assert 0 < most[0] <= stream.largest_bytes
        assert stream.largest_bytes < weight_bytes(model)
        stream.remove()
    assert contents(model) == before
    assert hooks_of(model) == hooks


@pytest.mark.parametrize("rest_stays", [False, True])
@pytest.mark.parametrize("name", MODELS)
def test_every_weight_that_is_read_is_brought(name: str, rest_stays: bool) -> None:
    build, blocks_of, run = MODELS[name]
    model = made(build)
    stream = BlockStream(model, blocks_of(model), "meta", keep=1, rest_stays=rest_stays)
    with OneDevice():
        assert run(model, "meta").device.type == "meta"
        assert run(model, "meta").device.type == "meta"
    stream.remove()
    assert run(model, "cpu").isfinite().all()


def test_a_rest_that_stays_is_brought_once(monkeypatch: pytest.MonkeyPatch) -> None:
    model = stacked()
    stream = BlockStream(model, model.blocks, "meta", rest_stays=True)
    model(ON_META)
    head = model.head.weight
    model(ON_META)
    assert model.head.weight is head
    assert stream.largest_bytes == 2 * 256 + 32 + 2 * 256
    stream.release()
    assert {weight.device.type for weight in model.parameters()} == {"cpu"}


# Which blocks are where


def test_while_a_block_runs_the_next_is_fetched_and_the_first_follows_the_last() -> None:
    model, seen = stacked(), []
    stream = BlockStream(model, model.blocks, "meta")
    for block in model.blocks:
        block.register_forward_hook(lambda *_: seen.append(where(model)))
    model(ON_META)
    # these hooks come after the stream's own, so the block that ran is back already
    assert seen == ["cmcc", "ccmc", "cccm", "mccc"]
    stream.release()
    assert where(model) == "cccc"


@pytest.mark.parametrize(
    ("keep", "during"),
    [
        (0, ["mmcc", "cmmc", "ccmm", "mccm"]),
        (2, ["mmcc", "mmmc", "mmmm", "mmmm"]),
        (4, ["mmcc", "mmmc", "mmmm", "mmmm"]),
    ],
)
def test_kept_blocks_stay_once_they_are_there(keep: int, during: list[str]) -> None:
    model, seen = stacked(), []
    stream = BlockStream(model, model.blocks, "meta", keep=keep)
    for block in model.blocks:
        block.register_forward_pre_hook(lambda *_: seen.append(where(model)))
    model(ON_META)
    assert seen == during
    stays = ["m" if at < keep else "c" for at in range(4)]
    if keep < 4:
        stays[keep] = "m"  # fetched ahead for the next call
    assert where(model) == "".join(stays)
    first = model.blocks[0].weight
    model(ON_META)
    assert (model.blocks[0].weight is first) == (keep > 0)
    stream.release()
    assert where(model) == "cccc"


def test_each_block_is_fetched_once_a_call_and_kept_ones_once_in_all(monkeypatch: pytest.MonkeyPatch) -> None:
    model, fetched = stacked(), []
    stream = BlockStream(model, model.blocks, "meta", keep=2)
    names = {id(stream._layers._parked[block]): at for at, block in enumerate(model.blocks)}
    bring = ParkedWeights.bring

    def noted(self: ParkedWeights, side: Any = None) -> None:
        if not self.is_here and id(self) in names:
            fetched.append(names[id(self)])
        bring(self, side)

    monkeypatch.setattr(ParkedWeights, "bring", noted)
    model(ON_META)
    assert fetched == [0, 1, 2, 3, 2]
    model(ON_META)
    assert fetched == [0, 1, 2, 3, 2, 3, 2]


def test_what_is_kept_can_change_between_any_two_calls() -> None:
    model = stacked()
    stream = BlockStream(model, model.blocks, "meta", keep=3, prefetch=False)
    sizes = []
    for keep, there in [(3, "mmmc"), (1, "mccc"), (4, "mmmm"), (0, "cccc")]:
        stream.set_keep(keep)
        model(ON_META)
        assert where(model) == there
        sizes.append(stream.largest_bytes)
    assert sizes == [32 + 4 * 256, 32 + 2 * 256, 32 + 5 * 256, 32 + 256]
    with pytest.raises(ValueError, match="-1 layers"):
        stream.set_keep(-1)


def test_a_block_can_be_held_without_its_forward() -> None:
    model = stacked()
    stream = BlockStream(model, model.blocks, "meta", prefetch=False)
    with stream.held(model.blocks[1]), stream.held(model.head):
        held = model.blocks[1].weight
        model.blocks[1](ON_META)
        assert model.blocks[1].weight is held
        assert where(model) == "cmcc"
        assert model.head.weight.device.type == "cpu"  # not a block
    assert where(model) == "cccc"


def test_what_is_no_block_is_refused() -> None:
    model = stacked()
    for blocks, sentence in [([nn.Linear(2, 2)], "is not inside"), ([model.blocks, model.blocks[1]], "another block")]:
        with pytest.raises(ValueError, match=sentence):
            BlockStream(model, blocks, "meta")


# Failures


@pytest.mark.parametrize("keep", [0, 2])
def test_a_block_that_fails_is_dropped_with_what_was_fetched_ahead(keep: int) -> None:
    model = stacked()
    stream = BlockStream(model, model.blocks, "meta", keep=keep)

    def fail(*_: Any) -> None:
        raise RuntimeError("cancelled")

    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(model.blocks[2], "forward", fail)
        with pytest.raises(RuntimeError, match="cancelled"):
            model(ON_META)
    assert where(model) == "m" * keep + "c" * (4 - keep)
    assert model.scale.device.type == "cpu"
    assert model(ON_META).device.type == "meta"
    stream.remove()
    assert {weight.device.type for weight in model.parameters()} == {"cpu"}


@pytest.mark.parametrize("at", range(4))
def test_a_block_that_does_not_fit_leaves_nothing_half_brought_and_fits_after_keeping_fewer(
    at: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = stacked()
    before = contents(model)
    given = torch.linspace(-1, 1, 8)[None]
    expected = model(given)
    stream = BlockStream(model, model.blocks, "cpu", keep=4)

    def full(*_: Any) -> None:
        raise torch.OutOfMemoryError("full")

    with monkeypatch.context() as patched:
        patched.setattr(stream._layers._parked[model.blocks[at]], "_copy", full)
        with pytest.raises(torch.OutOfMemoryError):
            model(given)
    stream.set_keep(0)
    assert contents(model) == before
    assert torch.equal(model(given), expected)


def test_an_interrupt_is_cleaned_up_by_release() -> None:
    model = stacked()
    stream = BlockStream(model, model.blocks, "meta")

    def interrupt(*_: Any) -> None:
        raise KeyboardInterrupt  # torch calls no hook after it

    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(model.blocks[1], "forward", interrupt)
        with pytest.raises(KeyboardInterrupt):
            model(ON_META)
    stream.release()
    assert {weight.device.type for weight in model.parameters()} == {"cpu"}
    model(ON_META)
    stream.release()
    assert {weight.device.type for weight in model.parameters()} == {"cpu"}


# Tables looked up on the CPU


class Untouched(torch.utils._python_dispatch.TorchDispatchMode):
    """Notes every operation that makes a tensor as large as a table."""

    def __init__(self, elements: int):
        super().__init__()
        self.elements, self.made = elements, []

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        if isinstance(result, Tensor) and result.numel() >= self.elements:
            self.made.append(func)
        return result


@pytest.mark.parametrize("name", ["umt5", "t5", "clip"])
def test_a_large_table_is_never_copied_and_its_rows_are_the_same(name: str) -> None:
    build, blocks_of, run = MODELS[name]
    model = made(build)
    tables = [part for part in model.modules() if isinstance(part, nn.Embedding)]
    large = max(tables, key=lambda table: table.weight.numel())
    resident, before, table_bytes = run(model, "cpu"), contents(model), large.weight.nbytes
    stream = BlockStream(model, blocks_of(model), "cpu", table_bytes=table_bytes)
    places = [part for part in tables if part.weight is large.weight]
    masters = {id(part.weight) for part in places}
    seen: set[int] = set()
    for part in places:
        part.register_forward_hook(lambda part, *_: seen.add(id(part.weight)))
    with torch.inference_mode():
        assert torch.equal(run(model, "cpu"), resident)
    assert seen == masters, "the table itself was replaced by a copy"
    assert stream.largest_bytes < weight_bytes(model) - table_bytes
    stream.remove()
    assert contents(model) == before


def test_ids_on_the_device_are_looked_up_on_the_cpu_and_the_rows_come_back(monkeypatch: pytest.MonkeyPatch) -> None:
    model = nn.Sequential(made(lambda: nn.Embedding(50, 8)), made(lambda: nn.Linear(8, 4)))
    asked: list[tuple[str, str]] = []
    to = Tensor.to

    def noted(self: Tensor, *args: Any, **kwargs: Any) -> Tensor:
        asked.append((str(args[0]), str(self.dtype)))
        return to(self, *args, **kwargs)

    expected = model(IDS)
    LeafStream(model, "cpu:0", pin=False, table_bytes=1)
    monkeypatch.setattr(Tensor, "to", noted)
    assert torch.equal(model(IDS), expected)
    assert torch.equal(model[0](input=IDS), model[0](IDS))
    assert asked[:2] == [("cpu", "torch.int64"), ("cpu:0", "torch.float32")]


def test_a_table_shared_with_a_head_is_held_once_in_pinned_memory_too() -> None:
    from i2v.memory.weights.masters import MainMemory

    class Tied(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.table, self.head = nn.Embedding(50, 8), nn.Linear(8, 50, bias=False)
            self.head.weight = self.table.weight

        def forward(self, ids: Tensor) -> Tensor:
            return self.head(self.table(ids))

    model = made(Tied)
    expected, table = model(IDS), model.table.weight
    asked: list[int] = []

    def allocate(size: int) -> Tensor:
        asked.append(size)
        return torch.empty(size, dtype=torch.uint8)

    stream = LeafStream(model, "cpu", pin=MainMemory(True, allocate), table_bytes=1)
    assert model.table.weight is model.head.weight is table
    assert not asked
    assert torch.equal(model(IDS), expected)
    assert stream.largest_bytes == table.nbytes  # for the head, should anybody call it
