"""GIF, WebP and zip: frames, timing and settings come out as they went in, or no file appears at all."""

from __future__ import annotations

import errno
import io
import json
import subprocess
import sys
import zipfile
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from i2v.errors import InputError, StorageError
from i2v.media.formats import open_writer, poster, read_request
from i2v.media.image import fit_picture, load_picture
from i2v.media.part import storage_error
from i2v.media.video import read_metadata

KINDS = ["gif", "webp", "zip"]
REQUEST = {"request": {"prompt": "the camera pans left", "seed": 7, "guidance_scale": 7.5}}
NASTY = [
    "",
    "plain",
    "quotes \"double\" and 'single' and `back`",
    "line\nbreak\r\nand\ttab and \x00 zero and \x1b[31m escape",
    "a=b; c#d \\ e \\\\ f \\n g = ; # \\",
    ";FFMETADATA1\ntitle=mine\n[CHAPTER]\n#",
    "\\",
    "emoji \U0001f3a5\U0001f469\u200d\U0001f680 \u65e5\u672c\u8a9e \u0645\u0631\u062d\u0628\u0627 \u202e reversed",
    "half a letter \udc80",
    "</rdf:RDF><script>alert(1)</script>&amp;",
    "-i /etc/passwd -y; $(reboot) | %s %d {0}",
    "x" * 4000,
    "\U0001f3a5=;#\\\n" * 800,
]


def psnr_db(one: np.ndarray, other: np.ndarray) -> float:
    error = np.mean((one.astype(np.float64) - other) ** 2)
    return float(10 * np.log10(255**2 / error)) if error else 99.0


@pytest.fixture(scope="module")
def frames(photo: Path) -> list[np.ndarray]:
    """Twelve frames of 97x65 (both odd): a slow pan over a photograph."""
    picture = load_picture(photo)
    return [fit_picture(picture.crop((2 * i, i, 2 * i + 388, i + 260)), 97, 65) for i in range(12)]


def write(path: Path, frames: Iterable[np.ndarray], fps: int = 8, metadata: Any = REQUEST) -> Path:
    coming = iter(frames)
    first = next(coming)
    with open_writer(path, fps, (first.shape[1], first.shape[0]), metadata) as writer:
        writer.write(first)
        for frame in coming:
            writer.write(frame)
    return path


def one_frame_then(error: BaseException, frame: np.ndarray) -> Iterator[np.ndarray]:
    yield frame
    raise error


def shown(path: Path) -> Iterator[tuple[np.ndarray, int]]:
    """Each frame of an animation as Pillow shows it, and for how many milliseconds."""
    with Image.open(path) as animation:
        for index in range(animation.n_frames):  # type: ignore[attr-defined]
            animation.seek(index)
            animation.load()
            yield np.asarray(animation.convert("RGB")), int(animation.info["duration"])


@pytest.mark.parametrize(("kind", "least_db"), [("gif", 33.0), ("webp", 35.0)])
def test_an_animation_shows_the_frames_in_order(
    tmp_path: Path, frames: list[np.ndarray], kind: str, least_db: float
) -> None:
    seen = [pixels for pixels, _ in shown(write(tmp_path / f"a.{kind}", frames))]
    assert len(seen) == len(frames)
    for index, (pixels, frame) in enumerate(zip(seen, frames, strict=True)):
        assert psnr_db(pixels, frame) > least_db
        assert max(range(len(frames)), key=lambda other: psnr_db(pixels, frames[other])) == index


@pytest.mark.parametrize("kind", ["gif", "webp"])
@pytest.mark.parametrize("fps", [7, 8, 24, 30])
def test_rounded_frame_times_add_up_to_the_length(
    tmp_path: Path, frames: list[np.ndarray], kind: str, fps: int
) -> None:
    tick_ms = {"gif": 10, "webp": 1}[kind]
    times = [ms for _, ms in shown(write(tmp_path / f"a.{kind}", frames, fps))]
    assert abs(sum(times) - 1000 * len(frames) / fps) <= tick_ms / 2
    assert max(times) - min(times) <= tick_ms


@pytest.mark.parametrize("kind", ["gif", "webp"])
def test_an_animation_loops_for_ever(tmp_path: Path, frames: list[np.ndarray], kind: str) -> None:
    with Image.open(write(tmp_path / f"a.{kind}", frames)) as animation:
        assert animation.info["loop"] == 0


