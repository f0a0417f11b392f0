"""Where i2v keeps its things and what the environment may change: the one list of its environment variables.

    I2V_HOME         everything i2v writes: jobs, videos, downloaded models, log   default: ~/.i2v
    I2V_LOG_LEVEL    DEBUG, INFO, WARNING or ERROR                                 default: INFO
    CHUNK_SIZE       frames worked on at a time, from 1                            default: i2v chooses for each job
    USE_FP16         true or false (1, 0, yes, no): compute in fp16                default: i2v chooses for each job
    USE_BF16         the same for bf16; not both                                   default: i2v chooses for each job
    I2V_WEBCAM       true or false: the start picture may come from a webcam       default: false

The Hugging Face libraries read their own variables (HF_TOKEN, HF_ENDPOINT, HF_HUB_OFFLINE). No torch.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from i2v.errors import InputError, StorageError

__all__ = ["Settings", "set_up_logging"]


@dataclass(frozen=True)
class Settings:
    """Folders and switches of one installation.

    `chunk_frames` and `precision` ("fp16" or "bf16") are what a request has that names none of its own; None leaves the
    choice to i2v. `webcam`: the page may ask for one.
    """

    home: Path
    log_level: str = "INFO"
    chunk_frames: int | None = None
    precision: str | None = None
    webcam: bool = False

    @classmethod
    def from_environment(cls, environ: Mapping[str, str] = os.environ) -> Settings:
        """Read the environment. Raises InputError for a value that cannot be."""
        level = environ.get("I2V_LOG_LEVEL", "INFO").upper()
        if level not in ("DEBUG", "INFO", "WARNING", "ERROR"):
            raise InputError(f"I2V_LOG_LEVEL is {level!r}", "Use DEBUG, INFO, WARNING or ERROR.")
        home = Path(environ.get("I2V_HOME") or Path.home() / ".i2v").expanduser().absolute()
        return cls(home, level, _chunk_frames(environ), _precision(environ), _is_on(environ, "I2V_WEBCAM"))

    @property
    def database(self) -> Path:
        return self.home / "i2v.sqlite3"

    @property
    def jobs(self) -> Path:
        return self.home / "jobs"

    def job_folder(self, job_id: str) -> Path:
        """The folder of one job's picture, video and checkpoint."""
        return self.jobs / job_id

    def make_folders(self) -> None:
        """Create the home folder. Raises StorageError when that is not possible."""
        try:
            self.home.mkdir(mode=0o700, parents=True, exist_ok=True)  # pictures and prompts are nobody else's business
            self.jobs.mkdir(exist_ok=True)
        except OSError as error:
            raise StorageError(
                f"the folder {self.home} cannot be created: {error.strerror}",
                "Set I2V_HOME to a writable folder.",
            ) from error


def _chunk_frames(environ: Mapping[str, str]) -> int | None:
    text = environ.get("CHUNK_SIZE", "").strip()
    if not text:
        return None
    try:
        frames = int(text)
    except ValueError:
        frames = 0
    if frames < 1:
        raise InputError(
            f"CHUNK_SIZE is {text!r}, not a number of frames", "Use a whole number from 1, for example 4, or unset it."
        )
    return frames


def _precision(environ: Mapping[str, str]) -> str | None:
    wished = [name for name in ("fp16", "bf16") if _is_on(environ, f"USE_{name.upper()}")]
    if len(wished) > 1:
        raise InputError("USE_FP16 and USE_BF16 are both on", "Keep one of them, or unset both.")
    return wished[0] if wished else None


def _is_on(environ: Mapping[str, str], name: str) -> bool:
    text = environ.get(name, "").strip()
    if text.lower() not in ("true", "1", "yes", "false", "0", "no", ""):
        raise InputError(f"{name} is {text!r}", "Use true or false, or unset it.")
    return text.lower() in ("true", "1", "yes")


def set_up_logging(level: str, prefix: str = "") -> None:
    """Send the log to standard error, once, at a program's entrance."""
    form = f"%(asctime)s %(levelname)s {prefix}%(name)s: %(message)s"
    logging.basicConfig(level=level, format=form, datefmt="%H:%M:%S")
    for chatty in (
        "httpx",
        "httpx2",
        "httpcore",
        "alembic",
        "PIL",
        "diffusers",
        "transformers",
        "gradio",
        "uvicorn.access",
    ):
        logging.getLogger(chatty).setLevel(logging.WARNING)
