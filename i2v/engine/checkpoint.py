"""Keeps the finished latents of a job on disk, so that a failed decode or a lost worker costs no denoising.

Knows nothing of jobs: a checkpoint belongs to a request by the request's hash, and is ignored for any other.
"""

from __future__ import annotations

import hashlib
import logging
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file

from i2v import __version__
from i2v.errors import StorageError
from i2v.request import GenerationRequest

__all__ = ["load_latents", "save_latents"]

_log = logging.getLogger(__name__)


def _key(request: GenerationRequest) -> str:
    without = {"chunk_frames", "vram_gib", "ram_gib"}  # how it is run does not change the result
    if request.image_fit == "crop":
        without.add("image_fit")  # requests of before this field meant the same
    what = request.model_dump_json(exclude=without)
    return hashlib.sha256(f"{__version__}\n{what}".encode()).hexdigest()


def save_latents(path: Path, request: GenerationRequest, latents: torch.Tensor) -> None:
    """Write the final latents beside the old file, then put them in its place. Raises StorageError."""
    part = path.with_suffix(".part")
    try:
        save_file({"latents": latents.detach().cpu().contiguous()}, part, metadata={"request": _key(request)})
        part.replace(path)
    except (SafetensorError, OSError) as error:
        part.unlink(missing_ok=True)
        raise StorageError(
            f"the latents cannot be stored in {path.parent}", "Free disk space and try again."
        ) from error


def load_latents(path: Path, request: GenerationRequest) -> torch.Tensor | None:
    """Return the final latents of this very request, or None."""
    if not path.is_file():
        return None
    try:
        with safe_open(path, "pt") as file:
            if (file.metadata() or {}).get("request") != _key(request):
                return None
            return file.get_tensor("latents")
    except (SafetensorError, OSError) as error:
        _log.warning("the checkpoint %s cannot be read and is ignored: %s", path, error)
        return None
