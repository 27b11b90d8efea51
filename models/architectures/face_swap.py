"""The map of `face_swap`: statistics of a face, less what the shot makes one expect, projected on one direction.

It consists of two linear maps and a line, from closed forms (models/training/detectors/face_swap.py). Nothing in it
could have memorised a scene."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from ..faces.statistics import CONDITIONS, EVIDENCE

CLIP = 4.0
"""Limit in standard deviations, so that no single number can count for more."""
SPREAD_FLOOR = 0.1
"""Added to the spread of a residual. Without it a statistic that the conditions explain almost fully would blow up."""


class SwapMap(nn.Module):
    """(B, 111) statistics in the order of `NAMES`, NaN if one is missing → (B,) logits, > 0 = manipulated."""

    usual: Tensor
    centre: Tensor
    spread: Tensor
    residual_spread: Tensor
    direction: Tensor

    def __init__(self) -> None:
        super().__init__()
        evidence, conditions = len(EVIDENCE), len(CONDITIONS)
        for name in ("usual", "centre", "spread"):
            self.register_buffer(name, torch.ones(evidence + conditions))
        self.expected = nn.Linear(conditions, evidence).requires_grad_(False)
        """Maps the conditions of the shot to what a real face would show in it."""
        self.register_buffer("residual_spread", torch.ones(evidence))
        self.register_buffer("direction", torch.zeros(evidence))
        self.answer = nn.Linear(1, 1)

    def residuals(self, statistics: Tensor) -> Tensor:
        """(B, 111) → (B, 92): how far each number is from what the shot predicts, in spreads of real faces."""
        known = torch.where(statistics.isfinite(), statistics, self.usual)
        known = ((known - self.centre) / self.spread).clamp(-CLIP, CLIP)
        evidence, conditions = known.split([len(EVIDENCE), len(CONDITIONS)], dim=1)
        return ((evidence - self.expected(conditions)) / self.residual_spread).clamp(-CLIP, CLIP)

    def forward(self, statistics: Tensor) -> Tensor:
        logits: Tensor = self.answer((self.residuals(statistics) @ self.direction)[:, None])[:, 0]
        return logits
