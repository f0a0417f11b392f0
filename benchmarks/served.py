"""The app in a process of its own, as a person starts it, for benchmarks that look at it from outside."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from pathlib import Path

__all__ = ["Served", "serve", "serve_bare"]

ROOT = Path(__file__).parents[1]
_LIMIT_S = 120
# As people have it who do not develop i2v: Gradio loads matplotlib for every event where it is installed.
_AS_INSTALLED = """
import runpy, sys
sys.modules["matplotlib"] = None
runpy.run_path("app.py", run_name="__main__")
"""
_BARE = """
import sys
import gradio as gr
with gr.Blocks(analytics_enabled=False) as page:
    gr.Button("Generate", elem_id="generate")
page.launch(server_name="127.0.0.1", server_port=int(sys.argv[2]), ssr_mode=False, quiet=True)
"""


@dataclass(frozen=True)
class Served:
    """A running app: where it is, its process id, and the seconds from its start until its page was served."""

    url: str
    pid: int
    ready_s: float


def serve(home: Path) -> AbstractContextManager[Served]:
    """Start `python app.py` on a free port of this machine, and stop it as Ctrl+C does."""
    return _started(_AS_INSTALLED, {"I2V_HOME": str(home)})


def serve_bare() -> AbstractContextManager[Served]:
    """Start what a page of i2v is compared with: one of Gradio with nothing on it but a button, "generate"."""
    return _started(_BARE, {"GRADIO_ANALYTICS_ENABLED": "False"})


@contextmanager
def _started(program: str, environment: dict[str, str]) -> Iterator[Served]:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    began = time.monotonic()
    app = subprocess.Popen(
        [sys.executable, "-c", program, "--port", str(port)],
        cwd=ROOT,
        env=os.environ | environment,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    try:
        url = f"http://127.0.0.1:{port}"
        _wait_for(url, began)
        yield Served(url, app.pid, time.monotonic() - began)
    finally:
        app.send_signal(signal.SIGINT)
        app.wait(30)


def _wait_for(url: str, began: float) -> None:
    while time.monotonic() - began < _LIMIT_S:
        try:
            urllib.request.urlopen(f"{url}/", timeout=2).read()  # noqa: S310
            return
        except OSError:
            time.sleep(0.05)
    raise SystemExit("the page did not answer")
