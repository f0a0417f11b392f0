"""Phrases that are never drawn in training: with them is measured whether the model understands, not remembers.

Their words occur in training (a model this small knows no others), but not in these sentences.
"""

from __future__ import annotations

__all__ = ["CAMERA_AND_EFFECT_PHRASES", "COMPOUND_PHRASES", "HELD_OUT", "UNSEEN_PHRASES"]

UNSEEN_PHRASES: dict[str, tuple[str, ...]] = {
    "pan_left": ("the camera glides to the left side", "a smooth panning shot going left", "let the view wander left"),
    "pan_right": (
        "the camera glides to the right side",
        "a smooth panning shot going right",
        "let the view wander right",
    ),
    "tilt_up": ("the camera lifts its view up", "tilting the camera up", "let us look up to the top"),
    "tilt_down": ("the camera lowers its view down", "tilting the camera down", "let us look down to the bottom"),
    "zoom_in": ("zooming the camera in on the scene", "the lens zooms in", "bring the camera closer to the subject"),
    "zoom_out": ("zooming the camera out of the scene", "the lens zooms out", "take the camera back from the subject"),
    "roll_clockwise": (
        "rolling the camera clockwise",
        "a clockwise spin of the view",
        "let the picture rotate clockwise",
    ),
    "roll_counter_clockwise": (
        "rolling the camera counterclockwise",
        "an anticlockwise spin of the view",
        "let the picture rotate counter-clockwise",
    ),
    "hold": ("a static camera, nothing moves", "keep the view still", "the shot remains completely still"),
    "ripple": ("ripples spread across the water", "the lake is full of gentle ripples"),
    "sway": ("the tall grass sways in a soft wind", "leaves swaying in the breeze"),
    "shimmer": ("the hot air is shimmering above the ground", "shimmering heat haze"),
    "shake": ("filmed with a hand-held camera", "a handheld camera that sways"),
    "flicker": ("the candle light is flickering", "the flickering light of a lamp"),
    "night": ("the scene slowly fades to night", "it gets dark as night falls"),
    "dawn": ("the scene fades to dawn", "the sun rises and a new day breaks"),
}
# One sentence asks for two moves.
COMPOUND_PHRASES: dict[tuple[str, str], str] = {
    ("zoom_in", "pan_left"): "zoom in while panning left",
    ("zoom_in", "pan_right"): "the camera zooms in and pans to the right",
    ("zoom_out", "pan_left"): "pull back and drift left",
    ("zoom_out", "tilt_up"): "the camera zooms out while tilting up",
    ("zoom_in", "tilt_down"): "push in and tilt down",
    ("pan_right", "tilt_up"): "pan right, then tilt up",
    ("pan_left", "tilt_down"): "the view slides left and down",
    ("zoom_in", "roll_clockwise"): "zoom in while rolling clockwise",
    ("zoom_out", "roll_counter_clockwise"): "zoom out with a counterclockwise roll",
    ("pan_left", "roll_clockwise"): "pan left and roll clockwise",
    ("zoom_out", "pan_right"): "zoom out while panning right",
    ("tilt_up", "zoom_in"): "look up and move closer",
}
# And a move and an effect.
CAMERA_AND_EFFECT_PHRASES: dict[tuple[str, str], str] = {
    ("pan_left", "ripple"): "the camera pans left while the water ripples",
    ("zoom_in", "sway"): "zoom in as the trees sway in the wind",
    ("pan_right", "night"): "pan right as night falls",
    ("zoom_out", "shake"): "zoom out with a hand-held camera",
    ("tilt_up", "flicker"): "tilt up, the light is flickering",
    ("zoom_in", "dawn"): "a zoom in while dawn breaks",
}

HELD_OUT = (
    *(phrase for group in UNSEEN_PHRASES.values() for phrase in group),
    *COMPOUND_PHRASES.values(),
    *CAMERA_AND_EFFECT_PHRASES.values(),
)
