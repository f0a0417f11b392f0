"""The forecast, the limits and the bench as a person runs them: real processes without a card, real files."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import pytest
import torch

from i2v.engine import bench
from i2v.jobs.store import JobStore
from i2v.media.video import read_frames
from i2v.settings import Settings
from tests.small_checkpoint import save_small_checkpoint

ROOT = Path(__file__).parents[2]
SMALL = ("--model", "i2vgen-xl", "--size", "64x64", "--frames", "4")
RUNG_KEYS = {
    "name",
    "exact",
    "peak_vram_bytes",
    "peak_ram_bytes",
    "weights_bytes",
    "activation_bytes",
    "seconds",
    "fits",
    "chosen",
    "reason",
}
ROW_KEYS = {
    "model",
    "width",
    "height",
    "num_frames",
    "plain_peak_bytes",
    "exact_peak_bytes",
    "plain_seconds",
    "exact_seconds",
    "relative_error",
}
WARM = """
import json, statistics, sys, time
from i2v.service import Service
from i2v.settings import Settings

service = Service(Settings.from_environment())
took = []
for frames in range(8, 29):
    values = {"model": "i2vgen-xl", "prompt": "", "width": 768, "height": 512, "num_frames": frames, "vram_gib": 6.0}
    began = time.perf_counter()
    ladder = service.forecast(values, (768, 512), pretend=True)
    took.append(time.perf_counter() - began)
    assert ladder.chosen
service.close()
print(json.dumps({"median_s": statistics.median(took[1:]), "torch": "torch" in sys.modules}))
"""


def environment(home: Path) -> dict[str, str]:
    return os.environ | {"PYTHONPATH": str(ROOT), "I2V_HOME": str(home), "CUDA_VISIBLE_DEVICES": ""}


def run(*arguments: object, home: Path, timeout_s: float = 250) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, *map(str, arguments)],
        cwd=home.parent,
        env=environment(home),
        capture_output=True,
        text=True,
        timeout=timeout_s,
        check=False,
    )


def i2v(*arguments: object, home: Path) -> subprocess.CompletedProcess[str]:
    return run("-m", "i2v", *arguments, home=home)


def answer(*arguments: object, home: Path) -> dict[str, Any]:
    finished = i2v(*arguments, "--json", home=home)
    assert finished.returncode == 0, finished.stderr
    found: dict[str, Any] = json.loads(finished.stdout)
    return found


def refusal(*arguments: object, home: Path) -> str:
    """Return the one line on standard error that a command is refused with."""
    finished = i2v(*arguments, home=home)
    assert finished.returncode == 2, finished.stderr
    assert finished.stdout == ""
    (line,) = finished.stderr.strip().splitlines()
    return line


def crowding() -> float:
    """Return how many processes want each core, at least 1: the suite may share the machine."""
    return max(1.0, os.getloadavg()[0] / (os.cpu_count() or 1))


# Before anything is downloaded or run


def test_forecast_prints_one_json_object_with_every_rung(home: Path) -> None:
    found = answer("forecast", "--vram", 6, "--model", "i2vgen-xl", home=home)
    assert (found["model"], found["machine"]["vram_total_bytes"]) == ("i2vgen-xl", 6 << 30)
    assert all(set(rung) >= RUNG_KEYS for rung in found["rungs"])
    (chosen,) = [rung for rung in found["rungs"] if rung["chosen"]]
    assert chosen["fits"]
    assert chosen["exact"]
    assert chosen["weights_bytes"] + chosen["activation_bytes"] < chosen["peak_vram_bytes"] < 6 << 30
    assert found["suggestions"] == []


def test_forecast_prints_a_table_that_marks_the_chosen_rung(home: Path) -> None:
    finished = i2v("forecast", "--vram", 4, "--model", "i2vgen-xl", home=home)
    assert finished.returncode == 0, finished.stderr
    lines = finished.stdout.splitlines()
    assert "i2vgen-xl, 512x512, 16 frames, 50 steps on a card of 4 GiB" in lines[0]
    assert "note: pretending a card of 4 GiB" in lines[1]
    (marked,) = [line for line in lines if line.startswith("=>")]
    assert "  yes  " in marked
    rows = [line for line in lines if line.startswith(("=>", "   ")) and " GiB " in line]
    assert {"resident", "turns", "chunks", "fp8"} <= {row[2:].split()[0] for row in rows}
    assert max(map(len, lines)) < 170
    assert finished.stdout.rstrip().endswith("same result as whole.")


def test_forecast_says_what_fits_where_nothing_does(home: Path) -> None:
    settings = ("--model", "i2vgen-xl", "--size", "1024x1024", "--frames", 64)
    finished = i2v("forecast", "--vram", 1.8, *settings, home=home)
    assert finished.returncode == 0, finished.stderr
    assert "=>" not in finished.stdout
    assert "Nothing fits." in finished.stdout
    assert "(--frames " in finished.stdout
    assert "(--size " in finished.stdout


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("forecast", "--vram", "0"), "above 0"),
        (("forecast", "--vram", "-3"), "above 0"),
        (("forecast", "--vram", "nan"), "above 0"),
        (("forecast", "--chunk", "0"), "at least 1 frame"),
        (("forecast", "--precision", "fp7"), "'fp8'"),
        (("forecast", "--size", "100x"), "WxH"),
        (("bench", "--chunk", "0"), "at least 1 frame"),
        (("bench", "--size", "65x64"), "nearest is 64"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, tuple) else "",
)
def test_bad_input_is_one_line_and_status_2(home: Path, arguments: tuple[str, ...], words: str) -> None:
    assert words in refusal(*arguments, home=home)


def test_a_warm_answer_takes_less_than_100_ms_and_no_torch(home: Path) -> None:
    finished = run("-c", WARM, home=home)
    assert finished.returncode == 0, finished.stderr
    found = json.loads(finished.stdout)
    assert found["median_s"] < 0.1 * crowding()
    assert found["torch"] is False


# A model of another architecture than its preset's


@pytest.fixture(scope="module")
def traced(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, Any], float, set[str]]:
    """A home with a small I2VGen-XL, its first forecast, that one's processor time, and the processes it started."""
    home = tmp_path_factory.mktemp("traced") / "home"
    save_small_checkpoint(home / "models" / "i2vgen-xl")
    began, before = time.monotonic(), os.times()
    process = psutil.Popen(
        [sys.executable, "-m", "i2v", "forecast", *SMALL, "--json"],
        cwd=home.parent,
        env=environment(home),
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
    )
    seen = set()
    while process.poll() is None and time.monotonic() - began < 250:
        seen |= commands_below(process)
        time.sleep(0.2)
    output, _ = process.communicate(timeout=10)
    assert process.returncode == 0
    after = os.times()
    used = after.children_user + after.children_system - before.children_user - before.children_system
    return home, json.loads(output), used, seen


