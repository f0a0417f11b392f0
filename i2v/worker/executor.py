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
from typing import Protocol

import psutil

from i2v.errors import InputError, WorkerDiedError
from i2v.jobs.events import Heartbeat, Loaded, Lost, Unloaded
from i2v.jobs.result import ErrorNote, RunResult
from i2v.machine.cuda_environment import cuda_environment
from i2v.worker.protocol import (
    EVENTS,
    NO_RUN,
    Cancel,
    Keep,
    Message,
    MessageWriter,
    ProtocolError,
    Run,
    RunId,
    Stop,
    Unload,
    read_messages,
)

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
    """The seam between the dispatcher and whatever runs jobs: one at a time, named by its `run`."""

    def warm_up(self) -> None:
        """Get ready for a job that may come."""

    def start(self, run: RunId, command: Run) -> None:
        """Begin a run. Raises OSError when there is nothing to begin it with."""

    def poll(self, timeout_s: float) -> Message | None:
        """Return the next event, or None after `timeout_s`. A RunResult, an ErrorNote or Lost ends a run."""

    def request_cancel(self, run: RunId) -> None:
        """Ask a run to end at its next step."""

    def request_keep(self, run: RunId) -> None:
        """Ask a run to end at its next step or frame, with a video of what is there."""

    def kill(self) -> None:
        """End whatever runs at once; Lost follows."""

    def close(self, grace_s: float) -> None:
        """Let what runs end within `grace_s`, then end it."""


class LocalExecutor:
    """One spawned worker process."""

    def __init__(self, log_level: str = "INFO", heartbeat_limit_s: float = HEARTBEAT_LIMIT_S):
        self._log_level = log_level
        self._events: queue.Queue[Message] = queue.Queue()
        self._process: subprocess.Popen[bytes] | None = None
        self._writer: MessageWriter | None = None
        self._listener: threading.Thread | None = None
        self._running: RunId | None = None
        self._handing_over = threading.Lock()  # a run and an unload are not handed over at the same time
        self._held: Loaded | None = None
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

    def start(self, run: RunId, command: Run) -> None:
        """Hand a job to the worker; what becomes of it comes through `poll`."""
        self.warm_up()
        with self._handing_over:
            self._running = run
            self._send(Message(command, run))

    def state(self) -> WorkerState:
        """Return what the worker process is and holds now."""
        pid, running, held = self.pid, self._running, self._held
        if pid is None:
            return WorkerState()
        try:
            rss_bytes = psutil.Process(pid).memory_info().rss
        except psutil.Error:  # it ended just now
            return WorkerState()
        return WorkerState(
            pid=pid,
            running_job=running.job_id if running else None,
            model=held.model if held else None,
            weights_bytes=held.bytes if held else 0,
            rss_bytes=rss_bytes,
            precision=held.precision if held else None,
            device=held.device if held else None,
        )

    def unload(self, timeout_s: float = _UNLOAD_LIMIT_S) -> None:
        """Have the idle worker drop its model, and wait until it has. Raises InputError while a job runs."""
        with self._handing_over:
            if self._running:
                raise InputError("a job is running", "Cancel it or wait.")
            if self.pid is None or self._held is None:
                return
            self._let_go.clear()
            self._send(Message(Unload()))
        if not self._let_go.wait(timeout_s):
            raise WorkerDiedError("the worker does not answer", "Wait a moment and try again.")

    def poll(self, timeout_s: float) -> Message | None:
        """Return the next event, or None after `timeout_s`. A dead or silent worker gives one Lost."""
        reader_ended = not (self._listener and self._listener.is_alive())  # asked first: all it read is queued
        try:
            message = self._events.get(timeout=timeout_s)
        except queue.Empty:
            if self._running and reader_ended:
                run, self._running = self._running, None
                return Message(Lost(exit_code=self._process.poll() if self._process else None), run)
            if self.pid and self._running and time.monotonic() - self._heard_s > self._heartbeat_limit_s:
                _log.error("the worker has been silent for %.0f s and is ended", self._heartbeat_limit_s)
                self.kill()
            return None
        if isinstance(message.said, RunResult | ErrorNote | Lost) and message.run == self._running:
            self._running = None
        return message

    def request_cancel(self, run: RunId) -> None:
        """Ask the worker to stop a run at its next step."""
        self._send(Message(Cancel(), run))

    def request_keep(self, run: RunId) -> None:
        """Ask the worker to end a run at its next step or frame, with a video of what is there."""
        self._send(Message(Keep(), run))

    def kill(self) -> None:
        """End the worker at once; Lost follows."""
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
                self.request_cancel(self._running)
            self._send(Message(Stop()))
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
            try:
                for message in read_messages(process.stdout, EVENTS):  # type: ignore[arg-type]
                    self._heard_s = time.monotonic()
                    self._take_in(message)
            except ProtocolError as error:
                _log.error("the worker is ended, for it is not understood: %s", error)
                process.kill()
        code = process.wait()
        newest = process is self._process  # else the next worker's job must not be blamed
        if newest:
            self._holds(None)
        run = (self._running if newest else None) or NO_RUN
        self._events.put(Message(Lost(exit_code=code), run))

    def _take_in(self, message: Message) -> None:
        match message.said:
            case Loaded() as model:
                self._holds(model)
            case Unloaded():
                self._holds(None)
            case Heartbeat():
                pass
            case _:
                self._events.put(message)

    def _holds(self, model: Loaded | None) -> None:
        self._held = model
        if model is None:
            self._let_go.set()

    def _send(self, message: Message) -> None:
        if self._writer is None or self.pid is None:
            return
        try:
            self._writer.send(message)
        except OSError as error:
            _log.warning("the worker cannot be reached: %s", error)


def _python_path() -> list[str]:
    return [part for part in os.environ.get("PYTHONPATH", "").split(os.pathsep) if part]
