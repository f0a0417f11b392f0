"""Loads one component of a model from a local folder: safetensors only, checked before torch sees it.

Knows nothing of the hub (see download.py) or of families.
"""

from __future__ import annotations

import json
import logging
from pathlib import Path
from typing import Any, TypeVar

import torch
from safetensors import SafetensorError, safe_open

from i2v.errors import ModelFilesError

__all__ = ["check_weights", "load_config", "load_tokenizer", "load_weights"]

_log = logging.getLogger(__name__)
_PICKLES = ("*.bin", "*.ckpt", "*.pt", "*.pth", "*.pkl")
T = TypeVar("T", bound=Any)


def _component(folder: Path, name: str) -> Path:
    path = folder / name
    if not path.is_dir():
        raise ModelFilesError(
            f"the model folder {folder} has no part {name!r}", "Download the model again, or name a complete folder."
        )
    return path


def _weight_files(path: Path, variant: str | None) -> list[Path]:
    """Return the component's safetensors files of one variant, those an index names included."""
    marker = f".{variant}." if variant else "."
    for stem in ("diffusion_pytorch_model", "model"):
        single = path / f"{stem}{marker}safetensors"
        if single.is_file():
            return [single]
        index = path / f"{stem}.safetensors.index{marker}json"
        if index.is_file():
            try:
                names = set(json.loads(index.read_text())["weight_map"].values())
            except (ValueError, KeyError) as error:
                raise ModelFilesError(f"{index} is not readable", "Download the model again.") from error
            return [path / Path(name).name for name in sorted(names)]
    return []


def find_variant(path: Path) -> str | None:
    """Return the stored variant of a component: fp16 where only that is there, else none."""
    return "fp16" if not _weight_files(path, None) and _weight_files(path, "fp16") else None


def check_weights(path: Path, variant: str | None) -> None:
    """Raise ModelFilesError with one sentence when the weights are missing, cut short, or pickled."""
    files = _weight_files(path, variant)
    if not files:
        pickled = [p.name for pattern in _PICKLES for p in path.glob(pattern)]
        if pickled:
            raise ModelFilesError(
                f"{path} holds pickled weights ({pickled[0]}), which can run code when opened and are never loaded",
                "Use a safetensors version of this model.",
            )
        raise ModelFilesError(f"{path} has no weight file", "Download the model again, or name a complete folder.")
    for file in files:
        if not file.is_file():
            raise ModelFilesError(f"the weight file {file} is missing", "Download the model again.")
        try:
            with safe_open(file, framework="pt"):
                pass
        except (SafetensorError, OSError) as error:
            raise ModelFilesError(
                f"the weight file {file} is cut short or not a safetensors file", "Download the model again."
            ) from error


def load_weights(folder: Path, name: str, cls: type[T], device: torch.device, dtype: torch.dtype) -> T:
    """Load a component with weights onto a device, ready for inference. Raises ModelFilesError."""
    path = _component(folder, name)
    variant = find_variant(path)
    check_weights(path, variant)
    try:
        module = cls.from_pretrained(
            path, variant=variant, use_safetensors=True, dtype=dtype, local_files_only=True
        )
    except (OSError, ValueError, RuntimeError, KeyError) as error:
        if isinstance(error, torch.OutOfMemoryError):
            raise
        raise ModelFilesError(
            f"{path} does not hold a {cls.__name__}: {str(error).splitlines()[0][:200]}", "Download the model again."
        ) from error
    return module.to(device).eval().requires_grad_(False)


def load_config(folder: Path, name: str, cls: type[T]) -> T:
    """Build a component without weights (a scheduler, a renderer) from its config. Raises ModelFilesError."""
    path = _component(folder, name)
    try:
        return cls.from_config(cls.load_config(path, local_files_only=True))
    except (OSError, ValueError) as error:
        raise ModelFilesError(f"{path} has no readable configuration", "Download the model again.") from error


def load_tokenizer(folder: Path, name: str, cls: type[T]) -> T:
    """Load a tokenizer. Raises ModelFilesError."""
    path = _component(folder, name)
    try:
        return cls.from_pretrained(path, local_files_only=True)
    except (OSError, ValueError, KeyError) as error:
        raise ModelFilesError(f"{path} has no readable tokenizer", "Download the model again.") from error
