"""Where models are described: in i2v's own folders, and in others whose models are to be known too. No torch.

Such a folder holds a family's file, its preset and its table side by side: FAMILY.py, NAME.yaml and NAME.json. It
belongs to the search path of the package `i2v.models`, as Python packages are extended, and that is the only place
where it is noted down: take it away, and nothing is left of it.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from importlib import import_module, invalidate_caches
from pathlib import Path
from types import ModuleType

from i2v.presets.model_preset import added_folders, declared_family, load_presets

__all__ = ["add_models", "models_from"]


def add_models(folders: Sequence[Path]) -> None:
    """Know the models in these folders too, for as long as this process lives."""
    known = added_folders()
    _models().__path__.extend(str(folder.resolve()) for folder in folders if folder.resolve() not in known)
    _look_again()


@contextmanager
def models_from(folder: Path) -> Iterator[None]:
    """Know the models in a folder within. Their modules are forgotten afterwards; for tests and trials."""
    add_models([folder])
    try:
        yield
    finally:
        _models().__path__.remove(str(folder.resolve()))
        for name in [name for name, module in sys.modules.items() if _is_in(module, folder.resolve())]:
            del sys.modules[name]
            delattr(_models(), name.rpartition(".")[2])
        _look_again()


def _look_again() -> None:
    """Forget which files there were, and what was read of them."""
    invalidate_caches()
    declared_family.cache_clear()
    load_presets.cache_clear()


def _models() -> ModuleType:
    return import_module("i2v.models")


def _is_in(module: ModuleType, folder: Path) -> bool:
    is_family = module.__name__.startswith("i2v.models.")
    return is_family and Path(getattr(module, "__file__", None) or "").parent == folder
