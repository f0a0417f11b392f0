"""Traces a model's memory formulas: `python -m i2v.models.build_forms PRESET [--home HOME | --ship] [--precision P]`.

Takes no weights and no GPU; the full-size I2VGen-XL takes about half a minute per precision. Without --ship the table
goes to the home folder, for the model that is installed there.
"""

from __future__ import annotations

import argparse
import logging
import multiprocessing
from collections.abc import Mapping
from concurrent.futures import ProcessPoolExecutor
from importlib import import_module
from pathlib import Path
from typing import Any

from i2v.memory.forecast.forms import ModelForms, PeakForm
from i2v.memory.forecast.tables import TABLES, architecture_of, find_forms, forms_path, table_key, versions, width_of
from i2v.models.download import model_folder
from i2v.presets.model_preset import ModelPreset, preset_named
from i2v.settings import Settings

__all__ = ["build_forms", "forms_of"]

SHARES = ("longest", "rest")  # of a family's parts, about as long as one another
_log = logging.getLogger(__name__)


def build_forms(preset: ModelPreset, architecture: Mapping[str, Any], widths: tuple[str, ...]) -> ModelForms:
    """Trace a model. `widths`: of "fp16" (any 2-byte numbers) and "fp32". Raises ValueError when it has no formula.

    Two processes share the work, which is Python's and runs on one core each.
    """
    with ProcessPoolExecutor(2, mp_context=multiprocessing.get_context("spawn")) as pool:
        going = {
            width: [pool.submit(_find_peaks, preset.family, architecture, width, share) for share in SHARES]
            for width in widths
        }
        operations = pool.submit(_find_operations, preset.family, architecture)
        family = import_module(f"i2v.models.{preset.family}_memory")
        return ModelForms(
            key=table_key(preset, architecture),
            scale=family.scale_of(architecture),
            levels=family.levels_of(architecture),
            components=family.component_sizes(architecture),
            operations=operations.result(),
            peaks={
                width: {name: form for share in shares for name, form in share.result().items()}
                for width, shares in going.items()
            },
            versions=versions(),
        )


def _find_peaks(family: str, architecture: Mapping[str, Any], width: str, share: str) -> dict[str, PeakForm]:
    found: dict[str, PeakForm] = import_module(f"i2v.models.{family}_memory").find_peaks(architecture, width, share)
    return found


def _find_operations(family: str, architecture: Mapping[str, Any]) -> dict[str, dict[str, float]]:
    found: dict[str, dict[str, float]] = import_module(f"i2v.models.{family}_memory").find_operations(architecture)
    return found


def forms_of(preset: ModelPreset, home: Path, precision: str) -> ModelForms:
    """Return the formulas of an installed model, tracing and keeping them if need be."""
    folder = model_folder(preset, home)
    known = find_forms(preset, folder, home, precision)
    if known:
        return known
    architecture = architecture_of(preset, folder)
    _log.info("tracing the memory of %s in %s", preset.name, precision)
    forms = build_forms(preset, architecture, (width_of(precision),))
    path = forms_path(home, forms.key)
    before = ModelForms.load(path)
    if before:
        forms.peaks.update({width: peaks for width, peaks in before.peaks.items() if width not in forms.peaks})
    try:
        forms.save(path)
    except OSError as error:  # the next time it is traced again
        _log.warning("the traced table cannot be kept: %s", error)
    return forms


def main() -> None:
    """Trace one preset and write its table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("preset")
    parser.add_argument("--ship", action="store_true", help="both precisions, into the package")
    parser.add_argument("--precision", default="fp16")
    args = parser.parse_args()
    preset = preset_named(args.preset)
    if args.ship:
        folder = preset.shipped_folder or Path("nowhere")
        build_forms(preset, architecture_of(preset, folder), ("fp16", "fp32")).save(TABLES / f"{preset.name}.json")
    else:
        forms_of(preset, Settings.from_environment().home, args.precision)


if __name__ == "__main__":
    main()
