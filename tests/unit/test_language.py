"""The page's languages: every sentence that a person can see has a translation, and its holes are filled."""

from __future__ import annotations

import ast
import re
from functools import cache
from pathlib import Path

import pytest

from i2v import errors
from i2v.errors import InputError
from i2v.jobs.database import _REFUSALS
from i2v.media import part, sniff
from i2v.presets.model_preset import load_presets
from i2v.presets.tiers import load_tiers
from i2v.ui.language import ENGLISH, Language, language_named, languages, texts_in_scripts

PACKAGE = Path(errors.__file__).parent
CHINESE = languages()["zh-CN"]
KNOWN = CHINESE._catalogue
ERRORS = set(errors.__all__) | {"_refusal"}
# Their errors are for a terminal, for programs, or for those who develop i2v; the page never shows them.
ELSEWHERE = ("cli/", "builtin/", "rest/", "engine/bench", "web/launch", "settings", "ui/client_api")
HOLE = re.compile(r"\{\w*(:\w+)?\}")


def without_names(text: str) -> str:
    return HOLE.sub("{}", text)


SHAPES = {without_names(text) for text in KNOWN}


@cache
def sources() -> list[tuple[str, ast.Module]]:
    paths = sorted(PACKAGE.rglob("*.py"))
    return [(p.relative_to(PACKAGE).as_posix(), ast.parse(p.read_text(encoding="utf-8"))) for p in paths]


def name_of(call: ast.Call) -> str:
    return call.func.id if isinstance(call.func, ast.Name) else getattr(call.func, "attr", "")


def texts_of(node: ast.expr, constants: dict[str, ast.expr]) -> list[str]:
    """Return the texts that an expression can be, holes as {}; [] for one that is made elsewhere."""
    match node:
        case ast.Constant(value=str(text)):
            return [text] if text else []
        case ast.JoinedStr(values=values):
            return ["".join(str(v.value) if isinstance(v, ast.Constant) else "{}" for v in values)]
        case ast.IfExp(body=body, orelse=orelse):
            return texts_of(body, constants) + texts_of(orelse, constants)
        case ast.Name(id=name) if name in constants:
            return texts_of(constants[name], {})
        case ast.Tuple(elts=elements):
            return [text for element in elements for text in texts_of(element, constants)]
    return []


def assigned(tree: ast.Module) -> dict[str, ast.expr]:
    found = [node for node in ast.walk(tree) if isinstance(node, ast.Assign) and len(node.targets) == 1]
    return {node.targets[0].id: node.value for node in found if isinstance(node.targets[0], ast.Name)}


def error_texts() -> list[tuple[str, str]]:
    found = []
    for name, tree in sources():
        if name.startswith(ELSEWHERE):
            continue
        constants = assigned(tree)
        for call in (node for node in ast.walk(tree) if isinstance(node, ast.Call) and name_of(node) in ERRORS):
            for argument in call.args[:3] if name_of(call) == "_refusal" else call.args[:2]:
                found += [(name, text) for text in texts_of(argument, constants)]
    return found


def said_texts() -> list[tuple[str, str]]:
    found = []
    for name, tree in sources():
        if not name.startswith("ui/"):
            continue
        constants = assigned(tree)
        for call in (node for node in ast.walk(tree) if isinstance(node, ast.Call)):
            if name_of(call) in ("label", "say") and call.args:
                found += [(name, text) for text in texts_of(call.args[0], constants)]
    return found


def lacking(texts: list[tuple[str, str]]) -> list[str]:
    """Return the texts that have no translation, each with its place; what is nothing but holes needs none."""
    bare = re.compile(r"[\W{}]*(\{\}[\W]*)+")
    return [
        f"{place}: {text}" for place, text in texts if not bare.fullmatch(text) and without_names(text) not in SHAPES
    ]


def test_every_error_has_a_translation() -> None:
    assert len(error_texts()) > 150
    assert lacking(error_texts()) == []


def test_every_text_of_the_page_has_a_translation() -> None:
    assert len(said_texts()) > 100
    assert lacking(said_texts()) == []


def test_every_text_of_a_script_has_a_translation() -> None:
    assert len(texts_in_scripts()) > 50
    assert [text for text in sorted(texts_in_scripts()) if text not in KNOWN] == []


def test_what_presets_and_tables_say_has_a_translation() -> None:
    of_models = [t for p in load_presets().values() for t in (p.summary, p.licence_note, p.nothing_known) if t]
    of_cards = [text for tier in load_tiers() for text in (tier.title, tier.note) if text]
    of_files = [text for refusal in _REFUSALS.values() for text in refusal] + list(part._REMEDIES.values())
    kinds = [kind.phrase for _, kind in sniff._MAGIC] + [sniff._UNKNOWN.phrase]
    said = of_models + of_cards + of_files + kinds
    assert [text for text in said if text not in KNOWN] == []


def test_scripts_say_only_literal_texts() -> None:
    for path in sorted((PACKAGE / "ui" / "static").glob("*.js")):
        calls = re.findall(r"(?<![\w.])(?:i2v\.)?say\((?!\s*\")([^)]*)", path.read_text(encoding="utf-8"))
        assert [call for call in calls if path.name != "app.js"] == [], path.name


def test_no_text_is_given_twice_or_left_empty() -> None:
    lines = (PACKAGE / "ui" / "words" / "zh-CN.yaml").read_text(encoding="utf-8").splitlines()
    keys = [line.split('": ')[0] for line in lines if line.startswith('"')]
    assert sorted({key for key in keys if keys.count(key) > 1}) == []
    assert all(said.strip() for said in KNOWN.values())


def test_a_translation_has_no_hole_that_the_text_has_not() -> None:
    holes = re.compile(r"\{(\w+)")
    assert [text for text, said in KNOWN.items() if not set(holes.findall(said)) <= set(holes.findall(text))] == []


def test_a_sentence_with_values_is_recognised() -> None:
    error = InputError("the prompt has 99 tokens and motion reads 48: “zoom in” would be cut", "Shorten it.")
    assert CHINESE.error(error) == "提示词有 99 个词元，而 motion 只读 48 个：“zoom in”会被截掉。请缩短。"
    assert ENGLISH.error(error) == str(error)


def test_what_a_person_wrote_is_not_translated() -> None:
    error = InputError("the prompt has 9 tokens and motion reads 8: “Cancel” would be cut", "Shorten it.")
    assert "“Cancel”" in CHINESE.error(error)


def test_a_plan_is_told_part_by_part() -> None:
    plan = "fp16, exact chunks of 4 frames, weights streamed"
    assert CHINESE.retell_list(plan) == "fp16、每 4 帧一块、结果不变、权重逐层传入"
    assert CHINESE.retell(f"{plan}: needs 9.1 GiB of RAM but 3.0 are free.").startswith("fp16、每 4 帧一块")


def test_a_hole_keeps_braces_of_a_value() -> None:
    assert Language("xx", {"{a} of {b}": "{b}/{a}"}).say("{a} of {b}", a="{b}", b=2) == "2/{b}"


@pytest.mark.parametrize(
    ("tag", "code"), [("zh-CN", "zh-CN"), ("zh", "zh-CN"), ("zh-Hans-SG", "zh-CN"), ("fr", "en"), ("", "en")]
)
def test_the_browsers_first_language_counts(tag: str, code: str) -> None:
    assert language_named(tag).code == code
