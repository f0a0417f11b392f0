"""How i2v would run I2VGen-XL on cards of several sizes: `python -m benchmarks.will_it_fit [--json|--markdown]`.

Taken from the forecast tables that ship with i2v, for a card with nothing else on it. Takes no card, no model and no
torch. `--markdown` prints what stands in the README between the two marks.
"""

from __future__ import annotations

import argparse
import json
from dataclasses import asdict, dataclass
from typing import Any

from i2v.memory.forecast.tables import shipped_forms
from i2v.memory.ladder import Ladder
from i2v.memory.machine_now import GIB, Machine
from i2v.memory.plan import Plan
from i2v.memory.residency import Home
from i2v.presets.model_preset import preset_named
from i2v.request import GenerationRequest, build_request

__all__ = ["END", "START", "Cell", "card_of", "cells", "markdown"]

MODEL = "i2vgen-xl"
SIZES = ((512, 512), (768, 768), (1024, 1024), (1280, 704))
FRAMES = (16, 24, 32)
CARDS_GIB = (4, 6, 8, 12, 16, 24)
CAPABILITY = (8, 6)  # of the cards sold most: RTX 30
RAM_GIB = 32
START, END = "<!-- will-it-fit -->", "<!-- /will-it-fit -->"


@dataclass(frozen=True)
class Cell:
    """What i2v would do with one setting on one card.

    `peak_bytes`: what the card must have in all; of the smallest rung where none fits.
    """

    width: int
    height: int
    num_frames: int
    card_gib: int
    rung: str
    fits: bool
    peak_bytes: int
    words: str

    @property
    def text(self) -> str:
        peak = f"{self.peak_bytes / GIB:.1f}"
        return f"{self.rung}: {peak}" if self.fits else f"no: needs {peak}"


def short_words(plan: Plan) -> str:
    """Say in a word or three which rung a plan is."""
    frames = plan.knobs.get("chunk_frames")
    chunks = f"chunks of {frames}" if frames else ""
    if plan.home is Home.STREAMED:
        first = "parked" if "parked_skips" in plan.knobs else "streamed"
        return f"{first}, {chunks}" if chunks else first
    return chunks or ("whole" if plan.home is Home.RESIDENT else "turns")


def card_of(gib: int) -> Machine:
    """Return a machine with a card of which all is free."""
    size, ram = gib * GIB, RAM_GIB * GIB
    return Machine("cuda:0", f"a card of {gib} GiB", CAPABILITY, size, size, ram, ram)


def cells() -> list[Cell]:
    """Return every cell: sizes, in them frames, in them cards."""
    return [
        _cell(_request(width, height, frames), gib) for width, height in SIZES for frames in FRAMES for gib in CARDS_GIB
    ]


def _request(width: int, height: int, frames: int) -> GenerationRequest:
    values = {"model": MODEL, "prompt": "", "width": width, "height": height, "num_frames": frames, "seed": 0}
    return build_request(values, (width, height))


def _cell(request: GenerationRequest, gib: int) -> Cell:
    preset = preset_named(MODEL)
    forms = shipped_forms(preset)
    if forms is None:
        raise SystemExit(f"no forecast table ships for {MODEL}; run: python -m i2v.models.build_forms {MODEL} --ship")
    ladder = Ladder(request, preset, forms, card_of(gib))
    rung = ladder.chosen or ladder.smallest
    size = (request.width, request.height, request.num_frames)
    plan = rung.plan
    return Cell(*size, gib, short_words(plan), rung.fits, rung.forecast.peak_vram_bytes, plan.words())


def markdown(found: list[Cell]) -> str:
    """Return the table as it stands in the README, with the marks around it. A peak is in GiB."""
    lines = [START, "| size | frames | " + " | ".join(f"{gib} GiB" for gib in CARDS_GIB) + " |"]
    lines.append("| --- " * (2 + len(CARDS_GIB)) + "|")
    for row in _rows(found):
        first = row[0]
        texts = (cell.text for cell in row)
        lines.append(f"| {first.width}×{first.height} | {first.num_frames} | {' | '.join(texts)} |")
    return "\n".join([*lines, END])


def _rows(found: list[Cell]) -> list[list[Cell]]:
    return [found[at : at + len(CARDS_GIB)] for at in range(0, len(found), len(CARDS_GIB))]


def _text(found: list[Cell]) -> str:
    lines = [f"{MODEL}: how it would run, and the peak of VRAM in GiB, by card"]
    lines.append(f"{'':>15}" + "".join(f"{f'{gib} GiB':>29}" for gib in CARDS_GIB))
    for row in _rows(found):
        first = row[0]
        setting = f"{first.width}x{first.height}x{first.num_frames}"
        lines.append(f"{setting:>15}" + "".join(f"{cell.text:>29}" for cell in row))
    return "\n".join(lines)


def _json(found: list[Cell]) -> dict[str, Any]:
    machine = {"capability": CAPABILITY, "ram_bytes": RAM_GIB * GIB}
    return {"model": MODEL, "machine": machine, "cells": [asdict(cell) for cell in found]}


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description="Show how i2v would run I2VGen-XL on cards of several sizes.")
    ways = parser.add_mutually_exclusive_group()
    ways.add_argument("--json", action="store_true", help="print one JSON object")
    ways.add_argument("--markdown", action="store_true", help="print the table of the README, with its marks")
    args = parser.parse_args()
    found = cells()
    if args.json:
        print(json.dumps(_json(found), indent=2))
    else:
        print(markdown(found) if args.markdown else _text(found))


if __name__ == "__main__":
    main()
