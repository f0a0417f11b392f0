"""What a family gives to be traced: the calls of a run, each with its ways, and what lies beside it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from i2v.memory.forecast.forms import NOTHING, PeakForm
from i2v.memory.forecast.trace import Part

__all__ = ["TracedCall"]


@dataclass(frozen=True)
class TracedCall:
    """One call of a run, as forms.CallForms has it, before its formulas are found.

    `ways`: what to run for each way. `optional`: ways that need no formula; without one they count as "whole". `given`:
    ways whose formula is known without tracing. `counted`: what to count the operations of, at sizes of its own.
    """

    name: str
    stage: str
    component: str | None
    ways: Mapping[str, Part] = field(default_factory=dict)
    given: Mapping[str, PeakForm] = field(default_factory=dict)
    optional: frozenset[str] = frozenset()
    held: PeakForm = NOTHING
    ram: Mapping[str, PeakForm] = field(default_factory=dict)
    counted: Part | None = None
    per: str = "run"
