"""What Prometheus reads of i2v, gathered when it asks. Names no person, prompt, picture or job."""

from __future__ import annotations

from collections.abc import Iterator

from prometheus_client import CollectorRegistry, ProcessCollector
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, InfoMetricFamily, SummaryMetricFamily
from prometheus_client.metrics_core import Metric
from prometheus_client.registry import Collector

from i2v import __version__
from i2v.jobs.model import JobState
from i2v.machine import devices
from i2v.service import Counts, Service

__all__ = ["build_registry"]


def build_registry(service: Service) -> CollectorRegistry:
    """Return a registry of our own: the library's has what any other package puts there."""
    registry = CollectorRegistry(auto_describe=False)
    registry.register(_I2V(service))
    ProcessCollector(registry=registry)
    return registry


class _I2V(Collector):
    def __init__(self, service: Service):
        self._service = service

    def collect(self) -> Iterator[Metric]:
        yield InfoMetricFamily("i2v_build", "The version that runs.", value={"version": __version__})
        counts = self._service.counts()
        yield from _of_jobs(counts)
        yield from _of_cards()

    def describe(self) -> Iterator[Metric]:
        """Nothing is read when the registry is built."""
        return iter(())


def _of_jobs(counts: Counts) -> Iterator[Metric]:
    jobs = GaugeMetricFamily("i2v_jobs", "Jobs in the store, by state.", labels=["state"])
    for state, number in counts.jobs.items():
        jobs.add_metric([state], number)
    queued = counts.jobs[JobState.QUEUED]
    ended = CounterMetricFamily("i2v_runs_ended", "Runs that ended since this start, by state.", labels=["state"])
    for state, number in counts.ended_runs.items():
        ended.add_metric([state], number)
    stages = SummaryMetricFamily("i2v_stage_seconds", "Seconds of finished runs, by stage.", labels=["stage"])
    for stage, (runs, sum_s) in counts.stages.items():
        stages.add_metric([stage], runs, sum_s)
    starts = counts.worker_starts
    yield from (jobs, ended, stages)
    yield GaugeMetricFamily("i2v_queue_length", "Jobs that wait for their turn.", value=queued)
    yield CounterMetricFamily("i2v_worker_starts", "Worker processes since this start: all but one died.", value=starts)


def _of_cards() -> Iterator[Metric]:
    labels = ["device", "name"]
    used = GaugeMetricFamily("i2v_device_memory_used_bytes", "Memory in use on a card, all programs.", labels=labels)
    total = GaugeMetricFamily("i2v_device_memory_total_bytes", "Memory of a card.", labels=labels)
    for card in devices.gpus():
        used.add_metric([str(card.index), card.name], card.used_bytes)
        total.add_metric([str(card.index), card.name], card.total_bytes)
    yield from (used, total)
