"""What comes after a plan that ran out of memory: the next smaller plans, all with the same result. No torch."""

from __future__ import annotations

from collections.abc import Iterator

from i2v.memory.plan import Plan
from i2v.memory.residency import Home

__all__ = ["smaller_plans"]


def smaller_plans(plan: Plan, stage: str, num_frames: int) -> Iterator[Plan]:
    """Yield the plans below one, each smaller than the last, for a stage ("load", "encode", "denoise", "decode").

    What costs least time comes first: weights in turns, fewer blocks kept, then the stage's knobs one value at a time;
    streaming comes after them, and last the knobs that need it. A family with one way to run has none.
    """
    if plan.family.is_small:
        return
    on_card = plan.device != "cpu"
    if plan.home is Home.RESIDENT and on_card:
        plan = plan.housed(Home.TURNS).named("turns")
        yield plan
    while plan.keep:
        plan = plan.housed(Home.STREAMED, plan.keep // 2)
        yield plan
    for knob in plan.family.knobs_for(stage):
        if not knob.needs_streaming:
            for value in knob.smaller(plan.knobs.get(knob.name), num_frames):
                plan = plan.turned(knob, value)
                yield plan if stage != "denoise" or plan.home is Home.STREAMED else plan.named(knob.rung)
    if not on_card:
        return
    if plan.home is not Home.STREAMED:
        plan = plan.housed(Home.STREAMED).named("streamed")
        yield plan
    for knob in plan.family.knobs_for(stage):
        if knob.needs_streaming:
            for value in knob.smaller(plan.knobs.get(knob.name), num_frames):
                plan = plan.turned(knob, value).named(knob.rung)
                yield plan
