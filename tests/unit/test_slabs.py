"""Pinned memory: exactly what is asked for, given back when nothing uses it, and a ring that never overwrites."""

from __future__ import annotations

import gc
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from i2v.memory.masters_choice import MARGIN_BYTES, MasterMemory, choose_masters
from i2v.memory.weights import slabs
from i2v.memory.weights.layer_stream import LayerStream
from i2v.memory.weights.masters import MainMemory
from i2v.memory.weights.parked import ParkedWeights
from i2v.memory.weights.slabs import Ring, pinned_slab
from tests.unit.test_weights import made

GIB = 1 << 30


class FakeCuda:
    """Stands for torch.cuda: writes down what is asked of the driver, and refuses if told to."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, refuses: int = 0):
        self.calls: list[tuple[Any, ...]] = []
        self.refuses = refuses
        monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
        monkeypatch.setattr(torch.cuda, "cudart", lambda: self)
        monkeypatch.setattr(torch.cuda, "synchronize", lambda: self.calls.append(("synchronize",)))
        monkeypatch.setattr(slabs, "_forget_last_error", lambda: self.calls.append(("forgotten",)))

    def cudaHostRegister(self, address: int, size: int, flags: int) -> int:
        self.calls.append(("pinned", address, size, flags))
        return self.refuses

    def cudaHostUnregister(self, address: int) -> int:
        self.calls.append(("unpinned", address))
        return 0


def unpinned(size: int) -> Tensor:
    return torch.empty(size, dtype=torch.uint8)


# Slabs


def test_a_slab_is_pinned_as_large_as_it_is_and_given_back_with_its_last_view(monkeypatch: pytest.MonkeyPatch) -> None:
    cuda = FakeCuda(monkeypatch)
    slab = pinned_slab(3 * 4096 + 512)
    address = slab.data_ptr()
    assert slab.numel() == 3 * 4096 + 512
    assert address % 4096 == 0
    assert cuda.calls == [("pinned", address, 3 * 4096 + 512, 1)]
    view = slab[4096:].view(torch.float32)
    del slab
    gc.collect()
    assert len(cuda.calls) == 1
    view.fill_(1.0)
    del view
    gc.collect()
    assert cuda.calls[1:] == [("synchronize",), ("unpinned", address)]


def test_a_refused_slab_is_an_error_that_leaves_nothing_behind(monkeypatch: pytest.MonkeyPatch) -> None:
    cuda = FakeCuda(monkeypatch, refuses=2)
    with pytest.raises(RuntimeError, match="CUDA error 2"):
        pinned_slab(4096)
    gc.collect()
    assert [call[0] for call in cuda.calls] == ["pinned", "forgotten"]


def test_when_pinning_is_refused_on_the_way_the_rest_stays_unpinned(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    cuda = FakeCuda(monkeypatch)
    layers = [made(lambda: nn.Linear(8, 8)) for _ in range(3)]
    memory = MainMemory(True)
    first = ParkedWeights(layers[0], "cpu", pin=memory)
    cuda.refuses = 2
    plain = layers[1].weight
    others = [ParkedWeights(layer, "cpu", pin=memory) for layer in layers[1:]]
    assert not memory.lets_the_card_fetch
    assert layers[1].weight is plain
    assert len([record for record in caplog.records if "unpinned" in record.message]) == 1
    for parked in (first, *others):
        parked.bring()
        parked.drop()


def test_a_block_that_is_pinned_again_by_the_same_memory_stays_where_it_is() -> None:
    asked: list[int] = []
    layer = made(lambda: nn.Linear(8, 8))
    memory = MainMemory(True, lambda size: asked.append(size) or unpinned(size))  # type: ignore[func-returns-value]
    ParkedWeights(layer, "cpu", pin=memory)
    master = layer.weight
    LayerStream([layer], "cpu", pin=memory, prefetch=False)
    assert layer.weight is master
    assert asked == [1024]


# The ring


class FakeEvent:
    def __init__(self, log: list[str], name: str):
        self.log, self.name = log, name

    def synchronize(self) -> None:
        self.log.append(f"waits for {self.name}")


def test_a_slab_of_the_ring_is_used_again_only_when_its_copies_are_done() -> None:
    log: list[str] = []
    ring = Ring(2048, unpinned, slabs=2)
    weights = [torch.full((256,), float(at)) for at in range(6)]  # 1024 bytes each
    for at in range(3):
        targets = [torch.empty(256) for _ in range(2)]
        ring.send(list(zip(targets, weights[2 * at : 2 * at + 2], strict=True)))
        assert all(torch.equal(t, w) for t, w in zip(targets, weights[2 * at : 2 * at + 2], strict=True))
        ring._copied[ring._at] = FakeEvent(log, f"block {at}")  # type: ignore[call-overload]
    assert log == ["waits for block 0"]


def test_each_slab_is_noted_on_the_stream_that_copies_out_of_it(monkeypatch: pytest.MonkeyPatch) -> None:
    stream, noted = "side", []
    ring = Ring(1024, unpinned, slabs=3)
    monkeypatch.setattr(ring, "_note", lambda device: noted.append((ring._at, stream)))
    two = [(torch.empty(200), torch.ones(200)) for _ in range(2)]
    ring.send(two)
    stream = "main"
    ring.send(two[:1])
    ring.send([])
    assert noted == [(1, "side"), (2, "side"), (0, "main")]


def test_what_does_not_fit_one_slab_goes_through_several_and_what_fits_none_goes_directly() -> None:
    ring = Ring(1024, unpinned, slabs=2)
    weights = [torch.arange(200.0), torch.arange(200.0) + 1, torch.arange(3000.0), torch.arange(4).half()]
    targets = [torch.empty(200), torch.empty(200, dtype=torch.bfloat16), torch.empty(3000), torch.empty(4)]
    ring.send(list(zip(targets, weights, strict=True)))
    for target, weight in zip(targets, weights, strict=True):
        assert torch.equal(target, weight.to(target.dtype))


def test_blocks_pass_through_a_ring_as_large_as_the_largest() -> None:
    asked: list[int] = []

    def allocate(size: int) -> Tensor:
        asked.append(size)
        return unpinned(size)

    layers = [made(lambda width=width: nn.Linear(width, width)) for width in (8, 16, 4)]
    memory = MainMemory(False, allocate, with_ring=True)
    stream = LayerStream(layers, "cpu", pin=memory, prefetch=True)
    assert asked == 3 * [4 * 16 * 16 + 512]
    masters = [layer.weight for layer in layers]
    for layer, master in zip(layers, masters, strict=True):
        with stream.held(layer):
            assert layer.weight is not master
            assert torch.equal(layer.weight, master)
        assert layer.weight is master


def test_without_pinned_memory_there_is_no_ring_and_all_works(caplog: pytest.LogCaptureFixture) -> None:
    def refuse(size: int) -> Tensor:
        raise RuntimeError("no")

    layers = [made(lambda: nn.Linear(8, 8)) for _ in range(2)]
    memory = MainMemory(False, refuse, with_ring=True)
    stream = LayerStream(layers, "cpu", pin=memory, prefetch=True)
    assert not memory.lets_the_card_fetch
    assert len(caplog.records) == 1
    with stream.held(layers[0]):
        assert torch.isfinite(layers[0].weight).all()


# The choice


@pytest.mark.parametrize(
    ("free", "from_files", "to_card", "expected"),
    [
        (40 * GIB, True, True, MasterMemory.PINNED),
        (40 * GIB, False, True, MasterMemory.PINNED),
        (28 * GIB, True, True, MasterMemory.MAPPED),
        (28 * GIB, False, True, MasterMemory.UNPINNED),
        (40 * GIB, True, False, MasterMemory.MAPPED),
        (40 * GIB, False, False, MasterMemory.UNPINNED),
    ],
)
def test_weights_are_pinned_where_they_fit_else_stay_in_their_files(
    free: int, from_files: bool, to_card: bool, expected: MasterMemory
) -> None:
    choice = choose_masters(27 * GIB, free, from_files=from_files, to_card=to_card)
    assert choice.memory is expected
    assert choice.reason


def test_the_margin_decides_to_the_byte() -> None:
    assert choose_masters(GIB, GIB + MARGIN_BYTES, from_files=True).memory is MasterMemory.PINNED
    short = choose_masters(GIB, GIB + MARGIN_BYTES - 1, from_files=True)
    assert short.memory is MasterMemory.MAPPED
    assert "1.0 GiB of weights" in short.reason
    assert "read from their files" in short.reason
    assert choose_masters(GIB, GIB, from_files=False, margin_bytes=0).memory is MasterMemory.PINNED


def test_free_memory_is_asked_for_when_it_is_not_given(monkeypatch: pytest.MonkeyPatch) -> None:
    from i2v.memory import masters_choice

    monkeypatch.setattr(masters_choice, "machine_memory", lambda: SimpleNamespace(available_bytes=5 * GIB))
    assert choose_masters(3 * GIB, from_files=False).memory is MasterMemory.PINNED
    assert choose_masters(4 * GIB, from_files=False).memory is MasterMemory.UNPINNED