def test_frames_of_few_colours_are_exact_in_a_gif(tmp_path: Path) -> None:
    flat = [np.full((16, 16, 3), level, np.uint8) for level in (0, 255)]
    striped = flat[0].copy()
    striped[::2] = (255, 0, 0)
    for pixels, frame in zip(
        [p for p, _ in shown(write(tmp_path / "a.gif", [*flat, striped]))], [*flat, striped], strict=True
    ):
        assert np.abs(pixels.astype(int) - frame).max() <= 4


def test_a_smooth_sky_has_no_bands_in_a_gif(tmp_path: Path) -> None:
    """Seen from afar (the mean of 8x8 pixels) every colour is right, though there are only 256."""
    x, y = np.meshgrid(np.arange(128), np.arange(128))
    sky = np.stack([x, y, 255 - x], axis=-1).astype(np.uint8)
    pixels = next(shown(write(tmp_path / "a.gif", [sky])))[0]
    means = [a.reshape(16, 8, 16, 8, 3).mean(axis=(1, 3)) for a in (pixels, sky)]
    assert np.abs(means[0] - means[1]).mean() < 1.0


def test_other_programs_find_the_settings_of_a_webp(tmp_path: Path, frames: list[np.ndarray]) -> None:
    path = write(tmp_path / "a.webp", frames[:2])
    says_it_has_exif = path.read_bytes()[20] & 0x08
    assert says_it_has_exif
    with Image.open(path) as animation:
        assert json.loads(animation.getexif()[0x010E])["request"] == REQUEST["request"]


def test_the_zip_holds_every_frame_exactly_and_the_request(tmp_path: Path, frames: list[np.ndarray]) -> None:
    with zipfile.ZipFile(write(tmp_path / "a.zip", frames)) as archive:
        assert archive.testzip() is None
        names = [f"frame_{number:04d}.png" for number in range(1, 13)]
        assert sorted(archive.namelist()) == [*names, "request.json"]
        assert {info.compress_type for info in archive.infolist()} == {zipfile.ZIP_STORED}
        for name, frame in zip(names, frames, strict=True):
            with Image.open(io.BytesIO(archive.read(name))) as picture:
                assert np.array_equal(np.asarray(picture), frame)
        document = json.loads(archive.read("request.json"))
        assert {info.date_time[0] for info in archive.infolist()} == {1980}, "the clock must not be in the file"
    assert document == REQUEST | {"video": {"width": 97, "height": 65, "fps": 8}}


@pytest.mark.parametrize("kind", KINDS)
def test_the_same_frames_give_the_same_bytes(tmp_path: Path, frames: list[np.ndarray], kind: str) -> None:
    one, two = (write(tmp_path / f"{name}.{kind}", frames[:2]).read_bytes() for name in "ab")
    assert one == two


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("text", NASTY, ids=range(len(NASTY)))
def test_any_prompt_comes_back_exactly(tmp_path: Path, kind: str, text: str) -> None:
    metadata = {"i2v": "0.1.0", "request": {"prompt": text, text: [text, None, 1.5, True, 2**63 - 1]}}
    path = write(tmp_path / f"a.{kind}", [np.zeros((16, 16, 3), np.uint8)], metadata=metadata)
    assert read_metadata(path) == metadata


@pytest.mark.parametrize("kind", KINDS)
def test_the_content_tells_the_format_and_not_the_name(tmp_path: Path, frames: list[np.ndarray], kind: str) -> None:
    path = write(tmp_path / f"a.{kind}", frames[:1]).rename(tmp_path / "renamed.dat")
    assert read_request(path) == REQUEST


