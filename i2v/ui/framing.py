"""How the picture becomes the first frame: what is cut of it, or how it is fitted in, and whether it is enlarged.

static/framing.html, framing.css and framing.js draw it on a small copy of the picture. Pure, but for reading its size.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from i2v.errors import I2VError
from i2v.media.image import upscale_factor
from i2v.ui.form_values import forecast_values, picture_size
from i2v.ui.language import Language

__all__ = ["NO_PICTURE", "frame_picture", "has_another_aspect"]

NO_PICTURE: dict[str, Any] = {"picture": None}
_SAME_ASPECT = 0.01  # less is the model's rounding to its multiple, which nobody sees
_SOFT_FROM = 1.5


def frame_picture(fields: Mapping[str, Any], language: Language) -> dict[str, Any]:
    """Return what is drawn: sizes of picture and video, the way it is fitted, and sentences on what that means."""
    if not fields["image"]:
        return NO_PICTURE
    try:
        values = forecast_values(fields)
        width, height = picture_size(Path(fields["image"]))
    except I2VError:
        return NO_PICTURE  # the forecast says what is wrong
    video = (values["width"], values["height"])
    fit, say = fields["image_fit"] or "crop", language.say
    differs = has_another_aspect((width, height), video)
    facts = say("Picture {width} × {height} px", width=width, height=height)
    return {
        "picture": [width, height],
        "video": list(video),
        "fit": fit,
        "differs": differs,
        "facts": facts,
        "words": _words((width, height), video, fit, language) if differs else "",
        "warning": _warning((width, height), video, fit, language),
    }


def has_another_aspect(picture: tuple[int, int], video: tuple[int, int]) -> bool:
    """Whether a person would see that picture and video differ in shape."""
    return abs(_kept_share(picture, video) - 1) > _SAME_ASPECT


def _kept_share(picture: tuple[int, int], video: tuple[int, int]) -> float:
    """Return how much of the picture's area is seen when it fills the video."""
    scale = upscale_factor(picture, *video)
    return (video[0] / scale) * (video[1] / scale) / (picture[0] * picture[1])


def _words(picture: tuple[int, int], video: tuple[int, int], fit: str, language: Language) -> str:
    if fit == "fit":
        return language.say("The whole picture is seen; the rest is a blurred copy of it.")
    cut = f"{1 - _kept_share(picture, video):.0%}"
    if picture[0] / picture[1] > video[0] / video[1]:
        return language.say("{share} of it is cut off, left and right.", share=cut)
    return language.say("{share} of it is cut off, above and below.", share=cut)


def _warning(picture: tuple[int, int], video: tuple[int, int], fit: str, language: Language) -> str:
    scales = (video[0] / picture[0], video[1] / picture[1])
    factor = min(scales) if fit == "fit" else max(scales)
    if factor < _SOFT_FROM:
        return ""
    return language.say(
        "Enlarged {factor} times, so it will look soft: choose a smaller size or a larger picture.",
        factor=f"{factor:.1f}",
    )
