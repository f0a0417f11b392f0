"""The log on disk: whole lines of all processes, never a secret."""

from __future__ import annotations

import logging
import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from i2v.log_file import LogFile, hide_secrets

LOOKALIKE = "hf_" + "abcDEF123456"


@pytest.fixture
def log(tmp_path: Path) -> Iterator[LogFile]:
    before = list(logging.getLogger().handlers)
    yield LogFile(tmp_path, {"HF_TOKEN": "token-of-mine"})
    for handler in set(logging.getLogger().handlers) - set(before):
        logging.getLogger().removeHandler(handler)
        handler.close()


def say(sentence: str) -> None:
    logging.getLogger("i2v.test").warning(sentence)


def test_a_log_that_is_not_there_has_no_lines(log: LogFile) -> None:
    assert log.tail() == []


def test_lines_of_two_processes_are_all_there(log: LogFile, tmp_path: Path) -> None:
    log.attach()
    other = LogFile(tmp_path).attach(prefix="[job] ")
    assert other
    say("one")
    lines = log.tail()
    assert [line.partition("WARNING ")[2] for line in lines] == ["i2v.test: one", "[job] i2v.test: one"]
    assert log.tail(1) == lines[-1:]
    assert log.tail(0) == log.tail(-3) == []
    assert log.path.parent.stat().st_mode & 0o077 == 0 or os.name == "nt"


def test_a_long_log_makes_room_at_the_start_and_open_ones_follow(log: LogFile, tmp_path: Path) -> None:
    worker = LogFile(tmp_path)
    worker.attach("worker ")
    with log.path.open("a") as file:
        file.write("old line\n" * 300_000)
    log.attach(rotate=True)
    say("new")
    assert log.path.with_name("i2v.log.1").stat().st_size > 2 << 20
    assert len(log.tail()) == 2
    LogFile(tmp_path).attach(rotate=True)
    assert len(log.tail()) == 2, "a short one is kept"


def test_the_tail_of_a_large_log_is_whole_lines_of_its_end(log: LogFile) -> None:
    log.path.parent.mkdir()
    log.path.write_text("".join(f"line {number} ünïcode\n" for number in range(50_000)), encoding="utf-8")
    tail = log.tail(100_000)
    assert tail[-1] == "line 49999 ünïcode"
    assert all(line.startswith("line ") for line in tail)
    assert 2000 < len(tail) < 5000


def test_secrets_are_neither_written_nor_shown(log: LogFile) -> None:
    log.keep_secret("the pässword")
    log.keep_secret("me")
    log.attach()
    say(f"the pässword, token-of-mine, {LOOKALIKE} and Authorization: Bearer xyz for me, some time")
    try:
        raise ValueError(f"it was {LOOKALIKE}")
    except ValueError:
        logging.getLogger("i2v.test").exception("failed")
    written = log.path.read_text(encoding="utf-8")
    for secret in ("pässword", "token-of-mine", LOOKALIKE, "xyz"):
        assert secret not in written
    assert "(hidden) for (hidden), some time" in written
    with log.path.open("a", encoding="utf-8") as file:
        file.write(f"{LOOKALIKE} token-of-mine the pässword\n")  # of an earlier time
    assert log.tail()[-1] == "(hidden) (hidden) (hidden)"


def test_what_only_looks_like_a_token_from_afar_is_shown() -> None:
    assert hide_secrets("the chf_franc and half_done, hf_a") == "the chf_franc and half_done, hf_a"
    assert hide_secrets("nothing", ["", ""]) == "nothing"


def test_a_place_that_cannot_be_written_is_a_warning(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    (tmp_path / "logs").write_text("a file where the folder should be")
    assert LogFile(tmp_path).attach() is None
    assert "there is no log file" in caplog.text
    assert LogFile(tmp_path).tail() == []
