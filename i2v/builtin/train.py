"""Trains the built-in model on procedural scenes: `python -m i2v.builtin.train --help`.

Flow matching (Lipman et al., 2023; rectified flow, Liu et al., 2023): x_t = (1 - t) x + t n. The denoiser predicts the
clean field x, which is smooth, and not the velocity n - x, which a small network would have to carry the noise for (Li
and He, "Back to Basics: Let Denoising Generative Models Denoise", 2025). Text encoder and denoiser are trained together
from random weights. Interrupt it at any time: the same command goes on where it stopped. Runs on the CPU or CUDA.
Progress goes to a CSV, its curve to a PNG.
"""

from __future__ import annotations

import argparse
import csv
import json
import logging
import math
import random
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
from diffusers import FlowMatchEulerDiscreteScheduler, I2VGenXLUNet
from safetensors.torch import load_file, save_file
from tokenizers import Tokenizer, models, pre_tokenizers, trainers
from transformers import CLIPTextConfig, CLIPTextModel, CLIPTokenizer

from i2v.builtin import phrases
from i2v.builtin.scenes import camera_field, draw_motion, draw_scene
from i2v.models.motion import MotionRenderer, PromptHint, condition_latents, picture_to_grid, pooled_picture
from i2v.models.text import encode_prompts, tokenize

__all__ = ["main"]

