"""Every error i2v raises on purpose, as one tree.

    I2VError                    what happened, and what to do next
    ├── InputError              the request cannot be met as it stands          exit status 2
    │   ├── ImageError          the start picture cannot be used
    │   └── UnknownJobError     there is no such job
    ├── ModelFilesError         weights not downloaded, cut short, pickled      exit status 2
    ├── StorageError            the disk or a folder of i2v's refuses           exit status 1
    ├── GenerationError         the run itself failed                           exit status 1
    │   ├── OutOfMemoryError    the card or the machine has too little memory
    │   ├── NotFiniteError      the latents hold NaN or infinity
    │   └── WorkerDiedError     the process that owned the GPU is gone
    └── Cancelled               the person stopped it                           exit status 130

A model that is not there exits as bad input does: naming another model, or downloading this one, mends the command. A
full disk does not, for the command was right. An output path that cannot be is an InputError of the command line.

The user sees `str(error)`, one sentence and its remedy; the log has the trace with the job id. An error travels from
the worker to the faces as `to_dict()` and back through `from_dict()`.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

__all__ = [
    "Cancelled",
    "GenerationError",
    "I2VError",
    "ImageError",
    "InputError",
    "ModelFilesError",
    "NotFiniteError",
    "OutOfMemoryError",
    "StorageError",
    "UnknownJobError",
    "WorkerDiedError",
]


class I2VError(Exception):
    """What happened (`message`), what to do (`remedy`), and the request's field it concerns, if one."""

    exit_status: ClassVar[int] = 1

    def __init__(self, message: str, remedy: str = "", field: str | None = None):
        super().__init__(message, remedy)
        self.message, self.remedy, self.field = message, remedy, field

    def __str__(self) -> str:
        head = self.message[:1].upper() + self.message[1:]
        if head and head[-1] not in ".!?":
            head += "."
        return f"{head} {self.remedy}".strip()

    def to_dict(self) -> dict[str, Any]:
        """Return the error as plain JSON values."""
        return {
            "kind": type(self).__name__,
            "message": self.message,
            "remedy": self.remedy,
            "field": self.field,
            "exit_status": self.exit_status,
        }

    @staticmethod
    def from_dict(values: dict[str, Any]) -> I2VError:
        """Return the error that `to_dict` described; an unknown kind becomes a GenerationError."""
        cls = _BY_NAME.get(values.get("kind", ""), GenerationError)
        message, remedy, field = values["message"], values.get("remedy", ""), values.get("field")
        if issubclass(cls, InputError):
            return cls(message, remedy, field, values.get("nearest"))
        return cls(message, remedy, field)


class InputError(I2VError):
    """The request cannot be met as it stands; the sentence says how to mend it.

    `nearest`: the legal values nearest to what was asked for, by field, where there are any. The faces offer them; no
    one takes them for the person.
    """

    exit_status = 2

    def __init__(
        self, message: str, remedy: str = "", field: str | None = None, nearest: Mapping[str, int] | None = None
    ):
        super().__init__(message, remedy, field)
        self.nearest = dict(nearest or {})

    def to_dict(self) -> dict[str, Any]:
        return super().to_dict() | {"nearest": self.nearest}


class ImageError(InputError):
    """The start picture cannot be read or used."""


class UnknownJobError(InputError):
    """There is no job of that id."""


class ModelFilesError(I2VError):
    """The model's files are missing, damaged, or of a kind that is never loaded."""

    exit_status = 2


class StorageError(I2VError):
    """The disk, or a folder or file that i2v keeps, cannot be read or written."""


class GenerationError(I2VError):
    """The run failed."""


class OutOfMemoryError(GenerationError):
    """Memory ran out and nothing smaller was left to try."""


class NotFiniteError(GenerationError):
    """The latents hold NaN or infinity, so a video of them would be black or noise."""


class WorkerDiedError(GenerationError):
    """The worker process ended without reporting a result."""


class Cancelled(I2VError):
    """The person stopped the job."""

    exit_status = 130


_BY_NAME: dict[str, type[I2VError]] = {
    cls.__name__: cls
    for cls in (
        I2VError,
        InputError,
        ImageError,
        UnknownJobError,
        ModelFilesError,
        StorageError,
        GenerationError,
        OutOfMemoryError,
        NotFiniteError,
        WorkerDiedError,
        Cancelled,
    )
}
