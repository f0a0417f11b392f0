"""Doubles of torch.cuda's streams, events and memory reports, for the fake card: they keep the order of calls."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import SimpleNamespace
from typing import Any

from i2v.engine.rehearsal.card import DEVICE, FakeCard
from i2v.engine.rehearsal.order import CPU, MAIN

__all__ = ["doubles"]


def doubles(card: FakeCard, vram_bytes: int) -> dict[str, Any]:
    """Return what stands in for functions and classes of torch.cuda, by name."""

    def current(device: Any = None) -> _Stream:
        return _Stream(card, card.stream)

    def nothing(*_: Any) -> None:
        return None

    def live(device: Any = None) -> int:
        return card.live_bytes

    properties = SimpleNamespace(name="a rehearsed card", total_memory=vram_bytes, major=8, minor=6)
    found: dict[str, Callable[..., Any]] = {
        "is_available": lambda: True,
        "device_count": lambda: 1,
        "current_device": lambda: 0,
        "get_device_properties": lambda device=None: properties,
        "get_device_capability": lambda device=None: (8, 6),
        "get_device_name": lambda device=None: properties.name,
        "Stream": lambda device=DEVICE, priority=0: _Stream(card, card.order.lane()),
        "Event": lambda **_: _Event(card),
        "stream": lambda stream: _on(card, stream),
        "current_stream": current,
        "default_stream": lambda device=None: _Stream(card, MAIN),
        "synchronize": lambda device=None: card.order.join_all(CPU),
        "cudart": lambda: SimpleNamespace(cudaHostRegister=lambda *_: 0, cudaHostUnregister=lambda *_: 0),
        "mem_get_info": lambda device=None: (vram_bytes - card.live_bytes, vram_bytes),
        "memory_allocated": live,
        "memory_reserved": live,
        "max_memory_allocated": lambda device=None: card.peak_bytes,
        "max_memory_reserved": lambda device=None: card.peak_bytes,
    }
    quiet = ("empty_cache", "reset_peak_memory_stats", "set_per_process_memory_fraction", "set_device")
    return found | dict.fromkeys(quiet, nothing)


class _Stream:
    """A queue of the card."""

    def __init__(self, card: FakeCard, lane: int):
        self._card, self.lane, self.device = card, lane, DEVICE

    def wait_stream(self, stream: _Stream) -> None:
        self._card.order.join(self.lane, self._card.order.seen(stream.lane))

    def wait_event(self, event: _Event) -> None:
        self._card.order.join(self.lane, event.seen)

    def record_event(self, event: _Event | None = None) -> _Event:
        event = event or _Event(self._card)
        event.seen = self._card.order.seen(self.lane)
        return event

    def synchronize(self) -> None:
        self._card.order.join(CPU, self._card.order.seen(self.lane))


class _Event:
    """A moment of a stream; one that was never recorded is nothing to wait for, as in CUDA."""

    def __init__(self, card: FakeCard):
        self._card = card
        self.seen: dict[int, int] = {}

    def record(self, stream: _Stream | None = None) -> None:
        (stream or _Stream(self._card, self._card.stream)).record_event(self)

    def wait(self, stream: _Stream | None = None) -> None:
        (stream or _Stream(self._card, self._card.stream)).wait_event(self)

    def synchronize(self) -> None:
        self._card.order.join(CPU, self.seen)


@contextmanager
def _on(card: FakeCard, stream: _Stream | None) -> Iterator[None]:
    before = card.stream
    card.stream = before if stream is None else stream.lane
    try:
        yield
    finally:
        card.stream = before
