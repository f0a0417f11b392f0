"""Model presets: what each file in configs/models/ says of one model. Validated when loaded; no torch.

Knows the limits and defaults of a model, where its files come from and what its licence allows; not how it works.
"""

from __future__ import annotations

from functools import lru_cache
from importlib import import_module
from pathlib import Path
from typing import Any, Literal

import yaml
from pydantic import BaseModel, ConfigDict, Field, FiniteFloat, ValidationError

from i2v.errors import InputError
from i2v.family import Family, Rules

__all__ = [
    "CONFIG_FOLDER",
    "Bounds",
    "Defaults",
    "HubSource",
    "ModelPreset",
    "added_folders",
    "check_against_family",
    "declared_family",
    "default_model",
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

    low: FiniteFloat
    high: FiniteFloat

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
    def qualities(self) -> list[Defaults | Quality]:
        """The settings to start from: the defaults, and draft and best where there are such."""
        return [quality for quality in (self.defaults, self.draft, self.best) if quality]

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
    module = f"i2v.models.{name}"
    try:
        declared = getattr(import_module(module), "FAMILY", None)
    except ModuleNotFoundError as error:
        if not module.startswith(error.name or module):
            raise  # it is there, and what it needs is not
        declared = None
    if not isinstance(declared, Family):
        raise InputError(f"there is no model family {name!r}")
    return declared


def added_folders() -> tuple[Path, ...]:
    """Return the folders of models besides i2v's own, from the search path of i2v.models: see model_folders.py."""
    return tuple(Path(folder) for folder in list(import_module("i2v.models").__path__)[1:])


@lru_cache(maxsize=1)
def load_presets() -> dict[str, ModelPreset]:
    """Return every preset by name, the built-in model first. Raises InputError naming the file and the key."""
    presets: dict[str, ModelPreset] = {}
    folder = CONFIG_FOLDER / "models"
    added = [path for other in added_folders() for path in sorted(other.glob("*.yaml"))]
    for path in [*sorted(folder.glob("*.yaml")), *added]:
        try:
            preset = ModelPreset.model_validate(yaml.safe_load(path.read_text(encoding="utf-8")))
            check_against_family(preset)
            if preset.name in presets:
                raise ValueError(f"name: there is another preset {preset.name!r}")
        except (OSError, ValueError, yaml.YAMLError, InputError) as error:  # pydantic's is a ValueError
            raise InputError(f"{path} is not a valid model preset: {first_problem(error)}") from error
        presets[preset.name] = preset
    if not presets:
        raise InputError(f"there is no model preset in {folder}")
    return dict(sorted(presets.items(), key=lambda item: item[1].package_folder is None))


def check_against_family(preset: ModelPreset) -> None:
    """Raise ValueError, with the key and the reason, where a preset contradicts itself or the rules of its family."""
    try:
        family = preset.declared
    except InputError as error:
        raise ValueError(f"family: {error.message}") from error
    if not preset.package_folder and not preset.hub:
        raise ValueError("hub: the files are neither there nor in a package_folder")
    for key in ("side_px", "num_frames", "fps", "num_inference_steps", "guidance_scale"):
        bounds = getattr(preset, key)
        if bounds.low > bounds.high:
            raise ValueError(f"{key}: low is {bounds.low:g}, more than high, {bounds.high:g}")
    _check_architecture(preset, family)
    _check_reachable(preset, family.name, family.rules)
    for key in ("defaults", "draft", "best"):
        if quality := getattr(preset, key):
            _check_quality(key, quality, preset, family)


def _check_architecture(preset: ModelPreset, family: Family) -> None:
    """Raise ValueError unless the components described, if any are, are those of the family."""
    described, known = set(preset.architecture), {part.name for part in family.parts} | set(family.configured)
    if unknown := described - known:
        raise ValueError(f"architecture.{min(unknown)}: the family {family.name} has no such component")
    if described and (left_out := known - described):
        raise ValueError(f"architecture.{min(left_out)}: is left out, a component of the family {family.name}")


def _check_reachable(preset: ModelPreset, name: str, rules: Rules) -> None:
    """Raise ValueError where the bounds leave nothing that the family's rules allow."""
    frames, multiple, side = rules.frames, rules.size_multiple, preset.side_px
    if not frames.legal(int(preset.num_frames.low), int(preset.num_frames.high)):
        raise ValueError(f"num_frames: no number of frames within them is {frames.words()}, as {name} wants")
    if side.high // multiple * multiple < side.low:
        raise ValueError(f"side_px: no side within them is a multiple of {multiple}, as {name} wants")
    for width, height in rules.sizes:
        if not (side.contains(width) and side.contains(height)):
            raise ValueError(f"side_px: {side.low:g} to {side.high:g} leaves out {width}x{height}, a size of {name}")
        if width * height > preset.max_pixels:
            raise ValueError(f"max_pixels: {width}x{height}, a size of {name}, has more")


def _check_quality(key: str, quality: Defaults | Quality, preset: ModelPreset, family: Family) -> None:
    """Raise ValueError where settings to start from are outside the preset's bounds, or against the family's rules."""
    rules, frames = family.rules, family.rules.frames
    for name, value in quality:
        bounds = preset.side_px if name == "short_side_px" else getattr(preset, name, None)
        if isinstance(bounds, Bounds) and not bounds.contains(value):
            raise ValueError(f"{key}.{name}: {value:g} is not within {bounds.low:g} to {bounds.high:g}")
    if not frames.allows(quality.num_frames):
        raise ValueError(f"{key}.num_frames: {quality.num_frames} is not {frames.words()}, as {family.name} wants")
    if not rules.sizes and quality.short_side_px % rules.size_multiple:
        raise ValueError(f"{key}.short_side_px: {quality.short_side_px} is no multiple of {rules.size_multiple}")


def default_model() -> str:
    """Return the name of the model that is used when none is asked for: the built-in one."""
    return next(iter(load_presets()))


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
        return f"{'.'.join(str(part) for part in first['loc']) or 'the file'}: {first['msg']}"
    return str(error).splitlines()[0]
