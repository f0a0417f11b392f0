"""Finds a model's memory formulas: runs its real code, counts live storage, and solves for the factors.

A part of a run (one call of the denoiser, one decoded frame) is run at a handful of probe settings under `LiveStorage`.
The same allocations come in the same order each time; each one's size at the probes tells of which product of
dimensions it is a multiple, and so the peak is known at every setting. Nothing is fitted approximately: an allocation
that is no exact combination of the products is an error.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from fractions import Fraction
from typing import Any

import numpy as np
import torch
from torch._subclasses.fake_tensor import FakeTensorMode, unset_fake_temporarily
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.flop_counter import flop_registry, sdpa_flop_count

from i2v.memory.exact.pieces import first_pieces_only
from i2v.memory.forecast.count import LiveStorage
from i2v.memory.forecast.forms import EventForms, PeakForm, product_value

__all__ = [
    "Part",
    "count_operations",
    "event_log",
    "fake_module",
    "fake_tensors",
    "find_event_forms",
    "find_peak_form",
    "peak_form_of",
]

_ENOUGH_FOR_TWO = 3  # probes: two to solve for two factors, and one to see that they are right
_PARTS = tuple(2**power for power in range(11))


@dataclass(frozen=True)
class Part:
    """One part of a run, to be traced. Its peak of activations is what `run` adds to what `prepare` made.

    `prepare(probe)` returns the inputs, which count nothing; `run(inputs)` runs the real code.
    """

    name: str
    probes: Sequence[Mapping[str, int]]
    variables: Callable[[Mapping[str, int]], dict[str, int]]
    products: Sequence[str]
    prepare: Callable[[Mapping[str, int]], Any]
    run: Callable[[Any], Any]


@contextmanager
def fake_tensors() -> Iterator[None]:
    """Within it, tensors have shapes and dtypes, but no data."""
    # Not inference mode, in which an operation made of others is seen as one, without what it allocates inside.
    with FakeTensorMode(), torch.no_grad():
        yield


def fake_module(build: Callable[[], torch.nn.Module], dtype: torch.dtype) -> Any:
    """Build a module of full size without its weights; call it within `fake_tensors`."""
    with unset_fake_temporarily(), torch.device("meta"):
        module = build().eval()
    for part in module.modules():
        tables: tuple[dict[str, Any], ...] = (part._parameters, part._buffers)
        for table in tables:
            for name, tensor in table.items():
                if tensor is not None:
                    kept = dtype if tensor.is_floating_point() else tensor.dtype
                    table[name] = torch.empty(tensor.shape, dtype=kept)
    return module


def find_peak_form(part: Part) -> PeakForm:
    """Trace a part at its probes and return its peak as a formula. Raises ValueError when it has none."""
    return peak_form_of(find_event_forms(part), part.products)


def find_event_forms(part: Part) -> EventForms:
    """Trace a part at its probes and return its allocations as formulas.

    Raises ValueError for a part that does not do the same at every probe, and for a size that is no formula. Loops over
    pieces are seen as `event_log` sees them: two pieces of each.
    """
    logs, values = [], []
    for probe in part.probes:
        logs.append(event_log(part, probe))
        variables = part.variables(probe)
        values.append([product_value(product, variables) for product in part.products])
    orders = [[(number, size > 0) for number, size in log] for log in logs]
    if any(order != orders[0] for order in orders):
        raise ValueError(f"{part.name} does not do the same at every setting")
    solver = _Solver(part, np.array(values, dtype=object))
    places, events, made = dict[tuple[float, ...], int](), list[int](), 0
    for happened in zip(*logs, strict=True):
        if happened[0][0] < made:  # LiveStorage counts up: it has seen this number before
            events.append(-1 - happened[0][0])
        else:
            factors = solver.factors(tuple(size for _, size in happened))
            events.append(places.setdefault(tuple(map(float, factors)), len(places)))
            made += 1
    return EventForms(tuple(_by_product(part.products, row) for row in places), tuple(events))


def peak_form_of(forms: EventForms, products: Sequence[str]) -> PeakForm:
    """Return the peak of the live bytes as a formula. `products`: those of the part, in its order."""
    sizes = [np.array([_exact(size.get(product, 0)) for product in products], dtype=object) for size in forms.sizes]
    steps, made = list[np.ndarray](), list[np.ndarray]()
    total = np.zeros(len(products), dtype=object)
    for event in forms.events:
        if event < 0:
            total = total - made[-1 - event]
        else:
            made.append(sizes[event])
            total = total + sizes[event]
            steps.append(total)
    return PeakForm(_largest(steps, products))


def _exact(factor: float) -> Fraction | int:
    return factor if isinstance(factor, int) else Fraction(factor).limit_denominator(_PARTS[-1])


def event_log(part: Part, setting: Mapping[str, int], *, every_piece: bool = False) -> list[tuple[int, int]]:
    """Run a part at a setting and return `LiveStorage.log`, up to where the result is still alive.

    Of a loop over pieces the first two are run, which show the peak, or every one. Call it within `fake_tensors` for a
    module of `fake_module`.
    """
    inputs = part.prepare(setting)
    counter = LiveStorage()
    counter.adopt(*_tensors_in(inputs))
    with nullcontext() if every_piece else first_pieces_only(), counter:
        result = part.run(inputs)
    log = list(counter.log)  # as it is before the result goes
    del result
    return log


def _tensors_in(value: Any) -> Iterator[torch.Tensor]:
    if isinstance(value, torch.Tensor):
        yield value
    elif isinstance(value, torch.nn.Module):
        yield from itertools.chain(value.parameters(), value.buffers())
    elif isinstance(value, Mapping):
        for item in value.values():
            yield from _tensors_in(item)
    elif isinstance(value, (tuple, list)):
        for item in value:
            yield from _tensors_in(item)


class _Solver:
    """Solves an allocation's size for one or two products of the settings; a size that fits none is an error."""

    def __init__(self, part: Part, values: np.ndarray):
        self._part, self._values = part, values
        self._known: dict[tuple[int, ...], np.ndarray] = {}

    def factors(self, sizes: tuple[int, ...]) -> np.ndarray:
        """Return the factor of each product. `sizes`: bytes at each probe."""
        if sizes not in self._known:
            self._known[sizes] = self._solve(sizes)
        return self._known[sizes]

    def _solve(self, sizes: tuple[int, ...]) -> np.ndarray:
        found = np.zeros(self._values.shape[1], dtype=object)
        if not any(sizes):
            return found
        for column in range(len(found)):
            factor = Fraction(sizes[0], self._values[0, column])
            # A part of a byte per unit: a tensor that was reduced by a power of two.
            if factor.denominator in _PARTS and self._explains(sizes, {column: factor}):
                found[column] += factor
        if np.count_nonzero(found) == 1:
            return found
        if np.count_nonzero(found):
            raise ValueError(f"{self._part.name}: the probes do not tell the products apart")
        if len(sizes) < _ENOUGH_FOR_TWO:
            raise self._unexplained(sizes)
        for first, second in itertools.combinations(range(len(found)), 2):
            pair = self._two(sizes, first, second)
            if pair and self._explains(sizes, {first: pair[0], second: pair[1]}):
                found[first], found[second] = pair
                return found
        if self._values.shape[0] > self._values.shape[1]:
            return self._all(sizes)
        raise self._unexplained(sizes)

    def _all(self, sizes: tuple[int, ...]) -> np.ndarray:
        """Solve for all products at once. Needs more probes than products, so that the solution can be checked."""
        solution = np.linalg.lstsq(self._values.astype(float), np.array(sizes, dtype=float), rcond=None)[0]
        found = np.array([Fraction(factor).limit_denominator(_PARTS[-1]) for factor in solution], dtype=object)
        if not self._explains(sizes, dict(enumerate(found))):
            raise self._unexplained(sizes)
        return found

    def _unexplained(self, sizes: tuple[int, ...]) -> ValueError:
        return ValueError(f"{self._part.name}: {sizes} bytes are no multiple of {', '.join(self._part.products)}")

    def _explains(self, sizes: tuple[int, ...], factors: dict[int, Fraction]) -> bool:
        return all(
            sum(factor * self._values[probe, column] for column, factor in factors.items()) == size
            for probe, size in enumerate(sizes)
        )

    def _two(self, sizes: tuple[int, ...], first: int, second: int) -> tuple[Fraction, Fraction] | None:
        (a, b), (c, d) = self._values[:2, [first, second]]
        determinant = a * d - b * c
        if determinant == 0:
            return None
        x, y = (
            Fraction(sizes[0] * d - sizes[1] * b, determinant),
            Fraction(sizes[1] * a - sizes[0] * c, determinant),
        )
        return (x, y) if x.denominator == y.denominator == 1 and x > 0 and y > 0 else None


