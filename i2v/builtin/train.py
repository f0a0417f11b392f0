"""Trains the built-in model on procedural scenes: `python -m i2v.builtin.train --help`.

Two stages. First the text encoder and the hint learn what a sentence asks for; that needs no picture and is quick.
Then the denoiser learns, given the hint, what the picture and the seed make of it. Flow matching (Lipman et al., 2023;
rectified flow, Liu et al., 2023): x_t = (1 - t) x + t n. The denoiser predicts the clean field x, which is smooth, and
not the velocity n - x, which a small network would have to carry the noise for (Li and He, "Back to Basics: Let
Denoising Generative Models Denoise", 2025). Interrupt it at any time: the same command goes on where it stopped. Runs
on the CPU or CUDA. Progress goes to a CSV, its curves to a PNG.
"""

from __future__ import annotations

import argparse
import csv
import json
import logging
import math
import random
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from diffusers import FlowMatchEulerDiscreteScheduler, I2VGenXLUNet
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from tokenizers import Tokenizer, models, pre_tokenizers, trainers
from transformers import CLIPTextConfig, CLIPTextModel, CLIPTokenizer

from i2v.builtin.phrases import draw_instruction
from i2v.builtin.scenes import draw_field, draw_scene, hint_of
from i2v.models.motion_field import GUIDES, PromptHint, Sight, denoiser_inputs, look_at, predict_clean
from i2v.models.motion_render import CHANNELS, MotionRenderer
from i2v.models.text import encode_prompts, tokenize

__all__ = ["main"]

_log = logging.getLogger(__name__)
WIDTH = 64  # of the text embeddings, and so of the denoiser's cross attention
PROMPT_TOKENS = 48
CORPUS_SENTENCES = 40_000  # that the tokenizer is learnt from
_COMPONENTS = {
    "_class_name": "MotionPipeline",
    "prompt_hint": ["i2v", "PromptHint"],
    "renderer": ["i2v", "MotionRenderer"],
    "scheduler": ["diffusers", "FlowMatchEulerDiscreteScheduler"],
    "text_encoder": ["transformers", "CLIPTextModel"],
    "tokenizer": ["transformers", "CLIPTokenizer"],
    "unet": ["diffusers", "I2VGenXLUNet"],
}
START, END = "<|startoftext|>", "<|endoftext|>"


def build_tokenizer() -> CLIPTokenizer:
    """Learn byte-level BPE merges from the training sentences; every other word falls apart into smaller pieces."""
    rng = random.Random(0)
    corpus = [draw_instruction(rng)[1] for _ in range(CORPUS_SENTENCES)]
    learner = Tokenizer(models.BPE(end_of_word_suffix="</w>"))
    blank = CLIPTokenizer(vocab={START: 0, END: 1}, merges=[])
    learner.normalizer = blank.backend_tokenizer.normalizer
    learner.pre_tokenizer = blank.backend_tokenizer.pre_tokenizer
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    learner.train_from_iterator(
        corpus,
        trainers.BpeTrainer(
            vocab_size=2400,
            min_frequency=20,
            end_of_word_suffix="</w>",
            initial_alphabet=alphabet,
            special_tokens=[START, END],
        ),
    )
    state = json.loads(learner.to_str())["model"]
    vocab = dict(state["vocab"])
    for piece in alphabet:  # a byte may end a word it was never seen to end
        vocab.setdefault(piece + "</w>", len(vocab))
    merges = [tuple(merge) for merge in state["merges"]]
    return CLIPTokenizer(vocab=vocab, merges=merges, model_max_length=PROMPT_TOKENS)


def build_models(tokenizer: CLIPTokenizer) -> tuple[CLIPTextModel, I2VGenXLUNet]:
    """Return the text encoder and the denoiser with random weights, dropout off."""
    text_encoder = CLIPTextModel(
        CLIPTextConfig(
            vocab_size=len(tokenizer),
            hidden_size=WIDTH,
            intermediate_size=4 * WIDTH,
            num_hidden_layers=3,
            num_attention_heads=4,
            max_position_embeddings=PROMPT_TOKENS,
            projection_dim=WIDTH,
            bos_token_id=tokenizer.bos_token_id,
            eos_token_id=tokenizer.eos_token_id,
            pad_token_id=tokenizer.pad_token_id,
        )
    )
    unet = I2VGenXLUNet(
        sample_size=8,
        in_channels=len(CHANNELS) + GUIDES,
        out_channels=len(CHANNELS),
        down_block_types=("DownBlock3D", "CrossAttnDownBlock3D"),
        up_block_types=("CrossAttnUpBlock3D", "UpBlock3D"),
        block_out_channels=(32, 64),
        layers_per_block=1,
        norm_num_groups=8,
        cross_attention_dim=WIDTH,
        attention_head_dim=4,
    )
    for module in unet.modules():
        if isinstance(module, torch.nn.Dropout):
            module.p = 0.0
    open_word_path(text_encoder)
    torch.nn.init.zeros_(unet.conv_out.weight)  # it begins with the even motion of the hint, and departs from it
    torch.nn.init.zeros_(unet.conv_out.bias)
    return text_encoder, unet


