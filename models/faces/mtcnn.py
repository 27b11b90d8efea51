"""The three networks of MTCNN in plain torch, and the two batched operations between them: crops and suppression.

Paper: Zhang, Zhang, Li, Qiao, "Joint Face Detection and Alignment using Multi-task Cascaded Convolutional Networks",
IEEE SPL 2016. Pictures are RGB in [-1, 1] ((value - 127.5) / 128). On a CPU all three run two to four times as fast
with channels last (measured, torch 2.13).
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

Layers = list[tuple[Tensor, Tensor, Tensor | None]]


class PNet(nn.Module):
    """Proposals: every 12 × 12 window at a stride of 2."""

    def __init__(self, arrays: list[Tensor]):
        super().__init__()
        self.conv1, self.conv2, self.conv3 = (_conv(*arrays[i : i + 2]) for i in (0, 3, 6))
        self.slope1, self.slope2, self.slope3 = (_slope(arrays[i]) for i in (2, 5, 8))
        # One 1 × 1 convolution for both heads: box offsets (4) and the two class logits.
        self.heads = _conv(torch.cat([arrays[9], arrays[11]]), torch.cat([arrays[10], arrays[12]]))

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """(B, 3, H, W) → offsets (B, 4, h, w) in windows, probability of a face (B, h, w)."""
        x = _halved(F.prelu(self.conv1(x), self.slope1))
        x = F.prelu(self.conv2(x), self.slope2)
        x = self.heads(F.prelu(self.conv3(x), self.slope3))
        return x[:, :4], torch.sigmoid(x[:, 5] - x[:, 4])


class RNet(nn.Module):
    """Refinement of 24 × 24 crops."""

    def __init__(self, arrays: list[Tensor]):
        super().__init__()
        self.conv1, self.conv2, self.conv3 = (_conv(*arrays[i : i + 2]) for i in (0, 3, 6))
        self.dense = _dense(*arrays[9:11])
        self.slope1, self.slope2, self.slope3, self.slope4 = (_slope(arrays[i]) for i in (2, 5, 8, 11))
        self.heads = _dense(torch.cat([arrays[12], arrays[14]]), torch.cat([arrays[13], arrays[15]]))

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """(N, 3, 24, 24) → offsets (N, 4) in box sizes, probability of a face (N,)."""
        x = F.max_pool2d(F.prelu(self.conv1(x), self.slope1), 3, 2, ceil_mode=True)
        x = F.max_pool2d(F.prelu(self.conv2(x), self.slope2), 3, 2)
        x = F.prelu(self.conv3(x), self.slope3)
        x = self.heads(F.prelu(self.dense(_flatten(x)), self.slope4))
        return x[:, :4], torch.sigmoid(x[:, 5] - x[:, 4])


class ONet(nn.Module):
    """Output on 48 × 48 crops: box, score and five landmarks."""

    def __init__(self, arrays: list[Tensor]):
        super().__init__()
        self.conv1, self.conv2, self.conv3, self.conv4 = (_conv(*arrays[i : i + 2]) for i in (0, 3, 6, 9))
        self.dense = _dense(*arrays[12:14])
        self.slope1, self.slope2, self.slope3, self.slope4, self.slope5 = (_slope(arrays[i]) for i in (2, 5, 8, 11, 14))
        weights, biases = (torch.cat([arrays[i + j] for i in (15, 17, 19)]) for j in (0, 1))
        self.heads = _dense(weights, biases)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """(N, 3, 48, 48) → offsets (N, 4), landmarks (N, 5, 2) as x y in the crop's [0, 1], probability (N,)."""
        x = F.max_pool2d(F.prelu(self.conv1(x), self.slope1), 3, 2, ceil_mode=True)
        x = F.max_pool2d(F.prelu(self.conv2(x), self.slope2), 3, 2)
        x = F.max_pool2d(F.prelu(self.conv3(x), self.slope3), 2, 2, ceil_mode=True)
        x = F.prelu(self.conv4(x), self.slope4)
        x = self.heads(F.prelu(self.dense(_flatten(x)), self.slope5))
        # The ten landmark numbers are five x, then five y.
        return x[:, :4], x[:, 4:14].reshape(-1, 2, 5).transpose(1, 2), torch.sigmoid(x[:, 15] - x[:, 14])


