"""The look of the page: one theme of our own on Gradio's base, system fonts, one accent. The rest is static/app.css."""

from __future__ import annotations

from pathlib import Path

import gradio as gr

from i2v.ui.language import script_words

__all__ = ["CSS_PATH", "build_head", "build_theme"]

_STATIC = Path(__file__).parent / "static"
CSS_PATH = _STATIC / "app.css"
_TEAL = gr.themes.Color(
    c50="#effcf9", c100="#cff7ee", c200="#a1eedf", c300="#69deca", c400="#34c5b0", c500="#17a394",
    c600="#0d8277", c700="#0c665f", c800="#0e514d", c900="#0f4340", c950="#042827", name="teal",
)  # fmt: skip


def build_head() -> str:
    """Return what the page's head holds: the script that every drawn part uses, with its words in every language."""
    script = (_STATIC / "app.js").read_text(encoding="utf-8").replace("/*words*/ {}", script_words())
    return f"<script>{script}</script>"


def build_theme() -> gr.themes.Base:
    """Return the theme, light and dark."""
    return gr.themes.Base(
        primary_hue=_TEAL,
        secondary_hue=_TEAL,
        neutral_hue=gr.themes.colors.slate,
        radius_size=gr.themes.sizes.radius_lg,
        font=["system-ui", "-apple-system", "Segoe UI", "Roboto", "Noto Sans", "sans-serif"],
        font_mono=["ui-monospace", "SFMono-Regular", "Menlo", "Consolas", "monospace"],
    ).set(
        body_background_fill="#f6f8f9",
        body_background_fill_dark="#0d1416",
        background_fill_secondary_dark="#10191c",
        block_background_fill="white",
        block_background_fill_dark="#141d20",
        block_border_color="#dfe6e9",
        block_border_color_dark="#243035",
        block_label_text_color="#41525a",
        block_label_text_color_dark="#b6c6cc",
        block_title_text_color="#25343a",
        block_title_text_color_dark="#dbe6ea",
        block_title_text_weight="600",
        block_shadow="0 1px 2px rgb(15 40 45 / 5%)",
        block_shadow_dark="none",
        input_background_fill="#fbfcfd",
        input_background_fill_dark="#0f171a",
        button_primary_background_fill="*primary_600",
        button_primary_background_fill_hover="*primary_700",
        button_primary_background_fill_dark="*primary_600",
        button_primary_background_fill_hover_dark="*primary_700",
        button_primary_text_color="white",
        body_text_color_subdued="#566a72",
        body_text_color_subdued_dark="#93a7af",
    )
