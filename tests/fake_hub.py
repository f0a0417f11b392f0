"""A web server that answers as the Hugging Face hub does where a model is downloaded, and fails where it is told to.

Serves one folder as the repository of every name and commit; knows the file list with hashes, ranges, and the
redirect of large files to another host.
"""

from __future__ import annotations

import hashlib
import json
import time
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread
from types import TracebackType
from urllib.parse import unquote, urlsplit

__all__ = ["COMMIT", "FakeHub", "Seen"]

COMMIT = "0123456789abcdef0123456789abcdef01234567"
_BLOCK = 4096


@dataclass(frozen=True)
class Seen:
    """One request for a file's content."""

    name: str
    start: int
    token: str | None
    host: str


@dataclass
class FakeHub:
    """Start it with `with`. What it shall do wrong is set on its attributes, also while it runs."""

    folder: Path
    refuse: tuple[int, str] | None = None  # HTTP status and the hub's error code, for every request
    break_after: dict[str, int] = field(default_factory=dict)  # drop the connection, once, after so many bytes
    damaged: set[str] = field(default_factory=set)  # files sent with a wrong byte
    extra_names: list[str] = field(default_factory=list)  # listed besides what the folder holds
    redirect_to: FakeHub | None = None  # where large files are
    ignores_range: bool = False
    seconds_per_block: float = 0.0
    seen: list[Seen] = field(default_factory=list)

    def __enter__(self) -> FakeHub:
        hub = self

        class Handler(_Handler):
            pass

        Handler.hub = hub
        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._server.daemon_threads = True
        Thread(target=self._server.serve_forever, args=(0.02,), daemon=True).start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._server.shutdown()
        self._server.server_close()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self._server.server_address[1]}"

    def names(self) -> list[str]:
        return sorted(p.relative_to(self.folder).as_posix() for p in self.folder.rglob("*") if p.is_file())

    def listing(self) -> dict[str, object]:
        """The hub's answer to /api/models/NAME/revision/COMMIT?blobs=True."""
        files: list[dict[str, object]] = [self._entry(name) for name in self.names()]
        files += [{"rfilename": name, "size": 3, "blobId": "0" * 40} for name in self.extra_names]
        return {"id": "someone/something", "sha": COMMIT, "siblings": files}

    def _entry(self, name: str) -> dict[str, object]:
        content = (self.folder / name).read_bytes()
        blob = hashlib.sha1(f"blob {len(content)}\0".encode() + content, usedforsecurity=False).hexdigest()
        entry: dict[str, object] = {"rfilename": name, "size": len(content), "blobId": blob}
        if self.is_large(name):
            sha256 = hashlib.sha256(content).hexdigest()
            entry["lfs"] = {"sha256": sha256, "size": len(content), "pointerSize": 134}
        return entry

    @staticmethod
    def is_large(name: str) -> bool:
        return name.endswith((".safetensors", ".bin", ".pth"))


class _Handler(BaseHTTPRequestHandler):
    hub: FakeHub

    def log_message(self, format: str, *args: object) -> None:
        """Keep quiet."""

    def do_GET(self) -> None:
        path = unquote(urlsplit(self.path).path)
        if self.hub.refuse:
            status, code = self.hub.refuse
            self._answer(status, b"", {"X-Error-Code": code})
        elif path.startswith("/api/models/"):
            self._answer(200, json.dumps(self.hub.listing()).encode(), {"Content-Type": "application/json"})
        else:
            self._send_file(path.partition(f"/resolve/{COMMIT}/")[2])

    def _answer(self, status: int, body: bytes, headers: dict[str, str]) -> None:
        self.send_response(status)
        for name, value in ({"Content-Length": str(len(body))} | headers).items():
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(body)

    def _send_file(self, name: str) -> None:
        hub, elsewhere = self.hub, self.hub.redirect_to
        if elsewhere and hub.is_large(name):
            self._answer(302, b"", {"Location": f"{elsewhere.url}/cdn/resolve/{COMMIT}/{name}"})
            return
        content = (hub.folder / name).read_bytes()
        asked = self.headers.get("Range", "")
        start = 0 if hub.ignores_range else int(asked.removeprefix("bytes=").rstrip("-") or 0)
        hub.seen.append(Seen(name, start, self.headers.get("Authorization"), self.headers.get("Host", "")))
        if name in hub.damaged:
            content = content[:-1] + bytes([content[-1] ^ 1])
        self.send_response(206 if start else 200)
        self.send_header("Content-Length", str(len(content) - start))
        self.end_headers()
        self._send_blocks(content[start : hub.break_after.pop(name, len(content))])

    def _send_blocks(self, content: bytes) -> None:
        try:
            for at in range(0, len(content), _BLOCK):
                self.wfile.write(content[at : at + _BLOCK])
                time.sleep(self.hub.seconds_per_block)
        except ConnectionError:
            pass  # the other side has left
