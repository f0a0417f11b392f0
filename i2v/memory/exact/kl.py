"""Runs diffusers' AutoencoderKL on one picture in bands of rows: the same numbers from a fraction of the memory.

The model is not changed: its own convolutions and linear layers are called in their own order, so hooks on them work.
Those on blocks and norms are not called. What is saved, and where:

- a convolution sees a band with one more row on either side, and the rows that saw false padding are cut off; a group
  norm is taken in two passes, so what lies between two convolutions never exists as a whole;
- a residual layer adds its result into its input; where it has half as many channels or fewer, both its first
  convolution and its shortcut go into the input's own memory, and the layers after it work there;
- attention holds all keys and values, but takes a few queries at a time.

The same weights give the same picture up to the order of summation. Only what Stable Diffusion's autoencoders are made
of is known here: another layer raises TypeError. Knows nothing of plans: how many rows make a band is told to it.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping

import torch
import torch.nn.functional as F
from diffusers import AutoencoderKL
from diffusers.models.attention_processor import Attention
from diffusers.models.autoencoders.vae import Decoder, DecoderOutput, DiagonalGaussianDistribution, Encoder
from diffusers.models.downsampling import Downsample2D
from diffusers.models.modeling_outputs import AutoencoderKLOutput
from diffusers.models.resnet import ResnetBlock2D
from diffusers.models.upsampling import Upsample2D
from torch import Tensor, nn

from i2v.memory.exact.group_norm import GroupStatistics
from i2v.memory.exact.pieces import pieces

__all__ = ["DEFAULT_ROWS", "ExactKL", "decode_in_bands", "encode_in_bands"]

DEFAULT_ROWS = 64  # the rows computed twice are then 3 to 6 %, and a band of 1024 columns is 16 MiB in 16 bits
# Scores and their softmax, in float32, of the queries taken at a time: what attention needs where it has no kernel
# that does without them.
_SCORES_BYTES = 64 << 20


@torch.no_grad()
def decode_in_bands(vae: AutoencoderKL, latent: Tensor, rows: int | None = None) -> Tensor:
    """Return what `vae.decode(latent).sample` is. Shape (1, 3, H, W).

    `latent`: (1, C, h, w). `rows`: of the picture per band; deeper levels have bands of as many numbers. Raises
    ValueError for more than one picture.
    """
    scale = 2 ** (len(vae.config.block_out_channels) - 1)
    run = _Run(vae, latent, latent.shape[-1] * scale, rows)
    if vae.post_quant_conv is not None:
        latent = vae.post_quant_conv(latent)
    return run.through(vae.decoder, latent)


@torch.no_grad()
def encode_in_bands(vae: AutoencoderKL, picture: Tensor, rows: int | None = None) -> DiagonalGaussianDistribution:
    """Return what `vae.encode(picture).latent_dist` is.

    `picture`: (1, 3, H, W) in -1..1. `rows`: see `decode_in_bands`. Raises ValueError for more than one picture.
    """
    moments = _Run(vae, picture, picture.shape[-1], rows).through(vae.encoder, picture)
    if vae.quant_conv is not None:
        moments = vae.quant_conv(moments)
    return DiagonalGaussianDistribution(moments)


class ExactKL:
    """Stands in an autoencoder's `encode` and `decode`: its own while `rows` is None, else bands of so many rows."""

    def __init__(self, vae: AutoencoderKL):
        self._vae, self._plain = vae, (vae.encode, vae.decode)
        self.rows: int | None = None
        vae.encode, vae.decode = self._encode, self._decode

    def set(self, knobs: Mapping[str, int]) -> None:
        """Work on "vae_rows" rows of a picture at a time."""
        self.rows = knobs.get("vae_rows")

    def remove(self) -> None:
        """Give the model its own methods back."""
        del self._vae.encode, self._vae.decode

    def _encode(self, picture: Tensor) -> AutoencoderKLOutput:
        if self.rows is None:
            return self._plain[0](picture)
        return AutoencoderKLOutput(latent_dist=encode_in_bands(self._vae, picture, self.rows))

    def _decode(self, latent: Tensor) -> DecoderOutput:
        if self.rows is None:
            return self._plain[1](latent)
        return DecoderOutput(sample=decode_in_bands(self._vae, latent, self.rows))


def _layers(coder: Encoder | Decoder) -> Iterator[nn.Module]:
    """Yield the layers between the first and the last convolution, in order."""
    if isinstance(coder, Encoder):
        for block in coder.down_blocks:
            yield from [*block.resnets, *(block.downsamplers or [])]
    middle = coder.mid_block
    yield middle.resnets[0]
    for attention, resnet in zip(middle.attentions, middle.resnets[1:], strict=True):
        yield from [resnet] if attention is None else [attention, resnet]
    if isinstance(coder, Decoder):
        for block in coder.up_blocks:
            yield from [*block.resnets, *(block.upsamplers or [])]


