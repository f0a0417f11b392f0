"""What the machine has, with a pretended NVIDIA driver where the test machine has none."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from i2v.cli import main as command_line
from i2v.machine import devices
from i2v.machine.devices import Gpu, first_visible_gpu
from i2v.ui.language import ENGLISH
from i2v.ui.panel import idle_panel
from i2v.worker.executor import LocalExecutor

GIB = 1 << 30


class Refused(Exception):
    pass


class TooOld(Exception):
    pass


class Driver:
    """A pretended NVML: one RTX 3060. Functions named in `broken` raise, as each of the real ones may."""

    NVMLError, NVMLLibraryMismatchError = Refused, TooOld

    def __init__(self) -> None:
        self.cards = 1
        self.broken: dict[str, Exception] = {}
        self.processes = [
            SimpleNamespace(pid=10, usedGpuMemory=2 * GIB),
            SimpleNamespace(pid=11, usedGpuMemory=GIB // 2),
            SimpleNamespace(pid=12, usedGpuMemory=None),  # as Windows answers
        ]
        self.answers: dict[str, Any] = {
            "nvmlSystemGetDriverVersion": "570.1",
            "nvmlDeviceGetMemoryInfo": SimpleNamespace(total=12 * GIB, used=3 * GIB),
            "nvmlDeviceGetName": "NVIDIA GeForce RTX 3060",
            "nvmlDeviceGetUUID": b"GPU-3060",
            "nvmlDeviceGetCudaComputeCapability": (8, 6),
        }

    def __getattr__(self, function: str) -> Any:
        def answer(*arguments: Any) -> Any:
            if function in self.broken:
                raise self.broken[function]
            if function == "nvmlDeviceGetCount":
                return self.cards
            if function == "nvmlDeviceGetHandleByIndex":
                return arguments[0]
            if function == "nvmlDeviceGetComputeRunningProcesses":
                return self.processes
            return self.answers[function]

        return answer


@pytest.fixture
def card(monkeypatch: pytest.MonkeyPatch) -> Driver:
    driver = Driver()
    devices._log_once.cache_clear()
    monkeypatch.setattr(devices, "_nvml", lambda: driver)
    return driver


@pytest.mark.usefixtures("card")
def test_a_card_is_read_through_the_driver_and_shown_as_vram() -> None:
    (gpu,) = devices.gpus()
    assert (gpu.name, gpu.free_bytes) == ("NVIDIA GeForce RTX 3060", 9 * GIB)
    memory = idle_panel(ENGLISH)["memory"]
    assert memory["label"] == "NVIDIA GeForce RTX 3060"
    assert memory["device_used_bytes"] == 3 * GIB


def test_a_card_says_what_it_can_do_and_who_it_is(card: Driver) -> None:
    (gpu,) = devices.gpus()
    assert (gpu.capability, gpu.uuid, gpu.driver) == ((8, 6), "GPU-3060", "570.1")


@pytest.mark.parametrize(
    ("own_pids", "held"), [((), 0), ((10,), 2 * GIB), ((10, 11), 2 * GIB + GIB // 2), ((12,), 0), ((99,), 0)]
)
def test_memory_of_own_processes_is_told_apart(card: Driver, own_pids: tuple[int, ...], held: int) -> None:
    (gpu,) = devices.gpus(own_pids)
    assert (gpu.mine_bytes, gpu.used_bytes) == (held, 3 * GIB)


@pytest.mark.parametrize("error", [Refused("not supported"), TooOld("too old a driver")], ids=["refused", "too-old"])
@pytest.mark.parametrize(
    ("function", "field", "value"),
    [
        ("nvmlSystemGetDriverVersion", "driver", "not available"),
        ("nvmlDeviceGetName", "name", "NVIDIA card"),
        ("nvmlDeviceGetUUID", "uuid", ""),
        ("nvmlDeviceGetCudaComputeCapability", "capability", None),
        ("nvmlDeviceGetComputeRunningProcesses", "mine_bytes", 0),
    ],
)
def test_what_the_driver_does_not_tell_is_left_open(
    card: Driver, function: str, field: str, value: object, error: Exception
) -> None:
    card.broken[function] = error
    (gpu,) = devices.gpus(own_pids=(10,))
    assert getattr(gpu, field) == value
    assert gpu.free_bytes == 9 * GIB


@pytest.mark.parametrize("function", ["nvmlDeviceGetCount", "nvmlDeviceGetHandleByIndex", "nvmlDeviceGetMemoryInfo"])
def test_an_unreadable_card_is_left_out_with_one_warning_for_all_polls(
    card: Driver, function: str, caplog: pytest.LogCaptureFixture
) -> None:
    card.broken[function] = Refused("fell off the bus")
    assert devices.gpus() == []
    assert devices.gpus() == []
    assert "RAM" in idle_panel(ENGLISH)["memory"]["label"]
    (record,) = caplog.records
    assert record.levelname == "WARNING"
    assert "fell off the bus" in record.message


def test_without_the_binding_there_is_no_card_and_one_warning(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setitem(sys.modules, "pynvml", None)
    devices._nvml.cache_clear()
    try:
        assert devices.gpus() == devices.gpus() == []
    finally:
        devices._nvml.cache_clear()
    (record,) = caplog.records
    assert "nvidia-ml-py" in record.message


SLOW = Gpu(0, "GT 1030", "570.1", 2 * GIB, 0, uuid="GPU-aa11-1")
FAST = Gpu(1, "RTX 3090", "570.1", 24 * GIB, 0, uuid="GPU-bb22-2")
SAME = Gpu(2, "RTX 3090", "570.1", 24 * GIB, 0, uuid="GPU-bb22-3")


@pytest.mark.parametrize(
    ("visible", "expected"),
    [
        (None, SLOW),
        ("0", SLOW),
        ("1", FAST),
        ("2", SAME),
        (" 2 , 0", SAME),
        ("1gpu", FAST),
        ("+2", SAME),
        ("0,-1,2", SLOW),
        ("0,0", None),
        ("1,GPU-bb22-2", None),  # the same card twice
        ("", None),
        ("-1", None),
        ("-1,0", None),
        ("3", None),
        ("none", None),
        ("GPU-aa11-1", SLOW),
        ("GPU-a", SLOW),
        ("GPU-bb22-3,GPU-aa", SAME),
        ("GPU-bb22", None),  # two cards begin so
        ("GPU-cc", None),
        ("MIG-bb22", None),
    ],
)
@pytest.mark.parametrize("order", [None, "FASTEST_FIRST", "PCI_BUS_ID"])
def test_the_first_visible_card_is_the_one_cuda_calls_0(
    order: str | None, visible: str | None, expected: Gpu | None
) -> None:
    said = {"CUDA_DEVICE_ORDER": order, "CUDA_VISIBLE_DEVICES": visible}
    environ = {name: value for name, value in said.items() if value is not None}
    assert first_visible_gpu([SLOW, FAST, SAME], environ) == expected
    assert first_visible_gpu([SAME, FAST, SLOW], environ) == expected


@pytest.mark.parametrize("order", [None, "FASTEST_FIRST"])
@pytest.mark.parametrize("process", ["worker", "bench"])
def test_whatever_uses_a_card_counts_as_the_page_does(
    process: str, order: str | None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Started(Exception):
        pass

    def start(*_: Any, env: dict[str, str], **__: Any) -> None:
        given.update(env)
        raise Started

    given: dict[str, str] = {}
    if order is None:
        monkeypatch.delenv("CUDA_DEVICE_ORDER", raising=False)
    else:
        monkeypatch.setenv("CUDA_DEVICE_ORDER", order)
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "1")
    monkeypatch.setattr(subprocess, "Popen", start)
    monkeypatch.setattr(subprocess, "run", start)
    monkeypatch.setattr(command_line, "set_up_logging", lambda *_: None)
    with pytest.raises(Started):
        LocalExecutor().warm_up() if process == "worker" else command_line.main(["bench"])
    assert given["CUDA_DEVICE_ORDER"] == "PCI_BUS_ID"
    assert first_visible_gpu([SLOW, FAST, SAME], given) == first_visible_gpu([SLOW, FAST, SAME]) == FAST


def test_no_cards_no_visible_card() -> None:
    assert first_visible_gpu([], {}) is None
    assert first_visible_gpu([], {"CUDA_VISIBLE_DEVICES": "0"}) is None


def test_without_a_card_the_panel_shows_ram_and_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(devices, "_nvml", lambda: None)
    assert devices.gpus() == []
    memory = idle_panel(ENGLISH)["memory"]
    assert "RAM" in memory["label"]
    assert 0 < memory["device_used_bytes"] < memory["device_total_bytes"]


def test_a_recycled_pid_is_not_taken_for_the_old_process() -> None:
    started = devices.process_started()
    import os

    assert devices.process_exists(os.getpid(), started)
    assert not devices.process_exists(os.getpid(), started - 100)
    child = subprocess.Popen([sys.executable, "-c", "pass"])
    child_started = devices.process_started(child.pid)
    child.wait()
    assert not devices.process_exists(child.pid, child_started)


def test_free_disk_is_asked_of_the_nearest_folder_there_is(tmp_path: Path) -> None:
    assert devices.free_disk_bytes(tmp_path / "a" / "b") == pytest.approx(devices.free_disk_bytes(tmp_path), rel=0.05)
