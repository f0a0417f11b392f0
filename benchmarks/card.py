"""What only a CUDA card can show: `python -m benchmarks.card [--json] [--only forecast|capped|bench] [--small]`.

Three parts, on I2VGen-XL in full size with random weights, so that nothing is downloaded:

- forecast: peak of tensors foreseen and measured, stage by stage, for sizes, precisions and plans (card_forecast.py);
- capped: what the ladder chooses for cards of 4, 6, 8 and 12 GiB, and whether it finishes there (card_capped.py);
- bench: plain diffusers against exact chunking (i2v/engine/bench.py).

Needs about 12 GiB of main memory. Rows are told on standard error as they come; the result goes to standard output and
nothing to the disk. `--small` runs the same code on the CPU with a tiny model: a test of it that says nothing of cards.
"""

from __future__ import annotations

import argparse
import json
import os
import shlex
import sys
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

import torch

from benchmarks.card_capped import Cap, capped_rows
from benchmarks.card_forecast import CASES, Case, forecast_rows
from benchmarks.meters import CardMeter, CountingMeter, Meter
from benchmarks.random_model import SMALL, Architecture, random_pipeline, traced_forms
from i2v.engine import bench
from i2v.engine.doors import free_cached_memory
from i2v.machine import devices
from i2v.machine.cuda_environment import cuda_environment
from i2v.memory.forecast.forms import ModelForms
from i2v.memory.forecast.tables import shipped_forms, table_key
from i2v.memory.machine_now import GIB
from i2v.presets.model_preset import preset_named

__all__ = ["PARTS", "main"]

PARTS = ("forecast", "capped", "bench")
MODEL = "i2vgen-xl"
CARDS_GIB = (4, 6, 8, 12)
CHUNK = 2  # of the bench, as in benchmarks/results
_SMALL_SIZE = (64, 64, 4)
_SMALL_CASES = tuple(
    Case(precision, way, _SMALL_SIZE, frames, rounded_compute="fp32")
    for precision, way, frames in (
        ("fp32", "resident", None), ("fp32", "turns", None), ("fp32", "chunks", 2), ("fp32", "streamed", 2),
        ("fp32", "parked", 1), ("fp8", "turns", None), ("fp8", "streamed", 2),
    )
)  # fmt: skip
# What the ladder keeps free for driver, libraries and surprises, and then room for a tiny model: in the first the whole
# clip fits, in the last one not even the smallest plan. Tensors get less than was promised, so that it is stepped down.
_SMALL_ROOMS_MIB = ((34.0, 30), (20, 16.5), (6, 5))
_KEPT_BYTES = GIB // 2 + GIB // 8 + GIB // 4


@dataclass(frozen=True)
class Setup:
    """What is measured, on what. `bench`: returns the rows for one setting."""

    architecture: Architecture
    forms: ModelForms
    meter: Meter
    cases: Sequence[Case]
    caps: Sequence[Cap]
    settings: Sequence[tuple[int, int, int]]
    precision: str
    about: dict[str, Any] = field(default_factory=dict)
    capability: tuple[int, int] = (8, 6)


def on_card() -> Setup:
    """Return the real thing."""
    preset = preset_named(MODEL)
    forms = shipped_forms(preset)
    if forms is None:
        raise SystemExit(f"no forecast table ships for {MODEL}; run: python -m i2v.models.build_forms {MODEL} --ship")
    context_bytes = _context_bytes()
    about = {
        "table_is_of_these_versions": forms.key == table_key(preset, preset.architecture),
        "context_bytes": context_bytes,
    }
    caps = [Cap(gib * GIB, gib * GIB - context_bytes) for gib in CARDS_GIB]
    return Setup(
        preset.architecture, forms, CardMeter(), CASES, caps, bench.SETTINGS, "fp16", about,
        torch.cuda.get_device_capability(0),
    )  # fmt: skip


def in_small() -> Setup:
    """Return a tiny model on the CPU."""
    mib = 1 << 20
    caps = [Cap(_KEPT_BYTES + int(told * mib), int(true * mib)) for told, true in _SMALL_ROOMS_MIB]
    return Setup(SMALL, traced_forms(SMALL), CountingMeter(), _SMALL_CASES, caps, [_SMALL_SIZE], "fp32")


def _context_bytes() -> int:
    """Return what this process takes of the card besides tensors, once common kernels have been run."""
    before = devices.first_visible_gpu(devices.gpus())
    some = torch.ones(1, 64, 64, 64, dtype=torch.float16, device="cuda:0")
    torch.nn.functional.conv2d(some, some[:, :, :3, :3].expand(64, -1, -1, -1))
    some[0] @ some[0]
    torch.cuda.synchronize()
    after = devices.first_visible_gpu(devices.gpus())
    taken = after.used_bytes - before.used_bytes - torch.cuda.memory_reserved(0) if before and after else 0
    del some
    free_cached_memory()
    return taken if taken > 0 else GIB // 2  # the driver does not tell: what the forecast takes it for


def measure(setup: Setup, parts: Iterable[str]) -> dict[str, Any]:
    """Return the rows of the parts, and tell each when it comes."""
    found: dict[str, Any] = {}
    architecture, forms, meter = setup.architecture, setup.forms, setup.meter
    if "forecast" in parts:
        found["forecast"] = _told(forecast_rows(setup.cases, architecture, forms, meter), forecast_line)
    if "capped" in parts:
        pipeline = random_pipeline(architecture, setup.precision, setup.precision, meter.device)
        rows = capped_rows(
            setup.caps, setup.settings, pipeline, setup.precision, forms, meter, setup.capability
        )  # fmt: skip
        found["capped"] = _told(rows, capped_line)
        del pipeline, rows
        free_cached_memory()
    if "bench" in parts:
        found["bench"] = _told((_bench_row(setup, size) for size in setup.settings), bench_line)
    return found


