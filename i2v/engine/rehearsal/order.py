"""Finds a wait that was forgotten: keeps what each stream of a card, and the CPU, know to be finished.

A stream and the CPU are "lanes". Acts of one lane come one after another; of another lane's acts a lane knows only
what it waited for (vector clocks: Mattern 1989; a race is found as by FastTrack, Flanagan & Freund 2009). Knows
nothing of torch: memory is whatever names it, and a lane is a number.
"""

from __future__ import annotations

from collections.abc import Hashable
from dataclasses import dataclass, field

__all__ = ["CPU", "MAIN", "Order", "RehearsalError"]

CPU, MAIN = 0, 1  # lanes: the CPU, and the stream that everything runs on unless it asks for another
_NAMES = {CPU: "the CPU", MAIN: "the main stream"}


class RehearsalError(Exception):
    """The code would go wrong on a real card: a wait, a move or a cast is missing, or data is asked for."""


def _name(lane: int) -> str:
    return _NAMES.get(lane, f"side stream {lane - MAIN}")


@dataclass
class _Memory:
    """One storage: who may reuse it, who wrote it last, and who read it since."""

    owner: int
    written: tuple[int, int]  # lane and time
    used: dict[int, int] = field(default_factory=dict)  # by lane, the time of its last act on this memory


class Order:
    """What each lane knows to be finished, and who touched which memory when."""

    def __init__(self) -> None:
        self._clocks: list[dict[int, int]] = []
        self._memory: dict[Hashable, _Memory] = {}
        self.lane()
        self.lane()

    def lane(self) -> int:
        """Add a lane and return it."""
        self._clocks.append({len(self._clocks): 0})
        return len(self._clocks) - 1

    def begin(self, lane: int) -> None:
        """Begin an act. What is queued on a stream comes after everything that the CPU knows of."""
        if lane != CPU:
            self.join(lane, self._clocks[CPU])
        self._clocks[lane][lane] += 1

    def seen(self, lane: int) -> dict[int, int]:
        """Return what a lane knows to be finished, itself included: what an event records."""
        return dict(self._clocks[lane])

    def join(self, lane: int, seen: dict[int, int]) -> None:
        """Have a lane wait for what was seen."""
        clock = self._clocks[lane]
        for other, time in seen.items():
            if time > clock.get(other, 0):
                clock[other] = time

    def join_all(self, lane: int) -> None:
        """Have a lane wait for all others."""
        for other in range(len(self._clocks)):
            self.join(lane, self.seen(other))

    def born(self, lane: int, memory: Hashable) -> None:
        """Note memory that was taken on a lane: what had it before may still be at work there."""
        self._memory[memory] = _Memory(lane, (lane, self._clocks[lane][lane]))

    def read(self, lane: int, memory: Hashable) -> str:
        """Note that a lane reads memory; return "" or what was not waited for."""
        known = self._memory.get(memory)
        if known is None:
            return ""
        known.used[lane] = self._clocks[lane][lane]
        return self._unseen(lane, *known.written, "written")

    def write(self, lane: int, memory: Hashable) -> str:
        """Note that a lane writes memory; return "" or what was not waited for."""
        known = self._memory.get(memory)
        if known is None:
            return ""
        wrong = self._unseen(lane, *known.written, "written")
        wrong = wrong or next(
            (w for other, time in known.used.items() if (w := self._unseen(lane, other, time, "used"))), ""
        )
        known.written, known.used = (lane, self._clocks[lane][lane]), {}
        return wrong

    def forgive(self, memory: Hashable, lane: int) -> None:
        """Note that a lane's use of memory is waited for when it is given back (`Tensor.record_stream`)."""
        if known := self._memory.get(memory):
            known.used.pop(lane, None)
            if known.written[0] == lane:
                known.written = (known.owner, 0)

    def forget(self, memory: Hashable) -> None:
        """Note that memory is no more, and that nobody minds who was at work on it."""
        self._memory.pop(memory, None)

    def gone(self, memory: Hashable) -> str:
        """Note that memory was given back; return "" or who may still be at work on it when it is used again."""
        known = self._memory.pop(memory, None)
        if known is None:
            return ""
        acts = [*known.used.items(), known.written]
        return next((w for lane, time in acts if (w := self._unseen(known.owner, lane, time, "used"))), "")

    def _unseen(self, lane: int, other: int, time: int, done: str) -> str:
        if other == lane or self._clocks[lane].get(other, 0) >= time:
            return ""
        return f"{_name(lane)} does not wait until it was {done} on {_name(other)}"
