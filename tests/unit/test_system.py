"""What the System tab is given to show, and that the report for a bug names nobody."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import gradio as gr
import pytest

from i2v.errors import InputError, ModelFilesError
from i2v.jobs.result import ErrorNote
from i2v.machine.devices import Gpu
from i2v.machine.facts import MachineFacts
from i2v.presets.model_preset import preset_named
from i2v.service import ModelState, Service, WorkerState
from i2v.service.models_on_disk import DownloadPhase, DownloadState
from i2v.settings import Settings
from i2v.ui.language import ENGLISH, languages
from i2v.ui.models_part import ModelsPart, build_models, model_card
from i2v.ui.report import bug_report, without_names
from i2v.ui.script_calls import Asked
from i2v.ui.system import MachinePart, build_machine

CHINESE = languages()["zh-CN"]
GIB = 1 << 30


@pytest.fixture
def service(home: Path) -> Iterator[Service]:
    service = Service(Settings.from_environment())
    yield service
    service.close()


def facts(home: Path, *gpus: Gpu) -> MachineFacts:
    return MachineFacts(
        gpus, 16 * GIB, 6 * GIB, 100 * GIB, 40 * GIB, 8, {"i2v": "0.1.0", "torch": "not installed"}, home
    )


def state(name: str, installed: bool = False) -> ModelState:
    return ModelState(preset_named(name), installed, Path("models") / name, 5 * GIB if installed else 0)


def server_function(part: gr.HTML, name: str, data: Any) -> dict[str, Any]:
    answer: dict[str, Any] = getattr(part, name)(data, None)
    return answer


def test_cards_memory_and_problems_are_told(service: Service, home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    card = Gpu(0, "NVIDIA RTX 3060", "555.1", 12 * GIB, 3 * GIB)
    monkeypatch.setattr(service, "machine", lambda: facts(home, card))
    told = MachinePart(service).machine(Asked(), CHINESE)
    assert told["gpus"] == [
        {"name": "NVIDIA RTX 3060", "driver": "555.1", "used_bytes": 3 * GIB, "total_bytes": 12 * GIB}
    ]
    assert told["ram"] == {"used_bytes": 10 * GIB, "total_bytes": 16 * GIB}
    assert told["disk"] == {"used_bytes": 60 * GIB, "total_bytes": 100 * GIB}
    assert told["problems"] == [{"problem": "未安装：torch", "remedy": "请运行 ./start_app.sh --check"}]
    assert MachinePart(service).machine(Asked(), ENGLISH)["problems"][0]["problem"] == "Not installed: torch"


def test_what_the_worker_holds_is_told(service: Service, monkeypatch: pytest.MonkeyPatch) -> None:
    held = WorkerState(7, None, "motion", 12 << 20, GIB, "fp32", "cpu")
    monkeypatch.setattr(service, "worker_state", lambda: held)
    told = MachinePart(service).machine(Asked(), CHINESE)["worker"]
    assert told["model"] == "内置运动模型"
    assert (told["pid"], told["weights_bytes"], told["is_running"]) == (7, 12 << 20, False)


def test_a_refused_unload_is_a_sentence(service: Service, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse() -> None:
        raise InputError("a job is running", "Cancel it or wait.")

    monkeypatch.setattr(service, "unload", refuse)
    assert server_function(build_machine(service), "unload_model", {}) == {
        "error": "A job is running. Cancel it or wait."
    }


@pytest.mark.parametrize("data", [None, {}, [], {"name": 7}, {"name": ""}, {"name": "x" * 101}, {"name": "a", "x": 1}])
@pytest.mark.parametrize("name", ["fetch_model", "pause_model", "delete_model"])
def test_what_a_browser_sends_is_checked(service: Service, name: str, data: Any) -> None:
    assert "error" in server_function(build_models(service), name, data)


@pytest.mark.parametrize("name", ["fetch_model", "pause_model", "delete_model"])
def test_unknown_and_shipped_models_are_refused(service: Service, name: str) -> None:
    part = build_models(service)
    assert server_function(part, name, {"name": "../etc"})["error"].startswith("There is no model '../etc'.")
    assert server_function(part, name, {"name": "motion"})["error"].startswith("The model motion ships with i2v.")


def test_every_model_has_a_card(service: Service) -> None:
    built_in, larger = ModelsPart(service).models(Asked(), ENGLISH)["models"]
    assert (built_in["ships"], built_in["installed"], built_in["is_slow"]) == (True, True, False)
    assert (larger["ships"], larger["installed"], larger["download"]) == (False, False, None)
    assert larger["hub_page"] == "https://huggingface.co/ali-vilab/i2vgen-xl"
    assert larger["licence"].startswith("Unclear, MIT by its hub page")
    assert {built_in["fits"], larger["fits"]} <= {"fits", "tight", "too_big", "tracing"}


def test_a_large_model_is_called_slow_without_a_card_only(
    service: Service, home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def slow(*gpus: Gpu) -> list[bool]:
        monkeypatch.setattr(service, "machine", lambda: facts(home, *gpus))
        return [card["is_slow"] for card in ModelsPart(service).models(Asked(), ENGLISH)["models"]]

    assert slow() == [False, True]
    assert slow(Gpu(0, "NVIDIA RTX 3060", "555.1", 12 * GIB, 0)) == [False, False]


def test_a_failed_download_is_told_in_the_language_of_the_page() -> None:
    error = ModelFilesError("the download was stopped", "Start it again to go on where it stopped.")
    failed = DownloadState(DownloadPhase.FAILED, GIB, 5 * GIB, error=ErrorNote.of(error))
    assert model_card(state("i2vgen-xl"), "fits", failed, ENGLISH)["download"]["error"] == str(error)
    assert model_card(state("i2vgen-xl"), "fits", failed, CHINESE)["download"]["error"] == (
        "下载已停止。重新开始即可从中断处继续。"
    )


def test_the_report_names_nobody(service: Service, home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Path, "home", lambda: home.parent)
    monkeypatch.setenv("HF_TOKEN", "hf_verysecret")
    service.log_file.path.parent.mkdir()
    service.log_file.path.write_text(f"read {home}/x and /home/ann/y with hf_verysecret\n", encoding="utf-8")
    report = bug_report(service)
    assert str(home) not in report
    assert "home: ~/home" in report
    assert "read ~/home/x and /home/(user)/y with (hidden)" in report
    assert "motion: installed" in report
    assert "i2vgen-xl: not installed" in report
    assert "Problems:" in report


def test_the_report_says_what_is_held(service: Service, home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    card = Gpu(0, "NVIDIA RTX 3060", "555.1", 12 * GIB, 3 * GIB)
    monkeypatch.setattr(service, "machine", lambda: facts(home, card))
    monkeypatch.setattr(service, "worker_state", lambda: WorkerState(7, "a", "motion", GIB, GIB, "fp16", "cuda:0"))
    report = bug_report(service)
    assert "NVIDIA RTX 3060, driver 555.1, 9.0 of 12.0 GiB free" in report
    assert "process 7, runs a job, 1.00 GiB of RAM, motion (fp16 on cuda:0, 1.00 GiB)" in report
    assert "not installed: torch (Run ./start_app.sh --check)" in report


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("/home/ann", "~"),
        ("/home/ann/.i2v", "~/.i2v"),
        ("/home/anna/.i2v", "/home/(user)/.i2v"),
        ("'/home/bob'", "'/home/(user)'"),
        ("/Users/bob/x", "/Users/(user)/x"),
        ("C:\\Users\\bob\\x", "C:\\Users\\(user)\\x"),
        ("/data/i2v", "/data/i2v"),
    ],
)
def test_paths_lose_the_names_of_people(text: str, told: str) -> None:
    assert without_names(text, Path("/home/ann")) == told


def test_a_home_that_is_the_root_is_left_alone() -> None:
    assert without_names("/etc/x", Path("/")) == "/etc/x"
