"""One ffmpeg process, fed with frames or read from, that never outlives its need.

Its arguments are our own words and absolute paths, never a person's text, and never pass a shell. When this
program is killed, the pipe closes and ffmpeg ends by itself. Knows nothing of codecs.
"""

from __future__ import annotations

import errno
import os
import signal
import subprocess
import tempfile
from contextlib import suppress
from typing import IO

import imageio_ffmpeg

from i2v.errors import GenerationError

__all__ = ["Ffmpeg"]

_FINISH_LIMIT_S = 600
_LOG_TAIL_BYTES = 400
# ffmpeg exits with 256 minus the error number. Above this its own error codes begin, which are letters.
_LAST_ERRNO = 64


class Ffmpeg:
    """A running ffmpeg. `pipe` is its standard input when `feeds`, else its standard output."""

    def __init__(self, arguments: list[str], feeds: bool):
        # A pipe that nobody reads could fill up and stop ffmpeg; a file does not.
        self._log = tempfile.TemporaryFile()  # noqa: SIM115 - closed by finish or end
        try:
            self._process = subprocess.Popen(
                [_executable(), "-hide_banner", "-loglevel", "error", "-y", *arguments],
                stdin=subprocess.PIPE if feeds else subprocess.DEVNULL,
                stdout=subprocess.DEVNULL if feeds else subprocess.PIPE,
                stderr=self._log,
                start_new_session=True,  # Ctrl-C is for the program that decides, not for ffmpeg
                creationflags=getattr(subprocess, "CREATE_NO_WINDOW", 0),
            )
        except OSError as error:
            self._log.close()
            raise _missing() from error
        except BaseException:
            self._log.close()
            raise
        pipe = self._process.stdin if feeds else self._process.stdout
        assert pipe is not None  # noqa: S101 - asked for above
        self.pipe: IO[bytes] = pipe

    def feed(self, data: memoryview) -> None:
        """Hand data to ffmpeg. Raises OSError when its file cannot be written, else GenerationError."""
        try:
            self.pipe.write(data)
        except OSError:  # the pipe only tells that ffmpeg is gone; its exit status tells why
            self.finish()
            raise

    def finish(self) -> None:
        """Close the pipe and wait for the end. Raises as `feed` does when ffmpeg failed."""
        with suppress(OSError):
            self.pipe.close()
        try:
            status = self._process.wait(_FINISH_LIMIT_S)
        except subprocess.TimeoutExpired:
            self.end()
            message = f"the program ffmpeg did not end within {_FINISH_LIMIT_S} s"
            raise GenerationError(message, "Try again.") from None
        if status:
            raise self._failure(status)
        self._log.close()

    def end(self) -> None:
        """Kill ffmpeg if it still runs, and release everything. May be called twice."""
        self._process.kill()
        with suppress(OSError):
            self.pipe.close()
        self._process.wait()
        self._log.close()

    def _failure(self, status: int) -> OSError | GenerationError:
        number = -status & 0xFF if status > 0 else 0  # below zero it is a signal
        if hasattr(signal, "SIGXFSZ") and status == -signal.SIGXFSZ:
            number = errno.EFBIG
        if 1 < number < _LAST_ERRNO or number == errno.EDQUOT:
            return OSError(number, os.strerror(number))
        self._log.seek(0, os.SEEK_END)
        self._log.seek(max(0, self._log.tell() - _LOG_TAIL_BYTES))
        tail = " ".join(self._log.read().decode(errors="replace").split())
        reason = tail or "it gave no reason"
        return GenerationError(f"the program ffmpeg failed with status {status}: {reason}", "Try again.")


def _executable() -> str:
    try:
        return str(imageio_ffmpeg.get_ffmpeg_exe())
    except RuntimeError as error:
        raise _missing() from error


def _missing() -> GenerationError:
    message = "the program ffmpeg, which reads and writes videos, cannot be started"
    return GenerationError(message, "Run ./start_app.sh to install it again.")
