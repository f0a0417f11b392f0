"""What the app and its worker say to each other: one JSON object a line, over the worker's standard input and output.

Commands to the worker:  run {spec} · cancel {job_id, attempt} · keep {job_id, attempt} · unload · stop
Events from the worker:  ready · heartbeat · loaded · unloaded · plan · progress · memory · preview · step_down ·
                         warning · done · failed

"keep" ends a run early with a video of what is there; "unload" makes the idle worker drop its model.

Every event of a run carries the job's id and attempt, so that a late or repeated one is recognised. Knows no torch.
"""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any, BinaryIO

__all__ = ["Event", "MessageWriter", "read_messages"]


@dataclass(frozen=True)
class Event:
    """One event. `lost` is the only one that the app's side makes up: the worker process is gone."""

    type: str
    job_id: str = ""
    attempt: int = 0
    data: dict[str, Any] = field(default_factory=dict)

    def to_message(self) -> dict[str, Any]:
        return {
            "type": self.type,
            "job_id": self.job_id,
            "attempt": self.attempt,
            "data": self.data,
        }

    @classmethod
    def from_message(cls, message: dict[str, Any]) -> Event:
        return cls(message["type"], message.get("job_id", ""), message.get("attempt", 0), message.get("data", {}))


class MessageWriter:
    """Writes messages from any thread, each whole."""

    def __init__(self, stream: BinaryIO):
        self._stream, self._lock = stream, threading.Lock()

    def send(self, message: dict[str, Any]) -> None:
        """Write one message. Raises OSError when the other side is gone."""
        line = json.dumps(message, ensure_ascii=True, separators=(",", ":")).encode() + b"\n"
        with self._lock:
            self._stream.write(line)
            self._stream.flush()


def read_messages(stream: BinaryIO) -> Iterator[dict[str, Any]]:
    """Yield messages until the other side closes. A line cut short by a dying process ends the stream."""
    for line in stream:
        if not line.endswith(b"\n"):
            return
        yield json.loads(line)