def open_word_path(text_encoder: CLIPTextModel) -> None:
    """Make the text encoder begin by gathering a sentence's words, so that no two sentences look alike.

    With CLIP's own start (0.02) they all do behind the final norm, and words that are not learnt at once are drowned
    by those that are: zooms, rolls and holds then stay one and the same for over a thousand steps.
    """
    width = text_encoder.config.hidden_size
    with torch.no_grad():
        tokens = text_encoder.embeddings.token_embedding.weight
        tokens.normal_(std=0.5)
        tokens[text_encoder.config.eos_token_id].zero_()  # the padding: it shall hold nothing but what it gathers
        for layer in text_encoder.encoder.layers:
            layer.self_attn.v_proj.weight.copy_(torch.eye(width))
            layer.self_attn.out_proj.weight.copy_(torch.eye(width))


def text_batches(
    tokenizer: CLIPTokenizer, scale: torch.Tensor, size: int, seed: int
) -> Iterator[dict[str, torch.Tensor]]:
    """Yield endless batches: input_ids (B, tokens), hint (B, HINTS) in units of latents."""
    words = random.Random(seed)
    while True:
        drawn = [draw_instruction(words) for _ in range(size)]
        hints = torch.from_numpy(np.stack([hint_of(instruction) for instruction, _ in drawn]))
        yield {"input_ids": tokenize(tokenizer, [text for _, text in drawn]), "hint": hints / scale}


def hint_scale(renderer: MotionRenderer) -> torch.Tensor:
    """Return the unit of each number of a hint, (HINTS,): that of the channel it speaks of."""
    scale = renderer.config.field_scale
    return torch.tensor([scale[0]] * 3 + [scale[1]] * 3 + [1.0, *scale[3:]])


def text_loss(net: torch.nn.ModuleDict, batch: dict[str, torch.Tensor], _: torch.Generator) -> torch.Tensor:
    """Return how far the hints are off: a smooth absolute error, for a sentence is understood or it is not."""
    embeddings = encode_prompts(net["text_encoder"], batch["input_ids"])
    return torch.nn.functional.smooth_l1_loss(net["prompt_hint"](embeddings), batch["hint"], beta=0.2)


def field_batches(
    renderer: MotionRenderer, tokenizer: CLIPTokenizer, size: int, seed: int
) -> Iterator[dict[str, torch.Tensor]]:
    """Yield endless batches: latents (B, 10, K, g, g), grid (B, 4, g, g), place (B, 2, g, g), input_ids (B, tokens)."""
    rng, words = np.random.default_rng(seed), random.Random(seed)
    while True:
        pictures, places, fields, prompts = [], [], [], []
        for _ in range(size):
            instruction, prompt = draw_instruction(words)
            scene = draw_scene(rng, renderer.config.grid_size)
            fields.append(draw_field(instruction, scene, renderer.config.num_keyframes, rng))
            pictures.append(scene.picture)
            places.append(np.stack([scene.place_x, scene.place_y]))
            prompts.append(prompt)
        sight = look_at(torch.from_numpy(np.stack(pictures)).permute(0, 3, 1, 2), renderer.config.grid_size)
        yield {
            "latents": renderer.to_latents(torch.from_numpy(np.stack(fields))),
            "grid": sight.grid,
            "place": torch.from_numpy(np.stack(places)),
            "input_ids": tokenize(tokenizer, prompts),
        }


def flow_matching_loss(
    text: torch.nn.ModuleDict, net: torch.nn.ModuleDict, batch: dict[str, torch.Tensor], generator: torch.Generator
) -> torch.Tensor:
    """Return the mean squared error of the predicted clean latents, a scalar; what is mirrored counts a fifth."""
    latents = batch["latents"]
    noise = torch.randn(latents.shape, generator=generator).to(latents)
    # A camera move is one mode of hundreds of numbers, so it stays readable under much noise: only close to t = 1 has
    # the denoiser to rely on words and picture. Half of the samples are drawn there.
    near_noise = torch.rand(len(latents), generator=generator) < 0.5
    uniform = torch.rand(len(latents), generator=generator)
    t = torch.where(near_noise, 1 - 0.1 * uniform**2, uniform).to(latents)
    with torch.no_grad():
        embeddings = encode_prompts(text["text_encoder"], batch["input_ids"])
        hint = text["prompt_hint"](embeddings)
    sight = Sight(batch["grid"], batch["place"])
    given = denoiser_inputs(hint, sight, latents.shape[2], WIDTH) | {"encoder_hidden_states": embeddings}
    noisy = torch.lerp(latents, noise, t.view(-1, 1, 1, 1, 1))
    clean = predict_clean(net["unet"], noisy, t * 1000, given)
    weight = torch.where(batch["place"].abs().amax(dim=1) > 1.05, 0.2, 1.0)[:, None, None]
    return ((clean - latents) ** 2 * weight).mean()


