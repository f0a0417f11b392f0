"""Group normalisation in two passes: statistics gathered piece by piece, then applied piece by piece.

The same numbers as `torch.nn.GroupNorm` over the whole tensor, up to the order of summation, while only one piece at a
time has to be in memory twice. Knows nothing of models.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F

__all__ = ["GroupStatistics"]


class GroupStatistics:
    """Mean and variance per batch element and group of everything that was added.

    Pieces are merged by the parallel formula of Chan, Golub & LeVeque (1979), in float32 with each piece's own mean
    taken off first, so that nothing cancels.
    """

    def __init__(self, norm: torch.nn.GroupNorm, batch: int = 1):
        self._norm, self._count = norm, 0
        shape, device = (batch, norm.num_groups), norm.weight.device
        self._mean = torch.zeros(shape, device=device)
        self._squares = torch.zeros(shape, device=device)  # sum of squared deviations

    def add(self, piece: torch.Tensor) -> None:
        """Take in a piece (batch, C, ...)."""
        groups = self._norm.num_groups
        flat = piece.reshape(piece.shape[0], groups, -1).float()
        count = flat.shape[-1]
        variance, mean = torch.var_mean(flat, dim=-1, correction=0)
        del flat
        total = self._count + count
        apart = mean - self._mean
        self._mean += apart * (count / total)
        self._squares += variance * count + apart.square() * (self._count * count / total)
        self._count = total

    def normalise(self, piece: torch.Tensor, element: int = 0) -> torch.Tensor:
        """Return a piece (n, C, ...) of batch element `element`, normalised, scaled and shifted, in its own dtype."""
        norm = self._norm
        per_group = norm.num_channels // norm.num_groups
        mean = self._mean[element].repeat_interleave(per_group)
        variance = (self._squares[element] / self._count).repeat_interleave(per_group)
        # Normalising with given statistics is what batch norm does at inference: one kernel, no float32 copy.
        return F.batch_norm(piece, mean, variance, norm.weight.float(), norm.bias.float(), eps=norm.eps)
