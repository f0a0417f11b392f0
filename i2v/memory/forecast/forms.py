"""Peak memory as a formula in the settings: exact, small enough to read, and known without torch.

Every tensor's size is a product of dimensions, so at each moment of a run the live bytes are a sum of products such as
"F*A0" (frames times latent pixels) with fixed factors, and the peak is the largest of a few such sums. trace.py finds
them by running the model's real code on fake tensors; here they are read and evaluated.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from functools import lru_cache
from pathlib import Path
from typing import Any

from i2v.family import Geometry
from i2v.memory.forecast.allocator import Reserved, peak_reserved, reserved_for

__all__ = [
    "FORMAT",
    "NOTHING",
    "CallForms",
    "Component",
    "EventForms",
    "ModelForms",
    "PeakForm",
    "product_value",
    "sum_of_products",
]

FORMAT = 2
_REMEMBERED = 4096  # settings for which is known what is reserved


def product_value(product: str, variables: Mapping[str, int]) -> int:
    """Return the value of a product of variables such as "F*A0"; "1" is one."""
    return math.prod(1 if name == "1" else variables[name] for name in product.split("*"))


def sum_of_products(factors: Mapping[str, float], variables: Mapping[str, int]) -> float:
    """Return the sum of factors times products."""
    return sum(factor * product_value(product, variables) for product, factor in factors.items())


@dataclass(frozen=True)
class PeakForm:
    """A peak in bytes: the largest of several sums of products. Each row maps a product to its factor in bytes."""

    rows: tuple[dict[str, float], ...]

    def peak_bytes(self, variables: Mapping[str, int]) -> int:
        """Evaluate for settings."""
        return int(max((sum_of_products(row, variables) for row in self.rows), default=0))


NOTHING = PeakForm(())  # a formula that is always zero


@dataclass(frozen=True)
class EventForms:
    """What a part of a run allocates and frees, in order, at every setting.

    `sizes`: the different sizes, each a map from product to its factor in bytes; an empty one is kept in main memory.
    `events`: an index into `sizes` for an allocation; -1 - k for the free of the k-th allocation, counted from 0.
    """

    sizes: tuple[dict[str, float], ...]
    events: tuple[int, ...]

    def sizes_at(self, variables: Mapping[str, int]) -> tuple[int, ...]:
        """Return the different sizes at settings, in bytes."""
        return tuple(max(0, round(sum_of_products(size, variables))) for size in self.sizes)

    def log(self, sizes: Sequence[int]) -> list[tuple[int, int]]:
        """Return the events at `sizes_at` settings as `LiveStorage.log` has them: (number, bytes), 0 for a free."""
        log, made = list[tuple[int, int]](), 0
        for event in self.events:
            if event < 0:
                log.append((-1 - event, 0))
            else:
                log.append((made, sizes[event]))
                made += 1
        return log


@dataclass(frozen=True)
class Component:
    """The weights of one part of a model, in parameters.

    `blocks`: of each block that streaming brings, in order; `window`: how many of them are on the device at a time;
    `rest_at_once`: the most of one layer outside the blocks that comes to the device when they are streamed.
    `largest_leaf`: of one layer; `linear`: in linear layers, which int8 and nf4 store smaller; `castable`: in those
    that fp8 stores smaller. `tensors`: (parameters, how many) of each size of tensor, largest first.
    """

    parameters: int
    blocks: tuple[int, ...] = ()
    window: int = 1
    rest_at_once: int = 0
    largest_leaf: int = 0
    linear: int = 0
    castable: int = 0
    tensors: tuple[tuple[int, int], ...] = ()

    def at_once(self, keep: int) -> int:
        """Return the most parameters on the device while blocks are streamed and the first `keep` of them stay."""
        streamed = self.blocks[keep:]
        together = max((sum(streamed[at : at + self.window]) for at in range(len(streamed))), default=0)
        # Before and after the blocks one layer of the rest is there, beside the block that is fetched ahead.
        return sum(self.blocks[:keep]) + max(together, self.rest_at_once + max(streamed, default=0))

    def reserved_bytes(self, number: float, expandable: bool) -> int:
        """Return what PyTorch reserves for all of it, in numbers of so many bytes."""
        return _weights_reserved(self.tensors, number, expandable)


@lru_cache(maxsize=64)
def _weights_reserved(tensors: tuple[tuple[int, int], ...], number: float, expandable: bool) -> int:
    sizes = [int(parameters * number) for parameters, count in tensors for _ in range(count)]
    return peak_reserved(sizes, [], expandable=expandable)


@dataclass(frozen=True)
class CallForms:
    """What one call of a run takes: a text encoder's forward, one pass of the denoiser, one decoded frame.

    `component`: whose weights it needs, None for none. `ways`: its peak of activations by the way it is run in
    ("whole", "pieces", …); `held`: what waits on the device beside it; `ram`: what a way takes in main memory, whatever
    the device. `operations`: floating-point ones of a call by product, none where nothing counts, and `per`: whether
    there is a call per "run", "pass" (a step may have two) or "frame". `events`: what a way allocates and frees.
    """

    stage: str
    component: str | None
    ways: dict[str, PeakForm]
    held: PeakForm = NOTHING
    ram: dict[str, PeakForm] = field(default_factory=dict)
    operations: dict[str, float] = field(default_factory=dict)
    per: str = "run"
    events: dict[str, EventForms] = field(default_factory=dict)
    _reserved: dict[tuple[Any, ...], Reserved] = field(default_factory=dict, compare=False, repr=False)

    def peak_bytes(self, way: str, variables: Mapping[str, int]) -> int:
        """Return the peak on the device, held tensors included. A way that it does not have is "whole"."""
        form = self.ways.get(way) or self.ways["whole"]
        return form.peak_bytes(variables) + self.held.peak_bytes(variables)

    def reserved(self, way: str, variables: Mapping[str, int], expandable: bool) -> Reserved:
        """Return what PyTorch reserves for that peak, by replaying the allocations; remembered by settings."""
        events = self.events.get(way if way in self.ways else "whole")
        if events is None:
            peak = self.peak_bytes(way, variables)
            return Reserved(peak, peak)
        held, sizes = self.held.peak_bytes(variables), events.sizes_at(variables)
        key = (way, expandable, held, sizes)
        if key not in self._reserved:
            if len(self._reserved) >= _REMEMBERED:
                self._reserved.clear()
            self._reserved[key] = reserved_for(events.log(sizes), held, expandable)
        return self._reserved[key]

    def ram_bytes(self, way: str, variables: Mapping[str, int]) -> int:
        """Return what it takes in main memory on every device."""
        return self.ram[way].peak_bytes(variables) if way in self.ram else 0


@dataclass(frozen=True)
class ModelForms:
    """Everything a forecast needs to know of one model's architecture.

    `calls`: by "fp16" or "fp32" (2 or 4 bytes a number), then by name.
    """

    key: str
    geometry: Geometry
    components: dict[str, Component]
    calls: dict[str, dict[str, CallForms]]
    versions: dict[str, str]

    def calls_in(self, precision: str) -> dict[str, CallForms]:
        """Return the calls of a run that is computed in a precision. Raises KeyError for one that is not traced."""
        return self.calls["fp32" if precision == "fp32" else "fp16"]

    def knows(self, precision: str) -> bool:
        """Say whether it was traced for a precision."""
        return ("fp32" if precision == "fp32" else "fp16") in self.calls

    def save(self, path: Path) -> None:
        """Write as JSON, beside the old file and then in its place."""
        part = path.with_suffix(".part")
        path.parent.mkdir(parents=True, exist_ok=True)
        part.write_text(json.dumps({"format": FORMAT} | _shown(self), indent=1) + "\n", encoding="utf-8")
        part.replace(path)

    @classmethod
    def load(cls, path: Path) -> ModelForms | None:
        """Read what `save` wrote; None for a file that is not there or of another format."""
        try:
            found: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
            if found.pop("format") != FORMAT:
                return None
            geometry = found["geometry"]
            return cls(
                key=found["key"],
                geometry=Geometry(**geometry | {"patch": tuple(geometry["patch"])}),
                components={name: _component(values) for name, values in found["components"].items()},
                calls={
                    width: {name: _call(values) for name, values in calls.items()}
                    for width, calls in found["calls"].items()
                },
                versions=found["versions"],
            )
        except (OSError, ValueError, KeyError, TypeError, AttributeError):
            return None


def _shown(forms: ModelForms) -> dict[str, Any]:
    """Return a table as plain values, without what is as it is by default."""
    shown = asdict(forms)
    for calls in shown["calls"].values():
        for call in calls.values():
            for name, nothing in (("held", {"rows": ()}), ("ram", {}), ("operations", {}), ("per", "run")):
                if call[name] == nothing:
                    del call[name]
            del call["_reserved"]
            for events in call["events"].values():  # one line, not one for each number
                events["events"] = " ".join(map(str, events["events"]))
    return shown


def _component(values: dict[str, Any]) -> Component:
    tensors = tuple((parameters, count) for parameters, count in values["tensors"])
    return Component(**values | {"blocks": tuple(values["blocks"]), "tensors": tensors})


def _call(values: dict[str, Any]) -> CallForms:
    forms = {name: {way: _peak(form) for way, form in values.get(name, {}).items()} for name in ("ways", "ram")}
    events = {
        way: EventForms(tuple(found["sizes"]), tuple(map(int, found["events"].split())))
        for way, found in values["events"].items()
    }
    return CallForms(**values | forms | {"held": _peak(values.get("held", {"rows": []})), "events": events})


def _peak(values: dict[str, Any]) -> PeakForm:
    return PeakForm(tuple(values["rows"]))
