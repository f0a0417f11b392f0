"""What a service makes of values before it queues anything."""

from __future__ import annotations

from pathlib import Path

from i2v.service import Service
from i2v.settings import Settings


def test_what_the_environment_fixes_gives_way_to_what_was_said_but_not_to_auto(home: Path) -> None:
    service = Service(Settings(home, chunk_frames=4, precision="bf16"))
    try:
        request = service.check({"prompt": "auto", "precision": "auto", "chunk_frames": None}, (64, 64))
        assert (request.prompt, request.precision, request.chunk_frames) == ("auto", "bf16", 4)
        request = service.check({"prompt": "zoom in", "precision": "fp32", "chunk_frames": 2}, (64, 64))
        assert (request.precision, request.chunk_frames) == ("fp32", 2)
    finally:
        service.close()
