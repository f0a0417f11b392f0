"""Serves the page: address, login, public link. Anything that leaves this machine asks for a login."""

from __future__ import annotations

import ctypes
import ipaddress
import logging
import os
import secrets
import socket
import sys
import threading
from contextlib import suppress
from dataclasses import dataclass

from i2v.errors import InputError
from i2v.presets.tiers import load_tiers
from i2v.settings import Settings

__all__ = ["LaunchOptions", "launch"]

_log = logging.getLogger(__name__)
# M_ARENA_MAX, M_MMAP_THRESHOLD and M_TRIM_THRESHOLD of malloc.h, the latter two fixed at what they begin with.
_MALLOC_OPTIONS = ((-8, 2), (-3, 128 << 10), (-1, 128 << 10))


@dataclass(frozen=True)
class LaunchOptions:
    """How the page is served. `auth` is "user:password" or None."""

    host: str
    port: int
    share: bool
    auth: str | None


def launch(settings: Settings, options: LaunchOptions) -> None:
    """Serve until interrupted. Raises InputError for a port in use, a malformed login or a broken configuration."""
    load_tiers()  # before anything is opened: the page would find out only when it is asked for
    _give_freed_memory_back()
    login = _login(options)
    listener = _listen(options.host, options.port)
    settings.make_folders()
    os.environ["GRADIO_TEMP_DIR"] = str(settings.home / "tmp")

    import uvicorn

    from i2v.service import Service
    from i2v.web.app import Login, create_app

    service = Service(settings)
    service.log_file.attach(rotate=True)
    if login:
        service.log_file.keep_secret(login[1])
    app = create_app(service, Login(*login) if login else None, _allowed_hosts(options))
    server = uvicorn.Server(uvicorn.Config(app, log_level="warning", timeout_graceful_shutdown=2))
    # Open pages hold streams; that they are cut when the person stops i2v is nothing to report.
    logging.getLogger("uvicorn.error").addFilter(lambda record: not server.should_exit)
    port = listener.getsockname()[1]
    shown_host = "127.0.0.1" if options.host in ("0.0.0.0", "::") else options.host
    shown_host = f"[{shown_host}]" if ":" in shown_host else shown_host
    _say(f"i2v is ready: http://{shown_host}:{port}")
    if login and not options.auth:
        _say(f"log in as {login[0]} with the password {login[1]} (made for this start)")
    if options.share:
        threading.Thread(target=_share, args=(shown_host, port), name="share", daemon=True).start()
    with suppress(KeyboardInterrupt):  # Ctrl+C is how it is meant to end
        server.run(sockets=[listener])


def _give_freed_memory_back() -> None:
    """Have glibc return memory to the system: left alone, the heaps of its threads keep an eighth of the process."""
    with suppress(OSError, AttributeError):  # another system, another C library
        libc = ctypes.CDLL("libc.so.6")
        for option, value in _MALLOC_OPTIONS:
            libc.mallopt(option, value)


def _say(sentence: str) -> None:
    print(sentence, flush=True)


def _login(options: LaunchOptions) -> tuple[str, str] | None:
    """Return the login to ask for; one is made when the page leaves this machine and none was given."""
    if options.auth is not None:
        user, colon, password = options.auth.partition(":")
        if not (user and colon and password):
            raise InputError("--auth is not of the form user:password")
        return user, password
    return ("i2v", secrets.token_urlsafe(15)) if options.share or not _is_loopback(options.host) else None


def _is_loopback(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def _allowed_hosts(options: LaunchOptions) -> list[str]:
    if not _is_loopback(options.host):
        return ["*"]  # the names by which a network knows this machine cannot be listed
    return ["localhost", "127.0.0.1", "[::1]", options.host] + (["*.gradio.live"] if options.share else [])


def _listen(host: str, port: int) -> socket.socket:
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    # With the protocol named, asyncio sends small answers at once (TCP_NODELAY); without, each waits 40 ms.
    listener = socket.socket(family, socket.SOCK_STREAM, socket.IPPROTO_TCP)
    if os.name == "posix":  # elsewhere this would let two servers share a port
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        listener.bind((host, port))
        listener.listen(2048)
    except (OSError, OverflowError) as error:
        listener.close()
        raise InputError(
            f"cannot listen on {host}:{port}: {error}", f"Choose another port, e.g. --port {port + 1}."
        ) from error
    return listener


def _share(host: str, port: int) -> None:
    """Open Gradio's temporary public link to the running page."""
    from gradio import networking

    try:
        address = networking.setup_tunnel(host, port, secrets.token_urlsafe(32), None, None)
    except Exception as error:  # whatever the tunnel's download or network raises, the local page goes on
        _log.debug("no tunnel", exc_info=error)
        print(
            "i2v: the public link could not be opened, probably for lack of internet access; the local page goes on.",
            file=sys.stderr,
            flush=True,
        )
        return
    _say(f"public link (for a week at most): {address}")
