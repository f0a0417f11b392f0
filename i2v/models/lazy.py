"""torch and its friends, imported at their first use: so that a family's declaration is read without them."""

from __future__ import annotations

from importlib import import_module
from types import ModuleType
from typing import TYPE_CHECKING, Any

__all__ = ["Later", "diffusers", "torch", "transformers"]


class Later(ModuleType):
    """Stands for a module until something of it is asked for."""

    def __getattr__(self, name: str) -> Any:
        return getattr(import_module(self.__name__), name)


if TYPE_CHECKING:
    import diffusers
    import torch
    import transformers
else:
    torch, diffusers, transformers = Later("torch"), Later("diffusers"), Later("transformers")
