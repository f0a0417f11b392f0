"""Runs jobs somewhere and tells what happens to them. Knows nothing of the job store or of pages, and no torch.

`LocalExecutor` is one worker process on this machine. Its process is started when the first job comes, and anew after
it died.
"""

from __future__ import annotations

import logging
import os
import queue
import subprocess
import sys
import threading
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import psutil

from i2v.errors import InputError, WorkerDiedError
from i2v.machine.cuda_environment import cuda_environment
from i2v.worker.protocol import Event, MessageWriter, read_messages

__all__ = ["Executor", "LocalExecutor", "WorkerState"]

_log = logging.getLogger(__name__)
HEARTBEAT_LIMIT_S = 120.0
_UNLOAD_LIMIT_S = 30.0


@dataclass(frozen=True)
class WorkerState:
    """What the worker process is and holds now. `pid` None: there is none; `model` None: it holds none."""

    pid: int | None = None
    running_job: str | None = None
    model: str | None = None
    weights_bytes: int = 0
    rss_bytes: int = 0
    precision: str | None = None
    device: str | None = None


class Executor(Protocol):
    """The seam between the dispatcher and whatever runs jobs."""

    def warm_up(self) -> None: ...
    def start(self, spec: dict[str, Any]) -> None: ...
    def poll(self, timeout_s: float) -> Event | None: ...
    def request_cancel(self, job_id: str, attempt: int) -> None: ...
    def request_keep(self, job_id: str, attempt: int) -> None: ...
    def kill(self) -> None: ...
    def close(self, grace_s: float) -> None: ...


