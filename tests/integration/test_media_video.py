"""MP4 through the real ffmpeg: true to the frames, playable at once, its settings inside, or not there at all."""

from __future__ import annotations

import errno
import os
import re
import signal
import struct
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import imageio_ffmpeg
import numpy as np
import psutil
import pytest

from i2v.errors import GenerationError, InputError, StorageError
from i2v.media.ffmpeg import Ffmpeg
from i2v.media.image import fit_picture, load_picture
from i2v.media.video import VideoWriter, read_frames, read_metadata
from tests.unit.test_media_video import NASTY, REQUEST, psnr_db, write


@pytest.fixture(scope="module")
def frames(photo: Path) -> list[np.ndarray]:
    """Ten frames of 256x192: a slow pan over a photograph."""
    picture = load_picture(photo)
    return [fit_picture(picture.crop((2 * i, i, 2 * i + 373, i + 280)), 256, 192) for i in range(10)]


@pytest.fixture(scope="module")
def video(frames: list[np.ndarray], tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write(tmp_path_factory.mktemp("video") / "a.mp4", frames, fps=24)


def described(path: Path) -> str:
    """What ffmpeg says of a file."""
    ffmpeg = imageio_ffmpeg.get_ffmpeg_exe()
    return subprocess.run([ffmpeg, "-hide_banner", "-i", path], capture_output=True, text=True, check=False).stderr


def running_ffmpegs() -> list[psutil.Process]:
    return [child for child in psutil.Process().children() if "ffmpeg" in child.name()]


def boxes(path: Path) -> list[str]:
    """The names of an MP4's outermost boxes, in order."""
    data, offset, names = path.read_bytes(), 0, []
    while offset < len(data):
        size, name = struct.unpack(">I4s", data[offset : offset + 8])
        names.append(name.decode())
        offset += size
    return names


def test_the_frames_come_back_nearly_unchanged(video: Path, frames: list[np.ndarray]) -> None:
    seen = list(read_frames(video))
    assert len(seen) == len(frames)
    assert psnr_db(seen[0], frames[0]) > 42
    for index, pixels in enumerate(seen):
        assert psnr_db(pixels, frames[index]) > 40
        assert max(range(len(frames)), key=lambda other: psnr_db(pixels, frames[other])) == index


def test_every_player_can_show_it(video: Path) -> None:
    text = described(video)
    assert re.search(r"Video: h264 \(High\).*yuv420p\(tv, bt709, progressive\), 256x192", text)
    assert boxes(video).index("moov") < boxes(video).index("mdat")


@pytest.mark.parametrize("fps", [1, 7, 24, 30])
def test_frame_rate_and_count_are_kept(tmp_path: Path, frames: list[np.ndarray], fps: int) -> None:
    path = write(tmp_path / "a.mp4", frames[:7], fps)
    text = described(path)
    assert f" {fps} fps" in text
    hours, minutes, seconds = re.search(r"Duration: (\d+):(\d+):([\d.]+)", text).groups()  # type: ignore[union-attr]
    assert int(hours) * 3600 + int(minutes) * 60 + float(seconds) == pytest.approx(7 / fps, abs=0.011)
    assert len(list(read_frames(path))) == 7


@pytest.mark.parametrize("colour", [(255, 0, 0), (0, 255, 0), (0, 0, 255), (255, 255, 255), (0, 0, 0), (128, 90, 30)])
def test_colours_are_true_here_and_in_a_player_that_reads_the_tags(
    tmp_path: Path, colour: tuple[int, int, int]
) -> None:
    frame = np.full((64, 64, 3), colour, np.uint8)
    path = write(tmp_path / "a.mp4", [frame] * 2)
    assert np.abs(next(read_frames(path)).astype(int) - frame).max() <= 3
    plain = [
        imageio_ffmpeg.get_ffmpeg_exe(),
        "-loglevel",
        "error",
        "-i",
        path,
        "-pix_fmt",
        "rgb24",
        "-f",
        "rawvideo",
        "-",
    ]
    shown = np.frombuffer(subprocess.run(plain, capture_output=True, check=True).stdout, np.uint8)
    assert np.abs(shown.reshape(2, 64, 64, 3)[0].astype(int) - frame).max() <= 4


@pytest.mark.parametrize("size", [(255, 192), (256, 191), (63, 33), (16, 16)])
def test_odd_sizes_come_back_at_their_true_size(tmp_path: Path, photo: Path, size: tuple[int, int]) -> None:
    frame = fit_picture(load_picture(photo), *size)
    path = write(tmp_path / "a.mp4", [frame] * 3)
    seen = list(read_frames(path))
    assert [pixels.shape for pixels in seen] == [(size[1], size[0], 3)] * 3
    assert psnr_db(seen[0], frame) > 34
    assert "{}x{}".format(*(side + side % 2 for side in size)) in described(path)


def test_the_edge_of_an_odd_size_is_not_mixed_with_black(tmp_path: Path) -> None:
    frame = np.full((33, 47, 3), (240, 60, 60), np.uint8)
    path = write(tmp_path / "a.mp4", [frame])
    assert np.abs(next(read_frames(path)).astype(int) - frame).max() <= 3


def test_any_prompt_comes_back_exactly(tmp_path: Path) -> None:
    frame = np.zeros((16, 16, 3), np.uint8)
    for text in NASTY:
        metadata = {"i2v": "0.1.0", "request": {"prompt": text, text: [text, None, 1.5, True, 2**63 - 1]}}
        path = write(tmp_path / "a.mp4", [frame], metadata=metadata)
        assert read_metadata(path) == metadata
        assert len(list(read_frames(path))) == 1
        tags = re.findall(r"^    (\w+) +:", described(path).partition("Duration")[0], re.MULTILINE)
        assert "comment" in tags
        assert "title" not in tags
    assert [p.name for p in tmp_path.iterdir()] == ["a.mp4"]


def test_the_settings_survive_a_copy_by_ffmpeg(tmp_path: Path, video: Path) -> None:
    copy = tmp_path / "copy.mp4"
    subprocess.run([imageio_ffmpeg.get_ffmpeg_exe(), "-loglevel", "error", "-i", video, "-c", "copy", copy], check=True)
    assert read_metadata(copy) == REQUEST


def test_awkward_paths_work(tmp_path: Path, frames: list[np.ndarray], monkeypatch: pytest.MonkeyPatch) -> None:
    folder = tmp_path / "-ünï 'q\" %03d"
    folder.mkdir()
    monkeypatch.chdir(folder)
    path = write(Path("-y a:b?.mp4"), frames[:2])
    assert len(list(read_frames(path))) == 2
    assert [p.name for p in folder.iterdir()] == ["-y a:b?.mp4"]


def test_a_video_of_another_program_has_frames_but_no_settings(tmp_path: Path) -> None:
    path = tmp_path / "other.mp4"
    source = ["-f", "lavfi", "-i", "color=red:s=64x48:r=8:d=1", "-c:v", "libx264", "-pix_fmt", "yuv420p"]
    subprocess.run([imageio_ffmpeg.get_ffmpeg_exe(), "-loglevel", "error", *source, path], check=True)
    assert [frame.shape for frame in read_frames(path)] == [(48, 64, 3)] * 8
    with pytest.raises(InputError, match="does not hold the settings of an i2v video"):
        read_metadata(path)


def test_what_is_no_whole_mp4_is_refused_by_the_reader(tmp_path: Path, video: Path, photo: Path) -> None:
    cut = tmp_path / "cut.mp4"
    cut.write_bytes(video.read_bytes()[:400])
    with pytest.raises(InputError, match=r"'cut.mp4' is damaged"):
        list(read_frames(cut))
    with pytest.raises(InputError, match="is a JPEG picture, not an MP4 video"):
        next(read_frames(photo))
    with pytest.raises(InputError, match="There is no file"):
        next(read_frames(tmp_path / "gone.mp4"))
    assert running_ffmpegs() == []


def test_a_reader_that_stops_early_leaves_no_ffmpeg(video: Path) -> None:
    reading = read_frames(video)
    next(reading)
    assert len(running_ffmpegs()) == 1
    reading.close()
    assert running_ffmpegs() == []


@pytest.mark.parametrize("error", [RuntimeError("broken"), KeyboardInterrupt()])
def test_nothing_is_left_when_the_body_raises(tmp_path: Path, frames: list[np.ndarray], error: BaseException) -> None:
    path = tmp_path / "a.mp4"
    path.write_bytes(b"the video of last time")

    def one_frame() -> Iterator[np.ndarray]:
        yield frames[0]
        assert len(running_ffmpegs()) == 1
        raise error

    with pytest.raises(type(error)):
        write(path, one_frame())
    assert running_ffmpegs() == []
    assert [p.name for p in tmp_path.iterdir()] == ["a.mp4"]
    assert path.read_bytes() == b"the video of last time"


@pytest.mark.skipif(os.name != "posix", reason="process groups are of POSIX")
def test_ctrl_c_reaches_the_program_and_not_its_ffmpeg(video: Path) -> None:
    reading = read_frames(video)
    next(reading)
    groups = {os.getpgid(ffmpeg.pid) for ffmpeg in running_ffmpegs()}
    reading.close()
    assert len(groups) == 1
    assert os.getpgrp() not in groups


def test_a_video_without_frames_is_no_video(tmp_path: Path) -> None:
    with (
        pytest.raises(ValueError, match="no frame was written"),
        VideoWriter(tmp_path / "a.mp4", 8, (16, 16), {}),
    ):
        pass
    assert list(tmp_path.iterdir()) == []


def test_what_a_killed_process_left_does_not_matter(tmp_path: Path, frames: list[np.ndarray]) -> None:
    (tmp_path / "a.mp4.part").write_bytes(b"half a video")
    (tmp_path / "a.mp4.tags.part").write_bytes(b"other settings")
    path = write(tmp_path / "a.mp4", frames)
    assert read_metadata(path) == REQUEST
    assert [p.name for p in tmp_path.iterdir()] == ["a.mp4"]


@pytest.mark.skipif(os.name != "posix", reason="Windows has no SIGKILL")
def test_ffmpeg_ends_by_itself_when_its_program_is_killed(tmp_path: Path) -> None:
    code = """
import sys, time
import numpy as np
from pathlib import Path
from i2v.media.video import VideoWriter
with VideoWriter(Path(sys.argv[1]), 8, (64, 64), {}) as writer:
    writer.write(np.zeros((64, 64, 3), np.uint8))
    print("ready", flush=True)
    time.sleep(60)
"""
    path = tmp_path / "a.mp4"
    with subprocess.Popen([sys.executable, "-c", code, str(path)], stdout=subprocess.PIPE) as program:
        assert program.stdout is not None
        assert program.stdout.readline() == b"ready\n"
        children = psutil.Process(program.pid).children()
        program.send_signal(signal.SIGKILL)
    assert len(children) == 1
    assert psutil.wait_procs(children, timeout=5)[1] == []
    assert not path.exists()


# Refused by the disk


@pytest.fixture
def smallest_files() -> Iterator[None]:
    """No file may grow beyond 100 kB: to every writer the same as a full disk, and needs no rights."""
    resource = pytest.importorskip("resource")
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, hard))
    yield
    resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


