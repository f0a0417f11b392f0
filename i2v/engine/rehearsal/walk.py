"""Walks one run on the fake card: load, encode, denoise, decode, with the engine's own doors and step-downs.

What a rehearsal cannot show is in `NOT_SHOWN`. Not walked: pictures from disk, files of frames, the worker.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, nullcontext
from dataclasses import dataclass, field
from pathlib import Path
from typing import TypeVar

import numpy as np
import torch
from torch._subclasses.fake_tensor import FakeTensorMode

from i2v.engine.doors import Doors, with_less_memory
from i2v.engine.memory_watch import MemoryWatch
from i2v.engine.rehearsal.card import DEVICE, FakeCard, RunOut, device_of
from i2v.engine.rehearsal.order import RehearsalError
from i2v.engine.rehearsal.stand_ins import stand_ins
from i2v.engine.run import load_pipeline
from i2v.jobs.result import Stage
from i2v.memory.exact.pieces import first_pieces_only
from i2v.memory.machine_now import GIB
from i2v.memory.plan import Plan
from i2v.memory.step_down import smaller_plans
from i2v.models.base import Conditions, ImageToVideo, cpu_generator
from i2v.models.binding import class_of
from i2v.presets.model_preset import ModelPreset
from i2v.request import GenerationRequest

__all__ = ["NOT_SHOWN", "Rehearsal", "Subject", "rehearse"]

T = TypeVar("T")
NOT_SHOWN = (
    "kernels that do not exist for a dtype or a card",
    "numbers that overflow in fp16",
    "whether copies really overlap with computing",
    "workspaces of cuDNN and cuBLAS, and what the caching allocator reserves beyond what lives",
    "the driver's own errors",
)


@dataclass(frozen=True)
class Subject:
    """What is rehearsed. `home` holds the model's folder in its family's layout: configs and tokenizers, no weights."""

    preset: ModelPreset
    home: Path
    request: GenerationRequest


@dataclass
class Rehearsal:
    """What a walk saw. By stage: the peak of live bytes on the card; by door: calls. `plans`: first to last."""

    peak_bytes: dict[str, int] = field(default_factory=dict)
    calls: dict[str, int] = field(default_factory=dict)
    plans: list[Plan] = field(default_factory=list)
    frames: int = 0
    operations: int = 0
    bytes_left: int = 0
    not_shown: tuple[str, ...] = NOT_SHOWN


def rehearse(
    subject: Subject,
    plan: Plan,
    *,
    run_outs: tuple[RunOut, ...] = (),
    budget_bytes: int | None = None,
    ram_bytes: int = 256 * GIB,
    every_piece: bool = False,
    mend: Callable[[ImageToVideo], None] = lambda pipeline: None,
) -> Rehearsal:
    """Walk a run under a plan. Raises RehearsalError, and whatever the code that is walked raises.

    `run_outs`: where memory runs out (each must come to pass); `budget_bytes`: how much there is. `every_piece`: loops
    over pieces are run to their end and not twice only. `mend`: changes the loaded pipeline, for tests.
    """
    for part in subject.preset.declared.parts:
        class_of(part.cls)  # a library that is first imported among fake tensors would keep some
    card = FakeCard(budget_bytes, run_outs)
    with ExitStack() as stack:
        stack.enter_context(_FakeTensors(allow_non_fake_inputs=True))
        # Not inference mode as in a real run: within it tensors do not tell whether they were written to.
        stack.enter_context(torch.no_grad())
        stack.enter_context(stand_ins(card, ram_bytes, budget_bytes or 1024 * GIB))
        stack.enter_context(card)
        stack.enter_context(nullcontext() if every_piece else first_pieces_only())
        walk = _Walk(subject, plan, card)
        walk.load(mend)
        walk.run()
        seen = walk.seen
        del walk
    seen.calls, seen.operations = card.calls, card.operations
    if card.run_outs_left:
        raise RehearsalError(f"{card.run_outs_left} of {run_outs} did not come to pass")
    return seen


class _FakeTensors(FakeTensorMode):
    """torch's own mode, which would look for a driver because the fake card says that there is one."""

    @property
    def avoid_device_init(self) -> bool:
        return True


