"""start_app.sh as a newcomer runs it."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
INSTALLED = ROOT / ".venv" / "installed.txt"

pytestmark = pytest.mark.skipif(not INSTALLED.is_file(), reason="no .venv here; ./tests/run makes one")


def start(*arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        ["./start_app.sh", *arguments],
        cwd=ROOT,
        env=os.environ | environment,
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