def _bench_row(setup: Setup, size: tuple[int, int, int]) -> dict[str, Any]:
    """Return one row of `i2v bench`; an error in its place where even the weights are too much for the card."""
    free_cached_memory()
    if setup.meter.device == CardMeter.device:
        try:
            row: dict[str, Any] = bench.run([size], CHUNK)["rows"][0]
            return row | {"error": None}
        except torch.OutOfMemoryError as error:
            failure = str(error).partition(". ")[0]
        return {"width": size[0], "height": size[1], "num_frames": size[2], "error": failure}
    unet = random_pipeline(setup.architecture, "fp32", "fp32").unet
    with torch.inference_mode():
        inputs = bench.step_inputs(setup.architecture["unet"], size, 2)
        return asdict(bench._compare(unet, inputs, size, CHUNK, "small model on the CPU")) | {"error": None}


def _told(rows: Iterable[dict[str, Any]], line: Any) -> list[dict[str, Any]]:
    kept = []
    for row in rows:
        print(line(row), file=sys.stderr, flush=True)
        kept.append(row)
    return kept


# Words


def forecast_line(row: dict[str, Any]) -> str:
    """Say a row of the first part in a line: measured, of what was foreseen, by stage."""
    stages = "  ".join(f"{name} {_of(stage)}" for name, stage in row["stages"].items() if stage["forecast_bytes"])
    setting = "x".join(map(str, row["size"]))
    piece = f" of {row['frames']}" if row["frames"] else ""
    error = f"  {row['error']}" if row["error"] else ""
    return f"{setting:>12} {row['precision']} {row['way'] + piece:<13} all {_of(row['overall'])}  {stages}{error}"


def _of(compared: dict[str, Any]) -> str:
    return f"{_gib(compared['measured_bytes'])}/{_gib(compared['forecast_bytes'])} ({compared['ratio']:.3f})"


def capped_line(row: dict[str, Any]) -> str:
    """Say a row of the second part in a line."""
    setting = f"{row['width']}x{row['height']}x{row['num_frames']}"
    ended = "finished" if row["finished"] else f"failed: {row['error']}"
    ended += f" after {len(row['steps_down'])} steps down, {row['words_at_end']}" if row["steps_down"] else ""
    seconds = "-" if row["seconds_per_step"] is None else f"{row['seconds_per_step']:.1f} s a step"
    fits = "" if row["fits"] else " (does not fit)"
    peaks = f"peak {_gib(row['peak_bytes'])}/{_gib(row['forecast_bytes'])}"
    return f"{_gib(row['card_bytes']):>6} GiB {setting:>12} {row['words']}{fits}: {ended}, {peaks}, {seconds}"


def bench_line(row: dict[str, Any]) -> str:
    """Say a row of the third part in a line."""
    setting = f"{row['width']}x{row['height']}x{row['num_frames']}"
    if row["error"]:
        return f"{setting:>12} {row['error']}"
    plain, exact = row["plain_peak_bytes"], row["exact_peak_bytes"]
    peaks = f"{'-' if plain is None else _gib(plain)} > {_gib(exact)} GiB"
    seconds = f"{row['exact_seconds']:.2f} s"
    if row["plain_seconds"]:
        ratio = row["exact_seconds"] / row["plain_seconds"]
        seconds = f"{row['plain_seconds']:.2f} > {seconds} ({ratio:.3f}), error {row['relative_error']:.1e}"
    return f"{setting:>12} plain > exact: {peaks}, {seconds}"


def _gib(size: int) -> str:
    return f"{size / GIB:.3f}"


def _table(found: dict[str, Any]) -> str:
    lines = [f"{found['card']}, driver {found['driver']}, torch {found['torch']}: peaks are measured/foreseen in GiB"]
    kinds = {"forecast": forecast_line, "capped": capped_line, "bench": bench_line}
    for part, line in kinds.items():
        if part in found:
            lines += ["", part, *map(line, found[part])]
    return "\n".join(lines)


def _machine(small: bool) -> dict[str, Any]:
    versions = devices.versions()
    kept = {name: versions[name] for name in ("torch", "diffusers", "transformers", "system")}
    if small:
        return {"card": "the CPU for a card", "driver": "", "total_bytes": 0} | kept
    card = devices.first_visible_gpu(devices.gpus())
    properties = torch.cuda.get_device_properties(0)
    driver = card.driver if card else "not available"
    return {"card": properties.name, "driver": driver, "total_bytes": properties.total_memory} | kept


def main(argv: Sequence[str] | None = None) -> int:
    """Measure and print; return the exit status, 2 without a card."""
    os.environ.update(cuda_environment())
    parser = argparse.ArgumentParser(description="Measure on a CUDA card: forecasts, small cards, and the bench.")
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    parser.add_argument("--only", choices=PARTS, help="one part of the three")
    parser.add_argument("--small", action="store_true", help="a tiny model on the CPU: tests this program")
    given = list(sys.argv[1:] if argv is None else argv)
    args = parser.parse_args(given)
    if not args.small and not torch.cuda.is_available():
        print("there is no CUDA card here; --small runs the same code on the CPU", file=sys.stderr)
        return 2
    setup = in_small() if args.small else on_card()
    found = _machine(args.small) | {"command": shlex.join(["python", "-m", "benchmarks.card", *given])}
    found |= {"small": args.small} | setup.about | measure(setup, [args.only] if args.only else PARTS)
    print(json.dumps(found, indent=2) if args.json else _table(found))
    return 0


if __name__ == "__main__":
    sys.exit(main())
