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
from i2v.family import Family

__all__ = [
    "check_family",
    "check_folder",
    "check_weights",
    "component_folder",
    "find_variant",
    "pipeline_settings",
    "weight_files",
]

_PICKLES = ("*.bin", "*.ckpt", "*.pt", "*.pth", "*.pkl")
# A component without weights is known by the file that its library saves it in; what has weights has a config.json.
# transformers 5.23 and diffusers 0.42: of a processor with a tokenizer, all files lie in one folder.
_CONFIG_ONLY = (
    "tokenizer_config.json",
    "scheduler_config.json",
    "preprocessor_config.json",
    "video_preprocessor_config.json",
    "processor_config.json",
    "guider_config.json",
)
# Where a folder has such a file and a config.json as well, or neither, a word in the class name of model_index.json
# says what it should be. The words have lasted; endings (Fast, Pil) come and go.
_BY_CLASS = {
    "Tokenizer": "tokenizer_config.json",
    "Scheduler": "scheduler_config.json",
    "VideoProcessor": "video_preprocessor_config.json",
    "ImageProcessor": "preprocessor_config.json",
    "FeatureExtractor": "preprocessor_config.json",
    "Processor": "processor_config.json",
    "Guidance": "guider_config.json",
}
_OURS_WITHOUT_WEIGHTS = ("MotionRenderer",)  # its file is a config.json
_VOCABULARIES = ("tokenizer.json", "vocab.json", "vocab.txt", "tekken.json", "*.model", "*.tiktoken")
_READ_BYTES_AS_TOKENS = ("ByT5", "Canine", "Perceiver")  # tokenizers without a vocabulary
_AGAIN = "Download the model again, or name a complete folder."


def check_folder(folder: Path) -> None:
    """Raise ModelFilesError in one sentence when a part or file of a model is missing, cut short or pickled.

    Reads the headers of the weight files, not the weights: milliseconds, whatever the model's size.
    """
    for name, class_name in _components(folder).items():
        path = component_folder(folder, name)
        expected = next((file for word, file in _BY_CLASS.items() if word in class_name), "config.json")
        if _is_config_only(path, expected):
            _check_vocabulary(path, class_name)
        elif not (path / "config.json").is_file():
            raise ModelFilesError(f"{path} has no {expected}", _AGAIN)
        elif class_name not in _OURS_WITHOUT_WEIGHTS:
            check_weights(path, find_variant(path))


def _is_config_only(path: Path, expected: str) -> bool:
    """Whether a component is complete without weights, `expected` being the file that its class name speaks of."""
    if (path / "config.json").is_file() and expected == "config.json":
        return False  # a vision encoder, say, with its image processor's settings beside it
    return any((path / file).is_file() for file in _CONFIG_ONLY) and not weight_files(path, find_variant(path))


def _check_vocabulary(path: Path, class_name: str) -> None:
    if not (path / "tokenizer_config.json").is_file() or class_name.startswith(_READ_BYTES_AS_TOKENS):
        return
    if not any(file.is_file() for pattern in _VOCABULARIES for file in path.glob(pattern)):
        raise ModelFilesError(f"{path} has no vocabulary", _AGAIN)


def check_family(folder: Path, family: Family) -> None:
    """Raise ModelFilesError when a folder names other components or classes than a family has.

    By model_index.json, or by the components' own configurations where there is none; what neither names passes.
    """
    index = _components(folder) if (folder / "model_index.json").is_file() else {}
    for part in family.parts:
        wanted = part.cls.rpartition(":")[2]
        found = index.get(part.name) or _class_in_config(folder / part.name / "config.json")
        if index and part.name not in index:
            raise ModelFilesError(f"{folder} is a folder of another family: it has no {part.name}", _AGAIN)
        if found and found != wanted:
            raise ModelFilesError(
                f"{folder} is a folder of another family: its {part.name} is of class {found}, not {wanted}", _AGAIN
            )


def _class_in_config(path: Path) -> str:
    """Return the class that a component's configuration names, as either library writes it; "" for none."""
    values = _read_json(path) if path.is_file() else {}
    named = values.get("_class_name") or values.get("architectures")
    return str(named[0] if isinstance(named, list) and named else named or "")


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


def pipeline_settings(folder: Path) -> dict[str, Any]:
    """Return what model_index.json says besides its components, such as `boundary_ratio`. Raises ModelFilesError."""
    values = _read_json(folder / "model_index.json")
    return {name: value for name, value in values.items() if not isinstance(value, list)}


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
    return "fp16" if not weight_files(path, None) and weight_files(path, "fp16") else None


def check_weights(path: Path, variant: str | None) -> None:
    """Raise ModelFilesError in one sentence when a component's weights are missing, cut short, or pickled."""
    files = weight_files(path, variant)
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


def weight_files(path: Path, variant: str | None) -> list[Path]:
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
