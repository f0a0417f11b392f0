"""What the app and its worker say to each other: one JSON object a line, over the worker's standard input and output.

Each line is {"type", "job_id", "attempt", "data"}; `data` is checked on arrival by the class that the type names.
Commands to the worker are below; the events it sends are in `i2v.jobs.events`. Every line about a run carries the
job's id and attempt, so that a late or repeated one is recognised. Knows no torch.
"""

from __future__ import annotations

import json
import logging
import threading
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Any, BinaryIO, NamedTuple

from pydantic import BaseModel, ConfigDict, ValidationError

from i2v.jobs.events import EVENTS
from i2v.jobs.result import Note
from i2v.memory.forecast.experience import Experience

__all__ = [
    "COMMANDS",
    "EVENTS",
    "NO_RUN",
    "Cancel",
    "Keep",
    "Message",
    "MessageWriter",
    "ProtocolError",
    "Run",
    "RunId",
    "Stop",
    "Unload",
    "read_messages",
]

_log = logging.getLogger(__name__)


class RunId(NamedTuple):
    """One attempt at one job."""

    job_id: str
    attempt: int


NO_RUN = RunId("", 0)  # of what is about the process and not about a run


class Run(Note):
    """Run a job. `request` is JSON as the store has it: one of another version is refused where it is run."""

    request: str
    home: Path
    folder: Path
    experience: Experience


class Cancel(Note):
    """Stop a run at its next step."""


class Keep(Note):
    """End a run at its next step or frame, with a video of what is there."""


class Unload(Note):
    """Drop the idle worker's model."""


class Stop(Note):
    """End the process."""


COMMANDS: Mapping[str, type[Note]] = MappingProxyType(
    {"run": Run, "cancel": Cancel, "keep": Keep, "unload": Unload, "stop": Stop}
)
_NAMES = {kind: name for kinds in (COMMANDS, EVENTS) for name, kind in kinds.items()}


class ProtocolError(Exception):
    """The other side wrote what this protocol does not have."""


@dataclass(frozen=True)
class Message:
    """One command or event, and the run that it is about."""

    said: Note
    run: RunId = NO_RUN

    def to_line(self) -> bytes:
        line = {"type": _NAMES[type(self.said)], **self.run._asdict(), "data": self.said.to_json()}
        return json.dumps(line, ensure_ascii=True, separators=(",", ":")).encode() + b"\n"


class _Line(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)
    type: str
    job_id: str
    attempt: int
    data: dict[str, Any]


class MessageWriter:
    """Writes messages from any thread, each whole."""

    def __init__(self, stream: BinaryIO):
        self._stream, self._lock = stream, threading.Lock()

    def send(self, message: Message) -> None:
        """Write one message. Raises OSError when the other side is gone."""
        line = message.to_line()
        with self._lock:
            self._stream.write(line)
            self._stream.flush()


def read_messages(stream: BinaryIO, kinds: Mapping[str, type[Note]]) -> Iterator[Message]:
    """Yield messages of these kinds until the other side closes. Raises ProtocolError at one that is malformed.

    A type that is not known is logged once and left out. A line cut short by a dying process ends the stream.
    """
    unknown: set[str] = set()
    for line in stream:
        if not line.endswith(b"\n"):
            return
        try:
            found = _Line.model_validate(json.loads(line))
            kind = kinds.get(found.type)
            said = kind.model_validate(found.data) if kind else None
        except (ValueError, RecursionError) as error:  # ValidationError is a ValueError
            raise ProtocolError(f"a message of {len(line)} bytes is malformed: {_fault(error)}") from None
        if said is not None:
            yield Message(said, RunId(found.job_id, found.attempt))
        elif found.type not in unknown:
            unknown.add(found.type)
            _log.warning("messages of the type %.40r are not known and are ignored", found.type)


def _fault(error: ValueError | RecursionError) -> str:
    """Say what is wrong with a message and where, without what it holds: that may be a person's words."""
    if not isinstance(error, ValidationError):
        return f"no JSON ({type(error).__name__})"
    fault = error.errors(include_url=False, include_input=False, include_context=False)[0]
    return f"{error.title}.{'.'.join(map(str, fault['loc']))}: {fault['msg']}"
