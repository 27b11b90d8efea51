"""AASIST: spectro-temporal graph attention over a raw waveform, with logits [spoof, bona fide].

Written from Jung et al., "AASIST: Audio Anti-Spoofing using Integrated Spectro-Temporal Graph Attention Networks"
(ICASSP 2022, arXiv 2110.01200). Fixed band-passes and six residual blocks make a map of bands by time. Each axis
becomes a graph. The two graphs are joined with a stack node that attends to all others, in two parallel branches, and
the maximum of both branches is read out. Module names are those of the tensors in the published files.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

SAMPLE_RATE = 16_000
BANDS = 70
TAPS = 129
"""The paper has 128; the number is made odd so that a filter has a middle."""
BAND_NODES = BANDS // 3
"""Rows of the map after the first pooling. No later step changes their number."""


@dataclass(frozen=True, slots=True)
class AasistConfig:
    """The differences between AASIST and AASIST-L."""

    channels: tuple[int, int] = (32, 64)
    """Channels of the first two and of the last four residual blocks. The second is also the width of the graphs."""
    joined_channels: int = 32
    """Width of a node after the joined graphs."""
    pool_bands: float = 0.5
    """Share of the nodes that pooling keeps in the graph over bands; below: over time, and of each kind when joined."""
    pool_times: float = 0.7
    pool_joined: float = 0.5
    temperature: float = 2.0
    """Divides the attention's scores before the softmax."""
    temperature_joined: float = 100.0


AASIST = AasistConfig()
AASIST_L = AasistConfig(channels=(32, 24), pool_bands=0.4, pool_times=0.5, pool_joined=0.7)


def mel_band_passes() -> Tensor:
    """float32 (70, 1, 129): ideal band-passes of equal mel width from 0 to 8 kHz, with a Hamming window.

    They are computed in float64, because the difference of two sincs loses digits.
    """
    top_mel = 2595 * math.log10(1 + SAMPLE_RATE / 2 / 700)
    edges = 700 * (10 ** (np.linspace(0, top_mel, BANDS + 1) / 2595) - 1)
    taps = np.arange(TAPS) - TAPS // 2
    cutoffs = 2 * edges[:, None] / SAMPLE_RATE
    low_passes = cutoffs * np.sinc(cutoffs * taps)
    filters = np.diff(low_passes, axis=0) * np.hamming(TAPS)
    return torch.from_numpy(filters.astype(np.float32))[:, None]


