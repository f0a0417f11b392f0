"""The commands `forecast` and `bench` of the command line: what will it take, and what does i2v save."""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import textwrap
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from i2v.errors import GenerationError
from i2v.machine.cuda_environment import cuda_environment
from i2v.memory.ladder import Ladder
from i2v.memory.machine_now import GIB
from i2v.presets.model_preset import default_model, load_presets, preset_named
from i2v.request import build_request, match_square, parse_size
from i2v.service import Service
from i2v.settings import Settings

__all__ = ["add_commands", "table_lines"]

_WIDTH = 160  # of the table, in letters
# What a rung takes: the column's title, and the name in its JSON. A column that no rung has a number for is left out.
_COLUMNS = (
    ("VRAM", "peak_vram_bytes"),
    ("reserved", "reserved_bytes"),
    ("RAM", "peak_ram_bytes"),
    ("weights", "weights_bytes"),
    ("active", "activation_bytes"),
)


def add_commands(commands: Any, common: argparse.ArgumentParser) -> None:
    """Add both commands to the parser."""
    forecast = commands.add_parser("forecast", parents=[common], help="will it fit? every way to run, rung by rung")
    forecast.add_argument("--model", help=f"one of: {', '.join(load_presets())}")
    forecast.add_argument("--size", metavar="WxH", help="default: the model's own short side, square")
    forecast.add_argument("--frames", type=int, metavar="N")
    forecast.add_argument("--steps", type=int, metavar="N")
    forecast.add_argument("--guidance", type=float, metavar="G")
    forecast.add_argument("--precision")
    forecast.add_argument("--chunk", type=int, metavar="N", help="frames worked on at a time")
    forecast.add_argument("--vram", type=float, metavar="GiB", help="pretend a card of this size")
    forecast.add_argument("--ram", type=float, metavar="GiB", help="pretend main memory of this size")
    forecast.set_defaults(run=_forecast)

    bench = commands.add_parser("bench", parents=[common], help="plain diffusers and i2v side by side")
    bench.add_argument("--size", metavar="WxH", help="one setting instead of the three usual ones")
    bench.add_argument("--frames", type=int, metavar="N", default=16)
    bench.add_argument("--chunk", type=int, metavar="N", default=2, help="frames worked on at a time")
    bench.set_defaults(run=_bench)


def _forecast(args: argparse.Namespace, settings: Settings) -> int:
    preset = preset_named(args.model or default_model())
    size = parse_size(args.size) if args.size else match_square(preset)
    values = {
        "model": preset.name,
        "prompt": "",
        "width": size[0],
        "height": size[1],
        "num_frames": args.frames,
        "num_inference_steps": args.steps,
        "guidance_scale": args.guidance,
        "precision": args.precision,
        "chunk_frames": args.chunk,
        "vram_gib": args.vram,
        "ram_gib": args.ram,
    }
    service = Service(settings, runner=f"cli:{os.getpid()}")
    try:
        ladder = service.forecast(values, size, wait=True, pretend=True)
    finally:
        service.close()
    if ladder is None:
        raise GenerationError("the memory of this model could not be traced", "The log has the details.")
    if args.json:
        print(json.dumps(ladder.to_dict(), ensure_ascii=False, indent=2))
    else:
        _print_table(ladder)
    return 0


def _print_table(ladder: Ladder) -> None:
    request, machine = ladder.request, ladder.machine
    where = "VRAM" if machine.kind == "cuda" else "RAM"
    print(
        f"{request.model}, {request.width}x{request.height}, {request.num_frames} frames, "
        f"{request.num_inference_steps} steps on {machine.name}: "
        f"{machine.free_bytes / GIB:.1f} GiB of {where} free, {machine.margin_bytes / GIB:.2f} kept spare"
    )
    for note in ladder.notes:
        print(f"note: {note}")
    print("\n" + "\n".join(table_lines([rung.to_dict() for rung in ladder.rungs])))
    if ladder.chosen:
        print(f"\n{ladder.chosen.plan.reason}")
        return
    print(f"\nNothing fits. {ladder.smallest.plan.reason}")
    for suggestion in ladder.suggestions():
        print(f"fits: {suggestion.words} ({suggestion.flag})")


def table_lines(rows: Sequence[Mapping[str, Any]]) -> list[str]:
    """Return the table of a ladder's rungs, which come as `Rung.to_dict` gives them, one or more lines each."""
    columns = [(title, name) for title, name in _COLUMNS if any(row.get(name) for row in rows)]
    head = " ".join(f"{title:>9}" for title, _ in columns)
    lines = [f"   {'plan':9} {head} {'time':>13}  fits  how"]
    for row in rows:
        numbers = " ".join(f"{row[name] / GIB:5.2f} GiB" if row.get(name) else f"{'-':>9}" for _, name in columns)
        mark, fits = ("=>" if row["chosen"] else "  "), ("yes" if row["fits"] else "no")
        kind = "" if row["exact"] else "approximate: "
        begin = f"{mark} {row['name']:9} {numbers} {_time(row):>13}  {fits:4}  "
        how = textwrap.wrap(f"{kind}{row['words']}", _WIDTH - len(begin))
        lines += [f"{before}{part}" for before, part in zip([begin, *[" " * len(begin)] * len(how)], how, strict=False)]
    return lines


def _time(row: Mapping[str, Any]) -> str:
    if row["seconds"] is None:
        return "not known"
    return f"{row['seconds_low']:.0f}-{row['seconds_high']:.0f} s"


def _bench(args: argparse.Namespace, settings: Settings) -> int:
    # In a process of its own: the command line itself never loads torch.
    command = [sys.executable, "-m", "i2v.engine.bench", "--chunk", str(args.chunk)]
    model = next(preset for preset in load_presets().values() if not preset.declared.is_small)
    size = parse_size(args.size) if args.size else match_square(model)
    values = {"model": model.name, "prompt": "", "num_frames": args.frames, "chunk_frames": args.chunk}
    request = build_request(values | {"width": size[0], "height": size[1]}, size)  # or InputError
    if args.size:
        command += ["--size", f"{request.width}x{request.height}", "--frames", str(request.num_frames)]
    if args.json:
        command.append("--json")
    environment = os.environ | cuda_environment()
    return subprocess.run(command, cwd=Path(__file__).parents[2], env=environment, check=False).returncode
