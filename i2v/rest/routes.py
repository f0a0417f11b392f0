"""Puts the REST face into the web app: every address behind the login except /healthz, every refusal in one shape.

To be called before the page is mounted at "/", which would take every address.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

from fastapi import APIRouter, Depends, FastAPI, Request
from fastapi.responses import FileResponse, JSONResponse, Response
from fastapi.routing import APIRoute

from i2v.rest.answers import HealthAnswer
from i2v.rest.jobs import JobEndpoints
from i2v.rest.login import LoginDoor
from i2v.rest.machine import MachineEndpoints
from i2v.rest.refusals import ErrorAnswer, Refusal, add_error_handlers
from i2v.service import Service

__all__ = ["add_rest"]

_DOCS = Path(__file__).with_name("docs.html")
_METHODS = ["GET", "HEAD", "POST", "PUT", "PATCH", "DELETE"]


def add_rest(app: FastAPI, service: Service, check_login: Callable[[str, str], bool] | None) -> None:
    """Add every address. `check_login` tells whether a user and a password are right; None asks for none."""
    add_error_handlers(app)
    machine = MachineEndpoints(service)
    dead: dict[int | str, dict[str, Any]] = {503: {"model": HealthAnswer}}
    app.add_api_route("/healthz", machine.health, response_model=HealthAnswer, responses=dead, operation_id="health")
    guarded = APIRouter(
        dependencies=[Depends(LoginDoor(check_login))],
        responses={401: {"model": ErrorAnswer}},
        generate_unique_id_function=_operation_id,
    )
    JobEndpoints(service).add_to(guarded)
    machine.add_to(guarded)

    def openapi() -> JSONResponse:
        return JSONResponse(app.openapi())

    guarded.add_api_route("/api/openapi.json", openapi, include_in_schema=False)
    guarded.add_api_route("/api/docs", _docs, include_in_schema=False)
    guarded.add_api_route("/api/{path:path}", _nowhere, methods=_METHODS, include_in_schema=False)
    app.include_router(guarded)


def _operation_id(route: APIRoute) -> str:
    return route.name


def _docs() -> FileResponse:
    return FileResponse(_DOCS, media_type="text/html")


def _nowhere(request: Request) -> Response:
    raise Refusal(404, f"there is no {request.method} at this address", "See /api/docs.")
