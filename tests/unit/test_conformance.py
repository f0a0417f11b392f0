"""What every family promises, with a small model in its real layout and the real engine: one suite for all of them."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import pytest
import torch
from PIL import Image

from i2v.errors import Cancelled
from i2v.jobs.events import Preview
from i2v.media.metadata import read_metadata
from i2v.media.video import read_frames
from i2v.memory.residency import Home
from i2v.models.model_folders import models_from
from tests.families import CASES, FRAMES, STEPS, Made, Studio, plans_of
from tests.third_family.folder import FOLDER


@pytest.fixture(scope="module", autouse=True)
def third_family() -> Iterator[None]:
    with models_from(FOLDER):
        yield


@pytest.fixture(scope="module", params=CASES, ids=str)
def studio(request: pytest.FixtureRequest, third_family: None, tmp_path_factory: pytest.TempPathFactory) -> Studio:
    return Studio(request.param, tmp_path_factory.mktemp("home"))


def test_the_video_has_every_frame_and_the_request_that_made_it(studio: Studio) -> None:
    made = studio.planned(studio.whole)
    path = made.folder / made.result.files["mp4"]
    shapes = [frame.shape for frame in read_frames(path)]
    assert shapes == [(*studio.case.size[::-1], 3)] * FRAMES
    assert read_metadata(path)["request"] == studio.request().model_dump(mode="json")
    assert made.result.num_frames == FRAMES
    assert np.stack(made.frames).std() > 1


def test_a_seed_gives_the_same_bytes_again_and_another_another_video(studio: Studio) -> None:
    first = studio.planned(studio.whole)
    torch.manual_seed(1)
    state = torch.get_rng_state()
    assert studio.make(studio.whole).result.frames_sha256 == first.result.frames_sha256
    assert torch.equal(torch.get_rng_state(), state), "something else than the request's own generator was used"
    other = studio.make(studio.whole, seed=6)
    assert not torch.allclose(other.latents, first.latents, atol=1e-2)
    assert other.result.frames_sha256 != first.result.frames_sha256


def test_every_step_and_every_frame_is_reported_once_and_in_order(studio: Studio) -> None:
    made = studio.planned(studio.whole)
    assert list(dict.fromkeys(event.stage for event in made.progress)) == ["load", "encode", "denoise", "decode"]
    assert made.done("denoise") == list(range(1, STEPS + 1))
    assert made.done("decode") == [*range(1, FRAMES + 1), FRAMES]  # the last again when its file is whole
    fractions = [event.fraction for event in made.progress]
    assert fractions == sorted(fractions)
    assert fractions[-1] == 1.0
    assert [event.number for event in made.events if isinstance(event, Preview)] == list(range(1, STEPS + 1))


def test_a_preview_is_a_few_small_frames_of_the_same_aspect(studio: Studio) -> None:
    made = studio.planned(studio.whole)
    wide, high = studio.case.size
    for frames in made.previews:
        count, height, width, colours = frames.shape
        assert frames.dtype == np.uint8
        assert 2 <= count <= 8
        assert colours == 3
        assert max(height, width) <= 320
        assert width / height == pytest.approx(wide / high, rel=0.05)
    assert made.previews[-1].std() > 1
    with Image.open(made.folder / "preview.webp") as preview:
        assert getattr(preview, "n_frames", 1) > 1


@pytest.mark.parametrize("step", [1, STEPS])
def test_cancelling_takes_effect_within_one_step(studio: Studio, step: int) -> None:
    made = Made(studio.home)
    with pytest.raises(Cancelled):
        studio.make(studio.whole, lambda made: made.done("denoise")[-1:] == [step], made)
    assert made.done("denoise")[-1] == step
    assert not list(made.folder.glob("*.mp4*"))


def test_wherever_the_weights_are_the_frames_are_the_same_bytes(studio: Studio) -> None:
    """A family whose executor works layer by layer where weights are streamed sums up otherwise there, always alike."""
    whole = studio.planned(studio.whole)
    streamed = studio.planned(studio.whole.housed(Home.STREAMED)) if studio.pipeline.executors else whole
    for name, plan in plans_of(studio).items():
        if not plan.settings:
            made, same = studio.planned(plan), streamed if plan.home is Home.STREAMED else whole
            assert torch.equal(made.latents, same.latents), name
            assert made.result.frames_sha256 == same.result.frames_sha256, name


def test_every_knob_at_every_value_gives_the_same_video(studio: Studio) -> None:
    whole = studio.planned(studio.whole)
    for name, plan in plans_of(studio).items():
        made = studio.planned(plan)
        assert relative_error(made, whole) <= 1e-5, name
        steps = np.abs(np.stack(made.frames).astype(int) - np.stack(whole.frames))  # of 255
        assert steps.max() <= 1, name
    turned = {name for plan in plans_of(studio).values() for name in plan.knobs}
    assert turned == {knob.name for knob in studio.family.knobs}


def relative_error(made: Made, wanted: Made) -> float:
    return float((made.latents - wanted.latents).abs().max() / wanted.latents.abs().max())
