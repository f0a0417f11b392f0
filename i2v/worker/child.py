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
from i2v.jobs.events import Heartbeat, Ready, Unloaded
from i2v.jobs.folder import JobFolder
from i2v.jobs.result import ErrorNote, Note
from i2v.log_file import LogFile
from i2v.machine import devices
from i2v.request import GenerationRequest
from i2v.settings import Settings, set_up_logging
from i2v.worker.protocol import (
    COMMANDS,
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

__all__ = ["main"]

_log = logging.getLogger(__name__)
HEARTBEAT_S = 1.0


class Worker:
    """Reads commands in one thread, beats in another, runs jobs in the main one."""

    def __init__(self, writer: MessageWriter, home: Path):
        self._writer, self._home = writer, home
        self._commands: queue.SimpleQueue[Message] = queue.SimpleQueue()
        self._cancelled: set[RunId] = set()
        self._kept: set[RunId] = set()

    def send(self, event: Note, run: RunId = NO_RUN) -> None:
        """Tell the app something. Raises OSError when it is gone."""
        self._writer.send(Message(event, run))

    def listen(self) -> None:
        """Sort incoming commands; leave the process when the app is gone, or says what no app of this version says."""
        try:
            for message in read_messages(sys.stdin.buffer, COMMANDS):
                match message.said:
                    case Cancel():
                        self._cancelled.add(message.run)
                    case Keep():
                        self._kept.add(message.run)
                    case _:
                        self._commands.put(message)
        except ProtocolError as error:
            _log.error("the worker ends, for a command is not understood: %s", error)
            logging.shutdown()
            os._exit(1)
        os._exit(0)

    def beat(self) -> None:
        """Tell the app that this process lives, until it ends."""
        pause = threading.Event()
        while not pause.wait(HEARTBEAT_S):
            self.send(Heartbeat())

    def work(self) -> None:
        """Run commands until told to stop."""
        try:
            engine = self._make_engine()
        except ImportError as error:
            _log.exception("the worker cannot work")
            self._refuse_all(error)
            return
        self.send(Ready(pid=os.getpid()))
        while True:
            message = self._commands.get()
            match message.said:
                case Stop():
                    return
                case Unload():
                    engine.unload()
                    self.send(Unloaded())
                case Run() as command:
                    self._run(engine, command, message.run)

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
        while not isinstance((message := self._commands.get()).said, Stop):
            if isinstance(message.said, Unload):
                self.send(Unloaded())
            else:
                self.send(ErrorNote.of(refusal), message.run)

    def _run(self, engine: Any, command: Run, run: RunId) -> None:
        from i2v.engine.run import RunSpec

        threading.current_thread().name = f"job {run.job_id[:8]}.{run.attempt}"

        def report(event: Note) -> None:
            self.send(event, run)

        try:
            request = GenerationRequest.model_validate_json(command.request)
            spec = RunSpec(*run, request, command.home, JobFolder(command.folder), command.experience)
            result = engine.run(spec, report, lambda: run in self._cancelled, lambda: run in self._kept)
        except I2VError as error:
            _log.info("ended: %s", type(error).__name__)
            report(ErrorNote.of(error))
        except ValidationError:
            other = InputError("this job was made by another version of i2v", "Generate it anew.")
            report(ErrorNote.of(other))
        except OSError as error:
            _log.exception("a file operation failed")
            report(ErrorNote.of(_storage_error(error)))
        except Exception as error:  # the worker's outermost edge: anything becomes a failed job, with its trace logged
            _log.exception("the run failed")
            report(ErrorNote.of(_unexpected(error)))
            logging.shutdown()
            os._exit(1)  # after an unknown failure, of the card say, the next job gets a fresh process
        else:
            report(result)


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
