"""The command line: `python -m i2v generate | forecast | models | doctor | bench | inspect`.

Exit status: 0 done, 1 failed, 2 bad input (one line says what and how to mend it), 130 cancelled. With --json one JSON
object goes to standard output and nothing else; everything else goes to standard error.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any, NoReturn

from i2v import __version__
from i2v.cli.forecast import add_commands as add_forecast_commands
from i2v.cli.machine import add_commands as add_machine_commands
from i2v.errors import Cancelled, I2VError, InputError, StorageError
from i2v.jobs.folder import video_name
from i2v.jobs.model import JobState
from i2v.media.formats import read_request
from i2v.presets.model_preset import load_presets, preset_named
from i2v.presets.vocabulary import prompt_note
from i2v.request import parse_size
from i2v.service import Service, Snapshot
from i2v.settings import Settings, set_up_logging

__all__ = ["main"]

# Of the picture and the machine that a video was made with, not of the video.
_NOT_REUSED = ("image_sha256", "formats", "chunk_frames", "vram_gib", "ram_gib")
_NEAREST_FLAGS = {"num_frames": "--frames", "num_inference_steps": "--steps", "fps": "--fps"}
_SUFFIX_FORMATS = {".mp4": None, ".gif": "gif", ".webp": "webp", ".zip": "png"}


def main(argv: list[str] | None = None) -> int:
    """Run one command and return its exit status."""
    try:
        args = _parser().parse_args(argv)
        settings = Settings.from_environment()
        settings = settings if args.verbose else replace(settings, log_level="WARNING")
        set_up_logging(settings.log_level)
        return int(args.run(args, settings))
    except I2VError as error:
        print(f"i2v: {error}{_nearest_flags(error)}", file=sys.stderr)
        return error.exit_status
    except KeyboardInterrupt:
        print("i2v: cancelled", file=sys.stderr)
        return Cancelled.exit_status


def _nearest_flags(error: I2VError) -> str:
    """Return the flags for the nearest legal values that an error names, to be copied: " (--frames 81)"."""
    nearest = error.nearest if isinstance(error, InputError) else {}
    flags = [f"{flag} {nearest[name]}" for name, flag in _NEAREST_FLAGS.items() if name in nearest]
    if "width" in nearest:
        flags.append(f"--size {nearest['width']}x{nearest['height']}")
    return f" ({' '.join(flags)})" if flags else ""


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        """Say what is wrong in one line."""
        raise InputError(message, f"See {self.prog} --help.")


def _parser() -> argparse.ArgumentParser:
    parser = _Parser(prog="python -m i2v", description="Turn one picture and a sentence into a video.")
    parser.add_argument("--version", action="version", version=f"i2v {__version__}")
    common = _Parser(add_help=False)
    common.add_argument("--json", action="store_true", help="print one JSON object on standard output")
    common.add_argument("-v", "--verbose", action="store_true", help="show the log on standard error")
    commands = parser.add_subparsers(required=True, metavar="COMMAND")

    generate = commands.add_parser("generate", parents=[common], help="make a video")
    generate.add_argument("image", type=Path, metavar="IMAGE")
    generate.add_argument("-p", "--prompt", help="what should happen")
    generate.add_argument("-o", "--output", type=Path, metavar="OUT.mp4", help=".mp4, .gif, .webp or .zip (PNG frames)")
    generate.add_argument("--model", help=f"one of: {', '.join(load_presets())}")
    generate.add_argument("--size", metavar="WxH", help="default: follows the picture")
    generate.add_argument("--frames", type=int, metavar="N")
    generate.add_argument("--steps", type=int, metavar="N")
    generate.add_argument("--guidance", type=float, metavar="G")
    generate.add_argument("--seed", type=int, metavar="S", help="default: random")
    generate.add_argument("--fps", type=int, metavar="N")
    generate.add_argument(
        "--loop", action=argparse.BooleanOptionalAction, help="the end flows into the beginning, where the model can"
    )
    generate.add_argument("--fit", choices=("crop", "fit"), help="a picture of another shape: cut it, or show it whole")
    generate.add_argument("--negative", metavar="PROMPT", help="what should not happen")
    generate.add_argument("--precision", choices=("auto", "fp32", "fp16", "bf16", "fp8", "int8", "nf4"))
    generate.add_argument("--vram", type=float, metavar="GiB", help="use at most this much of the card")
    generate.add_argument("--ram", type=float, metavar="GiB", help="use at most this much of main memory")
    generate.add_argument("--chunk", type=int, metavar="N", help="frames worked on at a time; default: what fits")
    generate.add_argument(
        "--settings",
        type=Path,
        metavar="FILE",
        help="a video made by i2v, or what inspect --json printed",
    )
    generate.set_defaults(run=_generate)

    inspect = commands.add_parser("inspect", parents=[common], help="show the request that made a video")
    inspect.add_argument("file", type=Path, metavar="FILE")
    inspect.set_defaults(run=_inspect)

    add_machine_commands(commands, common)
    add_forecast_commands(commands, common)
    return parser


def _print_json(values: dict[str, Any]) -> None:
    print(json.dumps(values, ensure_ascii=False, indent=2))


def _generate(args: argparse.Namespace, settings: Settings) -> int:
    values = _request_values(args)
    output = args.output
    values["formats"] = _formats_for(output or Path("i2v.mp4"))
    service = Service(settings, runner=f"cli:{os.getpid()}")
    try:
        service.start()
        job = service.submit(values, args.image)
        note = prompt_note(preset_named(job.request["model"]), job.request["prompt"])
        ladder = service.forecast(job.request, (job.request["width"], job.request["height"]))
        notes = ladder.notes if ladder else []
        if not args.json:
            print("".join(f"i2v: {said}\n" for said in (note, *notes) if said), end="", file=sys.stderr)
        snapshot = _wait(service, job.id, quiet=args.json or not sys.stderr.isatty())
        if snapshot.job.state is not JobState.DONE:
            error = snapshot.job.error
            raise error.to_error() if error else Cancelled("the job was cancelled")
        output = output or Path(video_name(job.id, ".mp4"))
        _copy_result(snapshot, output)
    finally:
        service.close()
    report = _report(snapshot, output) | {"note": note or None, "notes": notes}
    if args.json:
        _print_json(report)
    else:
        size = f"{report['width']}x{report['height']}"
        print(f"{output}: {report['num_frames']} frames of {size}, seed {report['seed']}, {report['seconds']:.1f} s")
    return 0


def _request_values(args: argparse.Namespace) -> dict[str, Any]:
    """Gather what was asked for: the settings file first, then the flags."""
    values: dict[str, Any] = _read_settings(args.settings) if args.settings else {}
    flags = {
        "model": args.model,
        "prompt": args.prompt,
        "negative_prompt": args.negative,
        "num_frames": args.frames,
        "num_inference_steps": args.steps,
        "guidance_scale": args.guidance,
        "seed": args.seed,
        "fps": args.fps,
        "loop": args.loop,
        "image_fit": args.fit,
        "precision": args.precision,
        "vram_gib": args.vram,
        "ram_gib": args.ram,
        "chunk_frames": args.chunk,
    }
    if args.size:
        flags["width"], flags["height"] = parse_size(args.size)
    values |= {name: value for name, value in flags.items() if value is not None}
    if not (values.get("prompt") or "").strip():
        raise InputError("there is no prompt", 'Say what should happen with -p "the camera pans left".', "prompt")
    return values


def _read_settings(path: Path) -> dict[str, Any]:
    if path.suffix.lower() != ".json":
        request = read_request(path)["request"]
    else:
        try:
            document = json.loads(path.read_text(encoding="utf-8"))
            request = dict(document.get("request", document))
        except OSError as error:
            raise InputError(f"{path} cannot be read: {error.strerror}") from error
        except (ValueError, TypeError, AttributeError) as error:
            raise InputError(f"{path} is not the JSON that inspect prints") from error
    return {name: value for name, value in request.items() if name not in _NOT_REUSED}


def _formats_for(output: Path) -> tuple[str, ...]:
    """Check the output path before anything runs, and return the extra format its name asks for."""
    suffix = output.suffix.lower()
    if suffix not in _SUFFIX_FORMATS:
        raise InputError(
            f"the output {output} is none of .mp4, .gif, .webp, .zip",
            "Give it one of these endings.",
            "output",
        )
    folder = output.absolute().parent
    if not folder.is_dir():
        raise InputError(f"the output folder {folder} does not exist", "Create it, or choose another.", "output")
    if output.is_dir() or not os.access(folder, os.W_OK):
        raise InputError(f"{output} cannot be written", "Choose another output folder or name.", "output")
    kind = _SUFFIX_FORMATS[suffix]
    return (kind,) if kind else ()


def _wait(service: Service, job_id: str, quiet: bool) -> Snapshot:
    def show(snapshot: Snapshot) -> None:
        progress = snapshot.progress
        if not quiet and progress:
            eta = f", {progress.eta_s:.0f} s left" if progress.eta_s is not None else ""
            line = f"{progress.stage} {progress.step}/{progress.total}{eta}"
            print(f"\r\x1b[K{line}", end="", file=sys.stderr, flush=True)

    try:
        return service.wait(job_id, show)
    except KeyboardInterrupt:
        print("\ncancelling…", file=sys.stderr)
        service.cancel(job_id)
        return service.wait(job_id, lambda _: None)
    finally:
        if not quiet:
            print(file=sys.stderr)


def _copy_result(snapshot: Snapshot, output: Path) -> None:
    kind = _SUFFIX_FORMATS[output.suffix.lower()] or "mp4"
    source = snapshot.file(kind)
    if source is None:
        raise StorageError(f"the result of job {snapshot.job.id} is no longer there")
    part = output.with_name(output.name + ".part")
    try:
        shutil.copyfile(source, part)
        part.replace(output)
    except OSError as error:
        part.unlink(missing_ok=True)
        raise StorageError(
            f"{output} cannot be written: {error.strerror}", f"The video is kept in {source}.", "output"
        ) from error


def _report(snapshot: Snapshot, output: Path) -> dict[str, Any]:
    result = {k: v for k, v in snapshot.result.to_json().items() if k not in ("samples", "files", "file_bytes")}
    return {"file": str(output), "job_id": snapshot.job.id} | snapshot.job.request | result


def _inspect(args: argparse.Namespace, settings: Settings) -> int:
    found = read_request(args.file)
    if args.json:
        _print_json(found)
    else:
        for name, value in found["request"].items():
            print(f"{name:22} {value}")
        print(f"{'made with':22} i2v {found.get('i2v')}")
    return 0
