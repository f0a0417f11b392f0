"""The tree of errors is the one that its docstring draws, and a full disk is no fault of the command."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from i2v import errors
from i2v.cli import main as command_line
from i2v.errors import I2VError
from i2v.machine import devices

DRAWN = re.compile(r"^    (?P<branch>[│├└─ ]*)(?P<name>\w+)  .*?(?:exit status (?P<status>\d+))?$", re.MULTILINE)


def drawn_tree() -> dict[str, tuple[str, int]]:
    """Return what the docstring draws: the parent and the exit status of each error."""
    tree: dict[str, tuple[str, int]] = {}
    above: list[str] = []
    assert errors.__doc__
    for line in DRAWN.finditer(errors.__doc__):
        depth = len(line["branch"]) // 4
        del above[depth:]
        parent = above[-1] if above else "Exception"
        status = int(line["status"]) if line["status"] else tree.get(parent, ("", 1))[1]
        tree[line["name"]] = parent, status
        above.append(line["name"])
    return tree


def test_the_tree_is_as_it_is_drawn() -> None:
    kinds = [getattr(errors, name) for name in errors.__all__]
    assert drawn_tree() == {kind.__name__: (kind.__base__.__name__, kind.exit_status) for kind in kinds}


def test_every_error_comes_back_as_what_it_was() -> None:
    for name in errors.__all__:
        back = I2VError.from_dict(getattr(errors, name)("x", "y", "z").to_dict())
        assert (type(back).__name__, back.message, back.remedy, back.field) == (name, "x", "y", "z")


@pytest.mark.parametrize(
    ("free_bytes", "output", "status", "words"),
    [(1 << 20, "out.mp4", 1, "nly 1 MiB are free"), (1 << 40, "nowhere/out.mp4", 2, "does not exist")],
)
def test_a_full_disk_failed_and_a_wrong_output_was_bad_input(
    home: Path,
    photo: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    free_bytes: int,
    output: str,
    status: int,
    words: str,
) -> None:
    monkeypatch.setattr(command_line, "set_up_logging", lambda *_: None)  # the test run has its own
    monkeypatch.setattr(devices, "free_disk_bytes", lambda _: free_bytes)
    target = str(home.parent / output)
    assert command_line.main(["generate", str(photo), "-p", "pan left", "-o", target]) == status
    assert words in capsys.readouterr().err
