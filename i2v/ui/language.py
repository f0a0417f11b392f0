"""The page's language: English as it stands in the code, or a translation of it, by the language of the browser.

A translation is a catalogue, words/<language>.yaml, from the English text to the other. A text may have holes, as in
"{free} GiB are free". Three ways lead to it. `label`: what Gradio shows and never changes. `Language.say`: what the
page says. `Language.retell`: sentences that come from elsewhere (errors, plans), whose template is found by its shape;
there a hole {x:say} is retold itself, and {x:list} part by part. What has no translation stays English; tests see to
it that everything has one. static/app.js offers the same as i2v.say. Knows nothing of jobs.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from functools import lru_cache
from pathlib import Path
from typing import Any

import gradio as gr
import yaml
from gradio.i18n import I18nData

from i2v.errors import I2VError

__all__ = [
    "ENGLISH",
    "Language",
    "gradio_words",
    "label",
    "language_named",
    "language_of",
    "languages",
    "script_words",
    "texts_in_scripts",
]

_FOLDER = Path(__file__).parent / "words"
_STATIC = Path(__file__).parent / "static"
_HOLE = re.compile(r"\{(\w+)(?::(say|list))?\}")
_SAID_IN_SCRIPT = re.compile(r"""\bsay\(\s*"((?:[^"\\]|\\.)*)"|data-say="([^"]*)\"""")


def label(text: str) -> Any:
    """Return a text that the browser translates: for a component's label, info, placeholder or choices.

    It must not hold {, } or ', which Gradio's own notation stumbles over.
    """
    return I18nData(text)


class Language:
    """One language. `code` is its BCP 47 tag."""

    def __init__(self, code: str, catalogue: Mapping[str, str]):
        self.code, self._catalogue = code, catalogue
        shapes = [(_shape(text), text, said) for text, said in catalogue.items() if _HOLE.search(text)]
        self._shapes = sorted(shapes, key=lambda shape: -len(_HOLE.sub("", shape[1])))  # the most telling first
        self._retold = lru_cache(maxsize=512)(self._retell)

    def say(self, text: str, **values: Any) -> str:
        """Return a text of the page with its holes filled."""
        return _filled(self._catalogue.get(text, text), values)

    def retell(self, sentence: str) -> str:
        """Return a sentence that was made elsewhere, holes and all; unchanged where it is not known."""
        return self._retold(sentence) if self._catalogue else sentence

    def retell_list(self, sentence: str) -> str:
        """Return a sentence made of parts between commas, each of which is known by itself."""
        return self._part("list", sentence) if self._catalogue else sentence

    def _retell(self, sentence: str) -> str:
        if sentence in self._catalogue:
            return self._catalogue[sentence]
        for shape, text, said in self._shapes:
            found = shape.fullmatch(sentence)
            if found:
                kinds = dict(_HOLE.findall(text))
                return _filled(said, {name: self._part(kinds[name], part) for name, part in found.groupdict().items()})
        return sentence

    def _part(self, kind: str, part: str) -> str:
        if kind == "list":
            return "、".join(self.retell(piece) for piece in part.split(", "))
        return self.retell(part) if kind == "say" else part

    def error(self, error: I2VError) -> str:
        """Return an error as its sentence and its remedy."""
        if not self._catalogue:
            return str(error)
        parts = [self.retell(part) for part in (error.message, error.remedy) if part]
        return "".join(part if part[-1] in "。!?！？" else part + "。" for part in parts)


def _shape(text: str) -> re.Pattern[str]:
    parts, at = [], 0
    for hole in _HOLE.finditer(text):
        parts += [re.escape(text[at : hole.start()]), f"(?P<{hole[1]}>.+?)"]
        at = hole.end()
    return re.compile("".join(parts) + re.escape(text[at:]), re.DOTALL)


def _filled(text: str, values: Mapping[str, Any]) -> str:
    return _HOLE.sub(lambda hole: str(values.get(hole[1], hole[0])), text)


def _load(code: str) -> Language:
    path = _FOLDER / f"{code}.yaml"
    return Language(code, yaml.safe_load(path.read_text(encoding="utf-8")))


ENGLISH = Language("en", {})


@lru_cache(maxsize=1)
def languages() -> dict[str, Language]:
    """Return every language by its code."""
    return {"en": ENGLISH} | {path.stem: _load(path.stem) for path in sorted(_FOLDER.glob("*.yaml"))}


def language_of(request: gr.Request | None) -> Language:
    """Return the language a browser asks for first; English for those that i2v does not speak."""
    asked = request.headers.get("accept-language", "") if request else ""
    return language_named(asked.partition(",")[0].partition(";")[0])


def language_named(tag: str) -> Language:
    """Return the language of a BCP 47 tag, by its first part where there is no other."""
    primary = tag.strip().lower().partition("-")[0]
    return next((spoken for code, spoken in languages().items() if code.partition("-")[0] == primary), ENGLISH)


def gradio_words() -> gr.I18n:
    """Return the translations as Gradio wants them for what `label` marks."""
    spoken = {code: dict(language._catalogue) for code, language in languages().items() if language is not ENGLISH}
    shown = {code: {k: v for k, v in words.items() if not _HOLE.search(k)} for code, words in spoken.items()}
    english = {text: text for words in shown.values() for text in words}
    return gr.I18n(en=english, **shown)


def script_words() -> str:
    """Return the translations of what static/*.js and *.html say, as JSON by language."""
    texts = sorted(texts_in_scripts())
    spoken = [language for language in languages().values() if language is not ENGLISH]
    return json.dumps({s.code: {t: s.say(t) for t in texts} for s in spoken}, ensure_ascii=False).replace(
        "<", "\\u003c"
    )


def texts_in_scripts() -> set[str]:
    """Return every text that the drawn parts say themselves: say("…") in scripts, data-say="…" in their frames."""
    sources = [path.read_text(encoding="utf-8") for kind in ("*.js", "*.html") for path in _STATIC.glob(kind)]
    return {a or b for source in sources for a, b in _SAID_IN_SCRIPT.findall(source)}
