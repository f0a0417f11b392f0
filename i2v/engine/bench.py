"""Plain diffusers against i2v's exact chunking, side by side: `python -m i2v bench [--json]`.

One denoising step of the full-size I2VGenXLUNet with random weights, so nothing is downloaded. Plain is the way of
diffusers' own pipeline: both halves of guidance in one batch. With a card, peak and time are measured on it. Without
one, the peaks are traced on fake tensors (the same numbers, as allocations do not depend on data), and time and error
are taken on a reduced model on the CPU; each row says which.
"""

from __future__ import annotations

import argparse
import gc
import json
import statistics
import time
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from typing import Any

import torch

from i2v.memory.exact.pieces import first_pieces_only
from i2v.memory.exact.unet import ExactForward
from i2v.memory.forecast.count import LiveStorage
from i2v.memory.forecast.trace import fake_module, fake_tensors
from i2v.memory.weights.parked import weight_bytes
from i2v.models.binding import build_component
from i2v.models.i2vgen_xl import FAMILY
from i2v.presets.model_preset import preset_named
from i2v.request import parse_size

__all__ = ["Row", "main", "reduced_row", "traced_row"]

MODEL = "i2vgen-xl"
SETTINGS = ((512, 512, 16), (768, 768, 24), (1024, 1024, 32))
REDUCED: dict[str, Any] = {"block_out_channels": [64, 128], "attention_head_dim": 16, "cross_attention_dim": 64} | {
    "down_block_types": ["CrossAttnDownBlock3D", "DownBlock3D"],
    "up_block_types": ["UpBlock3D", "CrossAttnUpBlock3D"],
}
_REDUCED_SIZE = (256, 256, 16)
_REPEATS = 5


@dataclass(frozen=True)
class Row:
    """One setting, both ways. Peaks are of activations: the weights come on top, the same for both. None: not taken."""

    model: str
    width: int
    height: int
    num_frames: int
    chunk_frames: int
    source: str
    plain_peak_bytes: int | None
    exact_peak_bytes: int | None
    plain_seconds: float | None
    exact_seconds: float | None
    relative_error: float | None