class LocalExecutor:
    """One spawned worker process."""

    def __init__(self, log_level: str = "INFO", heartbeat_limit_s: float = HEARTBEAT_LIMIT_S):
        self._log_level = log_level
        self._events: queue.Queue[Event] = queue.Queue()
        self._process: subprocess.Popen[bytes] | None = None
        self._writer: MessageWriter | None = None
        self._listener: threading.Thread | None = None
        self._running: tuple[str, int] | None = None
        self._handing_over = threading.Lock()  # a run and an unload are not handed over at the same time
        self._held: dict[str, Any] | None = None  # the "loaded" event's data
        self._let_go = threading.Event()
        self._heard_s = 0.0
        self._heartbeat_limit_s = heartbeat_limit_s
        self.starts = 0  # worker processes so far

    @property
    def pid(self) -> int | None:
        """The worker's process id while it lives."""
        return self._process.pid if self._process and self._process.poll() is None else None

    def warm_up(self) -> None:
        """Start the worker, so that the first job does not wait for torch to be imported."""
        if self.pid is None:
            self._spawn()

    def start(self, spec: dict[str, Any]) -> None:
        """Hand a job to the worker; what becomes of it comes through `poll`."""
        self.warm_up()
        with self._handing_over:
            self._running = (spec["job_id"], spec["attempt"])
            self._send({"type": "run", "spec": spec})

    def state(self) -> WorkerState:
        """Return what the worker process is and holds now."""
        pid, running, held = self.pid, self._running, self._held or {}
        if pid is None:
            return WorkerState()
        try:
            rss_bytes = psutil.Process(pid).memory_info().rss
        except psutil.Error:  # it ended just now
            return WorkerState()
        return WorkerState(
            pid=pid,
            running_job=running[0] if running else None,
            model=held.get("model"),
            weights_bytes=held.get("bytes", 0),
            rss_bytes=rss_bytes,
            precision=held.get("precision"),
            device=held.get("device"),
        )

    def unload(self, timeout_s: float = _UNLOAD_LIMIT_S) -> None:
        """Have the idle worker drop its model, and wait until it has. Raises InputError while a job runs."""
        with self._handing_over:
            if self._running:
                raise InputError("a job is running", "Cancel it or wait.")
            if self.pid is None or self._held is None:
                return
            self._let_go.clear()
            self._send({"type": "unload"})
        if not self._let_go.wait(timeout_s):
            raise WorkerDiedError("the worker does not answer", "Wait a moment and try again.")

    def poll(self, timeout_s: float) -> Event | None:
        """Return the next event, or None after `timeout_s`. A dead or silent worker gives one "lost" event."""
        reader_ended = not (self._listener and self._listener.is_alive())  # asked first: all it read is queued
        try:
            event = self._events.get(timeout=timeout_s)
        except queue.Empty:
            if self._running and reader_ended:
                (job_id, attempt), self._running = self._running, None
                return Event("lost", job_id, attempt, {"exit_code": self._process.poll() if self._process else None})
            if self.pid and self._running and time.monotonic() - self._heard_s > self._heartbeat_limit_s:
                _log.error("the worker has been silent for %.0f s and is ended", self._heartbeat_limit_s)
                self.kill()
            return None
        if event.type in ("done", "failed", "lost") and (event.job_id, event.attempt) == self._running:
            self._running = None
        return event

    def request_cancel(self, job_id: str, attempt: int) -> None:
        """Ask the worker to stop a run at its next step."""
        self._send({"type": "cancel", "job_id": job_id, "attempt": attempt})

    def request_keep(self, job_id: str, attempt: int) -> None:
        """Ask the worker to end a run at its next step or frame, with a video of what is there."""
        self._send({"type": "keep", "job_id": job_id, "attempt": attempt})

    def kill(self) -> None:
        """End the worker at once; a "lost" event follows."""
        if self._process:
            self._process.kill()
            self._process.wait()  # else the next job would be handed to a dying process

    def close(self, grace_s: float = 5.0) -> None:
        """Let the worker finish what it is at within `grace_s`, then end it."""
        process = self._process
        if process is None:
            return
        if process.poll() is None:
            if self._running:
                self.request_cancel(*self._running)
            self._send({"type": "stop"})
            try:
                process.wait(grace_s)
            except subprocess.TimeoutExpired:
                process.kill()
        process.wait()
        self._close_input()

    def _close_input(self) -> None:
        if self._process and self._process.stdin:
            try:
                self._process.stdin.close()
            except OSError:  # the other end is gone; nothing is left to say
                _log.debug("the worker's input was already closed")

    def _spawn(self) -> None:
        self._close_input()  # of the worker before, if there was one
        environment = os.environ | cuda_environment()
        environment |= {
            "PYTHONPATH": os.pathsep.join([str(Path(__file__).parents[2]), *_python_path()]),
            "I2V_LOG_LEVEL": self._log_level,
        }
        self._process = subprocess.Popen(
            [sys.executable, "-m", "i2v.worker.child"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            env=environment,
            creationflags=getattr(subprocess, "CREATE_NEW_PROCESS_GROUP", 0),
            start_new_session=True,  # Ctrl+C in the terminal is for the app, which then asks the worker
        )
        assert self._process.stdin
        self._held = None
        self.starts += 1
        self._writer = MessageWriter(self._process.stdin)  # type: ignore[arg-type]
        self._heard_s = time.monotonic()
        self._listener = threading.Thread(target=self._listen, args=(self._process,), name="worker-events", daemon=True)
        self._listener.start()

    def _listen(self, process: subprocess.Popen[bytes]) -> None:
        assert process.stdout
        with process.stdout:
            for message in read_messages(process.stdout):  # type: ignore[arg-type]
                self._heard_s = time.monotonic()
                if message["type"] in ("loaded", "unloaded"):
                    self._holds(message["data"] if message["type"] == "loaded" else None)
                elif message["type"] != "heartbeat":
                    self._events.put(Event.from_message(message))
        code = process.wait()
        newest = process is self._process  # else the next worker's job must not be blamed
        if newest:
            self._holds(None)
        job_id, attempt = (self._running if newest else None) or ("", 0)
        self._events.put(Event("lost", job_id, attempt, {"exit_code": code}))

    def _holds(self, model: dict[str, Any] | None) -> None:
        self._held = model
        if model is None:
            self._let_go.set()

    def _send(self, message: dict[str, Any]) -> None:
        if self._writer is None or self.pid is None:
            return
        try:
            self._writer.send(message)
        except OSError as error:
            _log.warning("the worker cannot be reached: %s", error)


def _python_path() -> list[str]:
    return [part for part in os.environ.get("PYTHONPATH", "").split(os.pathsep) if part]
