"""Every refusal of the REST face in one shape, with its status.

The shape is {"error": {"kind", "message", "remedy", "field", "nearest"}}, as ErrorBody says.

status   what was raised
401      no login, or a wrong one
404      UnknownJobError, or no such address or file
409      ModelFilesError (the model is not here), or a file of a job that has none yet
413      the picture or a text is too large
422      any other InputError, which is about a field or the picture
503      StorageError, GenerationError: the machine cannot do it now
500      a mistake in i2v itself; the log has the trace, the answer has not
"""

from __future__ import annotations

from collections.abc import Mapping

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from pydantic import BaseModel
from starlette.exceptions import HTTPException

from i2v.errors import I2VError, InputError, ModelFilesError, StorageError, UnknownJobError

__all__ = ["ErrorAnswer", "ErrorBody", "Refusal", "add_error_handlers", "status_of"]

_STATUS: tuple[tuple[type[I2VError], int], ...] = (
    (UnknownJobError, 404),
    (ModelFilesError, 409),
    (StorageError, 503),
    (InputError, 422),
    (I2VError, 503),
)
_KINDS = {
    400: "BadRequest",
    401: "NotLoggedIn",
    404: "NotFound",
    405: "MethodNotAllowed",
    409: "Conflict",
    413: "TooLarge",
    503: "NotReady",
}


class ErrorBody(BaseModel):
    """What happened, what to do, the field it concerns, if one, and by field the nearest values that are legal."""

    kind: str
    message: str
    remedy: str = ""
    field: str | None = None
    nearest: dict[str, int] = {}


class ErrorAnswer(BaseModel):
    """The answer to every request that is refused."""

    error: ErrorBody


class Refusal(HTTPException):
    """A refusal that is about the request's form and not about what it asks for."""

    def __init__(
        self,
        status: int,
        message: str,
        remedy: str = "",
        field: str | None = None,
        headers: dict[str, str] | None = None,
    ):
        super().__init__(status, message, headers)
        self.remedy, self.field = remedy, field


def status_of(error: I2VError) -> int:
    """Return the HTTP status of an error."""
    return next(status for kind, status in _STATUS if isinstance(error, kind))


def add_error_handlers(app: FastAPI) -> None:
    """Have every error that leaves a route of the app answered in the one shape."""
    app.exception_handler(I2VError)(_answer_error)
    app.exception_handler(HTTPException)(_answer_refusal)
    app.exception_handler(RequestValidationError)(_answer_invalid)
    app.exception_handler(Exception)(_answer_mistake)


def _answer(status: int, body: ErrorBody, headers: Mapping[str, str] | None = None) -> JSONResponse:
    return JSONResponse(ErrorAnswer(error=body).model_dump(), status, headers)


def _answer_error(_: Request, error: I2VError) -> JSONResponse:
    return _answer(status_of(error), ErrorBody.model_validate(error.to_dict()))


def _answer_refusal(_: Request, error: HTTPException) -> JSONResponse:
    body = ErrorBody(kind=_KINDS.get(error.status_code, "Refused"), message=error.detail)
    if isinstance(error, Refusal):
        body = body.model_copy(update={"remedy": error.remedy, "field": error.field})
    return _answer(error.status_code, body, error.headers)


def _answer_invalid(_: Request, error: RequestValidationError) -> JSONResponse:
    first = error.errors()[0]
    name = str(first["loc"][1] if len(first["loc"]) > 1 else first["loc"][-1])  # ("query", "state", 0)
    return _answer(422, ErrorBody(kind="InputError", message=f"{name} is not valid: {first['msg']}", field=name))


def _answer_mistake(_: Request, __: Exception) -> JSONResponse:
    return _answer(
        500, ErrorBody(kind="InternalError", message="i2v made a mistake", remedy="The log has the details.")
    )
