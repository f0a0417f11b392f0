"""Files that appear whole or not at all: written as NAME.part in the same folder, synced, then renamed.

Whoever is killed leaves NAME.part behind; the next attempt at the same name removes it.
"""

from __future__ import annotations

import errno
import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from i2v.errors import StorageError

__all__ = ["PartFile", "storage_error", "whole_file"]

_REMEDIES = {
    errno.ENOSPC: "Free some disk space, then try again.",
    errno.EDQUOT: "Free some of your disk quota, then try again.",
    errno.EFBIG: "Raise the limit on file sizes, or make a smaller video.",
}


class PartFile:
    """The unfinished form of the file at `path`. Every method but `discard` may raise OSError."""

    def __init__(self, path: Path):
        self.path = path.absolute()
        self.part = self.path.with_name(self.path.name + ".part")

    def create(self) -> None:
        """Begin with an empty part file, a new one: an earlier writer may still hold the old one open."""
        self.part.unlink(missing_ok=True)
        self.part.touch(exist_ok=False)

    def put_in_place(self) -> None:
        """Sync the part file to disk and give it its name."""
        with self.part.open("rb+") as file:
            os.fsync(file.fileno())
        self.part.replace(self.path)
        if os.name == "posix":  # Windows cannot open a folder, and syncs the rename by itself
            folder = os.open(self.path.parent, os.O_RDONLY)
            try:
                os.fsync(folder)
            finally:
                os.close(folder)

    def discard(self) -> None:
        """Remove the part file, if it is there and can be removed."""
        with suppress(OSError):
            self.part.unlink(missing_ok=True)


def storage_error(path: Path, error: OSError) -> StorageError:
    """Say that the file cannot be written, why, and what to do."""
    reason = "the disk is full" if error.errno == errno.ENOSPC else error.strerror or str(error)
    remedy = _REMEDIES.get(error.errno or 0, "Check that its folder exists and may be written.")
    return StorageError(f"{str(path)!r} cannot be written: {reason}", remedy)


@contextmanager
def whole_file(path: Path) -> Iterator[Path]:
    """Yield the part file, renamed when the block ends, removed when it raises. Raises StorageError."""
    file = PartFile(path)
    try:
        file.create()
        yield file.part
        file.put_in_place()
    except BaseException as error:
        file.discard()
        if isinstance(error, OSError):
            raise storage_error(path, error) from error
        raise
