"""Locks by key: one at a time, and none is left behind."""

from __future__ import annotations

import threading
from concurrent.futures import ThreadPoolExecutor

import pytest

from i2v.service.keyed_locks import KeyedLocks


def test_one_thread_at_a_time_has_a_key_and_no_lock_is_left() -> None:
    locks, inside, most = KeyedLocks(), dict.fromkeys("abc", 0), []

    def work(turn: int) -> None:
        key = "abc"[turn % 3]
        with locks.hold(key):
            inside[key] += 1
            most.append((inside[key], len(locks)))
            inside[key] -= 1

    with ThreadPoolExecutor(8) as pool:
        list(pool.map(work, range(3000)))
    assert len(most) == 3000
    assert max(count for count, _ in most) == 1
    assert max(held for _, held in most) <= 3
    assert len(locks) == 0


def test_who_waits_for_a_key_keeps_its_lock_alive() -> None:
    locks, order = KeyedLocks(), []

    def wait() -> None:
        with locks.hold("a", "gif"):
            order.append("second")

    waiting = threading.Thread(target=wait)
    with locks.hold("a", "gif"):
        waiting.start()
        while locks._locks["a", "gif"].users < 2:
            waiting.join(0.001)
        with locks.hold("a", "webp"):  # another key is free
            order.append("first")
    waiting.join(10)
    assert order == ["first", "second"]
    assert len(locks) == 0


def test_a_block_that_raises_lets_go() -> None:
    locks = KeyedLocks()
    with pytest.raises(ValueError, match="x"), locks.hold("a"):
        raise ValueError("x")
    assert len(locks) == 0
