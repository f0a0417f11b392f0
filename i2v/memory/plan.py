"""How a request will be run: where each component's weights live, how they are stored, and which knobs are turned.

Values only. What a plan costs is in forecast/peaks.py, which one is chosen in ladder.py, and how it is carried out in
i2v/models. No torch.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from enum import StrEnum
from typing import Any

from i2v.family import Family, Knob, Role
from i2v.memory.abilities import APPROXIMATE
from i2v.memory.residency import Home, Residency

__all__ = ["Masters", "PartPlan", "Plan", "Setting"]

_HOME_WORDS = {
    Home.RESIDENT: "weights resident",
    Home.TURNS: "models take turns",
    Home.STREAMED: "weights streamed",
}
_SIZES = list(Home)  # from the most memory to the least


class Masters(StrEnum):
    """Where weights are that are not on the device."""

    RAM = "ram"  # in main memory, pinned where that is possible
    DISK = "disk"  # in the model's files, which are mapped into memory: RAM smaller than the model is enough


@dataclass(frozen=True)
class PartPlan:
    """One component: where its weights live, and the precision they are stored in."""

    residency: Residency
    precision: str


@dataclass(frozen=True)
class Setting:
    """A knob at a value."""

    knob: Knob
    value: int


@dataclass(frozen=True)
class Plan:
    """One way to run a request of a family. `compute`: the precision that everything is computed in."""

    family: Family
    name: str
    device: str
    compute: str
    parts: Mapping[str, PartPlan]
    settings: tuple[Setting, ...] = ()
    masters: Masters = Masters.RAM
    reason: str = field(default="", compare=False)

    @classmethod
    def of(cls, family: Family, device: str, compute: str, precision: str | None = None) -> Plan:
        """Return the plan that has everything on the device and turns no knob.

        `precision`: what the denoisers' weights are stored in, left out `compute`.
        """
        denoisers = family.of_role(Role.DENOISER)
        parts = {
            part.name: PartPlan(Residency(), (precision or compute) if part.name in denoisers else compute)
            for part in family.parts
        }
        return cls(family, "resident", device, compute, parts)

    # Other plans

    def named(self, name: str) -> Plan:
        return replace(self, name=name)

    def because(self, reason: str) -> Plan:
        """Return this plan with a reason."""
        return replace(self, reason=reason)

    def housed(self, home: Home, keep: int = 0) -> Plan:
        """Return this plan with the weights elsewhere. `keep`: blocks of each denoiser that stay on the device.

        A decoder is small and needed as a whole: where the others are streamed it takes its turn.
        """
        decoders, denoisers = self.family.of_role(Role.DECODER), self.family.of_role(Role.DENOISER)

        def residency(name: str) -> Residency:
            if home is Home.STREAMED and name in decoders:
                return Residency(Home.TURNS)
            return Residency(home, keep if home is Home.STREAMED and name in denoisers else 0)

        return replace(self, parts={n: replace(part, residency=residency(n)) for n, part in self.parts.items()})

    def turned(self, knob: Knob, value: int | None) -> Plan:
        """Return this plan with a knob at a value, or as it was without it for None."""
        kept = [setting for setting in self.settings if setting.knob.name != knob.name]
        wanted = kept if value is None else [*kept, Setting(knob, value)]
        order = [known.name for known in self.family.knobs]
        return replace(self, settings=tuple(sorted(wanted, key=lambda setting: order.index(setting.knob.name))))

    # What it says

    @property
    def knobs(self) -> dict[str, int]:
        """The values of the knobs that are turned, by name."""
        return {setting.knob.name: setting.value for setting in self.settings}

    @property
    def residencies(self) -> dict[str, Residency]:
        """Where each component's weights live."""
        return {name: part.residency for name, part in self.parts.items()}

    @property
    def precision(self) -> str:
        """What the denoisers' weights are stored in."""
        return self.parts[self.family.of_role(Role.DENOISER)[0]].precision

    @property
    def home(self) -> Home:
        """Where weights live in general: the home of those components that take the least of the device."""
        return max((part.residency.home for part in self.parts.values()), key=_SIZES.index)

    @property
    def keep(self) -> int:
        """How many blocks of a denoiser stay on the device while the others are streamed."""
        return max(part.residency.keep for part in self.parts.values())

    @property
    def exact(self) -> bool:
        """Whether the frames are those of the model's own weights, up to the order of summation."""
        rounded = any(part.precision in APPROXIMATE for part in self.parts.values())
        return not rounded and all(setting.knob.is_exact for setting in self.settings)

    def way(self, stage: str) -> str:
        """Return which of its traced ways a stage is run in: that of the last of its knobs that is turned."""
        ways = [setting.knob.way for setting in self.settings if stage in setting.knob.stages]
        return ways[-1] if ways else "whole"

    def words(self) -> str:
        """Say what the plan does, in words."""
        pieces = [setting for setting in self.settings if "denoise" in setting.knob.stages and not setting.knob.after]
        later = [setting for setting in self.settings if setting not in pieces]
        said = [self.precision]
        said += [setting.knob.said(setting.value) for setting in pieces] or ["whole clip at once"]
        said.append(_HOME_WORDS[self.home])
        if self.keep:
            said.append(f"{self.keep} block{'s' if self.keep > 1 else ''} kept on the card")
        if self.masters is Masters.DISK:
            said.append("weights read from disk")
        said += [setting.knob.said(setting.value) for setting in later]
        return ", ".join(said)

    def to_dict(self) -> dict[str, Any]:
        """Return the plan as plain JSON values."""
        return {
            "name": self.name,
            "device": self.device,
            "precision": self.precision,
            "compute": self.compute,
            "weights": str(self.home),
            "keep": self.keep,
            "masters": str(self.masters),
            "parts": {
                name: {"home": str(part.residency.home), "keep": part.residency.keep, "precision": part.precision}
                for name, part in self.parts.items()
            },
            "knobs": self.knobs,
            "reason": self.reason,
            "exact": self.exact,
            "words": self.words(),
        }