_log = logging.getLogger(__name__)
WIDTH = 64  # of the text embeddings, and so of the denoiser's cross attention
PROMPT_TOKENS = 48
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
    corpus = [phrases.draw_instruction(rng)[1] for _ in range(20_000)]
    learner = Tokenizer(models.BPE(end_of_word_suffix="</w>"))
    blank = CLIPTokenizer(vocab={START: 0, END: 1}, merges=[])
    learner.normalizer = blank.backend_tokenizer.normalizer
    learner.pre_tokenizer = blank.backend_tokenizer.pre_tokenizer
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    learner.train_from_iterator(
        corpus,
        trainers.BpeTrainer(
            vocab_size=1200, end_of_word_suffix="</w>", initial_alphabet=alphabet, special_tokens=[START, END]
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
        down_block_types=("CrossAttnDownBlock3D", "CrossAttnDownBlock3D"),
        up_block_types=("CrossAttnUpBlock3D", "CrossAttnUpBlock3D"),
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
    open_picture_path(unet)
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


def open_picture_path(unet: I2VGenXLUNet, gain: float = 2.0) -> None:
    """Make `image_latents_proj_in` begin as gain times the identity.

    With random weights the picture and the positions arrive a tenth as strong as the noise, and zooms and rolls, which
    need to know where they are, are learnt late. silu(x) - silu(-x) = x carries a value through exactly.
    """
    first, _, second, _, last = unet.image_latents_proj_in
    eye = torch.eye(4)
    zeros = torch.zeros(16 - 8, 4)
    spread = torch.cat([eye, -eye, zeros])  # (16, 4): x, -x, nothing
    gather = torch.cat([eye, -eye, zeros]).T  # (4, 16): what is silu(x) - silu(-x)
    with torch.no_grad():
        for conv, weights in ((first, spread), (second, spread @ gather), (last, gain * gather)):
            conv.weight.mul_(0.1)
            conv.weight[:, :, 1, 1] = weights
            conv.bias.zero_()


def batches(
    renderer: MotionRenderer, tokenizer: CLIPTokenizer, size: int, seed: int
) -> Iterator[dict[str, torch.Tensor]]:
    """Yield endless batches: latents (B, 4, K, g, g), grid (B, 4, g, g), input_ids (B, tokens), fps (B,)."""
    rng, words = np.random.default_rng(seed), random.Random(seed)
    while True:
        pictures, fields, prompts, rates = [], [], [], []
        for _ in range(size):
            instruction, prompt = phrases.draw_instruction(words)
            duration_s = float(np.exp(rng.uniform(np.log(0.5), np.log(10.0))))
            picture, nearness = draw_scene(rng, renderer.grid_size)
            fields.append(camera_field(draw_motion(instruction, duration_s, rng), nearness, renderer.num_keyframes))
            pictures.append(picture)
            prompts.append(prompt)
            rates.append((renderer.num_keyframes - 1) / duration_s)
        yield {
            "latents": renderer.to_latents(torch.from_numpy(np.stack(fields))),
            "grid": picture_to_grid(torch.from_numpy(np.stack(pictures)).permute(0, 3, 1, 2), renderer.grid_size),
            "input_ids": tokenize(tokenizer, prompts),
            "fps": torch.tensor(rates, dtype=torch.float32),
        }


def flow_matching_loss(
    net: torch.nn.ModuleDict, batch: dict[str, torch.Tensor], generator: torch.Generator
) -> torch.Tensor:
    """Return the mean squared error of the predicted clean latents, a scalar."""
    latents = batch["latents"]
    noise = torch.randn(latents.shape, generator=generator).to(latents)
    # A camera move is one mode of 512 numbers, so it stays readable under much noise: only close to t = 1 has the
    # denoiser to ask the prompt. Half of the samples are drawn there, else it never learns to read.
    near_noise = torch.rand(len(latents), generator=generator) < 0.5
    uniform = torch.rand(len(latents), generator=generator)
    t = torch.where(near_noise, 1 - 0.1 * uniform**2, uniform).to(latents)
    embeddings = encode_prompts(net["text_encoder"], batch["input_ids"])
    hint = net["prompt_hint"](embeddings)
    clean = net["unet"](
        torch.lerp(latents, noise, t.view(-1, 1, 1, 1, 1)),
        t * 1000,
        fps=batch["fps"],
        image_latents=condition_latents(batch["grid"], hint, latents.shape[2]),
        image_embeddings=pooled_picture(batch["grid"], WIDTH),
        encoder_hidden_states=embeddings,
        return_dict=False,
    )[0]
    # The hint shall point where the content goes by the end of the clip, or it would be learnt late (see PromptHint).
    end = condition_latents(batch["grid"], hint, latents.shape[2])[:, :2, -1]
    return torch.nn.functional.mse_loss(clean, latents) + 0.2 * torch.nn.functional.mse_loss(end, latents[:, :2, -1])


class Training:
    """The whole state of a training run, saved as safetensors and JSON so that it can go on after a stop."""

    def __init__(self, folder: Path, device: torch.device, batch_size: int, learning_rate: float, total_steps: int):
        torch.manual_seed(0)
        self.folder, self.device, self.total_steps = folder, device, total_steps
        self.batch_size, self.learning_rate = batch_size, learning_rate
        self.tokenizer, self.renderer = build_tokenizer(), MotionRenderer()
        text_encoder, unet = build_models(self.tokenizer)
        parts = {"text_encoder": text_encoder, "prompt_hint": PromptHint(WIDTH), "unet": unet}
        self.net = torch.nn.ModuleDict(parts).to(device).train()
        self.average = {name: p.detach().clone() for name, p in self.net.named_parameters()}
        self.optimizer = torch.optim.AdamW(self.net.parameters(), lr=learning_rate, weight_decay=0.01)
        self.step, self.seconds = 0, 0.0

    def rate(self) -> float:
        """Learning rate of the current step: warm-up over 100 steps, then a cosine to a fiftieth."""
        warm = min(1.0, (self.step + 1) / 100)
        left = 0.5 * (1 + math.cos(math.pi * min(1.0, self.step / self.total_steps)))
        return self.learning_rate * warm * (0.02 + 0.98 * left)

    def advance(self, batch: dict[str, torch.Tensor]) -> float:
        """Make one step and return its loss."""
        for group in self.optimizer.param_groups:
            group["lr"] = self.rate()
        batch = {name: values.to(self.device) for name, values in batch.items()}
        generator = torch.Generator().manual_seed(self.step)
        loss = flow_matching_loss(self.net, batch, generator)
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

    def save(self) -> None:
        """Write the state beside the old one, then put it in its place."""
        tensors: dict[str, torch.Tensor] = {f"net.{k}": v for k, v in self.net.named_parameters()}
        tensors |= {f"average.{k}": v for k, v in self.average.items()}
        for index, state in self.optimizer.state_dict()["state"].items():
            tensors |= {f"optimizer.{index}.{k}": v for k, v in state.items()}
        part = self.folder / "state.part"
        meta = {"step": str(self.step), "seconds": str(self.seconds)}
        save_file({k: v.detach().contiguous().cpu() for k, v in tensors.items()}, part, metadata=meta)
        part.replace(self.folder / "state.safetensors")

    def resume(self) -> bool:
        """Load the state of an interrupted run, if there is one."""
        path = self.folder / "state.safetensors"
        if not path.exists():
            return False
        from safetensors import safe_open

        with safe_open(path, "pt") as file:
            meta = file.metadata()
        tensors = load_file(path, device=str(self.device))
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
        return True

    def export(self, folder: Path) -> None:
        """Write the averaged weights in the standard layout of a model folder."""
        kept = {name: p.detach().clone() for name, p in self.net.named_parameters()}
        with torch.no_grad():
            for name, p in self.net.named_parameters():
                p.copy_(self.average[name])
        for name, module in self.net.items():
            part: Any = module
            part.save_pretrained(folder / name)
        self.tokenizer.save_pretrained(folder / "tokenizer")
        FlowMatchEulerDiscreteScheduler().save_pretrained(folder / "scheduler")
        self.renderer.save_config(folder / "renderer")
        (folder / "model_index.json").write_text(json.dumps(_COMPONENTS, indent=2) + "\n", encoding="utf-8")
        with torch.no_grad():
            for name, p in self.net.named_parameters():
                p.copy_(kept[name])


def draw_curve(csv_path: Path, png_path: Path) -> None:
    """Draw the loss over the steps."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    rows = np.loadtxt(csv_path, delimiter=",", skiprows=1, ndmin=2)
    figure, axes = pyplot.subplots(figsize=(7, 4))
    axes.plot(rows[:, 0], rows[:, 1])
    axes.set(xlabel="step", ylabel="flow-matching loss (mean of 25 steps)", yscale="log", title="Built-in model")
    axes.grid(alpha=0.3, which="both")
    figure.savefig(png_path, dpi=120, bbox_inches="tight")
    pyplot.close(figure)


def run(training: Training, every_s: float) -> None:
    """Train to the last step, logging every 25 steps and saving every `every_s` seconds."""
    log_path = training.folder / "loss.csv"
    rows = log_path.read_text(encoding="utf-8").splitlines() if training.step else ["step,loss,learning_rate,seconds"]
    kept = rows[:1] + [row for row in rows[1:] if int(row.split(",")[0]) <= training.step]
    log_path.write_text("\n".join(kept) + "\n", encoding="utf-8")
    source = batches(training.renderer, training.tokenizer, training.batch_size, seed=1 + training.step)
    losses, started, saved = [], time.monotonic(), time.monotonic()
    before_s = training.seconds
    while training.step < training.total_steps:
        losses.append(training.advance(next(source)))
        training.seconds = before_s + time.monotonic() - started
        if training.step % 25 == 0:
            with log_path.open("a", encoding="utf-8", newline="") as file:
                row = [
                    training.step,
                    f"{np.mean(losses):.5f}",
                    f"{training.rate():.6f}",
                    f"{training.seconds:.0f}",
                ]
                csv.writer(file).writerow(row)
            _log.info("step %d loss %.4f, %.0f s", training.step, np.mean(losses), training.seconds)
            losses.clear()
        if time.monotonic() - saved > every_s:
            training.save()
            saved = time.monotonic()
    training.save()


def main() -> None:
    """Read the command line, train, and export the model folder."""
    parser = argparse.ArgumentParser(description="Train the built-in motion model on procedural scenes.")
    parser.add_argument(
        "--work", type=Path, default=Path("train-builtin"), help="state, CSV and curve (default: %(default)s)"
    )
    parser.add_argument("--out", type=Path, default=Path(__file__).parent / "weights", help="where the model goes")
    parser.add_argument("--steps", type=int, default=2000)
    parser.add_argument("--batch", type=int, default=8)
    parser.add_argument("--rate", type=float, default=2e-3)
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--export-only", action="store_true", help="write the model from the saved state and stop")
    args = parser.parse_args()
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s")
    args.work.mkdir(parents=True, exist_ok=True)
    training = Training(args.work, torch.device(args.device), args.batch, args.rate, args.steps)
    if training.resume():
        _log.info("going on from step %d", training.step)
    elif args.export_only:
        parser.error(f"{args.work} holds no saved state")
    if not args.export_only:
        run(training, every_s=60)
        draw_curve(args.work / "loss.csv", args.work / "loss.png")
    training.export(args.out)
    _log.info("model written to %s", args.out)


if __name__ == "__main__":
    main()
