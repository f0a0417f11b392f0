"""Group normalisation in two passes: statistics gathered piece by piece, then applied piece by piece.

The same numbers as `torch.nn.GroupNorm` over the whole tensor, up to the order of summation, while only one piece at a
time has to be in memory twice. Knows nothing of models.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F

__all__ = ["GroupStatistics"]


class GroupStatistics:
    """Mean and variance per group of everything that was added: one picture, or all frames of one video.

    Pieces are merged by the parallel formula of Chan, Golub & LeVeque (1979), in float32 with each piece's own mean
    taken off first, so that nothing cancels.
    """

    def __init__(self, norm: torch.nn.GroupNorm):
        self._norm, self._count = norm, 0
        self._mean = torch.zeros(norm.num_groups, device=norm.weight.device)
        self._squares = torch.zeros_like(self._mean)  # sum of squared deviations

    def add(self, piece: torch.Tensor) -> None:
        """Take in a piece (n, C, ...), in which n counts as a place like the dimensions after C."""
        # Not torch.var_mean, which takes thirty times as long as this on a CPU.
        grouped = piece.unflatten(1, (self._norm.num_groups, -1)).float()
        places = (0, *range(2, grouped.ndim))
        mean = grouped.mean(dim=places, keepdim=True)
        count = grouped.numel() // self._norm.num_groups
        # A copy made for float32 may be written to; the piece itself may not.
        apart = grouped - mean if piece.dtype == torch.float32 else grouped.sub_(mean)
        del grouped
        squares = apart.square_().sum(dim=places)
        del apart
        self._merge(count, mean.flatten(), squares)

    def _merge(self, count: int, mean: torch.Tensor, squares: torch.Tensor) -> None:
        total = self._count + count
        apart = mean - self._mean
        self._mean += apart * (count / total)
        self._squares += squares + apart.square() * (self._count * count / total)
        self._count = total

    def normalise(self, piece: torch.Tensor) -> torch.Tensor:
        """Return a piece (n, C, ...) normalised, scaled and shifted, in its own dtype."""
        norm = self._norm
        per_group = norm.num_channels // norm.num_groups
        mean = self._mean.repeat_interleave(per_group)
        variance = (self._squares / self._count).repeat_interleave(per_group)
        # Normalising with given statistics is what batch norm does at inference: one kernel, no float32 copy.
        return F.batch_norm(piece, mean, variance, norm.weight.float(), norm.bias.float(), eps=norm.eps)
