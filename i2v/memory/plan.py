"""How a request will be run on a machine: precision, where the weights live, and how much is worked on at a time.

Values only; what they cost is in forecast.py, which one is chosen in ladder.py, and how they are carried out in the
pipelines. No torch.
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import asdict, dataclass, replace
from typing import Any

from i2v.machine import devices
from i2v.memory.abilities import APPROXIMATE
from i2v.request import check_vram

__all__ = ["GIB", "Machine", "Plan"]

GIB = 1 << 30


@dataclass(frozen=True)
class Plan:
    """One way to run a request.

    `precision` is what the denoiser's weights are stored in, `compute` what everything is computed in. `weights`:
    "resident" (all on the device), "turns" (encoders, denoiser and decoder one after another) or "streamed" (layer by
    layer). `frames`: worked on at a time in the denoiser, None for all in the model's own forward. `vae_rows`: rows of
    a frame at a time in the autoencoder, None for whole frames.
    """

    name: str
    device: str
    precision: str
    compute: str
    weights: str = "resident"
    frames: int | None = None
    parks_skips: bool = False
    vae_rows: int | None = None
    reason: str = ""

    @property
    def exact(self) -> bool:
        """Whether the frames are those of the model's own weights, up to the order of summation."""
        return self.precision not in APPROXIMATE

    def because(self, reason: str) -> Plan:
        """Return this plan with a reason."""
        return replace(self, reason=reason)

    def words(self) -> str:
        """Say what the plan does, in words."""
        parts = [self.precision]
        if self.frames is None and not self.parks_skips:
            parts.append("whole clip at once")
        elif self.frames:
            parts.append(f"exact chunks of {self.frames} frame{'s' if self.frames > 1 else ''}")
        parts.append(
            {"resident": "weights resident", "turns": "models take turns", "streamed": "weights streamed"}[self.weights]
        )
        if self.parks_skips:
            parts.append("skip connections parked in RAM")
        if self.vae_rows:
            parts.append(f"decoding in bands of {self.vae_rows} rows")
        return ", ".join(parts)

    def to_dict(self) -> dict[str, Any]:
        return asdict(self) | {"exact": self.exact, "words": self.words()}


@dataclass(frozen=True)
class Machine:
    """Where a plan is to run, and how much of it is free. `note` says what is pretended."""

    device: str  # "cpu" or "cuda:0"
    name: str
    capability: tuple[int, int] | None
    vram_total_bytes: int
    vram_free_bytes: int
    ram_total_bytes: int
    ram_free_bytes: int
    note: str = ""

    @property
    def kind(self) -> str:
        return self.device.partition(":")[0]

    @property
    def total_bytes(self) -> int:
        """The memory that tensors live in: the card's, or the machine's."""
        return self.vram_total_bytes if self.kind == "cuda" else self.ram_total_bytes

    @property
    def free_bytes(self) -> int:
        return self.vram_free_bytes if self.kind == "cuda" else self.ram_free_bytes

    @property
    def margin_bytes(self) -> int:
        """What a plan leaves free for what cannot be foreseen: 4 % of the memory, at least a quarter GiB."""
        return max(GIB // 4, self.total_bytes // 25)

    @classmethod
    def detect(cls, own_pids: Collection[int] = ()) -> Machine:
        """Return this machine now; what `own_pids` hold counts as free, for it will be used again."""
        memory = devices.machine_memory()
        free_ram = memory.available_bytes + sum(devices.process_memory_bytes(pid) for pid in own_pids)
        card = devices.first_visible_gpu(devices.gpus(own_pids))
        if card is None:
            return cls("cpu", "the CPU", None, 0, 0, memory.total_bytes, free_ram)
        free = min(card.total_bytes, card.free_bytes + card.mine_bytes)
        return cls("cuda:0", card.name, card.capability, card.total_bytes, free, memory.total_bytes, free_ram)

    def pretending(self, vram_gib: float | None) -> Machine:
        """Return this machine as if its card had `vram_gib`: all of it free. Raises InputError."""
        if vram_gib is None:
            return self
        check_vram(vram_gib)
        size = int(vram_gib * GIB)
        note = f"pretending a card of {vram_gib:g} GiB"
        if self.kind == "cuda" and size > self.vram_total_bytes:
            note += f", more than the {self.vram_total_bytes / GIB:.1f} GiB that {self.name} has"
        capability = self.capability or (8, 6)  # of the cards sold most: RTX 30
        return replace(
            self,
            device="cuda:0",
            name=f"a card of {vram_gib:g} GiB",
            capability=capability,
            vram_total_bytes=size,
            vram_free_bytes=size,
            note=note,
        )

    def limited(self, vram_gib: float | None) -> Machine:
        """Return this machine for a run within `vram_gib` of the card's memory, or of the CPU's where there is none."""
        if vram_gib is None:
            return self
        check_vram(vram_gib)
        size = int(vram_gib * GIB)
        note = f"using at most {vram_gib:g} GiB"
        if size > self.total_bytes:
            owner = self.name if self.kind == "cuda" else "this machine"
            note += f", more than the {self.total_bytes / GIB:.1f} GiB that {owner} has"
        total, free = min(size, self.total_bytes), min(size, self.free_bytes)
        if self.kind == "cuda":
            return replace(self, vram_total_bytes=total, vram_free_bytes=free, note=note)
        return replace(self, ram_total_bytes=total, ram_free_bytes=free, note=note)