def test_files_without_our_settings_are_refused(tmp_path: Path) -> None:
    picture = Image.new("RGB", (16, 16))
    picture.save(tmp_path / "plain.gif", comment=b"hello")
    picture.save(tmp_path / "json.gif", comment=b'{"video": [1]}')
    picture.save(tmp_path / "plain.webp")
    with zipfile.ZipFile(tmp_path / "plain.zip", "w") as archive:
        archive.writestr("other.txt", "hello")
    with zipfile.ZipFile(tmp_path / "bomb.zip", "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("request.json", b" " * (8 << 20))
    (tmp_path / "cut.zip").write_bytes((tmp_path / "plain.zip").read_bytes()[:50])
    for path in tmp_path.iterdir():
        with pytest.raises(InputError, match="does not hold the settings of an i2v video"):
            read_metadata(path)


def test_what_is_no_video_file_is_named(tmp_path: Path, photo: Path) -> None:
    with pytest.raises(InputError, match="is a JPEG picture, not an MP4, GIF, WebP or zip"):
        read_metadata(photo)
    with pytest.raises(InputError, match="There is no file") as caught:
        read_metadata(tmp_path / "gone.mp4")
    assert str(caught.value).endswith("Check its name and folder.")
    with pytest.raises(InputError, match="is a folder"):
        read_metadata(tmp_path)
    (tmp_path / "empty.mp4").touch()
    with pytest.raises(InputError, match="unknown kind"):
        read_metadata(tmp_path / "empty.mp4")


def test_settings_without_a_request_are_refused(tmp_path: Path, frames: list[np.ndarray]) -> None:
    with pytest.raises(InputError, match="does not say how it was made"):
        read_request(write(tmp_path / "a.gif", frames[:1], metadata={"request": "a text"}))


def test_an_unknown_ending_names_the_four(tmp_path: Path) -> None:
    for name in ("a.avi", "a", "mp4"):
        with pytest.raises(InputError, match=r"ends in none of \.mp4, \.gif, \.webp, \.zip"):
            open_writer(tmp_path / name, 8, (16, 16), {})
    assert open_writer(tmp_path / "A.GIF", 8, (16, 16), {}).fps == 8
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("kind", KINDS)
def test_nothing_is_left_when_the_body_raises(tmp_path: Path, frames: list[np.ndarray], kind: str) -> None:
    path = tmp_path / f"a.{kind}"
    path.write_bytes(b"the video of last time")
    for error in (RuntimeError("broken"), KeyboardInterrupt()):
        with pytest.raises(type(error)):
            write(path, one_frame_then(error, frames[0]))
    assert [p.name for p in tmp_path.iterdir()] == [path.name]
    assert path.read_bytes() == b"the video of last time"


@pytest.mark.parametrize("kind", KINDS)
def test_a_frame_that_does_not_fit_and_an_empty_video_are_refused(tmp_path: Path, kind: str) -> None:
    misfits: list[Any] = [np.zeros((16, 17, 3), np.uint8), np.zeros((16, 16, 3)), np.zeros((16, 16), np.uint8)]
    for wrong in misfits:
        with (
            pytest.raises(ValueError, match="no frame of"),
            open_writer(tmp_path / f"a.{kind}", 8, (16, 16), {}) as writer,
        ):
            writer.write(wrong)
    with (
        pytest.raises(ValueError, match="no frame was written"),
        open_writer(tmp_path / f"a.{kind}", 8, (16, 16), {}),
    ):
        pass
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("kind", KINDS)
def test_a_folder_that_is_gone_is_one_sentence(tmp_path: Path, kind: str) -> None:
    with (
        pytest.raises(StorageError, match="cannot be written: No such file or directory"),
        open_writer(tmp_path / "gone" / f"a.{kind}", 8, (16, 16), {}),
    ):
        pass


def test_a_full_disk_says_so() -> None:
    sentence = str(storage_error(Path("/videos/a.mp4"), OSError(errno.ENOSPC, "No space left on device")))
    assert sentence == "'/videos/a.mp4' cannot be written: the disk is full. Free some disk space, then try again."


def test_writers_hold_one_frame_however_long_the_video_is(tmp_path: Path) -> None:
    """The peak of a fresh process after 20 frames of 2 MB is about that after 5."""
    code = """
import resource, sys
import numpy as np
from pathlib import Path
from i2v.media.formats import open_writer
peak_mib = lambda: resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
for kind in ("mp4", "gif", "webp", "zip"):
    with open_writer(Path(sys.argv[1]) / f"a.{kind}", 8, (800, 800), {}) as writer:
        for number in range(20):
            writer.write(np.full((800, 800, 3), number, np.uint8))
            if number == 4:
                before = peak_mib()
    print(kind, round(peak_mib() - before))
"""
    if sys.platform != "linux":
        pytest.skip("the unit of ru_maxrss differs")
    finished = subprocess.run([sys.executable, "-c", code, str(tmp_path)], capture_output=True, text=True, check=True)
    grown = dict(line.split() for line in finished.stdout.splitlines())
    assert len(grown) == 4
    assert all(int(mib) < 15 for mib in grown.values()), grown


def test_the_poster_is_a_small_jpeg(tmp_path: Path, photo: Path) -> None:
    poster(np.asarray(load_picture(photo)), tmp_path / "poster.jpg")
    with Image.open(tmp_path / "poster.jpg") as picture:
        assert (picture.format, picture.size) == ("JPEG", (320, 213))
    poster(np.zeros((64, 48, 3), np.uint8), tmp_path / "poster.jpg")
    with Image.open(tmp_path / "poster.jpg") as picture:
        assert picture.size == (48, 64)
    assert [p.name for p in tmp_path.iterdir()] == ["poster.jpg"]
