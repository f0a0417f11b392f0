"""What the page says of a run: its plan, its step-downs, its settings and what it took. Pure."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from i2v.presets.model_preset import load_presets
from i2v.ui.language import ENGLISH, Language

__all__ = ["peak_words", "plan_words", "run_facts", "seconds_words", "step_down_sentence"]

_GIB = 1 << 30


def run_facts(request: Mapping[str, Any], result: Mapping[str, Any], language: Language) -> list[str]:
    """Return what a job asked for and, where it has a result, what that took: one short piece each."""
    say, stopped = language.say, result.get("stopped") or {}
    frames = stopped["step"] if stopped.get("stage") == "decode" else request["num_frames"]
    preset = load_presets().get(request["model"])
    facts = [
        language.retell(preset.title) if preset else str(request["model"]),
        f"{request['width']} × {request['height']}",
        say("{frames} frames at {fps} fps", frames=frames, fps=request["fps"]),
        *([say("loop")] if request.get("loop") else []),
        say("{n} steps", n=request["num_inference_steps"]),
        say("seed {seed}", seed=request["seed"]),
    ]
    return facts + _stopped(stopped, language) + (_taken(result, language) if result else [])


def _stopped(stopped: Mapping[str, Any], language: Language) -> list[str]:
    if not stopped:
        return []
    text = (
        "kept after step {step} of {total}" if stopped["stage"] == "denoise" else "kept after frame {step} of {total}"
    )
    return [language.say(text, step=stopped["step"], total=stopped["total"])]


def _taken(result: Mapping[str, Any], language: Language) -> list[str]:
    expected = (result.get("forecast") or {}).get("comparable_bytes") or 0
    memory = "VRAM" if result.get("peak_kind") == "gpu" else "RAM"
    peak = peak_words(result.get("peak_bytes", 0), expected, language)
    words = str(result.get("plan", {}).get("words", ""))
    plan = [language.retell_list(words)] if words else []
    return [seconds_words(result["seconds"], language), f"{memory} {peak}", *plan]


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


def step_down_sentence(step: Mapping[str, Any], language: Language) -> str:
    """Say when and why a run went over to a smaller plan."""
    return language.say(
        "Stepped down after {seconds} s ({where}): {why}. From {before} to {after}.",
        seconds=f"{step['t_s']:.0f}",
        where=_where(step, language),
        why=language.retell(step["why"]),
        before=language.retell_list(step["before"]),
        after=language.retell_list(step["after"]),
    )


def _where(step: Mapping[str, Any], language: Language) -> str:
    if step["stage"] == "denoise":
        return language.say("denoise, step {step}", step=step["step"])
    if step["stage"] == "decode":
        return language.say("decode, frame {step}", step=step["step"])
    return language.retell(step["stage"])


def plan_words(plan: Mapping[str, Any], language: Language) -> dict[str, str]:
    """Return the plan at work in short, and why it was chosen."""
    words, reason = str(plan.get("words", "")), str(plan.get("reason", ""))
    if not reason:
        return {"plan": "", "why": ""}
    why = reason.removeprefix(f"{words}: ") if words else reason
    # A step-down's reason is known as a whole, that of the first plan without its words.
    told = language.retell(reason) if why[:1].islower() and "stepped down" in why else language.retell(_upper(why))
    return {"plan": language.say("Plan: {plan}", plan=language.retell_list(words)) if words else "", "why": told}


def _upper(sentence: str) -> str:
    return sentence[:1].upper() + sentence[1:]
