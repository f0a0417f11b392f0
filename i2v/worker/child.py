"""The worker process: `python -m i2v.worker.child`. It owns torch and CUDA and runs one job at a time.

It speaks the protocol on its standard input and output; everything that libraries print goes to standard error. When
the app dies, its end of the pipe closes and the worker leaves at once, so that no orphan holds the card.
"""

from __future__ import annotations

import logging
import os
import queue
import sys
import threading
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from i2v.errors import GenerationError, I2VError, InputError, OutOfMemoryError, StorageError
from i2v.jobs.folder import JobFolder
from i2v.log_file import LogFile
from i2v.machine import devices
from i2v.memory.forecast.experience import Experience
from i2v.request import GenerationRequest
from i2v.settings import Settings, set_up_logging
from i2v.worker.protocol import Event, MessageWriter, read_messages

__all__ = ["main"]

_log = logging.getLogger(__name__)
HEARTBEAT_S = 1.0


class Worker:
    """Reads commands in one thread, beats in another, runs jobs in the main one."""

    def __init__(self, writer: MessageWriter, home: Path):
        self._writer, self._home = writer, home
        self._commands: queue.SimpleQueue[dict[str, Any]] = queue.SimpleQueue()
        self._cancelled: set[tuple[str, int]] = set()
        self._kept: set[tuple[str, int]] = set()

    def send(self, event: Event) -> None:
        self._writer.send(event.to_message())

    def listen(self) -> None:
        """Sort incoming commands; leave the process when the app is gone."""
        for message in read_messages(sys.stdin.buffer):
            match message["type"]:
                case "cancel":
                    self._cancelled.add((message["job_id"], message["attempt"]))
                case "keep":
                    self._kept.add((message["job_id"], message["attempt"]))
                case _:
                    self._commands.put(message)
        os._exit(0)

    def beat(self) -> None:
        """Tell the app that this process lives, until it ends."""
        pause = threading.Event()
        while not pause.wait(HEARTBEAT_S):
            self.send(Event("heartbeat"))

    def work(self) -> None:
        """Run commands until told to stop."""
        try:
            engine = self._make_engine()
        except ImportError as error:
            _log.exception("the worker cannot work")
            self._refuse_all(error)
            return
        self.send(Event("ready", data={"pid": os.getpid()}))
        while True:
            command = self._commands.get()
            match command["type"]:
                case "stop":
                    return
                case "unload":
                    engine.unload()
                    self.send(Event("unloaded"))
                case _:
                    self._run(engine, command["spec"])

    def _make_engine(self) -> Any:
        from diffusers.utils import logging as diffusers_logging  # torch comes in here, in the worker only
        from transformers.utils import logging as transformers_logging

        from i2v.engine.card_speed import measure_card
        from i2v.engine.run import Engine

        diffusers_logging.disable_progress_bar()
        transformers_logging.disable_progress_bar()
        measure_card(self._home)
        return Engine()

    def _refuse_all(self, error: ImportError) -> None:
        """Say of every job that something is not installed, until told to stop."""
        missing = error.name or "a library"
        refusal = GenerationError(
            f"{missing} is not installed or does not load", "Run ./start_app.sh, which installs what is missing."
        )
        while (command := self._commands.get())["type"] != "stop":
            if command["type"] == "unload":
                self.send(Event("unloaded"))
                continue
            spec = command["spec"]
            self.send(Event("failed", spec["job_id"], spec["attempt"], refusal.to_dict()))

    def _run(self, engine: Any, message: dict[str, Any]) -> None:
        from i2v.engine.run import RunSpec

        run = job_id, attempt = message["job_id"], message["attempt"]
        threading.current_thread().name = f"job {job_id[:8]}.{attempt}"

        def report(kind: str, data: dict[str, Any]) -> None:
            self.send(Event(kind, job_id, attempt, data))

        try:
            request = GenerationRequest.model_validate_json(message["request"])
            experience = Experience.from_message(message["experience"])
            spec = RunSpec(
                job_id, attempt, request, Path(message["home"]), JobFolder(Path(message["folder"])), experience
            )
            result = engine.run(spec, report, lambda: run in self._cancelled, lambda: run in self._kept)
        except I2VError as error:
            _log.info("ended: %s", type(error).__name__)
            report("failed", error.to_dict())
        except ValidationError:
            report("failed", InputError("this job was made by another version of i2v", "Generate it anew.").to_dict())
        except OSError as error:
            _log.exception("a file operation failed")
            report("failed", _storage_error(error).to_dict())
        except Exception as error:  # the worker's outermost edge: anything becomes a failed job, with its trace logged
            _log.exception("the run failed")
            report("failed", _unexpected(error).to_dict())
            logging.shutdown()
            os._exit(1)  # after an unknown failure, of the card say, the next job gets a fresh process
        else:
            report("done", result)


def _storage_error(error: OSError) -> StorageError:
    return StorageError(
        f"a file could not be read or written: {error.strerror or type(error).__name__}",
        "Free disk space, or set I2V_HOME to another folder, and try again.",
    )


def _unexpected(error: Exception) -> GenerationError:
    if isinstance(error, MemoryError):
        return OutOfMemoryError("the machine ran out of memory", "Choose fewer frames or a smaller size.")
    return GenerationError(f"the run stopped unexpectedly ({type(error).__name__})", "The log has the details.")


def main() -> None:
    """Take over the standard streams and work."""
    protocol = os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)  # whatever prints must not disturb the protocol
    sys.stdout = sys.stderr
    settings = Settings.from_environment()
    set_up_logging(settings.log_level, prefix="[%(threadName)s] ")
    LogFile(settings.home).attach(prefix="[%(threadName)s] ")
    worker = Worker(MessageWriter(protocol), settings.home)
    threading.Thread(target=worker.listen, name="listen", daemon=True).start()
    threading.Thread(target=worker.beat, name="beat", daemon=True).start()
    _log.info(
        "worker %d started, %d MiB of memory free",
        os.getpid(),
        devices.machine_memory().available_bytes >> 20,
    )
    worker.work()
    logging.shutdown()
    os._exit(0)  # the listening thread sits in a read, on which Python's own exit would stumble


if __name__ == "__main__":
    main()
