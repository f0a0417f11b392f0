"""Builds a component whose weights stay in its safetensors files: memory-mapped, not read until they are needed.

The same module, to the bit, as `from_pretrained` gives. Knows diffusers' and transformers' models; what a mapped weight
is, and how it is cast on its way to a device, is in i2v/memory/weights/mapped.py.
"""

from __future__ import annotations

import copy
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import accelerate  # type: ignore[import-untyped]
import diffusers
import torch
from torch import Tensor, nn
from transformers import PreTrainedModel
from transformers.core_model_loading import build_glob_alternation

from i2v.memory.weights.mapped import MappedFile, mark_mapped

__all__ = ["default_dtype", "load_mapped"]


def load_mapped(path: Path, files: list[Path], cls: Any, dtype: torch.dtype) -> tuple[nn.Module, list[str]]:
    """Return a component of `cls` with its weights in `files`, wished in `dtype`, and the names of absent tensors.

    A weight whose shape is not the config's counts as absent. Raises OSError and ValueError for unreadable files.
    """
    mapped = [MappedFile(file) for file in files]
    tensors = {name: tensor for file in mapped for name, tensor in file.tensors.items()}
    if issubclass(cls, PreTrainedModel):
        return _transformer(path, mapped, tensors, cls, dtype)
    if issubclass(cls, diffusers.ModelMixin):
        return _diffusers_model(path, mapped, tensors, cls, dtype)
    raise TypeError(f"{cls.__name__} is a model of neither diffusers nor transformers")


# diffusers


def _diffusers_model(
    path: Path, files: list[MappedFile], tensors: dict[str, Tensor], cls: Any, dtype: torch.dtype
) -> tuple[nn.Module, list[str]]:
    with default_dtype(dtype), accelerate.init_empty_weights():  # buffers are computed, parameters have no data
        model = cls.from_config(cls.load_config(path, local_files_only=True))
    model._fix_state_dict_keys_on_load(tensors)
    expected = model.state_dict()
    fitting = {name: t for name, t in tensors.items() if name in expected and t.shape == expected[name].shape}
    model.load_state_dict(fitting, strict=False, assign=True)
    in_float32 = cls._keep_in_fp32_modules or []
    for name, weight in _named_weights(model):
        if name in fitting and weight.is_floating_point():
            # as diffusers' load_model_dict_into_meta matches them
            kept = any(part in name.split(".") for part in in_float32)
            mark_mapped(weight, files, torch.float32 if kept else dtype)
    model.register_to_config(_name_or_path=str(path))
    return model, sorted(expected.keys() - fitting.keys())


# transformers


def _transformer(
    path: Path, files: list[MappedFile], tensors: dict[str, Tensor], cls: Any, dtype: torch.dtype
) -> tuple[nn.Module, list[str]]:
    """Load in the files' own dtype where they have one, so that transformers copies nothing, and wish for `dtype`."""
    config = cls.config_class.from_pretrained(path, local_files_only=True)
    stored = {tensor.dtype for tensor in tensors.values() if tensor.is_floating_point()}
    as_stored = stored.pop() if len(stored) == 1 else dtype
    model, report = cls.from_pretrained(
        None, config=config, state_dict=tensors, dtype=as_stored, output_loading_info=True, local_files_only=True
    )
    absent = sorted(str(key) for key in (*report["missing_keys"], *report["mismatched_keys"]))
    if as_stored != dtype:
        _wish(model, files, config, cls, dtype)
    else:
        for _, weight in _named_weights(model):
            mark_mapped(weight, files, weight.dtype)
    return model, absent


def _wish(model: Any, files: list[MappedFile], config: Any, cls: Any, dtype: torch.dtype) -> None:
    """Wish each weight in the dtype that transformers would load it in; cast those that are in memory now."""
    with torch.device("meta"):
        twin = cls._from_config(copy.deepcopy(config), dtype=dtype)
    wished = {name: weight.dtype for name, weight in _named_weights(twin)} | _planned(twin, dtype)
    model.config.dtype = dtype
    for part_name, part in model.named_modules():
        for tables in (part._parameters, part._buffers):
            for key, weight in tables.items():
                name = f"{part_name}.{key}" if part_name else key
                if weight is None or not weight.is_floating_point() or name not in wished:
                    continue
                mark_mapped(weight, files, wished[name])
                if _is_in_memory(weight, files) and weight.dtype != wished[name]:
                    cast = weight.detach().to(wished[name])
                    tables[key] = nn.Parameter(cast, requires_grad=False) if isinstance(weight, nn.Parameter) else cast


def _planned(twin: Any, dtype: torch.dtype) -> dict[str, torch.dtype]:
    """Return the dtypes of weights that a model of transformers keeps in another than it is asked for."""
    plan = twin._get_dtype_plan(dtype)
    if not plan:
        return {}
    pattern, glob_of, _ = build_glob_alternation(list(plan))
    matches = {name: pattern.search(name) for name in twin.state_dict()}
    return {name: plan[glob_of[match.lastgroup]] for name, match in matches.items() if match}


def _is_in_memory(weight: Tensor, files: list[MappedFile]) -> bool:
    return not any(file.holds(weight) for file in files)


def _named_weights(module: nn.Module) -> Iterator[tuple[str, Tensor]]:
    """Yield parameters and buffers by name, tied ones under each of their names."""
    yield from module.named_parameters(remove_duplicate=False)
    yield from module.named_buffers(remove_duplicate=False)


@contextmanager
def default_dtype(dtype: torch.dtype) -> Iterator[None]:
    """Have torch make floating-point tensors in this dtype inside."""
    before = torch.get_default_dtype()
    torch.set_default_dtype(dtype)
    try:
        yield
    finally:
        torch.set_default_dtype(before)
