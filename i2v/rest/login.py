"""HTTP Basic with the page's own login, for every address of the REST face but /healthz."""

from __future__ import annotations

import base64
import binascii
from collections.abc import Callable

from fastapi import Request

from i2v.rest.refusals import Refusal

__all__ = ["LoginDoor", "read_basic"]

_ASK = {"WWW-Authenticate": 'Basic realm="i2v", charset="UTF-8"'}


class LoginDoor:
    """A dependency that lets a request pass when `check` knows its user and password, or when there is no `check`."""

    def __init__(self, check: Callable[[str, str], bool] | None):
        self._check = check

    def __call__(self, request: Request) -> None:
        if self._check is None:
            return
        given = read_basic(request.headers.get("authorization", ""))
        if given is None or not self._check(*given):
            raise Refusal(
                401, "this i2v asks for a login", "Send user and password (curl -u user:password).", None, _ASK
            )


def read_basic(header: str) -> tuple[str, str] | None:
    """Return user and password of an Authorization header (RFC 7617, UTF-8), or None."""
    scheme, _, encoded = header.partition(" ")
    if scheme.lower() != "basic":
        return None
    try:
        user, colon, password = base64.b64decode(encoded.strip(), validate=True).decode().partition(":")
    except (binascii.Error, ValueError):
        return None
    return (user, password) if colon else None
