"""Says whether a model folder is complete and safe to open, from names and weight headers alone. No torch.

Knows the diffusers folder layout; nothing of the hub (see download.py) or of how weights become modules (see
loading.py).
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from safetensors import SafetensorError, safe_open

from i2v.errors import ModelFilesError

__all__ = ["check_folder", "check_weights", "component_folder", "find_variant"]

_PICKLES = ("*.bin", "*.ckpt", "*.pt", "*.pth", "*.pkl")
# What a component without weights is known by, from the end of its class name in model_index.json.
_CONFIG_ONLY = {
    "Tokenizer": "tokenizer_config.json",
    "TokenizerFast": "tokenizer_config.json",
    "Scheduler": "scheduler_config.json",
    "ImageProcessor": "preprocessor_config.json",
    "FeatureExtractor": "preprocessor_config.json",
    "Renderer": "config.json",
}
_VOCABULARIES = ("tokenizer.json", "vocab.json", "spiece.model")
_AGAIN = "Download the model again, or name a complete folder."


def check_folder(folder: Path) -> None:
    """Raise ModelFilesError in one sentence when a part or file of a model is missing, cut short or pickled.

    Reads the headers of the weight files, not the weights: milliseconds, whatever the model's size.
    """
    for name, class_name in _components(folder).items():
        path = component_folder(folder, name)
        config = next((file for end, file in _CONFIG_ONLY.items() if class_name.endswith(end)), None)
        if not (path / (config or "config.json")).is_file():
            raise ModelFilesError(f"{path} has no {config or 'config.json'}", _AGAIN)
        if config == "tokenizer_config.json" and not any((path / file).is_file() for file in _VOCABULARIES):
            raise ModelFilesError(f"{path} has no vocabulary", _AGAIN)
        if config is None:
            check_weights(path, find_variant(path))


def _components(folder: Path) -> dict[str, str]:
    """Return each component's class name; without a model_index.json, those folders that hold weights."""
    index = folder / "model_index.json"
    if not index.is_file():
        held = {path.parent.name: "" for path in folder.glob("*/*.safetensors")}
        if not held:
            raise ModelFilesError(f"the folder {folder} holds no model", _AGAIN)
        return held
    entries = _read_json(index)
    return {name: str(entry[-1]) for name, entry in entries.items() if isinstance(entry, list) and entry and entry[-1]}


def _read_json(path: Path) -> dict[str, Any]:
    try:
        values = json.loads(path.read_text(encoding="utf-8"))
    except (ValueError, OSError):
        values = None
    if not isinstance(values, dict):
        raise ModelFilesError(f"{path} is not readable", "Download the model again.")
    return values


def component_folder(folder: Path, name: str) -> Path:
    """Return a component's folder. Raises ModelFilesError when it is not there."""
    path = folder / name
    if not path.is_dir():
        raise ModelFilesError(f"the model folder {folder} has no part {name!r}", _AGAIN)
    return path


def find_variant(path: Path) -> str | None:
    """Return the stored variant of a component: fp16 where only that is there, else none."""
    return "fp16" if not _weight_files(path, None) and _weight_files(path, "fp16") else None


def check_weights(path: Path, variant: str | None) -> None:
    """Raise ModelFilesError in one sentence when a component's weights are missing, cut short, or pickled."""
    files = _weight_files(path, variant)
    if not files:
        pickled = [p.name for pattern in _PICKLES for p in path.glob(pattern)]
        if pickled:
            raise ModelFilesError(
                f"{path} holds pickled weights ({pickled[0]}), which can run code and are never opened",
                "Use a safetensors version of this model.",
            )
        raise ModelFilesError(f"{path} has no weight file", _AGAIN)
    for file in files:
        if not file.is_file():
            raise ModelFilesError(f"the weight file {file} is missing", "Download the model again.")
        try:
            with safe_open(file, framework="numpy"):  # checks the header, and the file's length against it
                pass
        except (SafetensorError, OSError) as error:
            raise ModelFilesError(
                f"the weight file {file} is cut short or not a safetensors file", "Download the model again."
            ) from error


def _weight_files(path: Path, variant: str | None) -> list[Path]:
    """Return the component's safetensors files of one variant, those an index names included."""
    marker = f".{variant}." if variant else "."
    for stem in ("diffusion_pytorch_model", "model"):
        single = path / f"{stem}{marker}safetensors"
        if single.is_file():
            return [single]
        index = path / f"{stem}.safetensors.index{marker}json"
        if index.is_file():
            names = _read_json(index).get("weight_map")
            if not isinstance(names, dict):
                raise ModelFilesError(f"{index} is not readable", "Download the model again.")
            return [path / name for name in sorted({Path(str(name)).name for name in names.values()})]
    return []
