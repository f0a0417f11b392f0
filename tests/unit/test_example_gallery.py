"""The example gallery: small photographs with their sources, and prompts that the model knows."""

from __future__ import annotations

import pytest
from PIL import Image

from i2v.errors import InputError
from i2v.presets.model_preset import preset_named
from i2v.presets.vocabulary import prompt_note
from i2v.request import build_request
from i2v.ui import example_gallery
from i2v.ui.example_gallery import GALLERY_FOLDER, Example, load_gallery

GALLERY = load_gallery()


def test_there_are_six_pictures_and_each_is_in_the_list() -> None:
    assert len(GALLERY.examples) == 6
    assert {example.file for example in GALLERY.examples} == {path.name for path in GALLERY_FOLDER.glob("*.jpg")}


@pytest.mark.parametrize("example", GALLERY.examples, ids=lambda example: example.file)
def test_an_example_is_small_named_and_possible(example: Example) -> None:
    path = GALLERY.path(example)
    assert path.stat().st_size <= 120 << 10
    with Image.open(path) as picture:
        assert (picture.format, picture.mode) == ("JPEG", "RGB")
        assert 400 <= max(picture.size) <= 768
        size = picture.size
    assert example.source.startswith("https://")
    assert example.author
    assert example.licence in ("CC0 1.0", "CC BY 2.0", "public domain")
    assert bool(example.licence_text) == example.licence.startswith("CC")
    values = {"model": GALLERY.model, "prompt": example.prompt, "num_frames": example.num_frames, "loop": example.loop}
    assert build_request(values, size).loop == example.loop
    assert prompt_note(preset_named(GALLERY.model), example.prompt) == ""


def test_a_broken_gallery_names_the_file_and_the_key(tmp_path_factory: pytest.TempPathFactory) -> None:
    folder = tmp_path_factory.mktemp("gallery")
    (folder / "gallery.yaml").write_text("model: motion\nexamples: [{file: a.jpg}]\n")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(example_gallery, "GALLERY_FOLDER", folder)
        load_gallery.cache_clear()
        with pytest.raises(InputError, match=r"gallery\.yaml is not a valid gallery.*title"):
            load_gallery()
    load_gallery.cache_clear()
