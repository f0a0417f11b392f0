"""What every face (page, REST, command line) may do: the only room of i2v that a face imports besides plain values."""

from i2v.service.models_on_disk import ModelState
from i2v.service.service import Counts, Service
from i2v.service.snapshot import Snapshot
from i2v.worker.executor import WorkerState

__all__ = ["Counts", "ModelState", "Service", "Snapshot", "WorkerState"]