@pytest.mark.usefixtures("smallest_files")
@pytest.mark.parametrize("kind", ["mp4", "gif", "webp", "zip"])
def test_a_file_that_may_not_grow_is_one_sentence_and_leaves_nothing(tmp_path: Path, kind: str) -> None:
    noise = np.random.default_rng(0).integers(0, 256, (128, 128, 3), dtype=np.uint8)
    frames = (np.roll(noise, turn * 7, axis=1) ^ np.uint8(turn % 256) for turn in range(400))
    with pytest.raises(StorageError, match=r"a\.\w+' cannot be written: File too large") as caught:
        write(tmp_path / f"a.{kind}", frames)
    assert caught.value.remedy
    assert list(tmp_path.iterdir()) == []
    assert running_ffmpegs() == []


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="there is no /dev/full")
def test_a_full_disk_is_told_by_ffmpegs_exit_status() -> None:
    source = [
        "-f",
        "rawvideo",
        "-pix_fmt",
        "rgb24",
        "-video_size",
        "64x64",
        "-framerate",
        "8",
        "-i",
        "pipe:0",
    ]
    ffmpeg = Ffmpeg([*source, "-c:v", "rawvideo", "-f", "rawvideo", "/dev/full"], feeds=True)
    frame = memoryview(bytes(64 * 64 * 3))

    def feed_all() -> None:
        for _ in range(200):
            ffmpeg.feed(frame)
        ffmpeg.finish()

    with pytest.raises(OSError, match="No space left") as caught:
        feed_all()
    ffmpeg.end()
    assert caught.value.errno == errno.ENOSPC