def _normed(layer: nn.Module, statistics: GroupStatistics, rows: Tensor) -> Tensor:
    """Return rows normalised and run through `layer`, an activation."""
    normed = statistics.normalise(rows)
    return F.silu(normed, inplace=True) if isinstance(layer, nn.SiLU) else layer(normed)


def _with_halo(part: slice, height: int) -> slice:
    """Return a band with the rows next to it, of which a 3x3 convolution on the band needs to know."""
    return slice(max(part.start - 1, 0), min(part.stop + 1, height))


def _convolve(
    conv: nn.Module, source: Tensor, part: slice, activation: nn.Module, statistics: GroupStatistics
) -> Tensor:
    """Return a band (1, C, r, W) of norm, activation and 3x3 convolution of the source."""
    seen = _with_halo(part, source.shape[2])
    rows = conv(_normed(activation, statistics, source[:, :, seen]))
    return rows.narrow(2, part.start - seen.start, part.stop - part.start)


class _LateRows:
    """Writes bands from top to bottom, the last row of each only when the next one comes.

    So they can go into the memory of what they are made from: a convolution on the next band still reads that row.
    """

    def __init__(self, target: Tensor):
        self.target = target
        self._row: Tensor | None = None
        self._at = 0

    def put(self, part: slice, band: Tensor) -> None:
        """Write rows `part`; nothing will read those above them any more."""
        self.finish()
        self._at = part.stop - 1
        self._row = band[:, :, -1].clone()
        self.target[:, :, part.start : self._at] = band[:, :, :-1]

    def finish(self) -> None:
        """Write the last row."""
        if self._row is not None:
            self.target[:, :, self._at] = self._row
            self._row = None


