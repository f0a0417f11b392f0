"""Traces a model's memory formulas: `python -m i2v.models.build_forms PRESET [--ship] [--precision P] [--while-input]`.

Takes no weights and no GPU; the full-size I2VGen-XL takes about half a minute per precision. Without --ship the table
goes to the home folder, for the model that is installed there. With `--models FOLDER` the models in
that folder are known too, and their tables go there (models/model_folders.py).
"""

from __future__ import annotations

import argparse
import json
import logging
import multiprocessing
import os
import sys
import threading
from collections import Counter
from collections.abc import Collection
from concurrent.futures import Future, ProcessPoolExecutor
from contextlib import ExitStack
from dataclasses import replace
from functools import lru_cache
from pathlib import Path
from typing import TypeAlias

import torch

from i2v.family import Architecture, Part
from i2v.log_file import LogFile
from i2v.memory.forecast.calls import TracedCall
from i2v.memory.forecast.forms import CallForms, Component, EventForms, ModelForms, PeakForm
from i2v.memory.forecast.tables import (
    architecture_of,
    find_forms,
    forms_path,
    table_key,
    table_path,
    versions,
    width_of,
)
from i2v.memory.forecast.trace import count_operations, fake_tensors, find_event_forms, peak_form_of
from i2v.memory.weights.leaf_stream import LARGE_TABLE_BYTES
from i2v.models.binding import blocks_of, build_component, family_module, parts_of
from i2v.models.download import model_folder
from i2v.models.model_folders import add_models
from i2v.presets.model_preset import ModelPreset, added_folders, preset_named
from i2v.settings import Settings, set_up_logging

__all__ = ["build_forms", "count_parameters", "plain_forms", "trace_call"]

_DTYPES = {"fp16": torch.float16, "fp32": torch.float32}
_CASTABLE = (torch.nn.Linear, torch.nn.Conv2d, torch.nn.Conv3d)  # what layerwise casting stores smaller
_log = logging.getLogger(__name__)
Found: TypeAlias = tuple[PeakForm, EventForms]


def build_forms(preset: ModelPreset, architecture: Architecture, widths: tuple[str, ...]) -> ModelForms:
    """Trace a model. `widths`: of "fp16" (any 2-byte numbers) and "fp32". Raises ValueError when it has no formula.

    Two processes share the work, which is Python's and runs on one core each.
    """
    text = json.dumps(architecture)
    spawn = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(2, spawn, _begin, (added_folders(),)) as pool:
        outlines = pool.submit(_outlines, preset.family, text).result()
        found: dict[tuple[str, str, str], Future[Found | None]] = {
            (width, call, way): pool.submit(_find_form, preset.family, text, width, call, way)
            for width in widths
            for call, (_, ways, _) in outlines.items()
            for way in ways
        }
        counted = {
            name: pool.submit(_count, preset.family, text, name) for name, (_, _, counts) in outlines.items() if counts
        }
        operations = {name: future.result() for name, future in counted.items()}
        forms = {key: future.result() for key, future in found.items()}
        calls = {
            width: {
                name: replace(
                    plain[width],
                    ways=plain[width].ways | {way: form[0] for way in ways if (form := forms[width, name, way])},
                    events={way: form[1] for way in ways if (form := forms[width, name, way])},
                    operations=operations.get(name, {}),
                )
                for name, (plain, ways, _) in outlines.items()
            }
            for width in widths
        }
    family = preset.declared
    return ModelForms(
        key=table_key(preset, architecture),
        geometry=family_module(preset.family).geometry_of(architecture),
        components={part.name: count_parameters(part, architecture) for part in parts_of(family, architecture)},
        calls=calls,
        versions=versions(),
    )


# In the processes of the pool


def _begin(folders: tuple[Path, ...]) -> None:
    """Know the same models as the process that started this one, and end when that does, however it ends."""
    add_models(folders)
    threading.Thread(target=_await_parent, name="parent", daemon=True).start()


def _await_parent() -> None:
    if parent := multiprocessing.parent_process():
        parent.join()
    os._exit(1)


@lru_cache(maxsize=1)
def _enter_fake_tensors() -> ExitStack:
    """Make this process one whose tensors have no data, from here on."""
    stack = ExitStack()
    stack.enter_context(fake_tensors())
    return stack


@lru_cache(maxsize=4)
def _traced_calls(family: str, architecture: str, width: str) -> dict[str, TracedCall]:
    """Return a family's calls, by name."""
    _enter_fake_tensors()
    calls = family_module(family).traced_calls(json.loads(architecture), _DTYPES[width])
    return {call.name: call for call in calls}


def _outlines(family: str, architecture: str) -> dict[str, tuple[dict[str, CallForms], list[str], bool]]:
    """Return of every call what needs no tracing, by width; the ways to trace; and whether its operations count."""
    by_width = {width: _traced_calls(family, architecture, width) for width in _DTYPES}
    return {
        name: (
            {width: plain_forms(calls[name]) for width, calls in by_width.items()},
            list(call.ways),
            bool(call.counted),
        )
        for name, call in by_width["fp16"].items()
    }