def crop(pyramid: list[Tensor], frame_index: Tensor, boxes: Tensor, size: int) -> Tensor:
    """(N, 3, size, size) bilinear crops of `boxes` (N, 4) xyxy pixels; anything outside the frame is mid-grey.

    `pyramid` holds the frames (B, 3, H, W) and their halvings. A crop is read from the level at which it is less than
    twice `size`. Reading it from the full frame would alias, and a large face would score lower than a small one.
    """
    out = torch.empty((len(boxes), 3, size, size), device=boxes.device, memory_format=torch.channels_last)
    levels = torch.log2((boxes[:, 2] - boxes[:, 0]).clamp(min=1.0) / size).floor().clamp(0, len(pyramid) - 1).long()
    height, width = pyramid[0].shape[2:]
    steps = (torch.arange(size, device=boxes.device, dtype=boxes.dtype) + 0.5) / size
    # Normalised so that -1 and 1 are the outer edges of the frame: the same numbers at every level.
    xs = (boxes[:, 0:1] + (boxes[:, 2:3] - boxes[:, 0:1]) * steps) * (2.0 / width) - 1.0
    ys = (boxes[:, 1:2] + (boxes[:, 3:4] - boxes[:, 1:2]) * steps) * (2.0 / height) - 1.0
    for level, images in enumerate(pyramid):
        chosen = (levels == level).nonzero()[:, 0]
        if not len(chosen):
            continue
        # One call for all frames: a frame's crops stand one below another in its row of the grid. Rows are padded with
        # points far outside, which read as grey.
        frames = frame_index[chosen]
        order = torch.argsort(frames, stable=True)
        chosen, frames = chosen[order], frames[order]
        rank = _rank_in_group(frames)
        grid = xs.new_full((images.shape[0], int(rank.max()) + 1, size, size, 2), -3.0)
        grid[frames, rank] = torch.stack(
            [xs[chosen, None, :].expand(-1, size, -1), ys[chosen, :, None].expand(-1, -1, size)], dim=-1
        )
        sampled = F.grid_sample(images, grid.flatten(1, 2), mode="bilinear", padding_mode="zeros", align_corners=False)
        sampled = sampled.unflatten(2, (-1, size))  # (B, 3, K * S, S) → (B, 3, K, S, S)
        out[chosen] = sampled[frames, :, rank]
    return out


def suppress(boxes: Tensor, scores: Tensor, groups: Tensor, threshold: float, per_min: bool, most: int) -> Tensor:
    """Greedy non-maximum suppression inside each group, all groups at once, on any device.

    boxes (N, 4) xyxy, scores (N,), groups (N,) integers. The overlap is intersection over union, or over the smaller
    box (`per_min`). Only the `most` best boxes of a group take part, which bounds the memory at groups × most². Returns
    the positions of the kept boxes, by group and falling score.
    """
    if not len(boxes):
        return torch.zeros(0, dtype=torch.long, device=boxes.device)
    order = torch.argsort(scores, descending=True, stable=True)
    order = order[torch.argsort(groups[order], stable=True)]
    group = torch.unique_consecutive(groups[order], return_inverse=True)[1]
    rank = _rank_in_group(group)
    order, group, rank = (t[rank < most] for t in (order, group, rank))
    count, widest = int(group[-1]) + 1, int(rank.max()) + 1
    padded = boxes.new_zeros((count, widest, 4))
    padded[group, rank] = boxes[order]
    valid = torch.zeros((count, widest), dtype=torch.bool, device=boxes.device)
    valid[group, rank] = True
    low = torch.maximum(padded[:, :, None, :2], padded[:, None, :, :2])
    high = torch.minimum(padded[:, :, None, 2:], padded[:, None, :, 2:])
    common = (high - low).clamp_(min=0).prod(dim=-1)  # (G, K, K)
    area = (padded[..., 2:] - padded[..., :2]).clamp(min=0).prod(dim=-1)
    first, second = area[:, :, None], area[:, None, :]
    whole = torch.minimum(first, second) if per_min else first + second - common
    beats = (common > threshold * whole).tril_(-1).to(boxes.dtype)  # [g, j, i]: i < j would suppress j
    # A box stays unless a better box that itself stays overlaps it. Starting from "all stay", repeating that rule
    # reaches the greedy answer after as many rounds as the longest chain of boxes that suppress one another.
    keep = valid
    while True:
        again = valid & (torch.bmm(beats, keep.to(beats.dtype)[:, :, None])[:, :, 0] == 0)
        if torch.equal(again, keep):
            break
        keep = again
    return order[keep[group, rank]]


def _rank_in_group(groups: Tensor) -> Tensor:
    """Sorted (N,) → position of each entry inside its run of equal values."""
    position = torch.arange(len(groups), device=groups.device)
    counts = torch.unique_consecutive(groups, return_counts=True)[1]
    return position - torch.repeat_interleave(counts.cumsum(0) - counts, counts)


def _halved(x: Tensor) -> Tensor:
    """max_pool2d(x, 2, 2, ceil_mode=True), five times as fast with channels last on a CPU (torch 2.13)."""
    height, width = x.shape[2:]
    if height % 2 or width % 2:
        x = F.pad(x, (0, width % 2, 0, height % 2), mode="replicate")
    x = torch.maximum(x[:, :, 0::2], x[:, :, 1::2])
    return torch.maximum(x[..., 0::2], x[..., 1::2])


def _flatten(x: Tensor) -> Tensor:
    return x.permute(0, 3, 2, 1).flatten(1)  # (N, C, H, W) → (N, W * H * C), the order the dense layers were trained on


def _conv(weight: Tensor, bias: Tensor) -> nn.Conv2d:
    layer = nn.Conv2d(weight.shape[1], weight.shape[0], (weight.shape[2], weight.shape[3]))
    layer.weight, layer.bias = _fixed(weight.contiguous(memory_format=torch.channels_last)), _fixed(bias)
    return layer


def _dense(weight: Tensor, bias: Tensor) -> nn.Linear:
    layer = nn.Linear(weight.shape[1], weight.shape[0])
    layer.weight, layer.bias = _fixed(weight), _fixed(bias)
    return layer


def _slope(slope: Tensor) -> nn.Parameter:
    return _fixed(slope)


def _fixed(tensor: Tensor) -> nn.Parameter:
    return nn.Parameter(tensor, requires_grad=False)
