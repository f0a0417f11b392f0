"""The machine that a plan is made for: which device, and how much of its memory is free. No torch."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass, replace

from i2v.machine import devices
from i2v.machine.cuda_environment import has_expandable_segments
from i2v.request import check_ram, check_vram

__all__ = ["GIB", "Machine"]

GIB = 1 << 30


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
    expandable_segments: bool = True  # of PyTorch's allocator on a card

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
        sizes = (card.total_bytes, free, memory.total_bytes, free_ram)
        expandable = has_expandable_segments()
        return cls("cuda:0", card.name, card.capability, *sizes, expandable_segments=expandable)

    def pretending(self, vram_gib: float | None, ram_gib: float | None = None) -> Machine:
        """Return this machine as if it had a card of `vram_gib` and RAM of `ram_gib`, all of it free.

        What is None stays as it is. Raises InputError.
        """
        return self._with_pretended_card(vram_gib)._with_pretended_ram(ram_gib)

    def _with_pretended_card(self, vram_gib: float | None) -> Machine:
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
            expandable_segments=has_expandable_segments(),
            note=_joined(self.note, note),
        )

    def _with_pretended_ram(self, ram_gib: float | None) -> Machine:
        if ram_gib is None:
            return self
        check_ram(ram_gib)
        size = int(ram_gib * GIB)
        note = f"pretending {ram_gib:g} GiB of RAM"
        if size > self.ram_total_bytes:
            note += f", more than the {self.ram_total_bytes / GIB:.1f} GiB that this machine has"
        return replace(self, ram_total_bytes=size, ram_free_bytes=size, note=_joined(self.note, note))

    def limited(self, vram_gib: float | None, ram_gib: float | None = None) -> Machine:
        """Return this machine for a run within `vram_gib` of the card's memory (or of the CPU's, where there is none)
        and within `ram_gib` of RAM. Never more than is free. Raises InputError.
        """
        limited = self if vram_gib is None else self._with_less_vram(vram_gib)
        return limited if ram_gib is None else limited._with_less_ram(ram_gib)

    def _with_less_vram(self, vram_gib: float) -> Machine:
        check_vram(vram_gib)
        size = int(vram_gib * GIB)
        note = f"using at most {vram_gib:g} GiB"
        if size > self.total_bytes:
            owner = self.name if self.kind == "cuda" else "this machine"
            note += f", more than the {self.total_bytes / GIB:.1f} GiB that {owner} has"
        total, free = min(size, self.total_bytes), min(size, self.free_bytes)
        if self.kind == "cuda":
            return replace(self, vram_total_bytes=total, vram_free_bytes=free, note=_joined(self.note, note))
        return replace(self, ram_total_bytes=total, ram_free_bytes=free, note=_joined(self.note, note))

    def _with_less_ram(self, ram_gib: float) -> Machine:
        check_ram(ram_gib)
        size = int(ram_gib * GIB)
        note = f"using at most {ram_gib:g} GiB of RAM"
        if size > self.ram_total_bytes:
            note += f", more than the {self.ram_total_bytes / GIB:.1f} GiB that this machine has"
        total, free = min(size, self.ram_total_bytes), min(size, self.ram_free_bytes)
        return replace(self, ram_total_bytes=total, ram_free_bytes=free, note=_joined(self.note, note))


def _joined(before: str, note: str) -> str:
    return f"{before}; {note}" if before else note
