"""The folder of one job: what lies in it, by name. No other module spells these names.

picture.png             the start picture                       written by the service
fitted.png              the same at the video's size            gone when the video is whole
preview.webp            the newest look at the latents          written at every step
frames/00000.jpg ...    small frames while the rest decodes     gone when the run ends
latents.safetensors     finished latents                        gone when the video is whole
poster.jpg, last.png    the first frame small, the last whole   written with the video
i2v-ID.mp4 and others   the video, by kind                      their names are in the job's result
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

__all__ = ["JobFolder", "if_there", "video_name"]


@dataclass(frozen=True)
class JobFolder:
    """The paths of one job. Nothing is looked at or made."""

    path: Path

    @property
    def picture(self) -> Path:
        """The start picture, upright, whole and without its metadata."""
        return self.path / "picture.png"

    @property
    def fitted(self) -> Path:
        """The start picture at the video's size, if whoever queued the job left it: a large one is not read again."""
        return self.path / "fitted.png"

    @property
    def preview(self) -> Path:
        return self.path / "preview.webp"

    @property
    def poster(self) -> Path:
        return self.path / "poster.jpg"

    @property
    def last(self) -> Path:
        """The last frame of the video, without loss."""
        return self.path / "last.png"

    @property
    def latents(self) -> Path:
        """The finished latents, kept until the video is whole."""
        return self.path / "latents.safetensors"

    @property
    def frames(self) -> Path:
        """The folder of small frames, there only while a run decodes."""
        return self.path / "frames"

    def frame(self, index: int) -> Path:
        """The small frame of this number, from 0."""
        return self.frames / f"{index:05d}.jpg"

    def file(self, name: str) -> Path:
        """A video, by its name in the job's result."""
        return self.path / name


def if_there(path: Path) -> Path | None:
    """Return the path of a file that is there, else None."""
    return path if path.is_file() else None


def video_name(job_id: str, ending: str) -> str:
    """Return what a job's video is called; `ending` is ".mp4", ".gif" and so on."""
    return f"i2v-{job_id[:8]}{ending}"