class _Walk:
    """One run on the fake card."""

    pipeline: ImageToVideo

    def __init__(self, subject: Subject, plan: Plan, card: FakeCard):
        self._subject, self._plan, self._card = subject, plan, card
        self._before = 0  # live bytes when the call that is going on began, without weights
        self._step_ended = False
        self.seen = Rehearsal(plans=[plan])

    def load(self, mend: Callable[[ImageToVideo], None]) -> None:
        """Load the model and arrange it as the engine does."""
        with self._stage(Stage.LOAD):
            self._door(Stage.LOAD, self._load)
        mend(self.pipeline)
        self._card.name_of = self._name_of

    def _load(self) -> None:
        self.pipeline, _ = load_pipeline(self._subject.preset, self._subject.home, self._plan)
        self.pipeline.arrange(self._plan)

    def run(self) -> None:
        """Encode, denoise and decode."""
        request, generator = self._subject.request, cpu_generator(self._subject.request.seed)
        picture = np.zeros((request.height, request.width, 3), np.uint8)
        with self._stage(Stage.ENCODE):
            conditions = self._door(Stage.ENCODE, lambda: self.pipeline.encode(request, picture, generator))
        with self._stage(Stage.DENOISE):
            latents = self._denoise(conditions, generator)
        with self._stage(Stage.DECODE):
            self._decode(latents, conditions)
        del conditions, latents
        self._card.raise_late()
        self.seen.bytes_left = self._card.live_bytes

    def _denoise(self, conditions: Conditions, generator: torch.Generator) -> torch.Tensor:
        request, watch = self._subject.request, MemoryWatch(DEVICE, lambda sample: None)

        def step_seen(latents: torch.Tensor, clean: torch.Tensor) -> None:
            watch.sample()
            self.pipeline.preview(clean, conditions, request)
            self._step_ended = True

        doors = Doors(self._denoiser_called, step_seen, self._step_down, spills=True)
        with doors.open(self.pipeline):
            start = self.pipeline.draw_latents(request, generator)
            return self.pipeline.denoise(start, conditions, request)

    def _denoiser_called(self) -> bool:
        """Say that the run was not cancelled. That is asked before each call of the denoiser, and after each step."""
        if not self._step_ended:
            self._begin(Stage.DENOISE)
        self._step_ended = False
        return False

    def _decode(self, latents: torch.Tensor, conditions: Conditions) -> None:
        request, source = self._subject.request, None

        def take() -> np.ndarray | None:
            nonlocal source
            going, source = source or self.pipeline.decode(latents, conditions, request, self.seen.frames), None
            frame = next(going, None)
            source = going
            return frame

        while (frame := self._door(Stage.DECODE, take)) is not None:
            if frame.shape != (request.height, request.width, 3) or frame.dtype != np.uint8:
                raise RehearsalError(f"a frame of {frame.shape} {frame.dtype}")
            self.seen.frames += 1

    # Doors

    @contextmanager
    def _stage(self, name: Stage) -> Iterator[None]:
        self._card.start_peak()
        yield
        self.seen.peak_bytes[name] = self._card.peak_bytes

    def _door(self, door: Stage, call: Callable[[], T]) -> T:
        def begun() -> T:
            self._begin(door)
            return call()

        return with_less_memory(begun, door, self._step_down)

    def _begin(self, door: Stage) -> None:
        self._card.call(door)
        self._before = self._card.live_bytes - self._weights_here()

    def _weights_here(self) -> int:
        """Return the bytes of weights that are in their modules and on the card."""
        modules = self.pipeline.modules().values() if hasattr(self, "pipeline") else ()
        weights = (tensor for module in modules for tensor in (*module.parameters(), *module.buffers()))
        storages = [tensor.untyped_storage() for tensor in weights if device_of(tensor) == DEVICE]
        return sum({storage._cdata: storage.nbytes() for storage in storages}.values())

    def _step_down(self, stage: Stage, why: str) -> bool:
        """Put the next smaller plan to work, after a look at what the failed call left behind."""
        left = self._card.live_bytes - self._weights_here() - self._before
        if left > 0:
            raise RehearsalError(f"{left} bytes of the call that ran out during {stage} are still taken")
        smaller = next(smaller_plans(self._plan, stage, self._subject.request.num_frames), None)
        if smaller is None:
            return False
        self._plan = smaller
        self.seen.plans.append(smaller)
        if hasattr(self, "pipeline"):
            self.pipeline.arrange(smaller)
        return True

    def _name_of(self, memory: int) -> str:
        for name, module in self.pipeline.modules().items():
            for part, tensor in (*module.named_parameters(), *module.named_buffers()):
                if tensor.untyped_storage()._cdata == memory:
                    return f"{name}.{part}"
        return ""