@dataclass(frozen=True)
class Plan:
    """One stage of the training: how long, how fast, with what."""

    name: str
    steps: int
    learning_rate: float
    loss: Callable[[torch.nn.ModuleDict, dict[str, torch.Tensor], torch.Generator], torch.Tensor]


class Stage:
    """The whole state of one stage, saved as safetensors so that it can go on after a stop."""

    def __init__(self, plan: Plan, folder: Path, modules: dict[str, torch.nn.Module], device: torch.device):
        self.plan, self.folder, self.device = plan, folder, device
        self.net = torch.nn.ModuleDict(modules).to(device).train()
        self.average = {name: p.detach().clone() for name, p in self.net.named_parameters()}
        self.optimizer = torch.optim.AdamW(self.net.parameters(), lr=plan.learning_rate, weight_decay=0.01)
        self.step, self.seconds = 0, 0.0

    def rate(self) -> float:
        """Learning rate of the current step: warm-up over 100 steps, then a cosine to a fiftieth."""
        warm = min(1.0, (self.step + 1) / 100)
        left = 0.5 * (1 + math.cos(math.pi * min(1.0, self.step / self.plan.steps)))
        return self.plan.learning_rate * warm * (0.02 + 0.98 * left)

    def advance(self, batch: dict[str, torch.Tensor]) -> float:
        """Make one step and return its loss."""
        for group in self.optimizer.param_groups:
            group["lr"] = self.rate()
        batch = {name: values.to(self.device) for name, values in batch.items()}
        generator = torch.Generator().manual_seed(self.step)
        loss = self.plan.loss(self.net, batch, generator)
        self.optimizer.zero_grad(set_to_none=True)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(self.net.parameters(), 1.0)
        self.optimizer.step()
        decay = min(0.995, self.step / (self.step + 10))
        with torch.no_grad():
            for name, p in self.net.named_parameters():
                self.average[name].lerp_(p, 1 - decay)
        self.step += 1
        return loss.item()

    @property
    def _state_path(self) -> Path:
        return self.folder / f"{self.plan.name}.safetensors"

    def save(self) -> None:
        """Write the state beside the old one, then put it in its place."""
        tensors: dict[str, torch.Tensor] = {f"net.{k}": v for k, v in self.net.named_parameters()}
        tensors |= {f"average.{k}": v for k, v in self.average.items()}
        for index, state in self.optimizer.state_dict()["state"].items():
            tensors |= {f"optimizer.{index}.{k}": v for k, v in state.items()}
        part = self._state_path.with_suffix(".part")
        meta = {"step": str(self.step), "seconds": str(self.seconds)}
        save_file({k: v.detach().contiguous().cpu() for k, v in tensors.items()}, part, metadata=meta)
        part.replace(self._state_path)

    def resume(self) -> None:
        """Load the state of an interrupted run, if there is one."""
        if not self._state_path.exists():
            return
        with safe_open(self._state_path, "pt") as file:
            meta = file.metadata()
        tensors = load_file(self._state_path, device=str(self.device))
        self.step, self.seconds = int(meta["step"]), float(meta["seconds"])
        with torch.no_grad():
            for name, p in self.net.named_parameters():
                p.copy_(tensors[f"net.{name}"])
                self.average[name].copy_(tensors[f"average.{name}"])
        state = self.optimizer.state_dict()
        for key, value in tensors.items():
            if key.startswith("optimizer."):
                _, index, name = key.split(".")
                state["state"].setdefault(int(index), {})[name] = value
        self.optimizer.load_state_dict(state)
        _log.info("%s: going on from step %d", self.plan.name, self.step)

    def run(self, source: Iterator[dict[str, torch.Tensor]], every_s: float = 60) -> None:
        """Train to the last step, logging every 25 steps and saving every `every_s` seconds."""
        log_path = self.folder / f"{self.plan.name}.csv"
        header = ["step,loss,learning_rate,seconds"]
        rows = log_path.read_text(encoding="utf-8").splitlines() if self.step and log_path.exists() else header
        kept = rows[:1] + [row for row in rows[1:] if int(row.split(",")[0]) <= self.step]
        log_path.write_text("\n".join(kept) + "\n", encoding="utf-8")
        losses, started, saved = [], time.monotonic(), time.monotonic()
        before_s = self.seconds
        while self.step < self.plan.steps:
            losses.append(self.advance(next(source)))
            self.seconds = before_s + time.monotonic() - started
            if self.step % 25 == 0 or self.step == self.plan.steps:
                with log_path.open("a", encoding="utf-8", newline="") as file:
                    row = [self.step, f"{np.mean(losses):.5f}", f"{self.rate():.6f}", f"{self.seconds:.0f}"]
                    csv.writer(file).writerow(row)
                _log.info("%s: step %d loss %.4f, %.0f s", self.plan.name, self.step, np.mean(losses), self.seconds)
                losses.clear()
            if time.monotonic() - saved > every_s:
                self.save()
                saved = time.monotonic()
        self.save()

    def use_average(self) -> None:
        """Put the averaged weights in place, for what comes after this stage."""
        with torch.no_grad():
            for name, p in self.net.named_parameters():
                p.copy_(self.average[name])
        self.net.eval().requires_grad_(False)


