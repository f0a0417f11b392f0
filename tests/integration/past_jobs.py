"""Jobs as if they had run, written by the project's own classes: what the page shows of them needs no waiting."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from i2v.errors import I2VError, OutOfMemoryError
from i2v.jobs.events import Progress
from i2v.jobs.model import JobState
from i2v.jobs.result import ErrorNote, RunResult, Stage, StepDown
from i2v.jobs.store import JobStore
from i2v.machine.devices import process_started
from i2v.media.formats import open_writer
from i2v.request import build_request
from i2v.settings import Settings

__all__ = ["STEP_DOWN", "PastJobs", "progress_at", "run_result"]

GIB = 1 << 30
STEP_DOWN: dict[str, Any] = {
    "stage": "denoise",
    "step": 3,
    "t_s": 4.2,
    "why": "memory ran out",
    "before": "fp16, whole clip at once, weights resident",
    "after": "fp16, exact chunks of 8 frames, models take turns",
}


def run_result(**others: Any) -> dict[str, Any]:
    """Return the result of a run of 12 s on a card, with its memory over time."""
    total = 12 * GIB
    amounts = [1 + 2.4 * min(1, step / 8) + 0.35 * (step % 4) for step in range(48)]
    samples = [
        {
            "kind": "gpu",
            "t_s": step / 4,
            "allocated_bytes": int(amount * GIB),
            "reserved_bytes": int((max(amounts[: step + 1]) + 0.3) * GIB),
            "peak_bytes": int(max(amounts[: step + 1]) * GIB),
            "device_used_bytes": int((max(amounts[: step + 1]) + 1.1) * GIB),
            "device_total_bytes": total,
        }
        for step, amount in enumerate(amounts)
    ]
    words = "fp16, exact chunks of 8 frames, models take turns"
    return {
        "files": {},
        "seconds": 12.0,
        "peak_bytes": samples[-1]["peak_bytes"],
        "peak_kind": "gpu",
        "forecast": {"comparable_bytes": int(4.2 * GIB)},
        "plan": {"words": words, "reason": f"{words}: memory ran out during denoise, so i2v stepped down."},
        "step_downs": [STEP_DOWN],
        "warnings": [],
        "samples": samples,
        "stages": [
            {"stage": "load", "t_s": 0.0},
            {"stage": "encode", "t_s": 1.6},
            {"stage": "denoise", "t_s": 2.1},
            {"stage": "decode", "t_s": 9.0},
        ],
    } | others


def progress_at(stage: Stage = Stage.DENOISE, step: int = 1, **others: Any) -> Progress:
    """Return where a run of 50 steps stands after 4 s of about a minute."""
    values: dict[str, Any] = {"total": 50, "fraction": 0.1, "elapsed_s": 4.0, "eta_s": 60.0, "per_second": 0.5}
    return Progress(stage=stage, step=step, **values | others)


class PastJobs:
    """Writes jobs into a home folder that no app uses yet."""

    def __init__(self, home: Path):
        self._settings = Settings(home)
        self._settings.make_folders()
        self._store = JobStore(self._settings.database)

    def close(self) -> None:
        self._store.close()

    def _begun(self, prompt: str, **values: Any) -> tuple[str, int, Path]:
        """Queue a job as the page would, and claim it."""
        values = {"model": "motion", "num_frames": 12, "fps": 12, "width": 288, "height": 192, "seed": 7} | values
        request = build_request({"prompt": prompt} | values, (288, 192))
        job = self._store.submit(request.model_dump(mode="json"), "cat.png", "web")
        folder = self._settings.job_folder(job.id)
        folder.mkdir(parents=True)
        Image.new("RGB", (288, 192), (40, 120, 110)).save(folder / "picture.png")
        claimed = self._store.claim("web", os.getpid(), process_started())
        assert claimed
        assert claimed.id == job.id
        return job.id, claimed.attempt, folder

    def done(self, prompt: str, result: dict[str, Any] | None = None, **values: Any) -> str:
        """Add a job with a video in which a bright bar moves; return its id."""
        job_id, attempt, folder = self._begun(prompt, **values)
        result = run_result() | (result or {})
        name = f"i2v-{job_id[:8]}.mp4"
        with open_writer(folder / name, 12, (288, 192), {"request": {"prompt": prompt}}) as writer:
            for index in range(12):
                frame = np.full((192, 288, 3), (30, 70 + 4 * index, 90), np.uint8)
                frame[:, 20 * index : 20 * index + 30] = (240, 200, 90)
                writer.write(frame)
        Image.fromarray(frame).save(folder / "poster.jpg")
        Image.fromarray(frame).save(folder / "last.png")
        made = RunResult.model_validate(result | {"files": {"mp4": name}})
        assert self._store.finish(job_id, attempt, JobState.DONE, made, None)
        return job_id

    def failed(self, prompt: str, error: I2VError | None = None, latents: bool = False, **values: Any) -> str:
        """Add a job that failed; return its id."""
        job_id, attempt, folder = self._begun(prompt, **values)
        error = error or OutOfMemoryError(
            "memory ran out during denoise, with the smallest plan already",
            "Choose fewer frames or a smaller size, or close other programs.",
        )
        if latents:
            (folder / "latents.safetensors").write_bytes(b"0")
        stored = ErrorNote.of(error).model_copy(update={"step_downs": (StepDown(**STEP_DOWN),)})
        assert self._store.finish(job_id, attempt, JobState.FAILED, None, stored)
        return job_id

    def cancelled(self, prompt: str, **values: Any) -> str:
        """Add a job that was cancelled; return its id."""
        job_id, attempt, _ = self._begun(prompt, **values)
        assert self._store.finish(job_id, attempt, JobState.CANCELLED, None, None)
        return job_id