class Residual(nn.Module):
    """Two convolutions over bands and time with a shortcut; the output has a third as many time steps."""

    def __init__(self, taken: int, given: int, first: bool = False) -> None:
        super().__init__()
        if not first:
            # It is in the published files but is not used: the published logits result only without it.
            self.bn1 = nn.BatchNorm2d(taken)
        self.conv1 = nn.Conv2d(taken, given, (2, 3), padding=(1, 1))
        self.bn2 = nn.BatchNorm2d(given)
        self.conv2 = nn.Conv2d(given, given, (2, 3), padding=(0, 1))
        if taken != given:
            self.conv_downsample = nn.Conv2d(taken, given, (1, 3), padding=(0, 1))

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, F, T) → (B, C', F, T // 3)."""
        # In place, because these maps are large (66 MB a window in the first block) and slow to copy on a CPU.
        out = self.conv2(F.selu(self.bn2(self.conv1(x)), inplace=True))
        out += self.conv_downsample(x) if hasattr(self, "conv_downsample") else x
        return F.max_pool2d(out, (1, 3))


class NodeNorm(nn.BatchNorm1d):
    """Batch normalisation of each channel over all nodes: (B, N, C) → (B, N, C)."""

    def forward(self, nodes: Tensor) -> Tensor:
        return super().forward(nodes.transpose(1, 2)).transpose(1, 2)


def attention_map(nodes: Tensor, project: nn.Linear, weights: Tensor) -> Tensor:
    """(B, N, C) → (B, N, N, W): scores of each pair of nodes from their product, one per column of `weights` (D, W)."""
    pairs = nodes[:, :, None] * nodes[:, None]
    return torch.tanh(project(pairs)) @ weights


class GraphAttention(nn.Module):
    """Every node attends to every node of its own graph: (B, N, C) → (B, N, D)."""

    def __init__(self, taken: int, given: int, temperature: float) -> None:
        super().__init__()
        self.temperature = temperature
        self.att_proj = nn.Linear(taken, given)
        self.att_weight = nn.Parameter(torch.zeros(given, 1))
        self.proj_with_att = nn.Linear(taken, given)
        self.proj_without_att = nn.Linear(taken, given)
        self.bn = NodeNorm(given)

    def forward(self, nodes: Tensor) -> Tensor:
        scores = attention_map(nodes, self.att_proj, self.att_weight)[..., 0] / self.temperature
        attended = scores.softmax(dim=-1) @ nodes
        return F.selu(self.bn(self.proj_with_att(attended) + self.proj_without_att(nodes)))


class StackingAttention(nn.Module):
    """The heterogeneous layer: time nodes (1) and band nodes (2) in one graph, and a stack node that attends to all.

    The kind of a pair selects its scoring weights: within 1, within 2, or across.
    """

    def __init__(self, taken: int, given: int, temperature: float) -> None:
        super().__init__()
        self.temperature = temperature
        self.proj_type1 = nn.Linear(taken, taken)
        self.proj_type2 = nn.Linear(taken, taken)
        self.att_proj = nn.Linear(taken, given)
        self.att_projM = nn.Linear(taken, given)
        self.att_weight11 = nn.Parameter(torch.zeros(given, 1))
        self.att_weight22 = nn.Parameter(torch.zeros(given, 1))
        self.att_weight12 = nn.Parameter(torch.zeros(given, 1))
        self.att_weightM = nn.Parameter(torch.zeros(given, 1))
        self.proj_with_att = nn.Linear(taken, given)
        self.proj_without_att = nn.Linear(taken, given)
        self.proj_with_attM = nn.Linear(taken, given)
        self.proj_without_attM = nn.Linear(taken, given)
        self.bn = NodeNorm(given)

    def forward(self, times: Tensor, bands: Tensor, stack: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """(B, N, C), (B, M, C), (B, 1, C) → (B, N, D), (B, M, D), (B, 1, D)."""
        count = times.shape[1]
        nodes = torch.cat([self.proj_type1(times), self.proj_type2(bands)], dim=1)
        by_kind = torch.cat([self.att_weight11, self.att_weight22, self.att_weight12], dim=1)
        within_1, within_2, across = attention_map(nodes, self.att_proj, by_kind).unbind(-1)
        of_1 = torch.arange(nodes.shape[1], device=nodes.device) < count
        scores = torch.where(of_1[:, None] & of_1, within_1, torch.where(~of_1[:, None] & ~of_1, within_2, across))
        attended = (scores / self.temperature).softmax(dim=-1) @ nodes

        stack_scores = torch.tanh(self.att_projM(nodes * stack)) @ self.att_weightM
        stack_heard = (stack_scores / self.temperature).softmax(dim=1).transpose(1, 2) @ nodes
        stack = self.proj_with_attM(stack_heard) + self.proj_without_attM(stack)

        nodes = F.selu(self.bn(self.proj_with_att(attended) + self.proj_without_att(nodes)))
        return nodes[:, :count], nodes[:, count:], stack


class GraphPool(nn.Module):
    """Keeps the share of nodes with the highest scores, in order of score, each weighted by its score."""

    def __init__(self, channels: int, share: float) -> None:
        super().__init__()
        self.share = share
        self.proj = nn.Linear(channels, 1)

    def forward(self, nodes: Tensor) -> Tensor:
        """(B, N, C) → (B, max(1, int(N * share)), C)."""
        scores = torch.sigmoid(self.proj(nodes))
        kept = scores.topk(max(1, int(nodes.shape[1] * self.share)), dim=1).indices
        return (nodes * scores).gather(1, kept.expand(-1, -1, nodes.shape[2]))


class Aasist(nn.Module):
    """(B, S) float32 at 16 kHz → (B, 2) logits [spoof, bona fide]; published weights expect S = 64,600."""

    band_passes: Tensor

    def __init__(self, config: AasistConfig = AASIST) -> None:
        super().__init__()
        narrow, wide = config.channels
        joined = config.joined_channels
        self.register_buffer("band_passes", mel_band_passes(), persistent=False)
        self.first_bn = nn.BatchNorm2d(1)
        sizes = [(1, narrow), (narrow, narrow), (narrow, wide), (wide, wide), (wide, wide), (wide, wide)]
        self.encoder = nn.Sequential(
            *(nn.Sequential(Residual(taken, given, first=i == 0)) for i, (taken, given) in enumerate(sizes))
        )
        self.pos_S = nn.Parameter(torch.zeros(1, BAND_NODES, wide))
        self.master1 = nn.Parameter(torch.zeros(1, 1, wide))
        self.master2 = nn.Parameter(torch.zeros(1, 1, wide))
        self.GAT_layer_S = GraphAttention(wide, wide, config.temperature)
        self.GAT_layer_T = GraphAttention(wide, wide, config.temperature)
        self.pool_S = GraphPool(wide, config.pool_bands)
        self.pool_T = GraphPool(wide, config.pool_times)
        for branch in ("1", "2"):
            for depth, taken in (("1", wide), ("2", joined)):
                layer = StackingAttention(taken, joined, config.temperature_joined)
                self.add_module(f"HtrgGAT_layer_ST{branch}{depth}", layer)
            self.add_module(f"pool_hS{branch}", GraphPool(joined, config.pool_joined))
            self.add_module(f"pool_hT{branch}", GraphPool(joined, config.pool_joined))
        self.out_layer = nn.Linear(5 * joined, 2)

    def forward(self, sound: Tensor) -> Tensor:
        encoded = self._encoded(sound).abs()
        bands = self.pool_S(self.GAT_layer_S(encoded.amax(dim=3).transpose(1, 2) + self.pos_S))
        times = self.pool_T(self.GAT_layer_T(encoded.amax(dim=2).transpose(1, 2)))
        first = self._branch("1", times, bands, self.master1)
        second = self._branch("2", times, bands, self.master2)
        times, bands, stack = (torch.maximum(a, b) for a, b in zip(first, second, strict=True))
        read = [times.abs().amax(dim=1), times.mean(dim=1), bands.abs().amax(dim=1), bands.mean(dim=1), stack[:, 0]]
        logits: Tensor = self.out_layer(torch.cat(read, dim=1))
        return logits

    def _encoded(self, sound: Tensor) -> Tensor:
        """(B, S) → (B, C, 23, T)."""
        filtered = F.conv1d(sound[:, None], self.band_passes).abs()
        pooled = F.max_pool2d(filtered[:, None], 3)
        encoded: Tensor = self.encoder(F.selu(self.first_bn(pooled)))
        return encoded

    def _branch(self, name: str, times: Tensor, bands: Tensor, master: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        times, bands, stack = self.get_submodule(f"HtrgGAT_layer_ST{name}1")(times, bands, master)
        times = self.get_submodule(f"pool_hT{name}")(times)
        bands = self.get_submodule(f"pool_hS{name}")(bands)
        more = self.get_submodule(f"HtrgGAT_layer_ST{name}2")(times, bands, stack)
        return times + more[0], bands + more[1], stack + more[2]
