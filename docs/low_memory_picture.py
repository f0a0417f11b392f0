"""Draws the README's picture of how low memory works: `python -m docs.low_memory_picture`.

The bars are the peaks in benchmarks/results/bench-cpu.json, which `python -m i2v bench --json` printed.
"""

from __future__ import annotations

import json
from pathlib import Path

ROOT = Path(__file__).parents[1]
GREY, TEAL, INK, PALE = "#9aa8ae", "#0d8277", "#25343a", "#dfe6e9"
GIB = 1 << 30


def text(
    x: float, y: float, words: str, size: int = 14, weight: int = 400, colour: str = INK, end: bool = False
) -> str:
    """Return a line of text; `x` is its end when `end`."""
    anchor = ' text-anchor="end"' if end else ""
    return f'<text x="{x}" y="{y}" font-size="{size}" font-weight="{weight}" fill="{colour}"{anchor}>{words}</text>'


def frames(x: float, y: float, by_rows: bool) -> str:
    """Return a stack of six frames, of which two frames, or a band of rows of all, are worked on."""
    parts = []
    for number in range(6):
        left, top = x + 16 * number, y + 10 * (5 - number)
        fill = TEAL if not by_rows and number in (2, 3) else "white"
        parts.append(f'<rect x="{left}" y="{top}" width="92" height="62" rx="4" fill="{fill}" stroke="{GREY}"/>')
        if by_rows:
            parts.append(f'<rect x="{left + 1}" y="{top + 20}" width="90" height="12" fill="{TEAL}" opacity="0.85"/>')
    return "".join(parts)


def bars(rows: list[dict[str, int]], x: float, y: float, width: float) -> str:
    """Return a pair of bars per setting, plain over exact."""
    most = max(row["plain_peak_bytes"] for row in rows)
    parts = []
    for number, row in enumerate(rows):
        top = y + 52 * number
        name = f"{row['width']}×{row['height']}, {row['num_frames']} frames"
        parts.append(text(x - 10, top + 24, name, 13, end=True))
        for offset, key, colour in ((0, "plain_peak_bytes", GREY), (20, "exact_peak_bytes", TEAL)):
            long = max(2.0, width * row[key] / most)
            parts.append(
                f'<rect x="{x}" y="{top + offset}" width="{long:.1f}" height="16" rx="3" fill="{colour}"/>'
                + text(x + long + 8, top + offset + 13, f"{row[key] / GIB:.2f} GiB", 13, 600)
            )
    return "".join(parts)


def main() -> None:
    """Write docs/low-memory.svg."""
    found = json.loads((ROOT / "benchmarks" / "results" / "bench-cpu.json").read_text(encoding="utf-8"))
    rows = [row for row in found["rows"] if row["source"] in ("traced", "measured")]
    picture = [
        '<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 900 400" width="900" height="400" '
        'font-family="system-ui, -apple-system, Segoe UI, Roboto, Noto Sans, sans-serif">',
        '<rect width="900" height="400" rx="12" fill="white"/>',
        text(30, 40, "The same step, in pieces", 20, 700),
        frames(40, 62, by_rows=False),
        text(236, 98, "Spatial layers look", 14, 600),
        text(236, 118, "inside one frame:", 14, 600),
        text(236, 142, "a few frames at a time", 14, 400, TEAL),
        frames(480, 62, by_rows=True),
        text(676, 98, "Temporal layers look", 14, 600),
        text(676, 118, "along one pixel:", 14, 600),
        text(676, 142, "a few rows of all frames", 14, 400, TEAL),
        f'<line x1="30" y1="206" x2="870" y2="206" stroke="{PALE}"/>',
        text(30, 232, "Memory of one denoising step besides the weights", 14, 600),
        text(560, 232, "■ plain diffusers", 13, 600, "#6b7a80"),
        text(700, 232, "■ i2v, same result", 13, 600, TEAL),
        bars(rows, 210, 246, 560),
        "</svg>",
    ]
    (ROOT / "docs" / "low-memory.svg").write_text("\n".join(picture) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