def fake_ffmpeg(path: Path, script: str, monkeypatch: pytest.MonkeyPatch) -> None:
    path.write_text(f"#!/bin/sh\n{script}\n")
    path.chmod(0o755)
    monkeypatch.setenv("IMAGEIO_FFMPEG_EXE", str(path))


@pytest.mark.skipif(os.name != "posix", reason="the fake is a shell script")
@pytest.mark.parametrize(
    ("script", "sentence"),
    [
        ("cat > /dev/null; echo 'no such codec' >&2; exit 1", "ffmpeg failed with status 1: no such codec"),
        ("exit 3", "ffmpeg failed with status 3: it gave no reason"),
        ("kill -9 $$", "ffmpeg failed with status -9: it gave no reason"),
    ],
)
def test_an_ffmpeg_that_fails_is_one_sentence(
    tmp_path: Path, frames: list[np.ndarray], monkeypatch: pytest.MonkeyPatch, script: str, sentence: str
) -> None:
    fake_ffmpeg(tmp_path / "ffmpeg", script, monkeypatch)
    with pytest.raises(GenerationError, match=sentence):
        write(tmp_path / "a.mp4", frames * 4)
    assert [p.name for p in tmp_path.iterdir()] == ["ffmpeg"]


@pytest.mark.skipif(os.name != "posix", reason="the fake is a shell script")
def test_an_ffmpeg_that_hangs_is_ended(
    tmp_path: Path, frames: list[np.ndarray], monkeypatch: pytest.MonkeyPatch
) -> None:
    fake_ffmpeg(tmp_path / "ffmpeg", "exec sleep 60", monkeypatch)
    monkeypatch.setattr("i2v.media.ffmpeg._FINISH_LIMIT_S", 0.2)
    started = time.monotonic()
    with (
        pytest.raises(GenerationError, match="did not end"),
        VideoWriter(tmp_path / "a.mp4", 8, (16, 16), {}) as writer,
    ):
        writer.write(np.zeros((16, 16, 3), np.uint8))
    assert time.monotonic() - started < 10
    assert [child for child in psutil.Process().children() if child.name() == "sleep"] == []


def test_a_missing_ffmpeg_is_one_sentence(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("IMAGEIO_FFMPEG_EXE", str(tmp_path / "gone"))
    writer: Any = VideoWriter(tmp_path / "a.mp4", 8, (16, 16), {})
    with pytest.raises(GenerationError, match="cannot be started"):
        writer.__enter__()
    assert list(tmp_path.iterdir()) == []
