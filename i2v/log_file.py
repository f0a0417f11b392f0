"""The log on disk, home/logs/i2v.log: the page's process and its workers append to it, and it is read back for showing.

What is known to be secret, or looks like it, is hidden as a line is written and again as it is read. No prompts: they
are logged nowhere.
"""

from __future__ import annotations

import logging
import os
import re
from collections.abc import Iterable, Mapping
from contextlib import suppress
from logging.handlers import WatchedFileHandler
from pathlib import Path

__all__ = ["LogFile", "hide_secrets"]

_log = logging.getLogger(__name__)
_ROTATED_BYTES = 2 << 20
_TAIL_BYTES = 64 << 10
_HIDDEN = "(hidden)"
_SECRET_VARIABLES = ("HF_TOKEN", "HUGGING_FACE_HUB_TOKEN")
_LOOKS_SECRET = re.compile(r"\bhf_\w{4,}|(?<=[Bb]earer )\S+")
_SHORT = 4  # a secret so short is hidden only where it stands alone, or the log would be full of holes


def hide_secrets(text: str, secrets: Iterable[str] = ()) -> str:
    """Return the text without the secrets given and without anything that looks like a token of the hub."""
    for secret in sorted(filter(None, secrets), key=len, reverse=True):
        if len(secret) >= _SHORT:
            text = text.replace(secret, _HIDDEN)
        else:
            text = re.sub(rf"(?<!\w){re.escape(secret)}(?!\w)", _HIDDEN, text)
    return _LOOKS_SECRET.sub(_HIDDEN, text)


class LogFile:
    """The log of one home folder. `environ` is where tokens are looked for that must not be shown."""

    def __init__(self, home: Path, environ: Mapping[str, str] = os.environ):
        self.path = home / "logs" / "i2v.log"
        self._environ = environ
        self._secrets: set[str] = set()

    def keep_secret(self, text: str) -> None:
        """Hide this text, a password say, wherever it stands in the log."""
        self._secrets.add(text)

    def attach(self, prefix: str = "", rotate: bool = False) -> logging.Handler | None:
        """Have this process log to the file too; None, with a warning, where it cannot be written.

        With `rotate`, a long file first becomes i2v.log.1; processes that write to it already follow to the new one.
        """
        try:
            self.path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
            if rotate and self.path.exists() and self.path.stat().st_size > _ROTATED_BYTES:
                self.path.replace(self.path.with_name("i2v.log.1"))
            handler = WatchedFileHandler(self.path, encoding="utf-8", errors="backslashreplace")
        except OSError as error:
            _log.warning("there is no log file, for %s cannot be written: %s", self.path, error.strerror)
            return None
        handler.setFormatter(_HidingFormatter(self, f"%(asctime)s %(levelname)s {prefix}%(name)s: %(message)s"))
        logging.getLogger().addHandler(handler)
        return handler

    def tail(self, lines: int = 80) -> list[str]:
        """Return the last lines, without secrets; none while there is no file. Reads at most the last 64 KiB."""
        text = ""
        with suppress(OSError), self.path.open("rb") as file:
            size = file.seek(0, os.SEEK_END)
            begin = max(0, size - _TAIL_BYTES)
            file.seek(begin)
            text = file.read(_TAIL_BYTES).decode("utf-8", "replace")
            if begin:  # its first line may be cut
                text = text.partition("\n")[2]
        return [self.hidden(line) for line in text.splitlines()[-lines:]] if lines > 0 else []

    def hidden(self, text: str) -> str:
        """Return the text without the secrets known to this process."""
        of_environment = {self._environ.get(name, "").strip() for name in _SECRET_VARIABLES}
        return hide_secrets(text, self._secrets | of_environment)


class _HidingFormatter(logging.Formatter):
    def __init__(self, log_file: LogFile, form: str):
        super().__init__(form)
        self._log_file = log_file

    def format(self, record: logging.LogRecord) -> str:
        return self._log_file.hidden(super().format(record))
