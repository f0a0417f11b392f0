"""What a model family declares: its geometry, its rules, its components and the knobs that it can be run by.

Values only, without torch: the web process reads a family's limits here, the engine binds the same declaration to the
code that computes (i2v/models). Nothing outside a family's own file names one of its components or classes.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from enum import StrEnum
from typing import Any

__all__ = ["Architecture", "Family", "FrameRule", "Geometry", "Knob", "Part", "PromptRule", "Role", "Rules"]

Architecture = Mapping[str, Mapping[str, Any]]


class Role(StrEnum):
    """What a component is for."""

    ENCODER = "encoder"
    DENOISER = "denoiser"
    DECODER = "decoder"  # an autoencoder: it encodes the picture too


@dataclass(frozen=True)
class FrameRule:
    """Which numbers of frames are legal: `first`, and every `step` more. A causal autoencoder has 4k+1 or 8k+1."""

    step: int = 1
    first: int = 1

    def allows(self, count: int) -> bool:
        """Say whether a clip may have so many frames."""
        return count >= self.first and (count - self.first) % self.step == 0

    def legal(self, low: int, high: int) -> range:
        """Return the legal counts from `low` to `high`, ascending."""
        begin = self.first + -(-max(low - self.first, 0) // self.step) * self.step
        return range(begin, high + 1, self.step)

    def nearest(self, count: int, low: int, high: int) -> int:
        """Return the legal count within the bounds that is nearest, the smaller of two. Raises ValueError for none."""
        return min(self.legal(low, high), key=lambda legal: (abs(legal - count), legal))

    def words(self) -> str:
        """Say the rule as people of the field write it, such as "4k+1"; "" where every count is legal."""
        return "" if self.step == 1 else f"{self.step}k+{self.first % self.step}".removesuffix("+0")


@dataclass(frozen=True)
class Rules:
    """What a family can be asked for. Sizes in pixels.

    `size_multiple`: of which width and height must be. `sizes`: the only (width, height) there are, for a family of
    fixed sizes; none for any. `can_loop`: it can make the end of a clip flow into its beginning.
    """

    size_multiple: int = 1
    frames: FrameRule = FrameRule()
    sizes: tuple[tuple[int, int], ...] = ()
    can_loop: bool = False


@dataclass(frozen=True)
class PromptRule:
    """How a prompt's length is counted: with which tokenizer's folder, and how many `marks` it adds of its own."""

    tokenizer: str = "tokenizer"
    marks: int = 2


@dataclass(frozen=True)
class Geometry:
    """How pixels and frames become latents, for the formulas of memory.

    `scale`: pixels per latent along a side; `frame_scale`: frames per latent after the first; `patch`: latents per
    token, over time, height and width; `levels`: how many sizes the denoiser works at, each half the one before.
    """

    scale: int = 1
    frame_scale: int = 1
    patch: tuple[int, int, int] = (1, 1, 1)
    levels: int = 1

    def latent_frames(self, num_frames: int) -> int:
        """Return the latent frames of a clip: the first frame has one of its own."""
        return -(-(num_frames - 1) // self.frame_scale) + 1

    def variables(self, width: int, height: int, num_frames: int, knobs: Mapping[str, int]) -> dict[str, int]:
        """Return the variables that formulas are products of. `width`, `height` in pixels; `knobs`: values by name.

        F frames, f latent frames; c frames per piece; A0, A1, … latent pixels at each level, P0, P1, … those in a piece
        of rows; h rows and w columns of latents; r rows of a band, in pixels; N tokens. A knob is there by its own
        name too.
        """
        down, across = height // self.scale, width // self.scale
        latent_frames = self.latent_frames(num_frames)
        over_time, over_height, over_width = self.patch
        found = {
            "F": num_frames,
            "f": latent_frames,
            "c": min(knobs.get("chunk_frames", num_frames), num_frames),
            "h": down,
            "w": across,
            "r": knobs.get("vae_rows", height),
            "N": -(-latent_frames // over_time) * -(-down // over_height) * -(-across // over_width),
        }
        for level in range(self.levels):
            # Rows that hold about as much of all frames as c whole frames do: exact/unet_layers.rows_per_piece.
            in_piece = max(1, min(down, round(down * found["c"] / num_frames)))
            found[f"A{level}"], found[f"P{level}"] = down * across, in_piece * across
            down, across = -(-down // 2), -(-across // 2)
        return found | dict(knobs)


@dataclass(frozen=True)
class Part:
    """One component with weights.

    `name`: its folder in a checkpoint. `cls`: where its class is, such as "diffusers:AutoencoderKL"; `config_cls`: the
    class of its configuration, for components of transformers. `blocks`: the list that streaming walks, as a dotted
    path inside the component ("blocks", "encoder.block") or a function "module:name" that lists them; "" to stream it
    leaf by leaf. `held_at_once`: how many blocks its forward needs at one time.
    """

    name: str
    cls: str
    role: Role
    config_cls: str = ""
    blocks: str = ""
    held_at_once: int = 1


@dataclass(frozen=True)
class Knob:
    """One way to take less memory, with its values.

    `stages`: those it helps. `way`: the traced way of a call that it stands for; `after`: the knob without which it
    makes no sense. `steps`: its values, largest first; none for a number of frames that is halved down to one.
    `words` says what it does, with {value}; `rung` names the plan that is made with it.
    """

    name: str
    stages: tuple[str, ...]
    way: str
    words: str
    rung: str
    steps: tuple[int, ...] = ()
    after: str = ""
    is_exact: bool = True
    needs_streaming: bool = False

    def values(self, num_frames: int) -> Iterator[int]:
        """Yield the values below doing everything at once, largest first."""
        if self.steps:
            yield from self.steps
            return
        value = num_frames
        while value > 1:
            value = -(-value // 2)
            yield value

    def smaller(self, value: int | None, num_frames: int) -> Iterator[int]:
        """Yield the values below one, largest first; below everything at once for None."""
        if self.steps or value is None:
            yield from (step for step in self.values(num_frames) if value is None or step < value)
        else:
            yield from self.values(value)

    def said(self, value: int) -> str:
        """Say what it does at a value."""
        return self.words.format(value=value, s="" if value == 1 else "s")


@dataclass(frozen=True)
class Family:
    """The declaration of one family.

    `knobs` stand in the order in which they are put to work. `code`: the modules of i2v that allocate while the model
    runs; a table of formulas is traced again when they change. `configured`: components without weights whose
    configuration belongs to the architecture, such as a renderer.
    """

    name: str
    parts: tuple[Part, ...]
    rules: Rules = Rules()
    prompt: PromptRule | None = PromptRule()
    knobs: tuple[Knob, ...] = ()
    code: tuple[str, ...] = ()
    configured: tuple[str, ...] = ()

    def part(self, name: str) -> Part:
        """Return a component's declaration. Raises KeyError."""
        return {part.name: part for part in self.parts}[name]

    def of_role(self, role: Role) -> tuple[str, ...]:
        """Return the names of the components of a role, in order."""
        return tuple(part.name for part in self.parts if part.role is role)

    def knobs_for(self, stage: str) -> tuple[Knob, ...]:
        """Return the knobs that lower the memory of a stage, in order."""
        return tuple(knob for knob in self.knobs if stage in knob.stages)

    @property
    def is_small(self) -> bool:
        """Whether it has but one way to run: no knobs, and no component that is worth streaming."""
        return not self.knobs and not any(part.blocks for part in self.parts)