class _Run:
    """One picture's way through an encoder or a decoder.

    `hidden` is the picture so far, owned; `spare` is memory of its shape that nobody needs, if there is any. Each band
    is worked on in a function of its own, so that nothing of one band is still held when the next begins.
    """

    hidden: Tensor

    def __init__(self, vae: AutoencoderKL, given: Tensor, width_px: int, rows: int | None):
        if given.shape[0] != 1:
            raise ValueError(f"one picture at a time, not {given.shape[0]}")
        self._band_numbers = (DEFAULT_ROWS if rows is None else rows) * width_px * vae.config.block_out_channels[0]
        self.spare: Tensor | None = None

    def _bands(self, channels: int, height: int, width: int) -> Iterator[slice]:
        """Yield the bands of a picture in which each of the model's levels has about as many numbers per band."""
        return pieces(height, max(1, self._band_numbers // (channels * width)))

    def through(self, coder: Encoder | Decoder, given: Tensor) -> Tensor:
        """Return what the coder's own forward does. Leaves `given` as it is."""
        self._enter(coder.conv_in, given)
        for layer in _layers(coder):
            match layer:
                case ResnetBlock2D():
                    self._resnet(layer)
                case Attention():
                    self._attention(layer)
                case Upsample2D():
                    self._upsample(layer)
                case Downsample2D():
                    self._downsample(layer)
                case _:
                    raise TypeError(f"{type(layer).__name__} is not known to run in bands")
        return self._leave(coder)

    def _enter(self, conv: nn.Conv2d, given: Tensor) -> None:
        _, _, height, width = given.shape
        self.hidden = given.new_empty((1, conv.out_channels, height, width))
        for part in self._bands(conv.out_channels, height, width):
            seen = _with_halo(part, height)
            self._put(part, conv(given[:, :, seen]), part.start - seen.start)

    def _put(self, part: slice, rows: Tensor, skipped: int) -> None:
        """Write rows `part` of `hidden`, after those that saw false padding."""
        self.hidden[:, :, part] = rows.narrow(2, skipped, part.stop - part.start)

    def _leave(self, coder: Encoder | Decoder) -> Tensor:
        self.spare = None
        statistics = self._statistics(coder.conv_norm_out)
        _, channels, height, width = self.hidden.shape
        out = self.hidden.new_empty((1, coder.conv_out.out_channels, height, width))
        for part in self._bands(channels, height, width):
            out[:, :, part] = _convolve(coder.conv_out, self.hidden, part, coder.conv_act, statistics)
        return out

    def _statistics(self, norm: nn.GroupNorm) -> GroupStatistics:
        statistics = GroupStatistics(norm)
        for part in self._bands(*self.hidden.shape[1:]):
            statistics.add(self.hidden[:, :, part])
        return statistics

    # Residual layers

    def _resnet(self, layer: ResnetBlock2D) -> None:
        statistics, coming = self._statistics(layer.norm1), GroupStatistics(layer.norm2)
        inner, out = (_LateRows(target) for target in self._room(layer))
        size = (max(layer.conv1.in_channels, layer.conv1.out_channels), *self.hidden.shape[2:])
        for part in self._bands(*size):
            self._first_half(layer, part, statistics, coming, inner, out)
        inner.finish()
        out.finish()
        self.hidden, self.spare = out.target, inner.target
        for part in self._bands(*size):
            self._second_half(layer, part, coming, inner.target)

    def _room(self, layer: ResnetBlock2D) -> tuple[Tensor, Tensor]:
        """Return the memory for a layer's first convolution, and for its result."""
        channels = layer.conv1.out_channels
        if layer.conv_shortcut is None:
            return self.hidden.new_empty(self.hidden.shape) if self.spare is None else self.spare, self.hidden
        self.spare = None
        if self.hidden.shape[1] >= 2 * channels:
            return self.hidden[:, :channels], self.hidden[:, channels : 2 * channels]
        shape = (1, channels, *self.hidden.shape[2:])
        return self.hidden.new_empty(shape), self.hidden.new_empty(shape)

    def _first_half(
        self,
        layer: ResnetBlock2D,
        part: slice,
        statistics: GroupStatistics,
        coming: GroupStatistics,
        inner: _LateRows,
        out: _LateRows,
    ) -> None:
        band = _convolve(layer.conv1, self.hidden, part, layer.nonlinearity, statistics)
        coming.add(band)
        shortcut = None if layer.conv_shortcut is None else layer.conv_shortcut(self.hidden[:, :, part])
        inner.put(part, band)
        if shortcut is not None:
            out.put(part, shortcut)

    def _second_half(self, layer: ResnetBlock2D, part: slice, statistics: GroupStatistics, inner: Tensor) -> None:
        band = self.hidden[:, :, part]
        band.add_(_convolve(layer.conv2, inner, part, layer.nonlinearity, statistics))
        if layer.output_scale_factor != 1:
            band.div_(layer.output_scale_factor)

    # Other sizes

    def _upsample(self, layer: Upsample2D) -> None:
        self.spare = None
        if self.hidden.untyped_storage().nbytes() > self.hidden.nbytes:
            self.hidden = self.hidden.clone()  # and let go of the larger memory that it was a part of
        small, (_, channels, height, width) = self.hidden, self.hidden.shape
        self.hidden = small.new_empty((1, layer.out_channels, 2 * height, 2 * width))
        for part in self._bands(max(channels, layer.out_channels), height, 4 * width):
            seen = _with_halo(part, height)
            self._put(slice(2 * part.start, 2 * part.stop), layer(small[:, :, seen]), 2 * (part.start - seen.start))

    def _downsample(self, layer: Downsample2D) -> None:
        """Run a convolution of stride 2. Padding 0 stands for one row and column at the end, as the layer knows."""
        self.spare = None
        large, (_, channels, height, width) = self.hidden, self.hidden.shape
        end = 1 - layer.padding
        size = [(side + end + 2 * layer.padding - 3) // 2 + 1 for side in (height, width)]
        self.hidden = large.new_empty((1, layer.out_channels, *size))
        for part in self._bands(max(channels, layer.out_channels), size[0], 2 * width):
            first = max(2 * (part.start - layer.padding), 0)
            rows = large[:, :, first : 2 * part.stop + end]
            self._put(part, layer(rows), part.start - first // 2)

    # Attention

    def _attention(self, layer: Attention) -> None:
        statistics = self._statistics(layer.group_norm)
        tokens = self.hidden.flatten(2)
        channels, count = tokens.shape[1:]
        keys, values = (tokens.new_empty((1, count, linear.out_features)) for linear in (layer.to_k, layer.to_v))
        size = max(1, self._band_numbers // channels)
        for part in pieces(count, size):
            self._look_up(layer, statistics, tokens[:, :, part], keys[:, part], values[:, part])
        for part in pieces(count, min(size, max(1, _SCORES_BYTES // (2 * 4 * layer.heads * count)))):
            self._attend(layer, statistics, tokens[:, :, part], keys, values)

    def _look_up(
        self, layer: Attention, statistics: GroupStatistics, tokens: Tensor, keys: Tensor, values: Tensor
    ) -> None:
        normed = statistics.normalise(tokens).transpose(1, 2)
        keys.copy_(layer.to_k(normed))
        values.copy_(layer.to_v(normed))

    def _attend(
        self, layer: Attention, statistics: GroupStatistics, tokens: Tensor, keys: Tensor, values: Tensor
    ) -> None:
        """Let tokens (1, C, n) attend to all and add the result to them."""
        queries = layer.to_q(statistics.normalise(tokens).transpose(1, 2))
        by_head = (each.unflatten(2, (layer.heads, -1)).transpose(1, 2) for each in (queries, keys, values))
        found = F.scaled_dot_product_attention(*by_head).transpose(1, 2).flatten(2)
        del queries
        for linear in layer.to_out:
            found = linear(found)
        if not layer.residual_connection:
            tokens.zero_()
        tokens.add_(found.transpose(1, 2))
        if layer.rescale_output_factor != 1:
            tokens.div_(layer.rescale_output_factor)
