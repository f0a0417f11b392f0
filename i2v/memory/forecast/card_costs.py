"""What a card takes besides tensors: constants, each with where it comes from. No torch."""

from __future__ import annotations

from dataclasses import dataclass

__all__ = ["CARD", "CardCosts"]


@dataclass(frozen=True)
class CardCosts:
    """Bytes that a CUDA process holds besides the tensors of a run.

    `context_bytes`: the driver's context and loaded kernels, which torch's allocator does not see. `workspace_bytes`:
    what cuBLAS and cuDNN take through that allocator. `source`: the card and the script they were measured with.
    """

    context_bytes: int
    workspace_bytes: int
    source: str


# `python -m benchmarks.card` measures both (used on the card less reserved; reserved less traced) and names the card.
# Until a measurement is committed these are assumptions: contexts of 0.3 to 0.5 GiB are reported for current drivers.
CARD = CardCosts((1 << 30) // 2, (1 << 30) // 8, "assumed; not yet measured by benchmarks/card.py")
