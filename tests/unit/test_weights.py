"""Weights in main memory: same results, masters untouched, little on the device at a time, nothing left behind."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from itertools import chain, pairwise
from typing import Any

import pytest
import torch
from diffusers import I2VGenXLUNet
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from i2v.memory.exact.unet import ExactForward, layers_in_order
from i2v.memory.forecast.count import LiveStorage
from i2v.memory.weights.layer_stream import LayerStream
from i2v.memory.weights.leaf_stream import stream_leaves
from i2v.memory.weights.masters import MainMemory, plain_tensors
from i2v.memory.weights.parked import ParkedWeights, weight_bytes
from i2v.memory.weights.precision import quantise
from i2v.models.text import encode_prompts
from tests import small_checkpoint

IDS = torch.arange(77).unsqueeze(0) % 40
PICTURE = torch.linspace(-1, 1, 3 * 32 * 32).view(1, 3, 32, 32)


def made(build: Callable[[], nn.Module]) -> Any:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        module = build()
        small_checkpoint._fill_zeros(module)
    return module.eval().requires_grad_(False)


def unet_inputs(device: str = "cpu") -> dict[str, Any]:
    generator = torch.Generator().manual_seed(1)

    def noise(*size: int) -> Tensor:
        return torch.randn(size, generator=generator).to(device)

    return {
        "sample": noise(1, 4, 3, 8, 6),
        "timestep": torch.tensor(500, device=device),
        "fps": torch.tensor([8], device=device),
        "image_latents": noise(1, 4, 3, 8, 6),
        "image_embeddings": noise(1, 1, 8),
        "encoder_hidden_states": noise(1, 5, 8),
    }


def encode_text(encoder: Any, device: str) -> Tensor:
    return encode_prompts(encoder, IDS, device)


def encode_picture(encoder: Any, device: str) -> Tensor:
    return encoder(PICTURE.to(device)).image_embeds


def through_vae(vae: Any, device: str) -> Tensor:
    dtype = vae.encoder.conv_norm_out.weight.dtype  # a norm's, as fp8 leaves norms alone
    return vae.decode(vae.encode(PICTURE.to(device, dtype)).latent_dist.mode()).sample


ENCODERS = {
    "text": (small_checkpoint._text_encoder, encode_text),
    "picture": (small_checkpoint._image_encoder, encode_picture),
    "autoencoder": (small_checkpoint._vae, through_vae),
}


def stored_as(kind: str, module: Any) -> Any:
    if kind == "bf16":
        return module.to(torch.bfloat16)
    if kind == "int8":
        pytest.importorskip("torchao")
        quantise(module, "int8", torch.float32)
    if kind == "fp8":
        from diffusers.hooks import apply_layerwise_casting

        apply_layerwise_casting(module, torch.float8_e4m3fn, torch.float32)
    return module


def contents(module: nn.Module) -> dict[str, list[tuple[int, bytes]]]:
    """Where every tensor lies, and what it says."""
    return {
        name: [
            (plain.data_ptr(), plain.contiguous().flatten().view(torch.uint8).numpy().tobytes())
            for plain in plain_tensors(weight)
        ]
        for name, weight in chain(module.named_parameters(), module.named_buffers())
    }


class OneDevice(TorchDispatchMode):
    """Raises for an operation that reads tensors of two devices, other than a copy from one to the other."""

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        given = [leaf for leaf in tree_leaves((args, kwargs or {})) if isinstance(leaf, Tensor) and leaf.ndim]
        if len({leaf.device for leaf in given}) > 1 and "copy" not in func.__name__:
            raise AssertionError(f"{func} reads tensors of several devices")
        return func(*args, **(kwargs or {}))


@contextmanager
def bytes_brought(module: nn.Module) -> Iterator[list[int]]:
    """Count the most bytes of weights that are not the masters, each time a submodule begins."""
    tables = [table for part in module.modules() for table in (part._parameters, part._buffers) if table]
    masters = {id(weight) for table in tables for weight in table.values()}
    most = [0]

    def look(*_: Any) -> None:
        brought = [weight for table in tables for weight in table.values() if id(weight) not in masters]
        plains = [plain for weight in brought for plain in plain_tensors(weight)]
        most[0] = max(most[0], sum(plain.numel() * plain.element_size() for plain in plains))

    hooks = [part.register_forward_pre_hook(look) for part in module.modules()]
    try:
        yield most
    finally:
        for hook in hooks:
            hook.remove()


# One module's weights


def test_brought_weights_are_copies_and_dropping_puts_the_masters_back() -> None:
    layer = made(lambda: nn.Sequential(nn.Linear(4, 4), nn.BatchNorm1d(4)))
    masters = dict(chain(layer.named_parameters(), layer.named_buffers()))
    parked = ParkedWeights(layer, "cpu")
    parked.bring()
    brought = dict(chain(layer.named_parameters(), layer.named_buffers()))
    parked.bring()
    assert all(brought[name] is now for name, now in chain(layer.named_parameters(), layer.named_buffers()))
    for name, master in masters.items():
        assert brought[name] is not master
        assert brought[name].data_ptr() != master.data_ptr()
        assert torch.equal(brought[name], master)
        assert isinstance(brought[name], nn.Parameter) == isinstance(master, nn.Parameter)
    parked.drop()
    parked.drop()
    assert all(masters[name] is now for name, now in chain(layer.named_parameters(), layer.named_buffers()))


def test_own_only_leaves_children_alone() -> None:
    layer = made(lambda: nn.Sequential(nn.Linear(4, 4)))
    layer.register_buffer("own", torch.ones(3))
    parked = ParkedWeights(layer, "meta", own_only=True)
    parked.bring()
    assert layer.own.device.type == "meta"
    assert layer[0].weight.device.type == "cpu"
    assert parked.nbytes == 12


def test_tied_weights_stay_tied_and_count_once() -> None:
    layer = made(lambda: nn.Sequential(nn.Linear(4, 4, bias=False), nn.Linear(4, 4, bias=False)))
    layer[1].weight = layer[0].weight
    parked, counter = ParkedWeights(layer, "cpu"), LiveStorage()
    counter.adopt(layer[0].weight)
    with counter:
        parked.bring()
    assert counter.peak_bytes == 64
    assert layer[0].weight is layer[1].weight
    assert parked.nbytes == weight_bytes(layer) == 64


def test_failing_to_bring_leaves_the_masters_in_place_and_nothing_held_by_the_error(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    layer = made(lambda: nn.Linear(4, 4))
    before = contents(layer)
    parked, counter = ParkedWeights(layer, "cpu"), LiveStorage()
    counter.adopt(layer.weight, layer.bias)

    def full(*_: Any) -> None:
        raise torch.OutOfMemoryError("full")

    with monkeypatch.context() as patched, counter:
        patched.setattr(parked, "_copy", full)
        with pytest.raises(torch.OutOfMemoryError) as raised:
            parked.bring()
        assert counter.peak_bytes == 80
        assert counter.live_bytes == 0, raised
    assert contents(layer) == before
    parked.bring()
    assert contents(layer) != before


class FakeStream:
    def __init__(self, name: str, log: list[str]):
        self.name, self.log = name, log

    def wait_stream(self, other: FakeStream) -> None:
        self.log.append(f"{self.name} waits for {other.name}")

    def record_event(self) -> str:
        self.log.append(f"event on {self.name}")
        return "event"

    def wait_event(self, event: str) -> None:
        self.log.append(f"{self.name} waits for {event}")


@pytest.fixture
def streams(monkeypatch: pytest.MonkeyPatch) -> tuple[FakeStream, list[str]]:
    """A side stream that only writes down what is asked of it, and the log."""
    log: list[str] = []
    monkeypatch.setattr(torch.cuda, "current_stream", lambda device: FakeStream("main", log))
    monkeypatch.setattr(torch.cuda, "stream", lambda stream: nullcontext(log.append(f"copies on {stream.name}")))
    return FakeStream("side", log), log


def test_side_stream_waits_before_it_writes_and_main_stream_before_it_reads(
    streams: tuple[FakeStream, list[str]],
) -> None:
    side, log = streams
    parked = ParkedWeights(made(lambda: nn.Linear(4, 4)), "cpu")
    parked.bring(side)  # type: ignore[arg-type]
    assert log == ["side waits for main", "copies on side", "event on side"]
    parked.arrive()
    parked.arrive()
    parked.drop()
    assert log[3:] == ["main waits for event"]


def test_weights_dropped_on_their_way_are_waited_for(streams: tuple[FakeStream, list[str]]) -> None:
    side, log = streams
    parked = ParkedWeights(made(lambda: nn.Linear(4, 4)), "cpu")
    parked.bring(side)  # type: ignore[arg-type]
    parked.drop()
    assert log[-1] == "main waits for event"


# Pinned memory


def test_pinned_masters_of_a_module_fill_one_slab_of_their_size() -> None:
    asked: list[int] = []

    def allocate(size: int) -> Tensor:
        asked.append(size)
        return torch.empty(size, dtype=torch.uint8)

    layer = stored_as("int8", made(lambda: nn.Sequential(nn.Linear(40, 30), nn.Conv2d(3, 5, 3), nn.BatchNorm2d(5))))
    said = [[what for _, what in plains] for plains in contents(layer).values()]
    memory = MainMemory(True, allocate)
    parked = ParkedWeights(layer, "cpu", pin=memory)
    assert [[what for _, what in plains] for plains in contents(layer).values()] == said
    held = sum(math.ceil(len(what) / 512) * 512 for plains in said for what in plains)
    assert asked == [held]
    assert parked.is_pinned
    addresses = sorted(address for plains in contents(layer).values() for address, what in plains if what)
    assert all(after - before >= 512 for before, after in pairwise(addresses))


def test_no_slab_is_rounded_up_to_a_power_of_two() -> None:
    asked: list[int] = []

    def allocate(size: int) -> Tensor:
        asked.append(size)
        return torch.empty(size, dtype=torch.uint8, device="meta")

    memory = MainMemory(True, allocate)
    weights = [torch.empty(size, device="meta") for size in (10, (100 << 20) // 4, 1000, (50 << 20) // 4)]
    memory.reserve(weights[:2])
    for weight in weights:
        memory.keep(weight)
    memory.reserve(weights)
    assert asked == [512 + (100 << 20), 4096, 50 << 20]


def test_a_tied_weight_is_pinned_once() -> None:
    memory = MainMemory(True, lambda size: torch.empty(size, dtype=torch.uint8))
    layer = made(lambda: nn.Sequential(nn.Linear(4, 4), nn.Linear(4, 4)))
    layer[1].weight = layer[0].weight
    parked = [ParkedWeights(part, "cpu", own_only=True, pin=memory) for part in layer]
    assert layer[0].weight is layer[1].weight
    assert len(parked) == 2


@pytest.mark.skipif(torch.cuda.is_available(), reason="memory can be pinned here")
def test_without_pinned_memory_weights_stay_where_they_are(caplog: pytest.LogCaptureFixture) -> None:
    layer = made(lambda: nn.Sequential(nn.Linear(4, 4), nn.Linear(4, 4)))
    before = contents(layer)
    parked = ParkedWeights(layer, "cpu", pin=MainMemory(True))
    assert contents(layer) == before
    assert not parked.is_pinned
    assert len([record for record in caplog.records if "unpinned" in record.message]) == 1


def test_pinning_is_ignored_where_there_is_no_card(caplog: pytest.LogCaptureFixture) -> None:
    parked = ParkedWeights(made(lambda: nn.Linear(4, 4)), "cpu", pin=True)
    assert not parked.is_pinned
    assert not caplog.records


# Leaves


@pytest.mark.parametrize("kind", ["plain", "bf16", "fp8", "int8"])
@pytest.mark.parametrize("name", ENCODERS)
def test_streamed_encoders_say_the_same_and_keep_their_masters(name: str, kind: str) -> None:
    build, run = ENCODERS[name]
    module = stored_as(kind, made(build))
    with torch.inference_mode():
        resident = run(module, "cpu")
        before = contents(module)
        stream = stream_leaves(module, "cpu", pin=False)
        with bytes_brought(module) as most:
            streamed = run(module, "cpu")
    assert torch.equal(streamed, resident)
    assert contents(module) == before
    assert 0 < most[0] <= stream.largest_bytes
    assert stream.largest_bytes < weight_bytes(module)


@pytest.mark.parametrize("name", ENCODERS)
def test_streamed_encoders_bring_every_weight_that_is_read(name: str) -> None:
    build, run = ENCODERS[name]
    module = made(build)
    stream = stream_leaves(module, "meta", pin=False)
    with OneDevice():
        assert run(module, "meta").device.type == "meta"
    stream.remove()
    with OneDevice(), pytest.raises(AssertionError, match="several devices"):
        run(module, "meta")
    assert run(module, "cpu").isfinite().all()


def test_live_storage_sees_one_leaf_at_a_time() -> None:
    layers = made(lambda: nn.Sequential(*(nn.Linear(64, 64) for _ in range(4))))
    given = torch.ones(1, 64)
    stream = stream_leaves(layers, "cpu", pin=False)
    counter = LiveStorage()
    counter.adopt(*layers.parameters(), given)
    with torch.inference_mode(), counter:
        layers(given)
    assert counter.live_bytes == 0
    assert stream.largest_bytes <= counter.peak_bytes <= stream.largest_bytes + 2 * given.nbytes


def test_an_exception_inside_an_encoder_leaves_only_masters() -> None:
    encoder = made(small_checkpoint._text_encoder)
    before = contents(encoder)
    stream = stream_leaves(encoder, "cpu", pin=False)

    def fail(*_: Any) -> None:
        raise RuntimeError("cancelled")

    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(encoder.encoder.layers[1].mlp.fc1, "forward", fail)
        with pytest.raises(RuntimeError, match="cancelled"):
            encode_text(encoder, "cpu")
    assert contents(encoder) == before
    stream.remove()
    assert contents(encoder) == before


def test_attention_that_reads_its_children_has_them_brought() -> None:
    attention = made(lambda: nn.MultiheadAttention(8, 2, batch_first=True))
    stream = stream_leaves(attention, "meta", pin=False)
    tokens = torch.zeros(1, 5, 8, device="meta")
    with OneDevice():
        attention(tokens, tokens, tokens)
    assert stream.largest_bytes == weight_bytes(attention)


# Layers in order


@pytest.fixture
def unet() -> I2VGenXLUNet:
    return made(small_checkpoint._unet)


@pytest.mark.parametrize("prefetch", [False, True])
@pytest.mark.parametrize("kind", ["plain", "bf16", "fp8", "int8"])
def test_streamed_denoiser_predicts_the_same_and_keeps_its_masters(
    unet: I2VGenXLUNet, kind: str, prefetch: bool
) -> None:
    unet = stored_as(kind, unet)
    forward, inputs = ExactForward(unet), unet_inputs()
    if kind == "bf16":
        inputs = {name: value.bfloat16() if value.is_floating_point() else value for name, value in inputs.items()}
    forward.chunk_frames = 2
    with torch.inference_mode():
        resident = unet(**inputs).sample
        before = contents(unet)
        forward.weights = stream = LayerStream(
            layers_in_order(unet), "cpu", pin=True, prefetch=prefetch, held_at_once=2
        )
        with bytes_brought(unet) as most:
            streamed = [unet(**inputs).sample for _ in range(2)]
    assert all(torch.equal(again, resident) for again in streamed)
    stream.release()
    assert contents(unet) == before
    assert 0 < most[0] <= stream.largest_bytes * (4 if kind == "fp8" else 1)
    assert stream.largest_bytes < weight_bytes(unet) / 2


def test_streamed_denoiser_brings_every_weight_that_is_read(unet: I2VGenXLUNet) -> None:
    forward = ExactForward(unet)
    forward.chunk_frames, forward.weights = 2, LayerStream(layers_in_order(unet), "meta", pin=False, prefetch=True)
    with OneDevice():
        assert unet(**unet_inputs("meta")).sample.device.type == "meta"


def test_denoiser_finds_every_layer_fetched_ahead(unet: I2VGenXLUNet, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[ParkedWeights] = []
    bring = ParkedWeights.bring

    def noted(self: ParkedWeights, stream: Any = None) -> None:
        if not self._is_here:
            asked.append(self)
        bring(self, stream)

    monkeypatch.setattr(ParkedWeights, "bring", noted)
    layers = layers_in_order(unet)
    forward = ExactForward(unet)
    forward.chunk_frames, forward.weights = 2, LayerStream(layers, "cpu", pin=False, prefetch=True)
    unet(**unet_inputs())
    unet(**unet_inputs())
    assert len(asked) == 2 * len(layers) + 1  # each once a call, the first again for a call that never comes


def three() -> list[nn.Module]:
    return [made(lambda: nn.Linear(8, 8, bias=False)) for _ in range(3)]


def where(layers: list[nn.Module]) -> str:
    return "".join("m" if layer.weight.device.type == "meta" else "c" for layer in layers)


def test_next_layer_comes_while_one_is_held_and_the_first_follows_the_last() -> None:
    layers = three()
    stream = LayerStream(layers, "meta", pin=False, prefetch=True)
    with stream.held(layers[0]):
        assert where(layers) == "mmc"
    assert where(layers) == "cmc"
    with stream.held(layers[1]):
        assert where(layers) == "cmm"
    with stream.held(layers[2]):
        assert where(layers) == "mcm"
    stream.release()
    assert where(layers) == "ccc"
    assert stream.largest_bytes == 2 * 256


def test_without_prefetching_only_the_held_layer_is_there() -> None:
    layers = three()
    stream = LayerStream(layers, "meta", pin=False, prefetch=False)
    with stream.held(layers[1]):
        assert where(layers) == "cmc"
    assert where(layers) == "ccc"
    assert stream.largest_bytes == 256


def test_a_layer_out_of_turn_sends_back_what_was_fetched_ahead() -> None:
    layers = three()
    stream = LayerStream(layers, "meta", pin=False, prefetch=True)
    with stream.held(layers[0]):
        pass
    with stream.held(layers[2]):
        assert where(layers) == "mcm"


def test_layers_held_within_one_another_are_each_dropped_once() -> None:
    layers = three()
    stream = LayerStream(layers, "meta", pin=False, prefetch=True, held_at_once=2)
    with stream.held(layers[0]):
        ahead = layers[1].weight
        with stream.held(layers[0]):
            assert layers[1].weight is ahead
        assert where(layers) == "mmc"
        with stream.held(layers[1]):
            assert where(layers) == "mmm"
        assert where(layers) == "mcm"
    assert where(layers) == "ccm"
    assert stream.largest_bytes == 3 * 256


def test_an_exception_leaves_nothing_on_the_device() -> None:
    layers = three()
    stream = LayerStream(layers, "meta", pin=False, prefetch=True)
    with pytest.raises(KeyboardInterrupt), stream.held(layers[0]), stream.held(layers[1]):
        raise KeyboardInterrupt
    assert where(layers) == "ccc"


def test_a_layer_that_cannot_be_fetched_ahead_takes_the_held_one_with_it(monkeypatch: pytest.MonkeyPatch) -> None:
    layers = three()
    stream = LayerStream(layers, "meta", pin=False, prefetch=True)

    def full(*_: Any) -> None:
        raise torch.OutOfMemoryError("full")

    monkeypatch.setattr(stream._parked[layers[1]], "_copy", full)
    with pytest.raises(torch.OutOfMemoryError), stream.held(layers[0]):
        pytest.fail("held without the weights it asked for")
    assert where(layers) == "ccc"


def test_a_module_that_is_not_streamed_is_left_alone() -> None:
    stranger = nn.Linear(2, 2)
    with LayerStream(three(), "meta", pin=False, prefetch=True).held(stranger):
        assert stranger.weight.device.type == "cpu"


def test_a_stream_of_one_layer_or_none_works() -> None:
    (layer, *_) = three()
    stream = LayerStream([layer], "meta", pin=False, prefetch=True)
    with stream.held(layer):
        assert where([layer]) == "m"
    assert where([layer]) == "c"
    assert stream.largest_bytes == 256
    assert LayerStream([], "meta", pin=False, prefetch=True).largest_bytes == 0


# Bytes


def test_weight_bytes_are_the_real_ones() -> None:
    pytest.importorskip("torchao")
    layer = made(lambda: nn.Sequential(nn.Linear(64, 32), nn.BatchNorm1d(32)))
    assert weight_bytes(layer) == 4 * (64 * 32 + 32 + 4 * 32) + 8
    quantise(layer, "int8", torch.float32)
    assert weight_bytes(layer) == 64 * 32 + 32 * (4 + 1) + 4 * (32 + 4 * 32) + 8


def test_parked_four_bit_weights_are_copied_with_what_they_mean() -> None:
    pytest.importorskip("bitsandbytes")
    layer = made(lambda: nn.Sequential(nn.Linear(64, 32)))
    quantise(layer, "nf4", torch.float32)
    before = contents(layer)
    expected = layer(torch.ones(1, 64))
    state = layer[0].weight.quant_state
    parked = ParkedWeights(layer, "cpu")
    parked.bring()
    assert layer[0].weight.quant_state is not state
    assert torch.equal(layer(torch.ones(1, 64)), expected)
    parked.drop()
    assert layer[0].weight.quant_state is state
    assert contents(layer) == before
    assert weight_bytes(layer) == 64 * 32 // 2 + 4 * (32 + 64 * 32 // 64 + 16)
