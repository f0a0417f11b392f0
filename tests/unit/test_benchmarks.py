"""The benchmarks do what they say: the README's table is theirs, and what is for a card runs small without one."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from benchmarks import will_it_fit

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def cells() -> list[will_it_fit.Cell]:
    return will_it_fit.cells()


def test_the_table_in_the_readme_is_what_the_command_prints(cells: list[will_it_fit.Cell]) -> None:
    """When this fails: python -m benchmarks.will_it_fit --markdown."""
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    if will_it_fit.START not in readme:
        pytest.skip("the README has no marks for the table")
    start, end = readme.index(will_it_fit.START), readme.index(will_it_fit.END) + len(will_it_fit.END)
    assert readme[start:end] == will_it_fit.markdown(cells)


def test_every_setting_has_a_cell_for_every_card(cells: list[will_it_fit.Cell]) -> None:
    settings = {(cell.width, cell.height, cell.num_frames, cell.card_gib) for cell in cells}
    assert len(settings) == len(cells) == 4 * 3 * 6


def test_a_cell_that_fits_fits_and_one_that_does_not_needs_more(cells: list[will_it_fit.Cell]) -> None:
    for cell in cells:
        card = will_it_fit.card_of(cell.card_gib)
        assert cell.fits == (cell.peak_bytes <= card.free_bytes - card.margin_bytes), cell


def test_a_larger_card_never_gets_a_slower_rung(cells: list[will_it_fit.Cell]) -> None:
    order = ["parked", "streamed", "chunks", "turns", "whole"]
    by_setting: dict[tuple[int, int, int], list[int]] = {}
    for cell in cells:
        rank = order.index(cell.rung.partition(",")[0].partition(" ")[0]) if cell.fits else -1
        by_setting.setdefault((cell.width, cell.height, cell.num_frames), []).append(rank)
    assert all(ranks == sorted(ranks) for ranks in by_setting.values())


def test_the_table_takes_no_torch() -> None:
    code = "import sys; from benchmarks import will_it_fit; will_it_fit.cells(); sys.exit('torch' in sys.modules)"
    finished = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=False)
    assert finished.returncode == 0, finished.stderr