def commands_below(process: psutil.Popen) -> set[str]:
    try:
        return {" ".join(child.cmdline()) for child in process.children()}
    except psutil.Error:  # one that ended meanwhile
        return set()


def sizes(found: dict[str, Any]) -> list[tuple[Any, ...]]:
    names = ("name", "exact", "peak_vram_bytes", "peak_ram_bytes", "weights_bytes", "activation_bytes", "words")
    return [tuple(rung[name] for name in names) for rung in found["rungs"]]


def test_a_model_of_another_architecture_is_traced_in_a_process_of_its_own(
    traced: tuple[Path, dict[str, Any], float, set[str]],
) -> None:
    _, found, seconds, seen = traced
    assert any("i2v.models.build_forms i2vgen-xl --precision fp32" in command for command in seen)
    assert found["rungs"][0]["weights_bytes"] < 4 << 20  # the preset's has 10 GB
    assert 5 < seconds < 120  # of a processor; two processes share it, so a minute where two cores are free


def test_what_was_traced_is_kept_and_the_next_answer_is_quick_and_equal(
    traced: tuple[Path, dict[str, Any], float, set[str]],
) -> None:
    home, first, _, _ = traced
    (table,) = (home / "forecast").glob("*.json")
    written = table.stat().st_mtime_ns
    began = time.monotonic()
    second = answer("forecast", *SMALL, home=home)
    assert time.monotonic() - began < 10
    assert sizes(second) == sizes(first)
    assert [path.stat().st_mtime_ns for path in (home / "forecast").iterdir()] == [written]


