"""Runs diffusers' I2VGenXLUNet piece by piece: the same prediction from a fraction of the memory.

The model is not changed: an `ExactForward` takes the place of its `forward`, calls the model's own layers in their own
order, and can be taken away again. What is saved, and where:

- frame-wise layers see a few frames at a time, pixel-wise layers a few rows of all frames (unet_layers.py);
- a skip connection is joined inside the piece, and the result is written into its memory, which nobody needs any more;
- an upsampler is run inside the following layer's pieces, so that its large result never exists as a whole;
- `weights` may bring a layer's weights to the device for the time of that layer only (weights/parked.py);
- skips may be parked in main memory between the way down and the way up.

Knows nothing of plans: how many frames make a piece is told to it.
"""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import Any, Protocol

import torch
from diffusers import I2VGenXLUNet
from diffusers.models.resnet import ResnetBlock2D, Upsample2D
from diffusers.models.unets.unet_3d_condition import UNet3DConditionOutput
from torch import Tensor, nn

from i2v.memory.exact.pieces import pieces
from i2v.memory.exact.unet_layers import frame_wise, rows_per_piece, temporal_attention, temporal_convolution
from i2v.memory.forecast.count import main_memory

__all__ = ["ExactForward", "LayerWeights", "layers_in_order"]


class LayerWeights(Protocol):
    """Brings a layer's weights to the device for as long as the layer runs."""

    def held(self, layer: nn.Module) -> AbstractContextManager[None]: ...


def layers_in_order(unet: I2VGenXLUNet) -> list[nn.Module]:
    """Return the layers that `ExactForward` runs, in its order; together they hold every weight of the model."""
    found: list[nn.Module] = [
        unet.time_embedding, unet.fps_embedding, unet.image_latents_context_embedding, unet.context_embedding,
        unet.image_latents_proj_in, unet.image_latents_temporal_encoder, unet.conv_in, unet.transformer_in,
    ]  # fmt: skip
    for block in unet.down_blocks:
        found += [layer for group in _groups(block) for layer in group]
        found += list(block.downsamplers or [])
    found += [unet.mid_block.resnets[0], unet.mid_block.temp_convs[0]]
    found += [layer for group in _mid_groups(unet.mid_block) for layer in group]
    for block in unet.up_blocks:
        found += [layer for group in _groups(block) for layer in group]
        found += list(block.upsamplers or [])
    return [*found, unet.conv_norm_out, unet.conv_out]


def _groups(block: Any) -> list[tuple[nn.Module, ...]]:
    """Return a block's layers as (resnet, temporal convolution[, attention, temporal attention]), in order."""
    lists = [block.resnets, block.temp_convs]
    if getattr(block, "has_cross_attention", False):
        lists += [block.attentions, block.temp_attentions]
    return list(zip(*lists, strict=True))


def _mid_groups(block: Any) -> list[tuple[nn.Module, ...]]:
    """Return the middle block's layers after its first pair: (attention, temporal attention, resnet, convolution)."""
    return list(zip(block.attentions, block.temp_attentions, block.resnets[1:], block.temp_convs[1:], strict=True))


@dataclass
class _Skip:
    """A skip connection: on the device, or parked in main memory."""

    states: Tensor
    device: torch.device
    is_parked: bool

    def frames(self, part: slice) -> Tensor:
        return self.states[part].to(self.device, non_blocking=True, copy=self.is_parked)


class ExactForward:
    """Stands in a UNet's `forward`: the model's own while `chunk_frames` is None, else so many frames at a time."""

    def __init__(self, unet: I2VGenXLUNet):
        self._unet, self._plain = unet, unet.forward
        self.chunk_frames: int | None = None
        self.weights: LayerWeights | None = None
        self.parks_skips = False
        unet.forward = self

    def set(self, knobs: Mapping[str, int]) -> None:
        """Work on "chunk_frames" frames at a time, with "parked_skips" where that is turned."""
        self.chunk_frames, self.parks_skips = knobs.get("chunk_frames"), "parked_skips" in knobs

    def remove(self) -> None:
        """Give the model its own forward back."""
        del self._unet.forward

    def __call__(
        self,
        sample: Tensor,
        timestep: Tensor | float,
        fps: Tensor,
        image_latents: Tensor,
        image_embeddings: Tensor,
        encoder_hidden_states: Tensor,
        timestep_cond: Tensor | None = None,
        cross_attention_kwargs: dict[str, Any] | None = None,
        return_dict: bool = True,
    ) -> UNet3DConditionOutput | tuple[Tensor]:
        """Predict as `I2VGenXLUNet.forward` does. `sample`, `image_latents`: (B, C, F, h, w).

        Raises ValueError for the two arguments that nobody in pieces knows, if they are given.
        """
        if self.chunk_frames is None and self.weights is None:
            return self._plain(
                sample, timestep, fps, image_latents, image_embeddings, encoder_hidden_states,
                timestep_cond, cross_attention_kwargs, return_dict,
            )  # fmt: skip
        if timestep_cond is not None or cross_attention_kwargs:
            raise ValueError("in pieces there is no timestep_cond and there are no cross_attention_kwargs")
        run = _Run(self._unet, min(self.chunk_frames or sample.shape[2], sample.shape[2]), sample.shape, self)
        prediction = run.predict(sample, timestep, fps, image_latents, image_embeddings, encoder_hidden_states)
        return UNet3DConditionOutput(sample=prediction) if return_dict else (prediction,)


