"""The commands `models` and `doctor` of the command line: what is installed here, and what the machine has."""

from __future__ import annotations

import argparse
import json
import os
import sys
from typing import Any

from i2v.service import Service
from i2v.settings import Settings

__all__ = ["add_commands"]


def add_commands(commands: Any, common: argparse.ArgumentParser) -> None:
    """Add both commands to the parser."""
    models = commands.add_parser("models", parents=[common], help="list the models, or download one")
    models.add_argument("--download", metavar="NAME")
    models.set_defaults(run=_models)

    doctor = commands.add_parser("doctor", parents=[common], help="show what the machine has and what is wrong")
    doctor.set_defaults(run=_doctor)


def _models(args: argparse.Namespace, settings: Settings) -> int:
    service = Service(settings, runner=f"cli:{os.getpid()}")
    try:
        if args.download:
            folder = service.download_model(args.download, _download_progress)
            print(f"\n{args.download} is in {folder}", file=sys.stderr)
        rows = [
            {
                "name": state.preset.name,
                "title": state.preset.title,
                "summary": state.preset.summary,
                "installed": state.installed,
                "folder": str(state.folder),
                "disk_bytes": state.disk_bytes,
                "download_bytes": state.preset.hub.download_bytes if state.preset.hub else 0,
                "parameters": state.preset.parameters,
                "licence": state.preset.licence,
                "licence_note": state.preset.licence_note,
            }
            for state in service.models()
        ]
    finally:
        service.close()
    if args.json:
        print(json.dumps({"models": rows}, ensure_ascii=False, indent=2))
        return 0
    for row in rows:
        size: Any = row["disk_bytes"] if row["installed"] else row["download_bytes"]
        place = "installed" if row["installed"] else f"python -m i2v models --download {row['name']}"
        print(f"{row['name']:12} {size / 1e9:6.2f} GB  {row['licence']:22} {place}\n{'':12} {row['summary']}")
    return 0


def _download_progress(done_bytes: int, total_bytes: int) -> None:
    percent = 100 * done_bytes / max(total_bytes, 1)
    print(
        f"\r\x1b[K{done_bytes / 1e9:.2f} of {total_bytes / 1e9:.2f} GB ({percent:.0f} %)",
        end="",
        file=sys.stderr,
        flush=True,
    )


def _doctor(args: argparse.Namespace, settings: Settings) -> int:
    service = Service(settings, runner=f"cli:{os.getpid()}")
    try:
        found = service.doctor()
    finally:
        service.close()
    if args.json:
        print(json.dumps(found, ensure_ascii=False, indent=2))
    else:
        _print_doctor(found)
    return 1 if found["problems"] else 0


def _print_doctor(found: dict[str, Any]) -> None:
    gib = 1 << 30
    cards = [
        f"{gpu['name']}, {gpu['vram_free_bytes'] / gib:.1f} of {gpu['vram_total_bytes'] / gib:.1f} GiB free, "
        f"driver {gpu['driver']}"
        for gpu in found["gpus"]
    ]
    print("GPU      " + ("\n         ".join(cards) or "no NVIDIA card found: i2v runs on the CPU"))
    print(f"memory   {found['ram_available_bytes'] / gib:.1f} of {found['ram_total_bytes'] / gib:.1f} GiB available")
    print(f"disk     {found['disk_free_bytes'] / gib:.1f} GiB free for {found['home']}")
    print("models   " + ", ".join(found["models_installed"]))
    print("versions " + ", ".join(f"{name} {version}" for name, version in found["versions"].items()))
    for problem in found["problems"]:
        print(f"PROBLEM  {problem['problem']}. {problem['remedy']}")
    if not found["problems"]:
        print("all well")