def test_chunks_give_the_frames_of_the_whole_clip(
    traced: tuple[Path, dict[str, Any], float, set[str]], photo: Path, tmp_path: Path
) -> None:
    home = traced[0]
    usual = ("-p", "a cat", "--negative", "blurry", "--steps", 2, "--seed", 3)
    frames = {}
    for chunk, more in ((None, ()), (2, ("--chunk", 2))):
        output = tmp_path / f"{chunk}.mp4"
        made = answer("generate", photo, *SMALL, *usual, *more, "-o", output, home=home)
        assert made["plan"]["knobs"].get("chunk_frames") == chunk
        assert made["step_downs"] == []
        frames[chunk] = np.stack(list(read_frames(output))).astype(float)
    assert frames[None].shape == (4, 64, 64, 3)
    assert frames[None].std() > 5
    assert np.abs(frames[2] - frames[None]).mean() <= 1


# Runs


@pytest.mark.slow
def test_a_finished_run_keeps_its_forecast_and_teaches_the_next_one(home: Path, photo: Path, tmp_path: Path) -> None:
    settings = ("--size", "96x64", "--frames", 6)
    before = answer("forecast", *settings, home=home)["rungs"][0]
    assert before["seconds_source"] == "estimate"
    made = answer("generate", photo, "-p", "pan left", *settings, "-o", tmp_path / "out.mp4", home=home)
    assert made["peak_bytes"] > 100 << 20
    assert made["forecast"]["comparable_bytes"] == made["forecast"]["peak_ram_bytes"] == before["peak_ram_bytes"]
    assert made["step_downs"] == []
    after = answer("forecast", *settings, home=home)["rungs"][0]
    assert after["seconds_source"] == "runs"
    assert after["seconds"] == pytest.approx(made["seconds"], rel=0.5)
    assert after["peak_ram_bytes"] == pytest.approx(made["peak_bytes"], rel=0.01)


@pytest.mark.parametrize(("vram", "words"), [("1.0", "What fits: --size "), ("0.3", "does not fit")])
def test_a_run_that_cannot_fit_is_refused_before_anything_is_queued(
    home: Path, photo: Path, vram: str, words: str
) -> None:
    line = refusal("generate", photo, "-p", "pan left", "--vram", vram, "--size", "3840x2160", home=home)
    assert "does not fit" in line
    assert f"{vram} GiB of RAM are free" in line
    assert words in line
    settings = Settings(home)
    assert list(settings.jobs.iterdir()) == []
    store = JobStore(settings.database)
    assert store.list() == []
    store.close()


# The bench


def check_bench(found: dict[str, Any]) -> None:
    assert (found["device"], found["measured"]) == ("cpu", False)
    traced, reduced = found["rows"]
    assert set(traced) >= ROW_KEYS
    assert set(reduced) >= ROW_KEYS
    assert (traced["width"], traced["height"], traced["num_frames"]) == (64, 64, 4)
    assert traced["plain_peak_bytes"] > 2 * traced["exact_peak_bytes"]
    assert traced["plain_seconds"] is traced["exact_seconds"] is traced["relative_error"] is None
    assert reduced["plain_peak_bytes"] > reduced["exact_peak_bytes"]
    assert reduced["exact_seconds"] > 0
    assert 0 < reduced["relative_error"] <= 1e-4


@pytest.mark.slow
def test_bench_compares_peak_time_and_error_without_a_card(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """The command itself with a reduced model of fewer frames, as the usual one takes a minute: see below."""
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(bench, "_REDUCED_SIZE", (64, 64, 4))
    monkeypatch.setattr(bench, "_REPEATS", 1)
    monkeypatch.setattr(sys, "argv", ["bench", "--json", "--size", "64x64", "--frames", "4"])
    bench.main()
    check_bench(json.loads(capsys.readouterr().out))


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_bench_command_prints_one_json_object(home: Path) -> None:
    finished = run("-m", "i2v", "bench", "--json", "--size", "64x64", "--frames", 4, home=home, timeout_s=800)
    assert finished.returncode == 0, finished.stderr
    check_bench(json.loads(finished.stdout))
