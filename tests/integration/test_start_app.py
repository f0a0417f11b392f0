"""start_app.sh as a newcomer runs it."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
INSTALLED = ROOT / ".venv" / "installed.txt"

pytestmark = pytest.mark.skipif(not INSTALLED.is_file(), reason="no .venv here; ./tests/run makes one")


HAND_SET = ("CHUNK_SIZE", "USE_FP16", "USE_BF16")


def start(*arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
    inherited = {name: value for name, value in os.environ.items() if name not in HAND_SET}
    return subprocess.run(
        ["./start_app.sh", *arguments],
        cwd=ROOT,
        env=inherited | environment,
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )


def test_check_reports_on_the_machine_and_exits_0(home: Path) -> None:
    finished = start("--check")
    assert finished.returncode == 0, finished.stdout + finished.stderr
    assert "memory" in finished.stdout
    assert "models   motion" in finished.stdout
    assert str(home) in finished.stdout


def test_nothing_is_installed_twice(home: Path) -> None:
    assert "installing" not in start("--check").stderr


def test_an_old_python_is_refused_in_one_line(tmp_path: Path, home: Path) -> None:
    old = tmp_path / "python3"
    old.write_text("#!/bin/sh\nexit 1\n")
    old.chmod(0o755)
    finished = start("--check", PYTHON=str(old))
    assert finished.returncode == 2
    assert "Python 3.11" in finished.stderr


def test_a_wrong_flag_is_refused(home: Path) -> None:
    assert start("--colour", "red").returncode == 2


def test_check_says_that_each_job_is_planned_when_nothing_is_set(home: Path) -> None:
    printed = start("--check").stdout
    assert printed.startswith("card     ")
    assert "i2v chooses chunks and precision for each job" in printed
    assert "set CHUNK_SIZE, USE_FP16 or USE_BF16" in printed


def test_check_says_what_was_set_by_hand(home: Path) -> None:
    finished = start("--check", CHUNK_SIZE="4", USE_FP16="true")
    assert finished.returncode == 0, finished.stderr
    assert "chunks of 4 frames (CHUNK_SIZE), fp16 (USE_FP16)" in finished.stdout
    assert "i2v chooses" not in finished.stdout


def test_check_shows_no_card_that_is_hidden_from_cuda(home: Path) -> None:
    assert "card     no NVIDIA card" in start("--check", CUDA_VISIBLE_DEVICES="").stdout


def test_a_chunk_size_that_is_none_ends_the_start_in_one_line(home: Path) -> None:
    finished = start("--check", CHUNK_SIZE="four")
    assert finished.returncode == 2
    assert finished.stdout == ""
    assert finished.stderr.startswith("i2v: CHUNK_SIZE is 'four'")
    assert len(finished.stderr.splitlines()) == 1
