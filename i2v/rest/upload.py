"""Reads a form with one picture and a few texts, within limits of size, and keeps the picture while it is looked at."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from fastapi import Request
from starlette.datastructures import UploadFile
from starlette.formparsers import MultiPartException, MultiPartParser
from starlette.types import Message, Receive

from i2v.errors import StorageError
from i2v.media.image import MAX_FILE_BYTES
from i2v.rest.fields import FIELD_WORDS
from i2v.rest.refusals import Refusal

__all__ = ["MAX_TEXT_BYTES", "Form", "read_form"]

MAX_TEXT_BYTES = 64 * 1024
_MOST_FIELDS = 2 * len(FIELD_WORDS)  # some may be repeated
_MAX_BODY_BYTES = MAX_FILE_BYTES + _MOST_FIELDS * MAX_TEXT_BYTES
_IMAGE = "image"
_SHOWN_NAME = 200


@dataclass(frozen=True)
class Form:
    """What was sent: the texts by name, in order, and the picture, if there is one."""

    texts: list[tuple[str, str]]
    picture: UploadFile | None

    @property
    def picture_name(self) -> str:
        """The name that the person's file had, for display only."""
        name = PurePosixPath((self.picture.filename if self.picture else None) or "picture").name
        return "".join(c for c in name if c.isprintable())[:_SHOWN_NAME] or "picture"

    @contextmanager
    def picture_file(self, folder: Path) -> Iterator[Path | None]:
        """Hand out the picture as a file in a folder of its own, which is gone afterwards. Raises StorageError."""
        if self.picture is None:
            yield None
            return
        try:
            folder.mkdir(exist_ok=True)
            scratch = tempfile.TemporaryDirectory(prefix="rest-", dir=folder, ignore_cleanup_errors=True)
        except OSError as error:
            raise _not_stored(folder, error) from error
        with scratch as name:
            path = Path(name) / "picture"  # a name of ours: theirs is only shown
            try:
                with path.open("wb") as file:
                    shutil.copyfileobj(self.picture.file, file)
            except OSError as error:
                raise _not_stored(folder, error) from error
            yield path


def _not_stored(folder: Path, error: OSError) -> StorageError:
    return StorageError(f"the picture cannot be stored in {folder}: {error.strerror}", "Free disk space.", _IMAGE)


@asynccontextmanager
async def read_form(request: Request) -> AsyncIterator[Form]:
    """Read the body, and close what it brought afterwards. Raises Refusal for what is no such form, or too large."""
    if not request.headers.get("content-type", "").lower().startswith("multipart/form-data"):
        raise Refusal(400, "the body is not a form with a file", "Send multipart/form-data (curl -F).")
    if int(request.headers.get("content-length", "0")) > _MAX_BODY_BYTES:
        raise _too_large()
    body = Request(request.scope, _limited(request.receive)).stream()
    parser = _Parser(request.headers, body, max_files=1, max_fields=_MOST_FIELDS, max_part_size=MAX_TEXT_BYTES)
    try:
        form = await parser.parse()
    except MultiPartException as error:
        raise Refusal(
            400, f"the form cannot be read: {error.message}", f"Send one file, {_IMAGE}, and texts."
        ) from None
    try:
        yield _sorted(form.multi_items())
    finally:
        await form.close()


class _Parser(MultiPartParser):
    """Tells a text that is too large from a form that is broken."""

    def on_part_data(self, data: bytes, start: int, end: int) -> None:
        try:
            super().on_part_data(data, start, end)
        except MultiPartException:
            raise Refusal(413, f"a text is larger than {MAX_TEXT_BYTES >> 10} KiB", "Shorten it.") from None


def _sorted(items: list[tuple[str, UploadFile | str]]) -> Form:
    picture: UploadFile | None = None
    texts: list[tuple[str, str]] = []
    for name, value in items:
        if isinstance(value, str):
            if name == _IMAGE:
                raise Refusal(400, f"{name} is a text and not a file", "With curl: -F image=@photo.jpg", _IMAGE)
            texts.append((name, value))
        elif name != _IMAGE:
            raise Refusal(400, f"the file is not named {_IMAGE}", "With curl: -F image=@photo.jpg", _IMAGE)
        else:
            picture = value
    if picture is not None and (picture.size or 0) > MAX_FILE_BYTES:
        raise _too_large()
    return Form(texts, picture)


def _limited(receive: Receive) -> Receive:
    """Return a `receive` that stops a body which is larger than it may be, whatever its header says."""
    received = 0

    async def receive_limited() -> Message:
        nonlocal received
        message = await receive()
        received += len(message.get("body", b""))
        if received > _MAX_BODY_BYTES:
            raise _too_large()
        return message

    return receive_limited


def _too_large() -> Refusal:
    return Refusal(413, f"the picture is larger than {MAX_FILE_BYTES >> 20} MB", "Save it smaller.", _IMAGE)
