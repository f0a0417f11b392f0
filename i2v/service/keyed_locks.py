"""Locks by key: whoever asks for the same key waits, and a lock that nobody holds or waits for takes no memory."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

__all__ = ["KeyedLocks"]


@dataclass
class _Counted:
    """A lock and how many hold it or wait for it."""

    lock: threading.Lock = field(default_factory=threading.Lock)
    users: int = 0


class KeyedLocks:
    """Any number of threads may use it. Not reentrant."""

    def __init__(self) -> None:
        self._guard = threading.Lock()  # of the table; never held while anyone waits for a key
        self._locks: dict[tuple[str, ...], _Counted] = {}

    def __len__(self) -> int:
        return len(self._locks)

    @contextmanager
    def hold(self, *key: str) -> Iterator[None]:
        """Hold a key's lock for the length of a block."""
        with self._guard:
            counted = self._locks.setdefault(key, _Counted())
            counted.users += 1
        try:
            with counted.lock:
                yield
        finally:
            with self._guard:
                counted.users -= 1
                if not counted.users:
                    del self._locks[key]
