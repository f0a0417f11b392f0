"""The input fields of the page, and how they are filled in. Knows no jobs; form_values.py reads them."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

import gradio as gr
from gradio.components import Component
from gradio.data_classes import ImageData

from i2v.memory.abilities import APPROXIMATE
from i2v.presets.model_preset import ModelPreset, default_model, load_presets, preset_named
from i2v.service import Service
from i2v.ui.example_gallery import Example, Gallery
from i2v.ui.form_limits import frames_extent, short_side_extent
from i2v.ui.language import ENGLISH, Language, label

__all__ = ["Form", "model_choices"]

_FORMAT_CHOICES = [("GIF", "gif"), ("WebP", "webp"), (label("PNG frames (zip)"), "png")]


class Form:
    """The fields by the name their value has in a request.

    Each of its parts is built by its method, called where in the page's layout it shall stand.
    """

    def __init__(self, service: Service):
        self._service, self._preset = service, preset_named(default_model())
        self.fields: dict[str, Any] = {}  # gradio adds the components' events at run time
        self.swap: Any = None
        self._prompts: dict[str, gr.Dataset] = {}  # to try, by model; only the chosen model's are shown

    @property
    def names(self) -> list[str]:
        return list(self.fields)

    @property
    def components(self) -> list[Component]:
        return list(self.fields.values())

    @property
    def filled(self) -> list[Component]:
        """What choosing a model or an example, or reusing a request, may change."""
        return [*self.components, *self._prompts.values()]

    def picture(self) -> None:
        sources: list[Literal["upload", "webcam", "clipboard"]] = ["upload", "clipboard"]
        if self._service.settings.webcam:
            sources.append("webcam")
        self.fields["image"] = gr.Image(
            label=label("Start image"),
            type="filepath",
            sources=sources,
            height=260,
            elem_id="picture",
        )
        # Gradio would decode the picture and save it again, without transparency: the file itself is wanted.
        self.fields["image"].preprocess = _uploaded_file

    def fit(self) -> None:
        choices = [(label("Crop to fill"), "crop"), (label("Show the whole picture"), "fit")]
        self.fields["image_fit"] = gr.Radio(
            choices,
            value="crop",
            label=label("The picture has another shape than the video"),
            visible=False,  # until it has
            elem_id="image-fit",
        )

    def prompt(self) -> None:
        self.fields["prompt"] = gr.Textbox(
            label=label("Prompt"), lines=2, max_lines=6, placeholder="the camera pans left", elem_id="prompt"
        )

    def prompts_to_try(self) -> None:
        for preset in load_presets().values():
            if preset.example_prompts:
                shown = gr.Examples(
                    [[text] for text in preset.example_prompts],
                    inputs=[self.fields["prompt"]],
                    label=label("Prompts to try"),
                    elem_id=f"prompts-{preset.name}",
                    visible=preset is self._preset,
                )
                self._prompts[preset.name] = shown.dataset

    def model(self) -> None:
        self.fields["model"] = gr.Dropdown(
            model_choices(self._service),
            value=self._preset.name,
            label=label("Model"),
            info=label(self._preset.summary),
            elem_id="model",
            filterable=False,
        )

    def size_and_length(self) -> None:
        preset = self._preset
        with gr.Row(elem_classes="i2v-joined"):
            self.fields["match_picture"] = gr.Checkbox(True, label=label("Size matches my picture"), elem_id="match")
            self.swap = gr.Button(label("Swap sides"), size="sm", elem_id="swap", min_width=110, scale=0)
        with gr.Row():
            self.fields["short_side_px"] = gr.Slider(
                value=preset.defaults.short_side_px,
                **short_side_extent(preset),
                buttons=[],
                label=label("Short side (px)"),
                elem_id="short-side",
            )
            self.fields["width"] = gr.Number(
                768, label=label("Width (px)"), precision=0, visible=False, elem_id="width", min_width=120
            )
            self.fields["height"] = gr.Number(
                512, label=label("Height (px)"), precision=0, visible=False, elem_id="height", min_width=120
            )
        with gr.Row():
            self.fields["num_frames"] = gr.Slider(
                value=preset.defaults.num_frames,
                **frames_extent(preset),
                buttons=[],
                label=label("Frames"),
                elem_id="frames",
                min_width=200,
            )
            self.fields["fps"] = gr.Slider(
                preset.fps.low,
                preset.fps.high,
                preset.defaults.fps,
                step=1,
                buttons=[],
                label=label("FPS"),
                elem_id="fps",
                min_width=200,
            )
        self.fields["loop"] = gr.Checkbox(
            False, label=label("Loop: the end flows into the beginning"), visible=preset.rules.can_loop, elem_id="loop"
        )

    def more(self) -> None:
        preset = self._preset
        with gr.Accordion(label("More settings"), open=False, elem_id="more"):
            self.fields["negative_prompt"] = gr.Textbox(
                preset.defaults.negative_prompt,
                label=label("Negative prompt"),
                info=label("What should not happen. Used when guidance is above 1."),
                lines=1,
                elem_id="negative",
            )
            with gr.Row():
                self.fields["num_inference_steps"] = gr.Slider(
                    1,
                    100,
                    preset.defaults.num_inference_steps,
                    step=1,
                    buttons=[],
                    label=label("Steps"),
                    elem_id="steps",
                    min_width=200,
                )
                self.fields["guidance_scale"] = gr.Slider(
                    preset.guidance_scale.low,
                    preset.guidance_scale.high,
                    preset.defaults.guidance_scale,
                    step=0.1,
                    buttons=[],
                    label=label("Guidance"),
                    elem_id="guidance",
                    min_width=200,
                )
            with gr.Row():
                self.fields["seed"] = gr.Textbox(
                    label=label("Seed"), placeholder=label("random"), elem_id="seed", min_width=160
                )
                dice = gr.Button("🎲", elem_id="dice", min_width=44)
                dice.click(None, None, self.fields["seed"], js="() => String(Math.floor(Math.random() * 2 ** 32))")
            self.fields["formats"] = gr.CheckboxGroup(
                _FORMAT_CHOICES, label=label("Save as well as MP4"), elem_id="formats"
            )

    def advanced(self) -> None:
        chunk = self._service.settings.chunk_frames
        with gr.Accordion(label("Advanced: memory and precision"), open=False, elem_id="advanced"):
            with gr.Row():
                # Not gr.Number: an empty one becomes 0.
                self.fields["chunk_frames"] = gr.Textbox(
                    label=label("Frames per chunk"),
                    info=label("Worked on at a time; the video is the same."),
                    placeholder=f"{chunk}, set by CHUNK_SIZE" if chunk else label("as large as fits"),
                    max_lines=1,
                    elem_id="chunk",
                )
                self.fields["vram_gib"] = gr.Textbox(
                    label=label("Use at most (GiB)"),
                    info=label("Of the card’s memory; of RAM without a card."),
                    placeholder=label("all that is free"),
                    max_lines=1,
                    elem_id="vram",
                )
                self.fields["ram_gib"] = gr.Textbox(
                    label=label("RAM: use at most (GiB)"),
                    info=label("Where weights wait that are not on the card."),
                    placeholder=label("all that is free"),
                    max_lines=1,
                    elem_id="ram",
                )
            self.fields["precision"] = gr.Dropdown(
                self.precision_choices(self._preset),
                value="auto",
                label=label("Precision"),
                info=label("An approximate one takes less memory and changes the video a little."),
                filterable=False,
                elem_id="precision",
            )

    def precision_choices(self, preset: ModelPreset, language: Language = ENGLISH) -> list[tuple[str, str]]:
        """Return (label, name) of what a model's denoiser can be stored in, and of i2v's own choice."""
        fixed, say = self._service.settings.precision, language.say
        automatic = (
            say("{precision}, set by {variable}", precision=fixed, variable=f"USE_{fixed.upper()}")
            if fixed
            else say("Automatic")
        )
        named = [
            (say("{precision} (approximate)", precision=name) if name in APPROXIMATE else name, name)
            for name in preset.precisions
        ]
        return [(automatic, "auto"), *named]

    def model_updates(
        self, model: str, language: Language, start: Mapping[str, Any] | None = None
    ) -> dict[Component, Any]:
        """Return the fields as they should be after another model was chosen: its limits, its defaults or `start`."""
        preset = preset_named(model)
        f, values = (
            self.fields,
            preset.defaults.model_dump() | {"chunk_frames": "", "precision": "auto"} | dict(start or {}),
        )
        return {
            **{prompts: gr.Dataset(visible=name == model) for name, prompts in self._prompts.items()},
            f["model"]: gr.Dropdown(info=language.say(preset.summary)),
            f["loop"]: gr.Checkbox(False, visible=preset.rules.can_loop),
            f["short_side_px"]: gr.Slider(value=values["short_side_px"], **short_side_extent(preset)),
            f["num_frames"]: gr.Slider(value=values["num_frames"], **frames_extent(preset, values["num_frames"])),
            f["fps"]: _slider(values["fps"], preset.fps.low, preset.fps.high),
            f["negative_prompt"]: values["negative_prompt"],
            f["num_inference_steps"]: gr.Slider(
                value=values["num_inference_steps"], maximum=preset.num_inference_steps.high
            ),
            f["guidance_scale"]: _slider(
                values["guidance_scale"], preset.guidance_scale.low, preset.guidance_scale.high
            ),
            f["chunk_frames"]: values["chunk_frames"],
            f["precision"]: gr.Dropdown(self.precision_choices(preset, language), value=values["precision"]),
        }

    def reuse_updates(
        self, request: Mapping[str, Any], picture: Path | None, language: Language
    ) -> dict[Component, Any]:
        """Return the fields filled from a finished request."""
        f = self.fields
        updates = self.model_updates(request["model"], language)
        updates |= {f[name]: request[name] for name in ("prompt", "negative_prompt")}
        updates[f["image_fit"]] = request.get("image_fit", "crop")
        preset = preset_named(request["model"])
        choices = [(language.retell(shown), name) for shown, name in model_choices(self._service)]
        updates[f["model"]] = gr.Dropdown(choices, value=preset.name, info=language.say(preset.summary))
        updates[f["loop"]] = gr.Checkbox(request.get("loop", False), visible=preset.rules.can_loop)
        frames = frames_extent(preset, preset.num_frames.high)
        updates[f["num_frames"]] = gr.Slider(value=request["num_frames"], **frames)
        for name in ("fps", "num_inference_steps", "guidance_scale"):
            bounds = getattr(preset, name)
            updates[f[name]] = _slider(request[name], bounds.low, bounds.high)
        return updates | {
            f["seed"]: str(request["seed"]),
            f["formats"]: list(request.get("formats", [])),
            f["chunk_frames"]: _number_words(request.get("chunk_frames")),
            f["vram_gib"]: _number_words(request.get("vram_gib")),
            f["ram_gib"]: _number_words(request.get("ram_gib")),
            f["precision"]: gr.Dropdown(
                self.precision_choices(preset, language), value=request.get("precision", "auto")
            ),
            f["match_picture"]: False,
            f["short_side_px"]: gr.Slider(visible=False),
            f["width"]: gr.Number(request["width"], visible=True),
            f["height"]: gr.Number(request["height"], visible=True),
            f["image"]: str(picture) if picture else None,
        }

    def example_updates(self, gallery: Gallery, example: Example, model: str) -> dict[Component, Any]:
        """Return the fields filled from an example; for a model it was not chosen for, only picture and prompt."""
        f = self.fields
        updates = {f["image"]: str(gallery.path(example)), f["prompt"]: example.prompt, f["match_picture"]: True}
        if model == gallery.model:
            frames = example.num_frames or preset_named(model).defaults.num_frames
            updates |= {f["num_frames"]: frames, f["loop"]: example.loop}
        return updates


def model_choices(service: Service) -> list[tuple[str, str]]:
    """Return (label, name) of every model."""
    return [
        (state.preset.title + ("" if state.installed else " (not downloaded)"), state.preset.name)
        for state in service.models()
    ]


def _slider(value: float, low: float, high: float) -> gr.Slider:
    return gr.Slider(value=value, minimum=low, maximum=high)


def _uploaded_file(payload: ImageData | None) -> str | None:
    return payload.path if payload else None


def _number_words(number: float | None) -> str:
    return "" if number is None else f"{number:g}"
