"""The knobs that i2v's own executors have: what each lowers, its values, and its words. No torch."""

from __future__ import annotations

from i2v.family import Knob

__all__ = ["FRAME_CHUNKS", "PARKED_SKIPS", "VAE_BANDS"]

# exact/unet.py: so many frames of the clip at a time, from the whole clip down to one.
FRAME_CHUNKS = Knob(
    "chunk_frames", ("denoise",), "pieces", "exact chunks of {value} frame{s}", "chunks",
)  # fmt: skip
# exact/unet.py: skip connections wait in main memory between the way down and the way up.
PARKED_SKIPS = Knob(
    "parked_skips", ("denoise",), "parked", "skip connections parked in RAM", "parked",
    steps=(1,), after="chunk_frames", needs_streaming=True,
)  # fmt: skip
# exact/kl.py: rows of a picture at a time. 64 rows compute 3 to 6 % twice; below 16 that grows and saves little.
VAE_BANDS = Knob(
    "vae_rows", ("encode", "decode"), "bands", "decoding in bands of {value} rows", "bands", steps=(64, 32, 16),
)  # fmt: skip
