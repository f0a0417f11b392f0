"""Model presets: what each file in configs/models/ says of one model. Validated when loaded; no torch.

Knows the limits and defaults of a model, where its files come from and what its licence allows; not how it works.
"""

from __future__ import annotations

from functools import lru_cache
from importlib import import_module
from pathlib import Path
from typing import Any, Literal

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from i2v.errors import InputError
from i2v.family import Family, Rules

__all__ = [
    "CONFIG_FOLDER",
    "Bounds",
    "Defaults",
    "HubSource",
    "ModelPreset",
    "check_against_family",
    "declared_family",
    "first_problem",
    "load_presets",
    "preset_named",
]

CONFIG_FOLDER = Path(__file__).resolve().parents[2] / "configs"
PACKAGE_FOLDER = Path(__file__).resolve().parents[1]


class _Strict(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class Bounds(_Strict):
    """An inclusive range."""

    low: float
    high: float

    def contains(self, value: float) -> bool:
        return self.low <= value <= self.high


class Defaults(_Strict):
    """What the page shows and the command line uses when a person says nothing."""

    short_side_px: int
    num_frames: int
    fps: int
    num_inference_steps: int
    guidance_scale: float
    negative_prompt: str = ""


class Quality(_Strict):
    """A quality to start from, besides the defaults."""

    short_side_px: int
    num_frames: int
    fps: int
    num_inference_steps: int


class HubSource(_Strict):
    """Where the files are on the Hugging Face hub: one pinned commit, an allow-list, safetensors only."""

    repo: str
    revision: str
    files: tuple[str, ...]
    download_bytes: int


class ModelPreset(_Strict):
    """One model a person can choose.

    `draft` and `best`: settings that are quicker, or look better, than the defaults.
    `vocabulary_file`: the words it knows (see vocabulary.py), inside the package; without one nothing is said of a
    prompt's words. `nothing_known`: what the page says of a prompt in which the model knows none of them. What sizes
    and numbers of frames are legal within the bounds, its family says.
    """

    name: str
    title: str
    family: str
    summary: str
    licence: str
    licence_note: str
    package_folder: str | None = None
    hub: HubSource | None = None
    parameters: int
    prompt_tokens: int
    side_px: Bounds
    max_pixels: int
    num_frames: Bounds
    fps: Bounds
    num_inference_steps: Bounds
    guidance_scale: Bounds
    defaults: Defaults
    draft: Quality | None = None
    best: Quality | None = None
    vocabulary_file: str | None = None
    nothing_known: str = ""
    precisions: tuple[Literal["fp32", "fp16", "bf16", "fp8", "int8", "nf4"], ...]
    architecture: dict[str, dict[str, Any]] = Field(default={})
    example_prompts: tuple[str, ...] = Field(default=())

    @property
    def declared(self) -> Family:
        """What the preset's family declares."""
        return declared_family(self.family)

    @property
    def rules(self) -> Rules:
        """The family's rules."""
        return self.declared.rules

    @property
    def shipped_folder(self) -> Path | None:
        """The folder inside the package, for a model that ships with the code."""
        return PACKAGE_FOLDER / self.package_folder if self.package_folder else None

    @property
    def vocabulary_path(self) -> Path | None:
        """The vocabulary file inside the package, for a model that has one."""
        return PACKAGE_FOLDER / self.vocabulary_file if self.vocabulary_file else None


@lru_cache(maxsize=64)
def declared_family(name: str) -> Family:
    """Return what the family in i2v/models/NAME.py declares, without torch. Raises InputError.

    The one place above the models that looks at them, by a name that stands in a preset.
    """
    try:
        declared: Family = import_module(f"i2v.models.{name}").FAMILY
    except (ModuleNotFoundError, AttributeError) as error:
        raise InputError(f"there is no model family {name!r}") from error
    return declared


@lru_cache(maxsize=1)
def load_presets() -> dict[str, ModelPreset]:
    """Return every preset by name, the built-in model first. Raises InputError naming the file and the key."""
    presets = {}
    for path in sorted((CONFIG_FOLDER / "models").glob("*.yaml")):
        try:
            preset = ModelPreset.model_validate(yaml.safe_load(path.read_text(encoding="utf-8")))
            check_against_family(preset)
        except (ValidationError, yaml.YAMLError, ValueError, InputError) as error:
            raise InputError(f"{path} is not a valid model preset: {first_problem(error)}") from error
        presets[preset.name] = preset
    return dict(sorted(presets.items(), key=lambda item: item[1].package_folder is None))


def check_against_family(preset: ModelPreset) -> None:
    """Raise ValueError, with the key and the reason, where a preset contradicts itself or the rules of its family."""
    try:
        family = preset.declared
    except InputError as error:
        raise ValueError(f"family: {error.message}") from error
    for key in ("side_px", "num_frames", "fps", "num_inference_steps", "guidance_scale"):
        bounds = getattr(preset, key)
        if bounds.low > bounds.high:
            raise ValueError(f"{key}: low is {bounds.low:g}, more than high, {bounds.high:g}")
    unknown = set(preset.architecture) - {part.name for part in family.parts} - set(family.configured)
    if unknown:
        raise ValueError(f"architecture.{min(unknown)}: the family {family.name} has no such component")
    frames, multiple = family.rules.frames, family.rules.size_multiple
    if not frames.legal(int(preset.num_frames.low), int(preset.num_frames.high)):
        raise ValueError(f"num_frames: no number of frames within them is {frames.words()}, as {family.name} wants")
    for key in ("defaults", "draft", "best"):
        quality: Defaults | Quality | None = getattr(preset, key)
        if quality is None:
            continue
        if not frames.allows(quality.num_frames):
            raise ValueError(f"{key}.num_frames: {quality.num_frames} is not {frames.words()}, as {family.name} wants")
        if not family.rules.sizes and quality.short_side_px % multiple:
            raise ValueError(f"{key}.short_side_px: {quality.short_side_px} is no multiple of {multiple}")
        for name, bounds in (("num_frames", preset.num_frames), ("fps", preset.fps), ("short_side_px", preset.side_px)):
            if not bounds.contains(getattr(quality, name)):
                raise ValueError(
                    f"{key}.{name}: {getattr(quality, name)} is not within {bounds.low:g} to {bounds.high:g}"
                )


def preset_named(name: str) -> ModelPreset:
    """Return one preset. Raises InputError that lists the known names."""
    presets = load_presets()
    if name not in presets:
        raise InputError(f"there is no model {name!r}", f"Known models: {', '.join(presets)}.", field="model")
    return presets[name]


def first_problem(error: Exception) -> str:
    """Return in a few words what is wrong in a YAML file: the first key that is, and why."""
    if isinstance(error, ValidationError):
        first = error.errors()[0]
        return f"{'.'.join(str(part) for part in first['loc'])}: {first['msg']}"
    return str(error).splitlines()[0]