def step_inputs(config: Mapping[str, Any], size: tuple[int, int, int], batch: int, **kind: Any) -> dict[str, Any]:
    """Return random inputs of one denoiser call; `size` is (width, height, frames), `kind` dtype and device."""
    width, height, frames = size
    shape = (batch, 4, frames, height // 8, width // 8)
    wide = config["cross_attention_dim"]
    return {
        "sample": torch.randn(shape, **kind),
        "timestep": torch.tensor(500, device=kind.get("device")),
        "fps": torch.full((batch,), 16, device=kind.get("device")),
        "image_latents": torch.randn(shape, **kind),
        "image_embeddings": torch.randn((batch, 1, wide), **kind),
        "encoder_hidden_states": torch.randn((batch, 77, wide), **kind),
    }


def halves(inputs: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Split a batch of two into two calls, as i2v guides."""
    return [{k: v[n : n + 1] if v.ndim else v for k, v in inputs.items()} for n in range(2)]


def traced_row(size: tuple[int, int, int], chunk: int) -> Row:
    """Trace both peaks at full size in float16."""
    config = preset_named(MODEL).architecture["unet"]
    peaks = []
    with fake_tensors():
        unet: Any = fake_module(lambda: build_component(FAMILY.part("unet"), config), torch.float16)
        forward = ExactForward(unet)
        for batch, frames in ((2, None), (1, chunk)):
            inputs = step_inputs(config, size, batch, dtype=torch.float16)
            forward.chunk_frames = frames
            with LiveStorage() as counter, first_pieces_only():
                counter.adopt(*unet.parameters(), *inputs.values())
                unet(**inputs)
            peaks.append(counter.peak_bytes)
    plain, exact = peaks
    return Row(MODEL, *size, chunk, "traced", plain, exact, None, None, None)


@torch.inference_mode()
def reduced_row(chunk: int | None = None) -> Row:
    """Measure both ways on a reduced model on the CPU, in float32. `chunk`: half the clip, as for a tight card."""
    config = preset_named(MODEL).architecture["unet"] | REDUCED
    torch.manual_seed(0)
    unet: Any = build_component(FAMILY.part("unet"), config).eval()
    _fill_zeros(unet)
    chunk = chunk or _REDUCED_SIZE[2] // 2
    return _compare(unet, step_inputs(config, _REDUCED_SIZE, 2), _REDUCED_SIZE, chunk, "reduced model on the CPU")


def _fill_zeros(unet: torch.nn.Module) -> None:
    """Give layers that start at zero some weights: else half of the model would not show in the result."""
    for parameter in unet.parameters():
        if not bool(parameter.any()):
            torch.nn.init.normal_(parameter, std=0.05)


def card_row(size: tuple[int, int, int], chunk: int) -> Row:
    """Measure both ways on the card, at full size in float16, with random weights made there."""
    config = preset_named(MODEL).architecture["unet"]
    kind = {"dtype": torch.float16, "device": "cuda:0"}
    with torch.inference_mode():
        torch.manual_seed(0)
        with torch.device("cuda:0"):
            unet: Any = build_component(FAMILY.part("unet"), config).half().eval()
        _fill_zeros(unet)
        return _compare(unet, step_inputs(config, size, 2, **kind), size, chunk, "measured")


def _compare(unet: Any, inputs: dict[str, Any], size: tuple[int, int, int], chunk: int, source: str) -> Row:
    forward = ExactForward(unet)

    def exact() -> torch.Tensor:
        forward.chunk_frames = chunk
        return torch.cat([unet(**half).sample for half in halves(inputs)])

    def plain() -> torch.Tensor:
        forward.chunk_frames = None
        return unet(**inputs).sample

    found, exact_peak, _ = _measure(exact, unet, inputs)
    try:
        wanted, plain_peak, _ = _measure(plain, unet, inputs)
    except torch.OutOfMemoryError:
        wanted, plain_peak = None, None
    seconds: dict[str, list[float]] = {"plain": [], "exact": []}
    for _ in range(_REPEATS):  # by turns, so that whatever else the machine does meets both
        for name, way in (("plain", plain), ("exact", exact)):
            if name == "exact" or wanted is not None:
                seconds[name].append(_measure(way, None, inputs)[2])
    error = None if wanted is None else float((found - wanted).abs().max() / wanted.abs().max())
    return Row(
        MODEL,
        *size,
        chunk,
        source,
        plain_peak,
        exact_peak,
        statistics.median(seconds["plain"]) if seconds["plain"] else None,
        statistics.median(seconds["exact"]),
        error,
    )


def _measure(call: Callable[[], torch.Tensor], unet: Any, inputs: dict[str, Any]) -> tuple[torch.Tensor, int, float]:
    """Return result, peak of activations and seconds. On the CPU the peak is counted, if `unet` is given."""
    gc.collect()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats()
        before = torch.cuda.memory_allocated()
        torch.cuda.synchronize()
        began = time.perf_counter()
        result = call()
        torch.cuda.synchronize()
        return result, torch.cuda.max_memory_allocated() - before, time.perf_counter() - began
    began = time.perf_counter()
    if unet is None:
        result = call()
        return result, 0, time.perf_counter() - began
    with LiveStorage() as counter:
        counter.adopt(*unet.parameters(), *inputs.values())
        result = call()
    return result, counter.peak_bytes, time.perf_counter() - began


def run(sizes: list[tuple[int, int, int]], chunk: int) -> dict[str, Any]:
    """Return what `--json` prints."""
    config = preset_named(MODEL).architecture["unet"]
    with torch.device("meta"):
        weights = weight_bytes(build_component(FAMILY.part("unet"), config).half())
    if torch.cuda.is_available():
        rows = [card_row(size, chunk) for size in sizes]
        device, measured = torch.cuda.get_device_name(0), True
    else:
        rows = [*(traced_row(size, chunk) for size in sizes), reduced_row()]
        device, measured = "cpu", False
    return {"device": device, "measured": measured, "weights_bytes": weights, "rows": [asdict(row) for row in rows]}


def _print_table(found: dict[str, Any]) -> None:
    gib = 1 << 30
    how = "measured on it" if found["measured"] else "peaks traced at full size; time and error on a reduced model"
    print(f"one denoising step of {MODEL} on {found['device']}: {how}")
    print(f"weights {found['weights_bytes'] / gib:.2f} GiB come on top of each peak\n")
    print(f"{'size':>10} {'frames':>6} {'chunk':>5} {'plain':>10} {'exact':>10} {'ratio':>6}  {'time':>18}  error")
    for row in found["rows"]:
        plain, exact = row["plain_peak_bytes"], row["exact_peak_bytes"]
        peaks = f"{_gib(plain):>10} {_gib(exact):>10} {f'{plain / exact:.1f}x' if plain else '-':>6}"
        seconds = "-"
        if row["plain_seconds"]:
            ratio = row["exact_seconds"] / row["plain_seconds"]
            seconds = f"{row['plain_seconds']:.2f} > {row['exact_seconds']:.2f} s ({ratio:.2f})"
        error = "-" if row["relative_error"] is None else f"{row['relative_error']:.1e}"
        size = f"{row['width']}x{row['height']}"
        lengths = f"{row['num_frames']:>6} {row['chunk_frames']:>5}"
        print(f"{size:>10} {lengths} {peaks}  {seconds:>18}  {error}  {row['source']}")


def _gib(size: int | None) -> str:
    return "-" if size is None else f"{size / (1 << 30):.2f} GiB"


def main() -> None:
    """Print the table or the JSON."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--size")
    parser.add_argument("--frames", type=int, default=16)
    parser.add_argument("--chunk", type=int, default=2)
    parser.add_argument("--json", action="store_true")
    args = parser.parse_args()
    sizes = [(*parse_size(args.size), args.frames)] if args.size else list(SETTINGS)
    found = run(sizes, args.chunk)
    if args.json:
        print(json.dumps(found, indent=2))
    else:
        _print_table(found)


if __name__ == "__main__":
    main()
