"""Measures memory while a run goes on: on a GPU what torch allocated and reserved, on a CPU what the process holds.

Knows nothing of jobs. Samples are taken from a thread, so that a long kernel or a slow disk does not hide a peak.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable

import psutil
import torch

from i2v.jobs.result import MemoryKind, MemorySample
from i2v.machine import devices

__all__ = ["MemoryWatch"]

_SAMPLE_S = 0.05
_REPORT_S = 0.5


class MemoryWatch:
    """Context manager that samples memory and hands a sample on twice a second.

    `began_s`: the moment that samples count their time from, on the monotonic clock; left out, now.
    """

    def __init__(self, device: torch.device, report: Callable[[MemorySample], None], began_s: float | None = None):
        self._device, self._report = device, report
        self._process = psutil.Process()
        self._began = time.monotonic() if began_s is None else began_s
        self._peak_bytes = 0
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, name="memory-watch", daemon=True)

    def __enter__(self) -> MemoryWatch:
        if self._device.type == "cuda":
            torch.cuda.reset_peak_memory_stats(self._device)
        self._report(self.sample())
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._thread.join()

    def sample(self) -> MemorySample:
        """Measure now."""
        t_s = time.monotonic() - self._began
        if self._device.type == "cuda":
            free, total = torch.cuda.mem_get_info(self._device)
            return MemorySample(
                kind=MemoryKind.GPU,
                t_s=t_s,
                allocated_bytes=torch.cuda.memory_allocated(self._device),
                reserved_bytes=torch.cuda.memory_reserved(self._device),
                peak_bytes=torch.cuda.max_memory_allocated(self._device),
                device_used_bytes=total - free,
                device_total_bytes=total,
            )
        held = self._process.memory_info().rss
        self._peak_bytes = max(self._peak_bytes, held)
        memory = devices.machine_memory()
        return MemorySample(
            kind=MemoryKind.RAM,
            t_s=t_s,
            allocated_bytes=held,
            reserved_bytes=held,
            peak_bytes=self._peak_bytes,
            device_used_bytes=memory.used_bytes,
            device_total_bytes=memory.total_bytes,
        )

    def _run(self) -> None:
        reported = time.monotonic()
        while not self._stop.wait(_SAMPLE_S):
            sample = self.sample()
            if time.monotonic() - reported >= _REPORT_S:
                self._report(sample)
                reported = time.monotonic()
