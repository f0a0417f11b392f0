"""i2v: one picture and a sentence become a video, on the graphics card a person already owns."""

__version__ = "0.1.0"