class _Run:
    """One call of the model in pieces. It gives up its skip connections one by one, so it runs only once."""

    def __init__(self, unet: I2VGenXLUNet, chunk_frames: int, shape: torch.Size, how: ExactForward):
        self.unet, self.chunk_frames, self._how = unet, chunk_frames, how
        self.batch, _, self.num_frames, self.height, self.width = shape
        self.count = self.batch * self.num_frames
        self.skips: list[_Skip] = []

    def _held(self, layer: nn.Module | None) -> AbstractContextManager[None]:
        weights = self._how.weights
        return nullcontext() if weights is None or layer is None else weights.held(layer)

    def predict(
        self,
        sample: Tensor,
        timestep: Tensor | float,
        fps: Tensor,
        image_latents: Tensor,
        image_embeddings: Tensor,
        encoder_hidden_states: Tensor,
    ) -> Tensor:
        self.temb = self._embed_time(sample, timestep, fps)
        self.context = self._context(image_latents, image_embeddings, encoder_hidden_states)
        hidden = self._enter(sample, self._encode_image_latents(image_latents))
        hidden = self._down(hidden)
        hidden = self._middle(hidden)
        return self._leave(*self._up(hidden))

    # What every layer is told

    def _embed_time(self, sample: Tensor, timestep: Tensor | float, fps: Tensor) -> Tensor:
        """Return the embedding of timestep and frame rate, per frame. Shape (B*F, D)."""
        unet = self.unet
        timesteps = torch.as_tensor(timestep, device=sample.device).reshape(-1).expand(self.batch)
        with self._held(unet.time_embedding):
            temb = unet.time_embedding(unet.time_proj(timesteps).to(sample.dtype))
        with self._held(unet.fps_embedding):
            temb = temb + unet.fps_embedding(unet.time_proj(fps).to(sample.dtype))
        return temb.repeat_interleave(self.num_frames, dim=0)

    def _context(self, image_latents: Tensor, image_embeddings: Tensor, text: Tensor) -> Tensor:
        """Return what the spatial attention looks at: words, first frame, picture. Shape (B*F, tokens, D)."""
        unet = self.unet
        with self._held(unet.image_latents_context_embedding):
            first = unet.image_latents_context_embedding(image_latents[:, :, 0]).flatten(2).transpose(1, 2)
        with self._held(unet.context_embedding):
            picture = unet.context_embedding(image_embeddings)
        picture = picture.view(-1, unet.config.in_channels, unet.config.cross_attention_dim)
        context = torch.cat([text, first, picture], dim=1)
        return context.unsqueeze(1).expand(-1, self.num_frames, -1, -1).reshape(self.count, *context.shape[1:])

    def _encode_image_latents(self, image_latents: Tensor) -> Tensor:
        """Return the picture's latents as the model's input wants them. Shape (B*F, C, h, w)."""
        unet = self.unet
        flat = image_latents.transpose(1, 2).reshape(self.count, *image_latents.shape[1:2], self.height, self.width)
        with self._held(unet.image_latents_proj_in):
            flat = frame_wise(lambda part: unet.image_latents_proj_in(flat[part]), self.count, self.chunk_frames)
        with self._held(unet.image_latents_temporal_encoder):
            for video in flat.split(self.num_frames):
                for part in pieces(self.height, rows_per_piece(self.height, self.num_frames, self.chunk_frames)):
                    video[:, :, part] = self._encode_rows(video[:, :, part])
        return flat

    def _encode_rows(self, rows: Tensor) -> Tensor:
        frames, channels, height, width = rows.shape
        tokens = rows.permute(2, 3, 0, 1).reshape(height * width, frames, channels)
        encoded = self.unet.image_latents_temporal_encoder(tokens)
        return encoded.view(height, width, frames, channels).permute(2, 3, 0, 1)

    # The way through the model

    def _enter(self, sample: Tensor, image_latents: Tensor) -> Tensor:
        unet = self.unet
        frames = sample.transpose(1, 2).flatten(0, 1)
        with self._held(unet.conv_in):
            hidden = self._frame_wise(lambda part: unet.conv_in(torch.cat([frames[part], image_latents[part]], dim=1)))
        hidden = self._temporal_attention(unet.transformer_in, hidden)
        self._push(hidden)
        return hidden

    def _down(self, hidden: Tensor) -> Tensor:
        for block in self.unet.down_blocks:
            for resnet, *rest in _groups(block):
                hidden = self._resnet(resnet, hidden)
                hidden = self._after_resnet(rest, hidden)
                self._push(hidden)
            for downsampler in block.downsamplers or []:
                hidden = self._downsample(downsampler, hidden)
                self._push(hidden)
        return hidden

    def _middle(self, hidden: Tensor) -> Tensor:
        block = self.unet.mid_block
        hidden = self._resnet(block.resnets[0], hidden)
        hidden = self._temporal_convolution(block.temp_convs[0], hidden)
        for attention, temporal, resnet, convolution in _mid_groups(block):
            hidden = self._attention(attention, hidden)
            hidden = self._temporal_attention(temporal, hidden)
            hidden = self._resnet(resnet, hidden, owned=True)
            hidden = self._temporal_convolution(convolution, hidden)
        return hidden

    def _up(self, hidden: Tensor) -> tuple[Tensor, Upsample2D | None]:
        """Return the states after all up blocks, and the upsampler that is still to be run on them, if any."""
        waiting: Upsample2D | None = None
        for block in self.unet.up_blocks:
            for resnet, *rest in _groups(block):
                hidden = self._joined_resnet(resnet, hidden, self.skips.pop(), waiting)
                hidden = self._after_resnet(rest, hidden)
                waiting = None
            waiting = block.upsamplers[0] if block.upsamplers else None
        return hidden, waiting

    def _leave(self, hidden: Tensor, waiting: Upsample2D | None) -> Tensor:
        unet = self.unet

        def finish(part: slice) -> Tensor:
            states = hidden[part] if waiting is None else waiting(hidden[part])
            return unet.conv_out(unet.conv_act(unet.conv_norm_out(states)))

        with self._held(waiting), self._held(unet.conv_norm_out), self._held(unet.conv_out):
            out = self._frame_wise(finish)
        return out.unflatten(0, (self.batch, self.num_frames)).transpose(1, 2)

    # Layers

    def _frame_wise(self, layer: Any, out: Tensor | None = None) -> Tensor:
        return frame_wise(layer, self.count, self.chunk_frames, out)

    def _resnet(self, resnet: ResnetBlock2D, hidden: Tensor, owned: bool = False) -> Tensor:
        """Run a resnet; into the memory of its input when that is `owned`, so that nothing else holds it."""
        with self._held(resnet):
            return self._frame_wise(lambda part: resnet(hidden[part], self.temb[part]), out=hidden if owned else None)

    def _joined_resnet(
        self, resnet: ResnetBlock2D, hidden: Tensor, skip: _Skip, upsampler: Upsample2D | None
    ) -> Tensor:
        """Run a resnet on upsampled states joined with a skip, into memory that is not needed any more."""
        size = skip.states.shape[-2:]

        def run(part: slice) -> Tensor:
            states = hidden[part] if upsampler is None else self._upsample(upsampler, hidden[part], size)
            return resnet(torch.cat([states, skip.frames(part)], dim=1), self.temb[part])

        out = None
        if not skip.is_parked and skip.states.shape[1] == resnet.out_channels:
            out = skip.states
        elif upsampler is None and hidden.shape[1] == resnet.out_channels:
            out = hidden
        with self._held(upsampler), self._held(resnet):
            return self._frame_wise(run, out)

    def _upsample(self, upsampler: Upsample2D, states: Tensor, size: torch.Size) -> Tensor:
        # The model itself names the size only when it cannot be halved evenly; the nearest pixels are the same.
        return upsampler(states, tuple(size))

    def _after_resnet(self, layers: list[nn.Module], hidden: Tensor) -> Tensor:
        convolution, *attentions = layers
        hidden = self._temporal_convolution(convolution, hidden)
        if attentions:
            hidden = self._attention(attentions[0], hidden)
            hidden = self._temporal_attention(attentions[1], hidden)
        return hidden

    def _attention(self, attention: nn.Module, hidden: Tensor) -> Tensor:
        def run(part: slice) -> Tensor:
            return attention(hidden[part], encoder_hidden_states=self.context[part], return_dict=False)[0]

        with self._held(attention):
            return self._frame_wise(run, out=hidden)

    def _temporal_attention(self, layer: nn.Module, hidden: Tensor) -> Tensor:
        with self._held(layer):
            return temporal_attention(layer, hidden, self.num_frames, self.chunk_frames)

    def _temporal_convolution(self, layer: nn.Module, hidden: Tensor) -> Tensor:
        with self._held(layer):
            return temporal_convolution(layer, hidden, self.num_frames, self.chunk_frames)

    def _downsample(self, layer: nn.Module, hidden: Tensor) -> Tensor:
        with self._held(layer):
            return self._frame_wise(lambda part: layer(hidden[part]))

    def _push(self, hidden: Tensor) -> None:
        states = hidden
        if self._how.parks_skips:
            with main_memory():
                states = torch.empty(hidden.shape, dtype=hidden.dtype, pin_memory=hidden.is_cuda)
            states.copy_(hidden)
        self.skips.append(_Skip(states, hidden.device, self._how.parks_skips))
