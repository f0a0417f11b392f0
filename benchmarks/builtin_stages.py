"""Where the built-in model's time goes: `python -m benchmarks.builtin_stages [--json] [--runs N]`.

For the default request, for 1080p with 48 frames and for the default size with 120 frames, on one real photograph:
seconds for importing and loading, reading the prompt, one denoising step, rendering and encoding a frame; and what the
whole takes, with its ratio to the baseline of the same run: encoding as many unmoved frames to the same kind of MP4.
The renderer is also held against the way it was written first, one bicubic grid_sample of torch per frame.
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np

PROMPT = "zoom in slowly while panning left as the leaves sway in the wind"
SETTINGS: dict[str, Mapping[str, int]] = {
    "default": {},
    "1080p, 48 frames": {"width": 1920, "height": 1080, "num_frames": 48},
    "default size, 120 frames": {"num_frames": 120},
}
_FIRST_FRAMES = """
import time; began = time.perf_counter()
import torch
from i2v.models.motion import Pipeline
from i2v.presets.model_preset import preset_named
imported = time.perf_counter()
preset = preset_named("motion")
Pipeline.load(preset.shipped_folder, preset, torch.device("cpu"), torch.float32)
print(imported - began, time.perf_counter() - imported)
"""


def best(runs: int, work: Callable[[], Any]) -> float:
    """Return the seconds of the fastest of `runs`."""
    seconds = []
    for _ in range(runs):
        began = time.perf_counter()
        work()
        seconds.append(time.perf_counter() - began)
    return min(seconds)


def loading(runs: int) -> dict[str, float]:
    """Return the seconds that a fresh process imports and loads for, medians."""
    found = [
        [float(word) for word in subprocess.run(
            [sys.executable, "-c", _FIRST_FRAMES], capture_output=True, text=True, check=True
        ).stdout.split()]
        for _ in range(runs)
    ]  # fmt: skip
    imports, loads = (statistics.median(column) for column in zip(*found, strict=True))
    return {"import_s": round(imports, 2), "load_s": round(loads, 2)}


def stages(values: Mapping[str, int], runs: int) -> dict[str, float]:
    """Return where the time of one request goes, with the model loaded."""
    import torch
    from PIL import Image
    from skimage import data

    from i2v.media.formats import open_writer
    from i2v.media.image import fit_picture
    from i2v.models.base import cpu_generator
    from i2v.models.motion import Pipeline
    from i2v.presets.model_preset import preset_named
    from i2v.request import build_request

    preset = preset_named("motion")
    pipeline = Pipeline.load(preset.shipped_folder, preset, torch.device("cpu"), torch.float32)
    photo = Image.fromarray(data.coffee())
    request = build_request({"prompt": PROMPT, "seed": 1, **values}, photo.size)
    picture = fit_picture(photo, request.width, request.height)
    size, count = (request.width, request.height), request.num_frames
    generator = cpu_generator(1)
    with torch.inference_mode(), tempfile.TemporaryDirectory() as folder:
        text_s = best(runs, lambda: pipeline.encode(request, picture, generator))
        conditions = pipeline.encode(request, picture, generator)
        noise = pipeline.draw_latents(request, generator)
        denoise_s = best(runs, lambda: pipeline.denoise(noise, conditions, request))
        latents = pipeline.denoise(noise, conditions, request)
        frames = list(pipeline.decode(latents, conditions, request))
        render_s = best(runs, lambda: [None for _ in pipeline.decode(latents, conditions, request)])

        def encode(source: list[np.ndarray]) -> None:
            with open_writer(Path(folder) / "out.mp4", request.fps, size, {}) as writer:
                for frame in source:
                    writer.write(frame)

        encode_s = best(runs, lambda: encode(frames))
        unmoved_s = best(runs, lambda: encode([picture] * count))
    total = text_s + denoise_s + render_s + encode_s
    return {
        "text_s": round(text_s, 3),
        "denoise_step_s": round(denoise_s / request.num_inference_steps, 3),
        "denoise_s": round(denoise_s, 2),
        "render_frame_s": round(render_s / count, 4),
        "render_s": round(render_s, 2),
        "encode_frame_s": round(encode_s / count, 4),
        "encode_s": round(encode_s, 2),
        "all_s": round(total, 2),
        "ratio_to_encoding_unmoved_frames": round(total / unmoved_s, 2),
    }


def steps() -> dict[str, float]:
    """Return how far the field is from that of 40 steps, root mean square in units of the latents, worst of prompts."""
    import torch
    from PIL import Image
    from skimage import data

    from i2v.media.image import fit_picture
    from i2v.models.base import cpu_generator
    from i2v.models.motion import Pipeline
    from i2v.presets.model_preset import preset_named
    from i2v.request import build_request

    preset = preset_named("motion")
    pipeline = Pipeline.load(preset.shipped_folder, preset, torch.device("cpu"), torch.float32)
    photo = Image.fromarray(data.astronaut())

    def latents(prompt: str, count: int) -> torch.Tensor:
        request = build_request({"prompt": prompt, "seed": 1, "num_inference_steps": count}, photo.size)
        picture = fit_picture(photo, request.width, request.height)
        generator = cpu_generator(request.seed)
        with torch.inference_mode():
            conditions = pipeline.encode(request, picture, generator)
            return pipeline.denoise(pipeline.draw_latents(request, generator), conditions, request)

    found: dict[str, float] = {}
    for prompt in ("pan left while the water ripples", "zoom in slowly", "leaves sway in the wind", "roll clockwise"):
        best_known = latents(prompt, 40)
        own = float(best_known.square().mean().sqrt())
        found["least_of_any_field"] = round(min(found.get("least_of_any_field", own), own), 3)
        for count in (1, 2, 4, 8):
            off = float((latents(prompt, count) - best_known).square().mean().sqrt())
            found[f"after_{count}"] = round(max(found.get(f"after_{count}", 0.0), off), 3)
    return found


def renderers(runs: int) -> dict[str, float]:
    """Return the seconds per 1080p frame of OpenCV's cubic remap and of torch's bicubic grid_sample."""
    import cv2
    import torch

    height, width = 1080, 1920
    picture = np.random.default_rng(0).integers(0, 255, (height, width, 3), dtype=np.uint8)
    x, y = np.meshgrid(np.arange(width, dtype=np.float32) + 3.3, np.arange(height, dtype=np.float32) + 1.7)
    remap_s = best(runs, lambda: cv2.remap(picture, x, y, cv2.INTER_CUBIC, borderMode=cv2.BORDER_REFLECT))
    tensor = torch.from_numpy(picture).permute(2, 0, 1)[None].float() / 255
    look = torch.from_numpy(np.stack([x * 2 / width - 1, y * 2 / height - 1], axis=-1))[None]

    def sample() -> None:
        torch.nn.functional.grid_sample(tensor, look, mode="bicubic", padding_mode="reflection", align_corners=False)

    sample_s = best(runs, sample)
    return {
        "opencv_remap_s": round(remap_s, 3),
        "torch_grid_sample_s": round(sample_s, 3),
        "ratio": round(sample_s / remap_s, 1),
    }


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description="Where the built-in model's time goes.")
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    parser.add_argument("--runs", type=int, default=3, help="of which the fastest counts")
    args = parser.parse_args()
    figures: dict[str, Any] = {"start": loading(args.runs), "renderer, one 1080p frame": renderers(args.runs)}
    figures["steps"] = steps()
    figures |= {name: stages(values, args.runs) for name, values in SETTINGS.items()}
    if args.json:
        print(json.dumps(figures, indent=2))
        return
    for name, found in figures.items():
        print(name)
        for key, value in found.items():
            print(f"  {key:34} {value}")


if __name__ == "__main__":
    main()
