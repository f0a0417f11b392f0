"""Where i2v keeps its things and what the environment may change: the one list of its environment variables.

    I2V_HOME         everything i2v writes: jobs, videos, downloaded models, log   default: ~/.i2v
    I2V_LOG_LEVEL    DEBUG, INFO, WARNING or ERROR                                 default: INFO

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
    """Folders and switches of one installation."""

    home: Path
    log_level: str = "INFO"

    @classmethod
    def from_environment(cls, environ: Mapping[str, str] = os.environ) -> Settings:
        """Read the environment. Raises InputError for a value that cannot be."""
        level = environ.get("I2V_LOG_LEVEL", "INFO").upper()
        if level not in ("DEBUG", "INFO", "WARNING", "ERROR"):
            raise InputError(f"I2V_LOG_LEVEL is {level!r}", "Use DEBUG, INFO, WARNING or ERROR.")
        return cls(Path(environ.get("I2V_HOME") or Path.home() / ".i2v").expanduser().absolute(), level)

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
