"""A small family of two experts, as Wan 2.2 is built (Wan Team, 2025, arXiv:2503.20314), of diffusers' own parts.

Gives the frames of diffusers' WanImageToVideoPipeline from the same noise: a video transformer for noisy timesteps and
another for the later ones, a causal autoencoder that makes four frames of each latent but the first, and the picture as
the first frame of a clip whose other frames are grey, encoded and joined to the noise with a mask of what is known.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any

from i2v.family import Architecture, Family, FrameRule, Geometry, Part, PromptRule, Role, Rules
from i2v.models.base import Conditions, ImageToVideo, draw_noise
from i2v.models.lazy import torch, transformers
from i2v.models.picture_encoding import to_frames, unit_range

if TYPE_CHECKING:
    from pathlib import Path

    import numpy as np

    from i2v.memory.forecast.calls import TracedCall
    from i2v.presets.model_preset import ModelPreset
    from i2v.request import GenerationRequest

__all__ = ["FAMILY", "Pipeline", "geometry_of", "traced_calls"]

_EXPERT = "diffusers:WanTransformer3DModel"
FAMILY = Family(
    name="tiny_dit",
    parts=(
        Part(
            "text_encoder", "transformers:UMT5EncoderModel", Role.ENCODER, "transformers:UMT5Config",
            blocks="encoder.block",
        ),
        Part("transformer", _EXPERT, Role.DENOISER, blocks="blocks"),
        Part("transformer_2", _EXPERT, Role.DENOISER, blocks="blocks"),
        Part("vae", "diffusers:AutoencoderKLWan", Role.DECODER),
    ),
    rules=Rules(size_multiple=16, frames=FrameRule(step=4, first=5)),
    prompt=PromptRule(marks=1),
)  # fmt: skip
_SCHEDULERS = ("UniPCMultistepScheduler", "FlowMatchEulerDiscreteScheduler")
_TOKENS = 16  # that the transformers read; Wan's read 512
_LATER_GUIDANCE = 0.75  # of the second expert, as a share of the first one's: 3.0 to 4.0 in Wan 2.2's text-to-video
_PREVIEW_PX, _PREVIEW_FRAMES = 160, 6


class Pipeline(ImageToVideo):
    """Two small experts."""

    family = FAMILY

    def __init__(
        self, tokenizer: transformers.T5Tokenizer, modules: Mapping[str, Any], scheduler: Any, boundary_ratio: float
    ):
        super().__init__(modules, scheduler)
        self.tokenizer, self.text_encoder, self.vae = tokenizer, modules["text_encoder"], modules["vae"]
        self._boundary = boundary_ratio * scheduler.config.num_train_timesteps
        config = self.vae.config
        self._scale, self._frame_scale = config.scale_factor_spatial, config.scale_factor_temporal

    @classmethod
    def load(
        cls, folder: Path, preset: ModelPreset, device: torch.device, dtype: torch.dtype, *, keep_mapped: bool = False
    ) -> Pipeline:
        from i2v.models.files import pipeline_settings
        from i2v.models.loading import load_parts, load_scheduler, load_tokenizer

        return cls(
            load_tokenizer(folder, "tokenizer", transformers.T5Tokenizer),
            load_parts(folder, FAMILY, device, dtype, keep_mapped=keep_mapped),
            load_scheduler(folder, "scheduler", _SCHEDULERS),
            pipeline_settings(folder)["boundary_ratio"],
        )

    def expert_at(self, timestep: torch.Tensor) -> str:
        return "transformer" if float(timestep) >= self._boundary else "transformer_2"

    def guidance_at(self, timestep: torch.Tensor, request: GenerationRequest) -> float:
        later = self.expert_at(timestep) == "transformer_2"
        return request.guidance_scale * _LATER_GUIDANCE if later else request.guidance_scale

    def encode(self, request: GenerationRequest, image: np.ndarray, generator: torch.Generator) -> Conditions:
        shared = {"first_frame": self._first_frame(image, request.num_frames)}
        positive = shared | {"encoder_hidden_states": self._embed(request.prompt)}
        if request.guidance_scale <= 1.0:
            return Conditions(positive, None)
        return Conditions(positive, shared | {"encoder_hidden_states": self._embed(request.negative_prompt)})

    def _embed(self, prompt: str) -> torch.Tensor:
        """Return a prompt's embeddings, zero where it has no tokens. Shape (1, tokens, hidden)."""
        given = self.tokenizer(
            prompt, padding="max_length", max_length=_TOKENS, truncation=True, return_tensors="pt"
        ).to(self.device)
        with self.in_use("text_encoder"):
            embedded = self.text_encoder(given.input_ids, given.attention_mask).last_hidden_state
        return embedded * given.attention_mask.unsqueeze(-1).to(embedded.dtype)

    def _first_frame(self, image: np.ndarray, num_frames: int) -> torch.Tensor:
        """Return the mask of what is known, then the latents of picture and grey. Shape (1, 4 + C, f, h, w)."""
        picture = (unit_range(image) * 2 - 1).to(self.device, self.dtype)
        with self.in_use("vae"):
            encoded = _encode_clip(self.vae, picture, (num_frames - 1) // self._frame_scale + 1)
        mean, deviation = self._statistics()
        latents = (encoded[:, : self.vae.config.z_dim].float() - mean) / deviation
        mask = torch.zeros((1, self._frame_scale, *latents.shape[2:]), device=self.device)
        mask[:, :, 0] = 1
        return torch.cat([mask, latents], dim=1)

    def _statistics(self) -> tuple[torch.Tensor, torch.Tensor]:
        """Return mean and deviation of the autoencoder's latents, each of shape (1, C, 1, 1, 1)."""
        config = self.vae.config
        mean, deviation = (
            torch.tensor(values, device=self.device).view(1, -1, 1, 1, 1)
            for values in (config.latents_mean, config.latents_std)
        )
        return mean, deviation

    def draw_latents(self, request: GenerationRequest, generator: torch.Generator) -> torch.Tensor:
        frames = (request.num_frames - 1) // self._frame_scale + 1
        size = (request.height // self._scale, request.width // self._scale)
        return draw_noise((1, self.vae.config.z_dim, frames, *size), generator, self.device)

    def _predict(
        self, latents: torch.Tensor, timestep: torch.Tensor, conditions: dict[str, torch.Tensor]
    ) -> torch.Tensor:
        given = torch.cat([latents, conditions["first_frame"]], dim=1)
        prompt = {"encoder_hidden_states": conditions["encoder_hidden_states"]}
        return super()._predict(given, timestep.expand(1), prompt)

    def clean_estimate(self, noise: torch.Tensor, timestep: torch.Tensor, latents: torch.Tensor) -> torch.Tensor:
        # Rectified flow: x_t = (1 - s) x + s n, prediction n - x. Timesteps are 1000 s without its fraction.
        step = int((self.scheduler.timesteps == timestep).nonzero()[0])
        return latents - self.scheduler.sigmas[step].to(latents.device) * noise

    def decode(
        self, latents: torch.Tensor, conditions: Conditions, request: GenerationRequest, first: int = 0
    ) -> Iterator[np.ndarray]:
        mean, deviation = self._statistics()
        scaled = (latents * deviation + mean).to(self.dtype)
        with self.in_use("vae"):
            number = 0
            for pictures in _decode_clip(self.vae, scaled):  # from the beginning: each latent needs those before it
                frames = to_frames(pictures[0].transpose(0, 1).float())
                del pictures  # or they would be there beside the next ones
                for frame in frames:
                    if number >= first:
                        yield frame
                    number += 1

    def preview(self, latents: torch.Tensor, conditions: Conditions, request: GenerationRequest) -> np.ndarray:
        at = torch.linspace(0, latents.shape[2] - 1, min(_PREVIEW_FRAMES, latents.shape[2])).round().long()
        rgb = latents[0, :3].float().index_select(1, at.to(latents.device)).transpose(0, 1)
        scale = _PREVIEW_PX / max(rgb.shape[-2:])
        size = tuple(max(8, round(side * scale)) for side in rgb.shape[-2:])
        return to_frames(torch.nn.functional.interpolate(rgb, size, mode="bilinear"))


def _encode_clip(vae: Any, picture: torch.Tensor, latent_frames: int) -> torch.Tensor:
    """Encode a picture followed by grey frames, as `vae.encode` does, without holding them all.

    `picture`: (1, 3, H, W). Returns the mean and the logarithm of the variance, (1, 2 C, f, h, w).
    """
    vae.clear_cache()
    try:
        pieces = []
        for number in range(latent_frames):
            vae._enc_conv_idx = [0]
            grey = (1, 3, 4, *picture.shape[2:])
            frames = picture.unsqueeze(2) if number == 0 else picture.new_zeros(grey)
            pieces.append(vae.encoder(frames, feat_cache=vae._enc_feat_map, feat_idx=vae._enc_conv_idx))
        return vae.quant_conv(torch.cat(pieces, dim=2))
    finally:
        vae.clear_cache()


def _decode_clip(vae: Any, latents: torch.Tensor) -> Iterator[torch.Tensor]:
    """Yield what each latent becomes, as `vae.decode` does: one frame, then four each. (1, 3, n, H, W) in -1..1."""
    vae.clear_cache()
    try:
        for number, latent in enumerate(vae.post_quant_conv(latents).split(1, dim=2)):
            vae._conv_idx = [0]
            first = {"first_chunk": True} if number == 0 else {}
            yield vae.decoder(latent, feat_cache=vae._feat_map, feat_idx=vae._conv_idx, **first).clamp_(-1, 1)
    finally:
        vae.clear_cache()  # or a call that ran out of memory would leave it taken


# What is traced


def geometry_of(architecture: Architecture) -> Geometry:
    """Return how pixels and frames become latents, and latents tokens."""
    vae = architecture["vae"]
    patch = tuple(architecture["transformer"]["patch_size"])
    return Geometry(vae["scale_factor_spatial"], vae["scale_factor_temporal"], patch)


# Unlike one another in every dimension. Every clip has three latent frames where a call is repeated for each: the
# first fills the caches, the second replaces what stood for nothing in them, and from the third on all are alike.
_PROBES = tuple(
    {"width": width, "height": height, "num_frames": frames}
    for width, height, frames in ((48, 80, 9), (80, 112, 13), (112, 48, 21), (176, 144, 5), (208, 80, 17))
)
_THREE = 3


def traced_calls(architecture: Architecture, dtype: torch.dtype) -> list[TracedCall]:
    """Return every call of a run; call it within `fake_tensors`."""
    return [
        _text_call(architecture, dtype),
        *_vae_calls(architecture, dtype),
        *(_expert_call(name, architecture, dtype) for name in FAMILY.of_role(Role.DENOISER)),
    ]


def _text_call(architecture: Architecture, dtype: torch.dtype) -> TracedCall:
    from i2v.memory.forecast.calls import TracedCall
    from i2v.memory.forecast.trace import Part as TracedPart
    from i2v.models.traced_parts import fake_part, variables_by

    text = fake_part(FAMILY, "text_encoder", architecture, dtype)

    def inputs(probe: Mapping[str, int]) -> dict[str, Any]:
        mask = torch.ones((1, _TOKENS), dtype=torch.long)
        mask[:, -1] = 0  # a prompt that is shorter: then the mask takes memory
        return {"weights": text, "tokens": torch.zeros((1, _TOKENS), dtype=torch.long), "mask": mask}

    variables = variables_by(geometry_of(architecture))

    def run(given: dict[str, Any]) -> Any:
        return text(given["tokens"], given["mask"])

    part = TracedPart("text.whole", _PROBES[:2], variables, ["1"], inputs, run)
    return TracedCall("text", "encode", "text_encoder", {"whole": part})


def _vae_calls(architecture: Architecture, dtype: torch.dtype) -> list[TracedCall]:
    from i2v.memory.forecast.calls import TracedCall
    from i2v.memory.forecast.forms import PeakForm
    from i2v.memory.forecast.trace import Part as TracedPart
    from i2v.models.traced_parts import fake_part, variables_by

    geometry, vae = geometry_of(architecture), fake_part(FAMILY, "vae", architecture, dtype)
    channels, number = architecture["vae"]["z_dim"], torch.empty((), dtype=dtype).element_size()

    def picture(probe: Mapping[str, int]) -> dict[str, Any]:
        return {"weights": vae, "input": torch.empty((1, 3, probe["height"], probe["width"]), dtype=dtype)}

    def latents(probe: Mapping[str, int], frames: int = _THREE) -> dict[str, Any]:
        size = (probe["height"] // geometry.scale, probe["width"] // geometry.scale)
        return {"weights": vae, "input": torch.empty((1, channels, frames, *size), dtype=dtype)}

    def all_latents(probe: Mapping[str, int]) -> dict[str, Any]:
        return latents(probe, geometry.latent_frames(probe["num_frames"]))

    def part(name: str, prepare: Any, run: Any) -> TracedPart:
        return TracedPart(name, _PROBES, variables_by(geometry), ["1", "A0", "h", "w"], prepare, run)

    encode = part("vae_encode.whole", picture, lambda given: _encode_clip(vae, given["input"], _THREE))
    decode = part("decode.whole", latents, lambda given: deque(_decode_clip(vae, given["input"]), maxlen=0))
    encoded, waiting = PeakForm(({"f*A0": 2 * channels * number},)), PeakForm(({"f*A0": channels * (4 + number)},))
    terms = ["A0", "f*A0", "A0*A0", "f*A0*A0"]
    counted = TracedPart("decode", _PROBES, variables_by(geometry), terms, all_latents, decode.run)
    return [
        TracedCall("vae_encode", "encode", "vae", {"whole": encode}, held=encoded),
        TracedCall("decode", "decode", "vae", {"whole": decode}, held=waiting, counted=counted),
    ]


def _expert_call(name: str, architecture: Architecture, dtype: torch.dtype) -> TracedCall:
    from i2v.memory.forecast.calls import TracedCall
    from i2v.memory.forecast.forms import PeakForm
    from i2v.memory.forecast.trace import Part as TracedPart
    from i2v.models.traced_parts import fake_part, variables_by

    geometry, expert = geometry_of(architecture), fake_part(FAMILY, name, architecture, dtype)
    config = expert.config

    def inputs(probe: Mapping[str, int]) -> dict[str, Any]:
        frames = geometry.latent_frames(probe["num_frames"])
        size = (frames, probe["height"] // geometry.scale, probe["width"] // geometry.scale)
        return {
            "weights": expert,
            "hidden_states": torch.empty((1, config.in_channels, *size), dtype=dtype),
            "timestep": torch.ones(1, dtype=torch.long),
            "encoder_hidden_states": torch.empty((1, _TOKENS, config.text_dim), dtype=dtype),
        }

    def run(given: dict[str, Any]) -> Any:
        return expert(**{key: value for key, value in given.items() if key != "weights"})

    variables = variables_by(geometry)
    whole = TracedPart(f"{name}.whole", _PROBES, variables, ["1", "N"], inputs, run)
    counted = TracedPart(name, _PROBES, variables, ["1", "N", "N*N"], inputs, run)
    # Float32 latents, the first half of guidance and the picture's part; and all of them in the model's numbers.
    number = torch.empty((), dtype=dtype).element_size()
    waiting = 4 * (config.out_channels + config.in_channels) + number * config.in_channels
    held = PeakForm(({"f*A0": waiting},))
    return TracedCall(name, "denoise", name, {"whole": whole}, held=held, counted=counted, per="pass")
