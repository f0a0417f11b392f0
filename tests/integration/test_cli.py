"""The command line as a person runs it: real processes, real files, exit statuses."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import psutil
import pytest
from PIL import Image

ROOT = Path(__file__).parents[2]
QUICK = ("--size", "96x64", "--frames", "6", "--seed", "11")


def run(*arguments: object, cwd: Path, **environment: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "i2v", *map(str, arguments)],
        cwd=cwd,
        env=os.environ | {"PYTHONPATH": str(ROOT)} | environment,
        capture_output=True,
        text=True,
        timeout=200,
        check=False,
    )


def generate(photo: Path, output: Path, *more: object) -> dict[str, Any]:
    finished = run("generate", photo, "-p", "the camera pans left", "-o", output, "--json", *more, cwd=output.parent)
    assert finished.returncode == 0, finished.stderr
    report: dict[str, Any] = json.loads(finished.stdout)
    return report


def test_generate_inspect_and_generate_again_give_the_same_frames(home: Path, photo: Path, tmp_path: Path) -> None:
    too_much = round(2 * psutil.virtual_memory().total / 2**30)
    first = generate(photo, tmp_path / "out.mp4", *QUICK, "--loop", "--fit", "fit", "--ram", too_much)
    promised = {
        "file",
        "model",
        "width",
        "height",
        "num_frames",
        "fps",
        "num_inference_steps",
        "seed",
        "seconds",
    }
    assert promised | {"peak_bytes", "plan"} <= set(first)
    assert first["plan"]["reason"]
    assert (first["loop"], first["note"]) == (True, None)
    (said,) = first["notes"]
    assert said.startswith(f"using at most {too_much} GiB of RAM, more than the ")
    assert Path(first["file"]).stat().st_size > 1000

    inspected = run("inspect", tmp_path / "out.mp4", "--json", cwd=tmp_path)
    assert inspected.returncode == 0
    request = json.loads(inspected.stdout)["request"]
    assert (request["prompt"], request["seed"], request["loop"]) == ("the camera pans left", 11, True)
    assert (request["image_fit"], request["ram_gib"]) == ("fit", too_much)
    (tmp_path / "settings.json").write_text(inspected.stdout, encoding="utf-8")

    second = run("generate", photo, "--settings", "settings.json", "-o", "again.gif", "--json", cwd=tmp_path)
    assert second.returncode == 0, second.stderr
    again = json.loads(second.stdout)
    assert again["frames_sha256"] == first["frames_sha256"]
    assert (again["ram_gib"], again["notes"]) == (None, [])  # a limit is the machine's, not the video's
    assert (tmp_path / "again.gif").read_bytes()[:4] == b"GIF8"


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("missing.jpg", "-p", "x"), "missing.jpg"),
        (("{photo}",), "no prompt"),
        (("{photo}", "-p", "x", "--size", "513x512"), "nearest is 512. (--size 512x512)"),
        (("{photo}", "-p", "x", "--size", "large"), "WxH"),
        (("{photo}", "-p", "x", "--size", "0x512"), "width must be between"),
        (("{photo}", "-p", "x", "--frames", "0"), "frames must be between"),
        (("{photo}", "-p", "x", "--steps", "10000"), "steps must be between"),
        (("{photo}", "-p", "x", "--guidance", "nan"), "guidance must be a number"),
        (("{photo}", "-p", "x", "--seed", "-1"), "seed must be between"),
        (("{photo}", "-p", "x", "--fps", "0"), "fps must be between"),
        (("{photo}", "-p", "x", "--ram", "0"), "RAM must be a number of GiB above 0"),
        (("{photo}", "-p", "x", "--ram=-4"), "RAM must be a number of GiB above 0"),
        (("{photo}", "-p", "x", "--ram", "nan"), "RAM must be a number of GiB above 0"),
        (("{photo}", "-p", "x", "--ram", "0.3"), "GiB of RAM are free"),
        (("{photo}", "-p", "x", "--model", "sora"), "Known models: motion, i2vgen-xl"),
        (("{photo}", "-p", "x", "--model", "i2vgen-xl"), "not downloaded"),
        (("{photo}", "-p", "x", "--model", "i2vgen-xl", "--loop"), "models that can loop: motion"),
        (("{photo}", "-p", "left " * 80), "would be cut"),
        (("{photo}", "-p", "x", "-o", "nowhere/out.mp4"), "does not exist"),
        (("{photo}", "-p", "x", "-o", "out.avi"), ".mp4, .gif, .webp, .zip"),
        (("{text}", "-p", "x"), "not a picture"),
        (("{photo}", "-p", "x", "--settings", "none.json"), "cannot be read"),
    ],
)
def test_bad_input_is_one_line_and_status_2(
    home: Path, photo: Path, tmp_path: Path, arguments: tuple[str, ...], words: str
) -> None:
    (tmp_path / "notes.jpg").write_text("words")
    filled = [a.replace("{photo}", str(photo)).replace("{text}", "notes.jpg") for a in arguments]
    finished = run("generate", *filled, cwd=tmp_path)
    assert finished.returncode == 2, finished.stderr
    assert finished.stdout == ""
    assert words.lower() in finished.stderr.lower()
    assert len(finished.stderr.strip().splitlines()) == 1, finished.stderr


def test_interrupting_cancels_and_exits_130(home: Path, photo: Path, tmp_path: Path) -> None:
    process = subprocess.Popen(
        [sys.executable, "-m", "i2v", "generate", str(photo), "-p", "pan left", "--steps", "100"],
        cwd=tmp_path,
        env=os.environ | {"PYTHONPATH": str(ROOT)},
        stderr=subprocess.PIPE,
        text=True,
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),  # a suite in the background ignores it
    )
    deadline = time.monotonic() + 60
    while not list((home / "jobs").glob("*/preview.webp")) and time.monotonic() < deadline:
        time.sleep(0.05)
    process.send_signal(signal.SIGINT)
    _, errors = process.communicate(timeout=60)
    assert process.returncode == 130, errors
    assert "cancelled" in errors.lower()
    assert not list(tmp_path.glob("*.mp4"))


def test_models_and_doctor_answer_in_json_and_words(home: Path, tmp_path: Path) -> None:
    models = json.loads(run("models", "--json", cwd=tmp_path).stdout)["models"]
    assert {"motion", "i2vgen-xl"} == {row["name"] for row in models}
    assert [row["installed"] for row in models] == [True, False]
    assert "motion" in run("models", cwd=tmp_path).stdout
    doctor = run("doctor", "--json", cwd=tmp_path)
    assert json.loads(doctor.stdout)["versions"]["torch"].startswith("2.13.0")
    assert "memory" in run("doctor", cwd=tmp_path).stdout


def test_download_without_network_says_what_to_do(home: Path, tmp_path: Path) -> None:
    finished = run("models", "--download", "i2vgen-xl", cwd=tmp_path, HF_HUB_OFFLINE="1")
    assert finished.returncode == 2
    assert "i2vgen-xl" in finished.stderr
    assert "Traceback" not in finished.stderr


def test_inspect_refuses_a_foreign_file(home: Path, photo: Path, tmp_path: Path) -> None:
    for path in (photo, tmp_path / "missing.mp4"):
        finished = run("inspect", path, cwd=tmp_path)
        assert finished.returncode == 2
        assert len(finished.stderr.strip().splitlines()) == 1


def test_neither_prompt_nor_token_reaches_the_log_and_unknown_words_are_named_beside_it(
    home: Path, photo: Path, tmp_path: Path
) -> None:
    Image.open(photo).resize((96, 64)).save(tmp_path / "small.png")
    finished = run(
        "generate", tmp_path / "small.png", "-p", "pan left over canaryprompt", *QUICK, "-v",
        cwd=tmp_path, HF_TOKEN="hf_canarytoken", I2V_LOG_LEVEL="DEBUG",
    )  # fmt: skip
    assert finished.returncode == 0, finished.stderr
    note = "i2v: Not known to this model, so without effect: canaryprompt."
    lines = finished.stderr.splitlines()
    assert lines.count(note) == 1
    assert "canary" not in "".join(line for line in lines if line != note)


@pytest.mark.skipif(os.geteuid() != 0, reason="mounting a small disk needs root")
def test_a_full_disk_is_said_in_one_sentence(photo: Path, tmp_path: Path) -> None:
    disk = tmp_path / "disk"
    disk.mkdir()
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=20m", "tmpfs", str(disk)], check=False, capture_output=True
    )
    if mounted.returncode:
        pytest.skip("no mount here")
    try:
        finished = run("generate", photo, "-p", "pan left", *QUICK, cwd=tmp_path, I2V_HOME=str(disk / "home"))
    finally:
        subprocess.run(["umount", str(disk)], check=True)
    assert finished.returncode == 1
    assert "MiB are free" in finished.stderr
    assert len(finished.stderr.strip().splitlines()) == 1