def _largest(steps: list[np.ndarray], products: Sequence[str]) -> tuple[dict[str, float], ...]:
    """Return the sums of which no other is at least as large in every factor."""
    unique = sorted({tuple(float(factor) for factor in step) for step in steps}, key=sum, reverse=True)
    kept: list[tuple[float, ...]] = []
    for row in unique:
        if not any(all(a <= b for a, b in zip(row, other, strict=True)) for other in kept):
            kept.append(row)
    return tuple(_by_product(products, row) for row in kept)


def _by_product(products: Sequence[str], factors: Sequence[float]) -> dict[str, float]:
    """Name the factors that are not 0; whole ones become ints."""
    return {
        product: int(factor) if factor.is_integer() else factor
        for product, factor in zip(products, factors, strict=True)
        if factor
    }


class _Operations(TorchDispatchMode):
    """Counts the floating-point operations of matrix products and convolutions by torch's own registry.

    torch's FlopCounterMode takes three times as long, for it keeps a tree of modules.
    """

    def __init__(self) -> None:
        super().__init__()
        self.total = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        output = func(*args, **(kwargs or {}))
        operation = func.overloadpacket
        if operation == torch.ops.aten._scaled_dot_product_flash_attention_for_cpu:  # which the registry lacks
            self.total += sdpa_flop_count(*(tensor.shape for tensor in args[:3]))
        elif operation in flop_registry:
            self.total += flop_registry[operation](*args, **(kwargs or {}), out_val=output)
        return output


def count_operations(part: Part) -> dict[str, float]:
    """Return a part's floating-point operations as factors of its products, by least squares over its probes."""
    values, counts = [], []
    for probe in part.probes:
        inputs = part.prepare(probe)
        with _Operations() as counter:
            part.run(inputs)
        variables = part.variables(probe)
        values.append([product_value(product, variables) for product in part.products])
        counts.append(counter.total)
    matrix, wanted = np.array(values, dtype=float), np.array(counts, dtype=float)
    scale = matrix.max(axis=0)
    factors = np.linalg.lstsq(matrix / scale, wanted, rcond=None)[0] / scale
    error = np.abs(matrix @ factors / wanted - 1).max()
    if error > 0.01:
        raise ValueError(f"{part.name}: the operations are {error:.1%} off")
    return {product: float(factor) for product, factor in zip(part.products, factors, strict=True)}
