"""The web app: security headers, the REST face, and the page mounted behind it. No torch."""

from __future__ import annotations

import secrets
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import gradio as gr
from fastapi import FastAPI
from fastapi.middleware.cors import CORSMiddleware
from starlette.datastructures import Headers, MutableHeaders
from starlette.middleware.gzip import GZipMiddleware
from starlette.middleware.trustedhost import TrustedHostMiddleware
from starlette.responses import PlainTextResponse
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from i2v import __version__
from i2v.rest.routes import add_rest
from i2v.service import Service
from i2v.ui.language import gradio_words
from i2v.ui.page import build_page
from i2v.ui.theme import CSS_PATH, build_head, build_theme

__all__ = ["Login", "create_app"]

_MAX_UPLOAD = "32mb"
_CONTENT_POLICY = (
    "default-src 'self'; script-src 'self' 'unsafe-inline' 'unsafe-eval'; style-src 'self' 'unsafe-inline'; "
    "img-src 'self' data: blob:; media-src 'self' blob:; worker-src 'self' blob:; font-src 'self' data:; "
    "connect-src 'self'; frame-ancestors 'self'; base-uri 'self'; form-action 'self'"
)  # Gradio's templates need eval


class Login:
    """A user name and password, compared in constant time."""

    def __init__(self, user: str, password: str):
        self._user, self._password = user.encode(), password.encode()

    def __call__(self, user: str, password: str) -> bool:
        same_user = secrets.compare_digest(user.encode(), self._user)
        return secrets.compare_digest(password.encode(), self._password) and same_user


class _Compressed:
    """Compresses the page itself, 240 KB of settings, which Gradio sends as it is. Files are left to Gradio."""

    def __init__(self, app: ASGIApp):
        self._plain, self._compressed = app, GZipMiddleware(app, minimum_size=1024)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        is_page = scope["type"] == "http" and scope["path"] in ("/", "/config")
        await (self._compressed if is_page else self._plain)(scope, receive, send)


class _Guard:
    """Refuses writes that another site's page sends, and adds the security headers to every answer."""

    def __init__(self, app: ASGIApp):
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        async def send_with_headers(message: Message) -> None:
            if message["type"] == "http.response.start":
                headers = MutableHeaders(scope=message)
                headers["Content-Security-Policy"] = _CONTENT_POLICY
                headers["X-Content-Type-Options"] = "nosniff"
                headers["X-Frame-Options"] = "SAMEORIGIN"
                headers["Referrer-Policy"] = "same-origin"
            await send(message)

        if scope["type"] != "http":
            await self._app(scope, receive, send)
        elif scope["method"] != "GET" and Headers(scope=scope).get("sec-fetch-site") == "cross-site":
            await PlainTextResponse("Requests from other sites are refused.", 403)(scope, receive, send_with_headers)
        else:
            await self._app(scope, receive, send_with_headers)


def create_app(service: Service, login: Login | None = None, hosts: list[str] | None = None) -> FastAPI:
    """Return the app. `hosts` are the names it answers to (default: this machine only)."""

    @asynccontextmanager
    async def lifespan(_: FastAPI) -> AsyncIterator[None]:
        service.start()
        yield
        service.close()

    app = FastAPI(title="i2v", version=__version__, lifespan=lifespan, docs_url=None, redoc_url=None, openapi_url=None)

    add_rest(app, service, login)
    app.add_middleware(CORSMiddleware, allow_origins=[])  # with one of our own, Gradio does not reflect origins
    app.add_middleware(TrustedHostMiddleware, allowed_hosts=hosts or ["localhost", "127.0.0.1", "[::1]"])
    app.add_middleware(_Compressed)
    app.add_middleware(_Guard)
    gr.set_static_paths([service.settings.jobs])  # served in place; job ids are unguessable
    page = build_page(service)
    page.has_launched = True  # a mounted page lacks it, and without it Gradio takes any path for an upload
    page.queue(max_size=64)
    for pause in ("sleep_when_free", "progress_update_sleep_when_free"):
        if hasattr(page._queue, pause):
            setattr(page._queue, pause, 0.1)  # Gradio's default of 1 ms keeps an idle core 6-8 % busy
    mounted: FastAPI = gr.mount_gradio_app(
        app,
        page,
        path="/",
        auth=login,
        auth_message="This i2v asks for a login.",
        theme=build_theme(),
        css_paths=[CSS_PATH],
        head=build_head(),
        i18n=gradio_words(),
        footer_links=[],
        run_history=False,
        show_error=False,
        max_file_size=_MAX_UPLOAD,
        enable_monitoring=False,
        ssr_mode=False,
    )
    return mounted
