"""The environment variables that fix how jobs are run."""

from __future__ import annotations

import pytest

from i2v.errors import InputError
from i2v.settings import Settings


def test_nothing_set_leaves_the_choice_to_i2v() -> None:
    settings = Settings.from_environment({"CHUNK_SIZE": "", "USE_FP16": "false", "USE_BF16": "0"})
    assert (settings.chunk_frames, settings.precision) == (None, None)
    assert Settings.from_environment({}).chunk_frames is None


@pytest.mark.parametrize("yes", ["true", "True", "TRUE", "1", "yes", " Yes "])
@pytest.mark.parametrize("no", ["false", "False", "0", "NO", ""])
def test_switches_are_read_in_any_case(yes: str, no: str) -> None:
    assert Settings.from_environment({"USE_FP16": yes, "USE_BF16": no}).precision == "fp16"
    assert Settings.from_environment({"USE_FP16": no, "USE_BF16": yes}).precision == "bf16"


def test_chunk_size_is_a_number_of_frames() -> None:
    assert Settings.from_environment({"CHUNK_SIZE": " 6 "}).chunk_frames == 6


@pytest.mark.parametrize(
    ("name", "value"),
    [
        *(("CHUNK_SIZE", value) for value in ("0", "-4", "4.5", "four", "nan", "9" * 5000)),
        *((name, value) for name in ("USE_FP16", "USE_BF16") for value in ("si", "2", "on and on")),
    ],
)
def test_what_cannot_be_is_refused_with_the_variable_and_a_remedy(name: str, value: str) -> None:
    with pytest.raises(InputError, match=name) as refused:
        Settings.from_environment({name: value})
    assert "unset it" in refused.value.remedy


def test_two_precisions_are_refused() -> None:
    with pytest.raises(InputError, match="USE_FP16 and USE_BF16 are both on"):
        Settings.from_environment({"USE_FP16": "1", "USE_BF16": "yes"})


def test_the_webcam_is_off_unless_asked_for() -> None:
    assert not Settings.from_environment({}).webcam
    assert Settings.from_environment({"I2V_WEBCAM": "true"}).webcam
    with pytest.raises(InputError, match="I2V_WEBCAM"):
        Settings.from_environment({"I2V_WEBCAM": "perhaps"})
