"""Peak memory as a formula in the settings: exact, small enough to read, and known without torch.

Every tensor's size is a product of dimensions, so at each moment of a run the live bytes are a sum of products such as
"F*A0" (frames times latent pixels) with fixed factors, and the peak is the largest of a few such sums. trace.py finds
them by running the model's real code on fake tensors; here they are read and evaluated.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

__all__ = ["FORMAT", "Component", "ModelForms", "PeakForm", "product_value", "variables_of"]

FORMAT = 1


def product_value(product: str, variables: Mapping[str, int]) -> int:
    """Return the value of a product of variables such as "F*A0"; "1" is one."""
    return math.prod(1 if name == "1" else variables[name] for name in product.split("*"))


def variables_of(
    width: int, height: int, num_frames: int, *, scale: int, levels: int, frames: int = 1, rows: int = 1
) -> dict[str, int]:
    """Return the variables that the products are made of.

    `width`, `height` in pixels; `scale`: pixels per latent; `levels`: of the denoiser. F frames; c frames per piece;
    A0, A1, ... latent pixels at each level; P0, P1, ... those in a piece of rows; h rows and w columns of latents; r
    rows of a band.
    """
    down, across = height // scale, width // scale
    found = {"F": num_frames, "c": min(frames, num_frames), "h": down, "w": across, "r": rows}
    for level in range(levels):
        # Rows that hold about as much of all frames as `frames` whole frames do: exact_layers.rows_per_piece.
        in_piece = max(1, min(down, round(down * found["c"] / num_frames)))
        found[f"A{level}"], found[f"P{level}"] = down * across, in_piece * across
        down, across = -(-down // 2), -(-across // 2)
    return found


@dataclass(frozen=True)
class PeakForm:
    """A peak in bytes: the largest of several sums of products. Each row maps a product to its factor in bytes."""

    rows: tuple[dict[str, float], ...]

    def peak_bytes(self, variables: Mapping[str, int]) -> int:
        """Evaluate for settings."""
        sums = (sum(factor * product_value(name, variables) for name, factor in row.items()) for row in self.rows)
        return int(max(sums, default=0))


@dataclass(frozen=True)
class Component:
    """The weights of one part of a model, in parameters.

    `most_at_once`: what streaming holds at a time; `largest_leaf`: in one layer; `linear`: in linear layers, which int8
    and nf4 store smaller; `castable`: in those that fp8 stores smaller.
    """

    parameters: int
    most_at_once: int
    largest_leaf: int = 0
    linear: int = 0
    castable: int = 0


@dataclass(frozen=True)
class ModelForms:
    """Everything a forecast needs to know of one model's architecture.

    `peaks`: by "fp16" or "fp32" (2 or 4 bytes a number), then by part of the run ("denoise.whole", "decode.bands");
    what waits beside a stage is "denoise.held" and "decode.held", what is parked in main memory "denoise.skips", and
    what a part takes there on every device has ".ram" behind its name.
    `operations`: floating-point operations of one denoiser call ("denoise") and one decoded frame, by product.
    """

    key: str
    scale: int
    levels: int
    components: dict[str, Component]
    peaks: dict[str, dict[str, PeakForm]]
    operations: dict[str, dict[str, float]]
    versions: dict[str, str]

    @property
    def pieces(self) -> bool:
        """Whether the model can be run in pieces at all."""
        return "denoise.pieces" in self.peaks["fp32"]

    def peak_bytes(self, precision: str, part: str, variables: Mapping[str, int]) -> int:
        """Return a part's peak of activations in bytes; a part that the model does not have takes nothing.

        Bands that no formula was found for are taken to be whole.
        """
        parts = self.peaks["fp32" if precision == "fp32" else "fp16"]
        form = parts.get(part) or parts.get(part.replace(".bands", ".whole"))
        return form.peak_bytes(variables) if form else 0

    def operations_of(self, part: str, variables: Mapping[str, int]) -> float:
        """Return the floating-point operations of a part."""
        return sum(factor * product_value(name, variables) for name, factor in self.operations.get(part, {}).items())

    def save(self, path: Path) -> None:
        """Write as JSON, beside the old file and then in its place."""
        part = path.with_suffix(".part")
        path.parent.mkdir(parents=True, exist_ok=True)
        part.write_text(json.dumps({"format": FORMAT} | asdict(self), indent=1) + "\n", encoding="utf-8")
        part.replace(path)

    @classmethod
    def load(cls, path: Path) -> ModelForms | None:
        """Read what `save` wrote; None for a file that is not there or of another format."""
        try:
            found: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
            if found.pop("format") != FORMAT:
                return None
            found["components"] = {name: Component(**values) for name, values in found["components"].items()}
            found["peaks"] = {
                precision: {part: PeakForm(tuple(form["rows"])) for part, form in parts.items()}
                for precision, parts in found["peaks"].items()
            }
            return cls(**found)
        except (OSError, ValueError, KeyError, TypeError, AttributeError):
            return None