def export(folder: Path, tokenizer: CLIPTokenizer, renderer: MotionRenderer, modules: dict[str, Any]) -> None:
    """Write the model in the standard layout of a model folder."""
    for name, module in modules.items():
        module.save_pretrained(folder / name)
    tokenizer.save_pretrained(folder / "tokenizer")
    FlowMatchEulerDiscreteScheduler().save_pretrained(folder / "scheduler")
    renderer.save_config(folder / "renderer")
    (folder / "model_index.json").write_text(json.dumps(_COMPONENTS, indent=2) + "\n", encoding="utf-8")


def draw_curves(folder: Path, png_path: Path) -> None:
    """Draw the loss of both stages over the steps."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    figure, both = pyplot.subplots(1, 2, figsize=(10, 4))
    for axes, (name, title) in zip(both, (("text", "text and hint"), ("field", "denoiser")), strict=True):
        rows = np.loadtxt(folder / f"{name}.csv", delimiter=",", skiprows=1, ndmin=2)
        axes.plot(rows[:, 0], rows[:, 1])
        axes.set(xlabel="step", ylabel="loss (mean of 25 steps)", yscale="log", title=title)
        axes.grid(alpha=0.3, which="both")
    figure.savefig(png_path, dpi=110, bbox_inches="tight")
    pyplot.close(figure)


def train(args: argparse.Namespace) -> None:
    """Run both stages, or go on with them, and write the model."""
    torch.manual_seed(0)
    device = torch.device(args.device)
    tokenizer, renderer = build_tokenizer(), MotionRenderer()
    text_encoder, unet = build_models(tokenizer)
    words: dict[str, Any] = {"text_encoder": text_encoder, "prompt_hint": PromptHint(WIDTH)}
    text = Stage(Plan("text", args.text_steps, args.text_rate, text_loss), args.work, words, device)
    text.resume()
    text.run(text_batches(tokenizer, hint_scale(renderer), args.text_batch, seed=1 + text.step))
    text.use_average()

    def loss(net: torch.nn.ModuleDict, batch: dict[str, torch.Tensor], generator: torch.Generator) -> torch.Tensor:
        return flow_matching_loss(text.net, net, batch, generator)

    field = Stage(Plan("field", args.steps, args.rate, loss), args.work, {"unet": unet}, device)
    field.resume()
    if not args.export_only:
        field.run(field_batches(renderer, tokenizer, args.batch, seed=1 + field.step))
    field.use_average()
    export(args.out, tokenizer, renderer, words | {"unet": unet})
    draw_curves(args.work, args.work / "loss.png")
    _log.info("model written to %s", args.out)


def main() -> None:
    """Read the command line, train, and export the model folder."""
    parser = argparse.ArgumentParser(description="Train the built-in motion model on procedural scenes.")
    parser.add_argument(
        "--work", type=Path, default=Path("train-builtin"), help="states, CSVs and curves (default: %(default)s)"
    )
    parser.add_argument("--out", type=Path, default=Path(__file__).parent / "weights", help="where the model goes")
    parser.add_argument("--text-steps", type=int, default=2500)
    parser.add_argument("--text-batch", type=int, default=128)
    parser.add_argument("--text-rate", type=float, default=2e-3)
    parser.add_argument("--steps", type=int, default=2500)
    parser.add_argument("--batch", type=int, default=8)
    parser.add_argument("--rate", type=float, default=1.5e-3)
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--export-only", action="store_true", help="write the model as it is now and stop")
    args = parser.parse_args()
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s")
    args.work.mkdir(parents=True, exist_ok=True)
    train(args)


if __name__ == "__main__":
    main()
