"""The layers of a video UNet, each run a piece at a time with the same result.

A layer is either independent across frames (spatial) or across pixels (temporal), so it can be run on some frames, or
on some rows of all frames, without changing a number; group norms that span both are taken in two passes. Results go
into the input's own memory wherever the caller says that nothing else holds it.

Hidden states are (B*F, C, H, W) throughout, frames of one video next to each other. Each piece is worked on in a
function of its own, so that nothing of one piece is still held when the next begins.
"""

from __future__ import annotations

from collections.abc import Callable
from itertools import pairwise

import torch.nn.functional as F
from diffusers.models.resnet import TemporalConvLayer
from diffusers.models.transformers.transformer_temporal import TransformerTemporalModel
from torch import Tensor, nn

from i2v.memory.exact.group_norm import GroupStatistics
from i2v.memory.exact.pieces import pieces

__all__ = ["frame_wise", "rows_per_piece", "temporal_attention", "temporal_convolution"]


def frame_wise(layer: Callable[[slice], Tensor], count: int, chunk_frames: int, out: Tensor | None = None) -> Tensor:
    """Run `layer` on `chunk_frames` of `count` frames at a time and return its results joined, in `out` if it is given.

    `layer` takes the slice of frames and returns their result (n, C, H, W).
    """
    for part in pieces(count, chunk_frames):
        out = _put(layer(part), part, count, out)
    if out is None:
        raise ValueError("there are no frames")
    return out


def _put(result: Tensor, part: slice, count: int, out: Tensor | None) -> Tensor:
    if out is None:
        if result.shape[0] == count:
            return result
        out = result.new_empty((count, *result.shape[1:]))
    out[part] = result
    return out


def rows_per_piece(height: int, num_frames: int, chunk_frames: int) -> int:
    """Return how many rows of all frames are about as much as `chunk_frames` whole frames."""
    return max(1, min(height, round(height * chunk_frames / num_frames)))


def temporal_convolution(layer: TemporalConvLayer, hidden: Tensor, num_frames: int, chunk_frames: int) -> Tensor:
    """Run a temporal convolution in place, on rows worth `chunk_frames` frames at a time."""
    for video in _videos(hidden, num_frames):
        _convolve(layer, video, rows_per_piece(video.shape[2], num_frames, chunk_frames))
    return hidden


def _videos(hidden: Tensor, num_frames: int) -> tuple[Tensor, ...]:
    """Return each video of a batch as (F, C, H, W), a view."""
    return hidden.split(num_frames)


def _convolve(layer: TemporalConvLayer, video: Tensor, rows: int) -> None:
    stages = [layer.conv1, layer.conv2, layer.conv3, layer.conv4]
    statistics = _statistics(stages[0][0], video, rows)
    work = video.new_empty((video.shape[0], layer.out_dim, *video.shape[2:]))
    source = video
    for stage, following in pairwise(stages):
        coming = GroupStatistics(following[0])
        for part in pieces(video.shape[2], rows):
            result = _convolve_rows(stage, statistics, source[:, :, part])
            coming.add(result)
            work[:, :, part] = result
            del result
        source, statistics = work, coming
    for part in pieces(video.shape[2], rows):
        video[:, :, part] += _convolve_rows(stages[-1], statistics, work[:, :, part])


def _statistics(norm: nn.GroupNorm, video: Tensor, rows: int) -> GroupStatistics:
    statistics = GroupStatistics(norm)
    for part in pieces(video.shape[2], rows):
        statistics.add(video[:, :, part])
    return statistics


def _convolve_rows(stage: nn.Sequential, statistics: GroupStatistics, rows: Tensor) -> Tensor:
    """Return norm, SiLU and convolution over time of rows (F, C, r, W). A convolution sees one row as well as many."""
    normed = F.silu(statistics.normalise(rows), inplace=True)
    by_channel = normed.transpose(0, 1).contiguous().unsqueeze(0)
    del normed
    return stage[-1](by_channel)[0].transpose(0, 1)


def temporal_attention(layer: TransformerTemporalModel, hidden: Tensor, num_frames: int, chunk_frames: int) -> Tensor:
    """Run a temporal transformer in place, on rows worth `chunk_frames` frames at a time."""
    for video in _videos(hidden, num_frames):
        rows = rows_per_piece(video.shape[2], num_frames, chunk_frames)
        statistics = _statistics(layer.norm, video, rows)
        for part in pieces(video.shape[2], rows):
            video[:, :, part] += _attend_rows(layer, statistics, video[:, :, part])
    return hidden


def _attend_rows(layer: TransformerTemporalModel, statistics: GroupStatistics, rows: Tensor) -> Tensor:
    """Return what the transformer adds to rows (F, C, r, W): each pixel attends over its own frames."""
    frames, channels, height, width = rows.shape
    tokens = statistics.normalise(rows).permute(2, 3, 0, 1).reshape(height * width, frames, channels)
    tokens = layer.proj_in(tokens)
    for block in layer.transformer_blocks:
        tokens = block(tokens)
    return layer.proj_out(tokens).view(height, width, frames, channels).permute(2, 3, 0, 1)
