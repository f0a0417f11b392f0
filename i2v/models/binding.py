"""Binds a family's declaration to the code that computes: its classes, its blocks, its pipeline. Needs torch."""

from __future__ import annotations

import inspect
from collections.abc import Mapping, Sequence
from functools import reduce
from importlib import import_module
from types import ModuleType
from typing import Any

from torch import nn

from i2v.family import Architecture, Family, Part
from i2v.memory.weights.placement import Streamable
from i2v.models.base import ImageToVideo

__all__ = ["blocks_of", "build_component", "class_of", "family_module", "pipeline_class", "streamables"]


def family_module(name: str) -> ModuleType:
    """Return the file of a family in i2v/models (the name comes from a validated preset)."""
    return import_module(f"i2v.models.{name}")


def pipeline_class(name: str) -> type[ImageToVideo]:
    """Return the `Pipeline` class of a family."""
    pipeline: type[ImageToVideo] = family_module(name).Pipeline
    return pipeline


def class_of(path: str) -> Any:
    """Return the class or function at a path such as "diffusers:AutoencoderKL"."""
    module, _, name = path.partition(":")
    return getattr(import_module(module), name)


def build_component(part: Part, config: Mapping[str, Any]) -> nn.Module:
    """Build one component with fresh weights on the current default device. Keys it does not know are left out."""
    cls = class_of(part.cls)
    if part.config_cls:
        config_cls = class_of(part.config_cls)
        built: nn.Module = cls(config_cls(**_known(config_cls, config)))
        return built
    built = cls(**_known(cls, config))
    return built


def _known(cls: type, config: Mapping[str, Any]) -> dict[str, Any]:
    known = inspect.signature(cls).parameters
    return {key: value for key, value in config.items() if key in known}


def blocks_of(part: Part, module: nn.Module) -> list[nn.Module]:
    """Return the blocks that streaming walks, in the order they run; none for a component without any."""
    if not part.blocks:
        return []
    if ":" in part.blocks:
        return list(class_of(part.blocks)(module))
    return list(reduce(getattr, part.blocks.split("."), module))  # type: ignore[call-overload]


def streamables(family: Family, modules: Mapping[str, nn.Module]) -> dict[str, Streamable]:
    """Return a family's loaded components as what `Placement` moves about."""
    return {
        part.name: Streamable(modules[part.name], _blocks(part, modules), part.held_at_once)
        for part in family.parts
        if part.name in modules
    }


def _blocks(part: Part, modules: Mapping[str, nn.Module]) -> Sequence[nn.Module]:
    return blocks_of(part, modules[part.name])


def parts_of(family: Family, architecture: Architecture) -> tuple[Part, ...]:
    """Return the components that an architecture has."""
    return tuple(part for part in family.parts if part.name in architecture)
