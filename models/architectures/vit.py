"""The vision transformer in plain torch: square images in, logits out.

Dosovitskiy et al., "An Image is Worth 16x16 Words", ICLR 2021, in the pre-norm form with one fused projection for
queries, keys and values. Parameter names are those of published checkpoints of the ViT family. Parity with
transformers' ViTForImageClassification on the same weights: tests/models/detectors/test_commfor.py.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn


@dataclass(frozen=True, slots=True)
class VitShape:
    """The sizes of a vision transformer; the defaults are those of ViT-S/16."""

    image: int = 224
    """Height and width, pixels; a multiple of `patch`."""
    patch: int = 16
    width: int = 384
    """Channels per token."""
    depth: int = 12
    """Number of blocks."""
    heads: int = 6
    hidden: int = 1536
    """Channels inside the feed-forward part of a block."""
    outputs: int = 1
    """Number of logits."""

    @property
    def tokens(self) -> int:
        """Number of tokens: the patches and the class token."""
        return (self.image // self.patch) ** 2 + 1


class VisionTransformer(nn.Module):
    """(B, 3, image, image) → (B, outputs) logits, from the class token after the last normalisation."""

    def __init__(self, shape: VitShape) -> None:
        super().__init__()
        self.shape = shape
        self.patch_embed = _PatchEmbedding(shape)
        self.cls_token = nn.Parameter(torch.zeros(1, 1, shape.width))
        self.pos_embed = nn.Parameter(torch.zeros(1, shape.tokens, shape.width))
        self.blocks = nn.Sequential(*(_Block(shape) for _ in range(shape.depth)))
        self.norm = nn.LayerNorm(shape.width, eps=1e-6)
        self.head = nn.Linear(shape.width, shape.outputs)

    def forward(self, images: Tensor) -> Tensor:
        patches = self.patch_embed(images)  # (B, N, D)
        tokens = torch.cat((self.cls_token.expand(len(images), -1, -1), patches), dim=1) + self.pos_embed
        tokens = self.norm(self.blocks(tokens))
        logits: Tensor = self.head(tokens[:, 0])
        return logits


class _PatchEmbedding(nn.Module):
    def __init__(self, shape: VitShape) -> None:
        super().__init__()
        self.proj = nn.Conv2d(3, shape.width, kernel_size=shape.patch, stride=shape.patch)

    def forward(self, images: Tensor) -> Tensor:
        patches: Tensor = self.proj(images)  # (B, D, h, w)
        return patches.flatten(2).transpose(1, 2)


class _Block(nn.Module):
    def __init__(self, shape: VitShape) -> None:
        super().__init__()
        self.norm1 = nn.LayerNorm(shape.width, eps=1e-6)
        self.attn = _Attention(shape)
        self.norm2 = nn.LayerNorm(shape.width, eps=1e-6)
        self.mlp = _FeedForward(shape)

    def forward(self, tokens: Tensor) -> Tensor:
        tokens = tokens + self.attn(self.norm1(tokens))
        added: Tensor = tokens + self.mlp(self.norm2(tokens))
        return added


class _Attention(nn.Module):
    def __init__(self, shape: VitShape) -> None:
        super().__init__()
        self.heads = shape.heads
        self.qkv = nn.Linear(shape.width, 3 * shape.width)
        self.proj = nn.Linear(shape.width, shape.width)

    def forward(self, tokens: Tensor) -> Tensor:
        b, n, d = tokens.shape
        # (B, N, 3 * D) → three of (B, heads, N, D / heads)
        queries, keys, values = self.qkv(tokens).reshape(b, n, 3, self.heads, d // self.heads).permute(2, 0, 3, 1, 4)
        mixed = F.scaled_dot_product_attention(queries, keys, values)
        joined: Tensor = self.proj(mixed.transpose(1, 2).reshape(b, n, d))
        return joined


class _FeedForward(nn.Module):
    def __init__(self, shape: VitShape) -> None:
        super().__init__()
        self.fc1 = nn.Linear(shape.width, shape.hidden)
        self.fc2 = nn.Linear(shape.hidden, shape.width)

    def forward(self, tokens: Tensor) -> Tensor:
        hidden: Tensor = self.fc2(F.gelu(self.fc1(tokens)))
        return hidden
