"""Loads one component of a model from a local folder: safetensors only, checked before torch sees it.

Knows nothing of the hub (see download.py), of folders as a whole (see files.py) or of families.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any, TypeVar

import diffusers
import torch

from i2v.errors import ModelFilesError
from i2v.family import Family
from i2v.models.binding import class_of
from i2v.models.files import check_family, check_weights, component_folder, find_variant, weight_files
from i2v.models.mapped_loading import load_mapped

__all__ = ["load_config", "load_parts", "load_scheduler", "load_tokenizer", "load_weights"]

T = TypeVar("T", bound=Any)


def load_weights(
    folder: Path, name: str, cls: type[T], device: torch.device, dtype: torch.dtype, *, keep_mapped: bool = False
) -> T:
    """Load a component with weights onto a device, ready for inference. Raises ModelFilesError.

    `keep_mapped`: its weights stay in their files, mapped into memory, and the device is left to who places them. They
    are wished in `dtype` then, whatever their files have (i2v/memory/weights/mapped.py), and must not be written to.
    """
    path = component_folder(folder, name)
    variant = find_variant(path)
    check_weights(path, variant)
    module: Any
    try:
        if keep_mapped:
            module, absent = load_mapped(path, weight_files(path, variant), cls, dtype)
        else:
            module, absent = _from_pretrained(path, variant, cls, dtype)
    except (OSError, ValueError, RuntimeError, KeyError) as error:
        if isinstance(error, torch.OutOfMemoryError):
            raise
        raise ModelFilesError(
            f"{path} does not hold a {cls.__name__}: {str(error).splitlines()[0][:200]}",
            "Download the model again.",
        ) from error
    if absent:  # both libraries would go on with random numbers in their place
        raise ModelFilesError(
            f"the weights in {path} lack {len(absent)} tensors, {absent[0]} first",
            "Download the model again.",
        )
    ready: T = (module if keep_mapped else module.to(device)).eval().requires_grad_(False)
    return ready


def _from_pretrained(path: Path, variant: str | None, cls: Any, dtype: torch.dtype) -> tuple[Any, list[str]]:
    """Return a component as its library loads it, and the names of absent tensors."""
    module, report = cls.from_pretrained(
        path,
        variant=variant,
        use_safetensors=True,
        dtype=dtype,
        local_files_only=True,
        output_loading_info=True,
    )
    return module, sorted(str(key) for key in (*report["missing_keys"], *report["mismatched_keys"]))


def load_parts(
    folder: Path, family: Family, device: torch.device, dtype: torch.dtype, *, keep_mapped: bool = False
) -> dict[str, Any]:
    """Load every component of a family, by name; see `load_weights`.

    Raises ModelFilesError, for a folder of another family before any weight is read.
    """
    check_family(folder, family)
    return {
        part.name: load_weights(folder, part.name, class_of(part.cls), device, dtype, keep_mapped=keep_mapped)
        for part in family.parts
    }


def load_config(folder: Path, name: str, cls: type[T]) -> T:
    """Build a component without weights (a scheduler, a renderer) from its config. Raises ModelFilesError."""
    path = component_folder(folder, name)
    try:
        return cls.from_config(cls.load_config(path, local_files_only=True))
    except (OSError, ValueError) as error:
        raise ModelFilesError(f"{path} has no readable configuration", "Download the model again.") from error


def load_scheduler(folder: Path, name: str, allowed: tuple[str, ...]) -> Any:
    """Build the scheduler that the folder names where it is allowed, else the first allowed one.

    `allowed`: names of diffusers' classes. Raises ModelFilesError.
    """
    path = component_folder(folder, name)
    first = getattr(diffusers, allowed[0])
    try:
        config = first.load_config(path, local_files_only=True)
    except (OSError, ValueError) as error:
        raise ModelFilesError(f"{path} has no readable configuration", "Download the model again.") from error
    wished = config.get("_class_name")
    return (getattr(diffusers, wished) if wished in allowed else first).from_config(config)


def load_tokenizer(folder: Path, name: str, cls: type[T]) -> T:
    """Load a tokenizer. Raises ModelFilesError."""
    path = component_folder(folder, name)
    try:
        return cls.from_pretrained(path, local_files_only=True)
    except (OSError, ValueError, KeyError) as error:
        raise ModelFilesError(f"{path} has no readable tokenizer", "Download the model again.") from error
