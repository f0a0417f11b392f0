"""What the page says of a run: its plan, its step-downs, its settings and what it took. Pure."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from i2v.jobs.result import MemoryKind, PlanNote, RunResult, Stage, StepDown, Stopped
from i2v.presets.model_preset import load_presets
from i2v.ui.language import ENGLISH, Language

__all__ = ["peak_words", "plan_words", "run_facts", "seconds_words", "step_down_sentence"]

_GIB = 1 << 30


def run_facts(request: Mapping[str, Any], result: RunResult, language: Language) -> list[str]:
    """Return what a job asked for and, where it has a result, what that took: one short piece each."""
    say, stopped = language.say, result.stopped
    frames = stopped.step if stopped and stopped.stage is Stage.DECODE else request["num_frames"]
    preset = load_presets().get(request["model"])
    facts = [
        language.retell(preset.title) if preset else str(request["model"]),
        f"{request['width']} × {request['height']}",
        say("{frames} frames at {fps} fps", frames=frames, fps=request["fps"]),
        *([say("loop")] if request.get("loop") else []),
        say("{n} steps", n=request["num_inference_steps"]),
        say("seed {seed}", seed=request["seed"]),
    ]
    return facts + ([_stopped(stopped, language)] if stopped else []) + _taken(result, language)


def _stopped(stopped: Stopped, language: Language) -> str:
    denoising = stopped.stage is Stage.DENOISE
    text = "kept after step {step} of {total}" if denoising else "kept after frame {step} of {total}"
    return language.say(text, step=stopped.step, total=stopped.total)


def _taken(result: RunResult, language: Language) -> list[str]:
    """Return what is known of time, memory and plan."""
    expected = result.forecast.comparable_bytes if result.forecast else 0
    memory = "VRAM" if result.peak_kind is MemoryKind.GPU else "RAM"
    taken = [seconds_words(result.seconds, language)] if result.seconds is not None else []
    if result.peak_bytes is not None:
        taken.append(f"{memory} {peak_words(result.peak_bytes, expected, language)}")
    if result.plan and result.plan.words:
        taken.append(language.retell_list(result.plan.words))
    return taken


def seconds_words(seconds: float, language: Language) -> str:
    """Say how long something took."""
    if seconds < 60:
        return language.say("{seconds} s", seconds=f"{seconds:.1f}")
    return language.say("{minutes} min {seconds} s", minutes=int(seconds // 60), seconds=int(seconds % 60))


def peak_words(peak_bytes: int, expected_bytes: int, language: Language = ENGLISH) -> str:
    """Say a measured peak, beside what had been foreseen for it, 0 for nothing."""
    peak = f"{peak_bytes / _GIB:.2f}"
    if not expected_bytes:
        return language.say("peak {peak} GiB", peak=peak)
    return language.say("peak {peak} of {expected} GiB foreseen", peak=peak, expected=f"{expected_bytes / _GIB:.2f}")


def step_down_sentence(step: StepDown, language: Language) -> str:
    """Say when and why a run went over to a smaller plan."""
    return language.say(
        "Stepped down after {seconds} s ({where}): {why}. From {before} to {after}.",
        seconds=f"{step.t_s:.0f}",
        where=_where(step, language),
        why=language.retell(step.why),
        before=language.retell_list(step.before),
        after=language.retell_list(step.after),
    )


def _where(step: StepDown, language: Language) -> str:
    if step.stage is Stage.DENOISE:
        return language.say("denoise, step {step}", step=step.step)
    if step.stage is Stage.DECODE:
        return language.say("decode, frame {step}", step=step.step)
    return language.retell(step.stage)


def plan_words(plan: PlanNote | None, language: Language) -> dict[str, str]:
    """Return the plan at work in short, and why it was chosen."""
    if plan is None or not plan.reason:
        return {"plan": "", "why": ""}
    words, reason = plan.words, plan.reason
    why = reason.removeprefix(f"{words}: ") if words else reason
    # A step-down's reason is known as a whole, that of the first plan without its words.
    told = language.retell(reason) if why[:1].islower() and "stepped down" in why else language.retell(_upper(why))
    return {"plan": language.say("Plan: {plan}", plan=language.retell_list(words)) if words else "", "why": told}


def _upper(sentence: str) -> str:
    return sentence[:1].upper() + sentence[1:]