def plain_forms(call: TracedCall, ways: Collection[str] = ()) -> CallForms:
    """Return the forms of a call with these ways traced; call it within `fake_tensors` if there are any."""
    found = {way: form for way in ways if (form := trace_call(call, way))}
    peaks = dict(call.given) | {way: peak for way, (peak, _) in found.items()}
    events = {way: events for way, (_, events) in found.items()}
    return CallForms(call.stage, call.component, peaks, call.held, dict(call.ram), {}, call.per, events)


def _find_form(family: str, architecture: str, width: str, name: str, way: str) -> Found | None:
    return trace_call(_traced_calls(family, architecture, width)[name], way)


def trace_call(call: TracedCall, way: str) -> Found | None:
    """Return the formulas of one way of a call, None for an optional way without any. Raises ValueError."""
    try:
        events = find_event_forms(call.ways[way])
        return peak_form_of(events, call.ways[way].products), events
    except ValueError as error:
        if way not in call.optional:
            raise
        _log.warning("%s; it is taken for whole frames", error)
        return None


def _count(family: str, architecture: str, name: str) -> dict[str, float]:
    counted = _traced_calls(family, architecture, "fp16")[name].counted
    return count_operations(counted) if counted else {}


# In the process that asked


def count_parameters(part: Part, architecture: Architecture) -> Component:
    """Return what a forecast needs to know of the weights of a component."""
    with torch.device("meta"):
        module = build_component(part, architecture[part.name])
    blocks = blocks_of(part, module)
    elsewhere = {id(leaf) for block in blocks for leaf in block.modules()}
    elsewhere |= {id(leaf) for leaf in module.modules() if _is_looked_up(leaf)}
    leaves = [(leaf, sum(p.numel() for p in leaf.parameters(recurse=False))) for leaf in module.modules()]
    return Component(
        parameters=_parameters(module),
        blocks=tuple(_parameters(block) for block in blocks),
        window=part.held_at_once + 1,  # and one that is fetched meanwhile
        rest_at_once=max((count for leaf, count in leaves if id(leaf) not in elsewhere), default=0),
        largest_leaf=max(count for _, count in leaves),
        linear=sum(_parameters(leaf) for leaf in module.modules() if isinstance(leaf, torch.nn.Linear)),
        tensors=tuple(sorted(Counter(p.numel() for p in module.parameters()).items(), reverse=True)),
        castable=sum(_parameters(leaf) for leaf in module.modules() if isinstance(leaf, _CASTABLE)),
    )


def _is_looked_up(leaf: torch.nn.Module) -> bool:
    """Say whether streaming leaves a table on the CPU, in numbers of 2 bytes; in larger ones it leaves more."""
    return isinstance(leaf, torch.nn.Embedding) and 2 * leaf.weight.numel() >= LARGE_TABLE_BYTES


def _parameters(module: torch.nn.Module) -> int:
    return sum(parameter.numel() for parameter in module.parameters())


def _trace_installed(preset: ModelPreset, home: Path, precision: str) -> None:
    """Trace an installed model and keep its table in the home folder. Raises OSError when it cannot be kept."""
    folder = model_folder(preset, home)
    if find_forms(preset, folder, home, precision):
        return
    architecture = architecture_of(preset, folder)
    _log.info("tracing the memory of %s in %s", preset.name, precision)
    forms = build_forms(preset, architecture, (width_of(precision),))
    path = forms_path(home, forms.key)
    before = ModelForms.load(path)
    if before:
        forms.calls.update({width: calls for width, calls in before.calls.items() if width not in forms.calls})
    forms.save(path)


def _leave_with_input() -> None:
    """End this process when its standard input does."""
    while sys.stdin.buffer.read(1):
        pass
    os._exit(1)


def main() -> None:
    """Trace one preset and write its table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("preset")
    parser.add_argument("--ship", action="store_true", help="both precisions, into the package")
    parser.add_argument("--precision", default="fp16")
    parser.add_argument("--models", type=Path, action="append", default=[], help="a folder of models")
    parser.add_argument("--while-input", action="store_true", help="leave as soon as the standard input ends")
    args = parser.parse_args()
    if args.while_input:
        threading.Thread(target=_leave_with_input, name="input", daemon=True).start()
    add_models(args.models)
    preset, exit_code = preset_named(args.preset), 0
    if args.ship:
        folder = preset.shipped_folder or Path("nowhere")
        build_forms(preset, architecture_of(preset, folder), ("fp16", "fp32")).save(table_path(preset))
    else:
        settings = Settings.from_environment()
        set_up_logging(settings.log_level)
        LogFile(settings.home).attach()
        try:
            _trace_installed(preset, settings.home, args.precision)
        except Exception:  # the process's outermost edge: the log on disk must have the trace
            _log.exception("the memory of %s cannot be traced", preset.name)
            exit_code = 1
    logging.shutdown()
    sys.stdout.flush()
    os._exit(exit_code)  # the thread that reads the input sits in a read, on which Python's own exit would stumble


if __name__ == "__main__":
    main()
