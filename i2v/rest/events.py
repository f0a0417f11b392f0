"""How a job is followed: a stream of server-sent events, or one answer as soon as there is news.

Both look at the job a few times a second. What is sent is named by its revision, so that whoever comes back after a
lost connection, even after a restart of i2v, gets only what is new.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import AsyncIterator, Callable

from fastapi.sse import format_sse_event
from starlette.concurrency import run_in_threadpool

from i2v.errors import StorageError
from i2v.rest.answers import JobAnswer

__all__ = ["next_revision", "revisions", "stream"]

_log = logging.getLogger(__name__)
_LOOK_S = 0.25
_HEARTBEAT_S = 15.0
Read = Callable[[], JobAnswer | None]


async def revisions(
    read: Read, seen: str = "", heartbeat_s: float = _HEARTBEAT_S, look_s: float = _LOOK_S
) -> AsyncIterator[JobAnswer | None]:
    """Yield each answer that differs from the last `seen`, and None when there was nothing new for `heartbeat_s`.

    Ends after the answer in which the job is over, or when `read` finds no job any more.
    """
    news_s = time.monotonic()
    while True:
        try:
            answer = await run_in_threadpool(read)
        except StorageError as error:
            _log.warning("the job store cannot be read now: %s", error)
        else:
            if answer is None:
                return
            if answer.revision != seen:
                seen, news_s = answer.revision, time.monotonic()
                yield answer
            if answer.is_over:
                return
        if time.monotonic() - news_s >= heartbeat_s:
            news_s = time.monotonic()
            yield None
        await asyncio.sleep(look_s)


async def stream(read: Read, seen: str = "", heartbeat_s: float = _HEARTBEAT_S) -> AsyncIterator[bytes]:
    """Yield each revision as a server-sent event, and comments that keep the connection open."""
    async for answer in revisions(read, seen, heartbeat_s):
        if answer is None:
            yield format_sse_event(comment="still here")
        else:
            yield format_sse_event(data_str=answer.model_dump_json(), id=answer.revision)


async def next_revision(read: Read, seen: str, wait_s: float) -> JobAnswer | None:
    """Return the job once it differs from `seen`, is over, or `wait_s` have passed; None if there is no such job."""
    async for answer in revisions(read, seen, heartbeat_s=wait_s, look_s=min(_LOOK_S, max(wait_s, 0.01))):
        if answer is not None:
            return answer
        break
    return await run_in_threadpool(read)
