"""Readings of a short clip that may tell generated film from filmed: statistics by hand, frozen features, what an
autoencoder makes of it. Each is a vector with a name; nothing here is fitted.

- `one frame`, `over time`: spectrum, fine detail and its shape; motion, flicker, texture that sticks to the picture.
- `imagenet …`: EfficientNet-Lite0 as it was trained for pictures, mean and spread of the channels of its stages.
- `imagenet changes`: first and second differences in time of the same features. `d3`: how the distance between
  successive frames changes (Zheng et al., "D3", ICCV 2025, arXiv 2508.00701).
- `synthetic`, `synthetic changes`: the same of the detector's own network.
- `round trip`: what the autoencoder of a diffusion model loses of a frame, once and again (after Ricker et al.,
  "AEROBLADE", CVPR 2024, arXiv 2401.17879).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import partial
from itertools import pairwise

import cv2
import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from deephotlink.models.architectures.efficientnet_lite import MEAN, SPREAD, EfficientNetLite0
from deephotlink.models.architectures.synthetic import SyntheticNetwork
from deephotlink.models.detectors.synthetic import PIXELS, patch_places
from tests.bench.taef2 import Taef2

RINGS = 16
LAGS = (1, 2, 4, 8)
QUANTILES = (5, 25, 50, 75, 95)
MOVES, STANDS = 1.0, 0.3
"""Pixels a frame above which a place moves, and below which it stands still."""
LEAST_PIXELS = 800
"""So many pixels must move, or stand still, before anything is said of them."""
ROUND_TRIP_SIDE = 160
Readings = Mapping[str, float]


def _log(value: float) -> float:
    return float(np.log(max(float(value), 0.0) + 1e-3))


def _correlation(one: np.ndarray, two: np.ndarray) -> float:
    one, two = one - one.mean(), two - two.mean()
    return float((one * two).mean() / np.sqrt((one * one).mean() * (two * two).mean() + 1e-6))


def _fine(planes: np.ndarray) -> np.ndarray:
    """float32 [T, H, W] → the detail that a blur of one pixel takes away."""
    return np.stack([plane - cv2.GaussianBlur(plane, (0, 0), 1.0) for plane in planes])


def _smaller(planes: np.ndarray, by: int) -> np.ndarray:
    height, width = planes.shape[1] // by, planes.shape[2] // by
    return np.stack([cv2.resize(plane, (width, height), interpolation=cv2.INTER_AREA) for plane in planes])


def _colours(frames: np.ndarray) -> np.ndarray:
    """uint8 [T, H, W, 3] RGB → float32 [3, T, H, W]: luma, red and blue difference."""
    converted = np.stack([cv2.cvtColor(frame, cv2.COLOR_RGB2YCrCb) for frame in frames])
    return converted.astype(np.float32).transpose(3, 0, 1, 2)


def one_frame(frames: np.ndarray) -> Readings:
    """Of uint8 [T, H, W, 3], by name: what single frames show, mean over the frames."""
    colours = _colours(frames)
    luma, found = colours[0], dict[str, float]()
    height, width = luma.shape[1:]
    window = np.hanning(height)[:, None] * np.hanning(width)[None]
    power = np.mean([np.abs(np.fft.rfft2((plane - plane.mean()) * window)) ** 2 for plane in luma], axis=0)
    radius = np.hypot(np.fft.fftfreq(height)[:, None], np.fft.rfftfreq(width)[None]) * 2
    ring = np.clip((radius * RINGS).astype(int), 0, RINGS)
    level = np.log(np.array([power[ring == number].mean() for number in range(RINGS)]) + 1e-3)
    found |= {f"spectrum {number}": float(level[number] - level[1:8].mean()) for number in range(1, RINGS)}
    for name, planes in zip("yrb", colours, strict=True):
        for halvings in range(3):
            detail = _fine(planes if not halvings else _smaller(planes, 2**halvings))
            found[f"detail {name}{halvings}"] = _log(np.abs(detail).mean())
            found[f"peaks {name}{halvings}"] = _log((detail**4).mean() / ((detail**2).mean() ** 2 + 1e-4))
    found |= {
        f"{key} less y0": found[key] - found["detail y0"]
        for key in list(found)
        if key.startswith("detail") and key != "detail y0"
    }
    detail = _fine(luma)
    for lag in LAGS:
        found[f"across {lag}"] = _correlation(detail[:, :, lag:], detail[:, :, :-lag])
        found[f"down {lag}"] = _correlation(detail[:, lag:], detail[:, :-lag])
    rgb = np.stack([_fine(frames[..., channel].astype(np.float32)) for channel in range(3)])
    for one, two in ((0, 1), (1, 2), (0, 2)):
        found[f"channels {one}{two}"] = _correlation(rgb[one], rgb[two])
    blocks = np.log(_smaller(np.abs(detail), 8) + 0.05)
    found |= {f"blocks {share}": float(np.quantile(blocks, share / 100)) for share in QUANTILES}
    return found


def over_time(frames: np.ndarray) -> Readings:
    """Of uint8 [T, H, W, 3], T >= 3, by name: how the picture changes from frame to frame."""
    colours = _colours(frames)
    luma = colours[0]
    first, second = np.diff(luma, axis=0), np.diff(luma, n=2, axis=0)
    found = {"motion": _log(np.abs(first).mean())}
    found["trembling"] = _log(np.abs(second).mean()) - found["motion"]
    moved = np.log(_smaller(np.abs(first), 8) + 0.05)
    found |= {f"moved {share}": float(np.quantile(moved, share / 100)) for share in QUANTILES}
    found["moved unevenly"] = float(moved.std(0).mean())
    found["flicker"] = _log(np.abs(np.diff(luma.mean((1, 2)), 2)).mean())
    coarse = [_smaller(planes, 16) for planes in colours]
    for name, blocks in (("of places", coarse[0]), ("of colours", np.concatenate(coarse[1:], axis=2))):
        changes = np.abs(np.diff(blocks, axis=0)).mean()
        found[f"flicker {name}"] = _log(np.abs(np.diff(blocks, 2, axis=0)).mean()) - _log(changes)
    flows = _flows(luma)
    detail = _fine(luma)
    steps = [_step(luma[at : at + 2], detail[at : at + 2], flow) for at, flow in enumerate(flows)]
    for key in sorted({key for step in steps for key in step}):
        found[key] = float(np.mean([step[key] for step in steps if key in step]))
    found["acceleration"] = float(np.log(np.abs(np.diff(flows, axis=0)).mean() + 0.01))
    found["acceleration"] -= float(np.log(np.abs(flows).mean() + 0.01))
    return found


def _flows(luma: np.ndarray) -> np.ndarray:
    """float32 [T, H, W] → float32 [T - 1, H, W, 2], pixels."""
    flow = cv2.DISOpticalFlow_create(cv2.DISOPTICAL_FLOW_PRESET_FAST)
    levels = luma.astype(np.uint8)
    return np.stack([flow.calc(one, two, None) for one, two in pairwise(levels)])  # type: ignore[call-overload]


def _step(luma: np.ndarray, detail: np.ndarray, flow: np.ndarray) -> dict[str, float]:
    """Two successive frames: does fine detail go along with what moves, or stay where it is?"""
    down, across = np.mgrid[: flow.shape[0], : flow.shape[1]].astype(np.float32)
    at = across + flow[..., 0], down + flow[..., 1]
    followed = partial(cv2.remap, map1=at[0], map2=at[1], interpolation=cv2.INTER_LINEAR, borderMode=cv2.BORDER_REFLECT)
    speed = np.hypot(flow[..., 0], flow[..., 1])
    along, left = followed(detail[1]), np.abs(luma[0] - followed(luma[1]))
    found = {"along": _correlation(detail[0], along), "sticks": _correlation(detail[0], detail[1])}
    found["left over"] = _log(left.mean())
    found["left over, of detail"] = found["left over"] - _log(np.abs(detail[0]).mean())
    found |= {"speed": float(np.log(speed.mean() + 0.01)), "stands still": float((speed < STANDS).mean())}
    moves, stands = speed > MOVES, speed < STANDS
    if moves.sum() > LEAST_PIXELS:
        found["sticks where it moves"] = _correlation(detail[0][moves], detail[1][moves])
        found["along where it moves"] = _correlation(detail[0][moves], along[moves])
        found["left over where it moves"] = _log(left[moves].mean()) - _log(np.abs(detail[0])[moves].mean())
    if stands.sum() > LEAST_PIXELS:
        changed = np.abs(luma[0] - luma[1])[stands].mean()
        found["sticks where it stands"] = _correlation(detail[0][stands], detail[1][stands])
        found["changes where it stands"] = _log(changed) - _log(np.abs(detail[0])[stands].mean())
    places = np.stack([across, down, np.ones_like(down)], -1)[::8, ::8].reshape(-1, 3)
    sampled = flow[::8, ::8].reshape(-1, 2)
    rigid = places @ np.linalg.lstsq(places, sampled, rcond=None)[0]
    found["bends"] = float(np.log(np.abs(sampled - rigid).mean() + 0.01) - np.log(speed.mean() + 0.01))
    return found


def middle(frames: np.ndarray, side: int) -> np.ndarray:
    """uint8 [T, H, W, 3] → the square in the middle, no side below `side`."""
    top, left = ((size - side) // 2 for size in frames.shape[1:3])
    return np.ascontiguousarray(frames[:, top : top + side, left : left + side])


def _images(frames: np.ndarray) -> Tensor:
    return torch.from_numpy(frames).permute(0, 3, 1, 2).float()


def _changes(features: Tensor, floor: float) -> Tensor:
    """(..., T, C, h, w) → (2 C,): logs of the squared first differences in time, and by how much the second exceed
    them."""
    first = features.diff(dim=-4)
    over = [at for at in range(features.ndim) if at != features.ndim - 3]
    slow = (first.square().mean(over) + floor).log()
    return torch.cat([slow, (first.diff(dim=-4).square().mean(over) + floor).log() - slow])


def _d3(pooled: Tensor) -> Tensor:
    """(T, C) → (6,): how far apart successive frames are, by angle and by distance, and how that changes."""
    unit = pooled / pooled.norm(dim=1, keepdim=True).clamp(min=1e-6)
    told = []
    for apart in (1 - (unit[1:] * unit[:-1]).sum(1), pooled.diff(dim=0).norm(dim=1)):
        changes = apart.diff()
        told += [apart.mean(), changes.abs().mean(), (changes.std() + 1e-6).log() - (apart.mean() + 1e-6).log()]
    return torch.stack(told)


@torch.inference_mode()
def frozen(frames: np.ndarray, network: EfficientNetLite0) -> dict[str, np.ndarray]:
    """Of uint8 [T, H, W, 3], T >= 3: vectors by name."""
    features = network.stem((_images(frames) - MEAN) / SPREAD)
    stages: list[Tensor] = []
    for number, block in enumerate(network.blocks):
        features = block(features)
        last = number + 1 == len(network.blocks)
        if last or network.blocks[number + 1].project.out_channels != features.shape[1]:
            stages.append(features)
    stages.append(network.head(features))
    still = [torch.cat([stage.mean((2, 3)).mean(0), stage.std((2, 3)).mean(0)]) for stage in stages]
    found = {
        "imagenet early": torch.cat(still[:3]),
        "imagenet middle": torch.cat(still[3:6]),
        "imagenet last": still[-1],
        "imagenet changes": torch.cat([_changes(stage, 1e-6) for stage in stages[:4]]),
        "d3": torch.cat([_d3(stage.mean((2, 3))) for stage in stages]),
    }
    return {name: vector.numpy() for name, vector in found.items()}


@torch.inference_mode()
def detectors_own(frames: np.ndarray, network: SyntheticNetwork) -> dict[str, np.ndarray]:
    """Of uint8 [T, H, W, 3], T >= 3: vectors by name; none where all is flat. The patches are the detector's."""
    places = patch_places(frames[len(frames) // 2])
    if not places:
        return {}
    patches = np.stack([frames[:, top : top + PIXELS, left : left + PIXELS] for top, left in places])
    features = network.features(_images(patches.reshape(-1, PIXELS, PIXELS, 3)))
    still = torch.cat([features.mean((2, 3)).mean(0), features.std((2, 3)).mean(0)])
    moved = _changes(features.unflatten(0, (len(places), len(frames))), 1e-4)
    return {"synthetic": still.numpy(), "synthetic changes": moved.numpy()}


@torch.inference_mode()
def round_trip(frames: np.ndarray, autoencoder: Taef2, network: EfficientNetLite0) -> Readings:
    """Of uint8 [T, H, W, 3], by name: what the autoencoder loses of the frame in the middle, and of the result again.

    A decoder loses less of what came from a decoder like itself, and where a picture has little detail it loses little
    anyway: so the loss is also read relative to the detail, and the first relative to the second.
    """
    image = _images(middle(frames[len(frames) // 2, None], ROUND_TRIP_SIDE)) / 255
    latents = autoencoder.encode(image.contiguous(memory_format=torch.channels_last))
    once = autoencoder.decode(latents).clamp(0, 1)
    again = autoencoder(once)
    lost = once - image
    detail = _sharp(image).abs().mean()
    found = {"once": _small(lost.abs().mean()), "again": _small((again - once).abs().mean()), "detail": _small(detail)}
    found |= {"once, of again": found["once"] - found["again"], "once, of detail": found["once"] - found["detail"]}
    found["detail kept"] = _small(_sharp(once).abs().mean()) - found["detail"]
    found["colour"] = _small((lost - lost.mean(1, keepdim=True)).abs().mean()) - found["once"]
    found["coarse"] = _small(F.avg_pool2d(lost, 8).abs().mean()) - found["once"]
    of_blocks = F.avg_pool2d(lost.mean(1, keepdim=True).abs(), 8).flatten().add(1e-3).log()
    blocks = F.avg_pool2d(_sharp(image.mean(1, keepdim=True)).abs(), 8).flatten().add(1e-3).log()
    slope = ((of_blocks - of_blocks.mean()) * (blocks - blocks.mean())).mean() / blocks.var().clamp(min=1e-4)
    found |= {"slope": float(slope), "where flat": float(of_blocks.mean() - slope * blocks.mean())}
    seen = [_seen(picture, network) for picture in (image, once, again)]
    for number, (one, two, three) in enumerate(zip(*seen, strict=True)):
        near, far = ((a - b).square().sum(1).mean() for a, b in ((two, three), (one, two)))
        found |= {f"seen {number}": _small(far), f"seen {number}, of again": _small(far) - _small(near)}
    return found


def _small(value: Tensor) -> float:
    return float(value.add(1e-6).log())


def _sharp(images: Tensor) -> Tensor:
    return images - F.avg_pool2d(F.pad(images, (1, 1, 1, 1), mode="reflect"), 3, 1)


def _seen(image: Tensor, network: EfficientNetLite0) -> list[Tensor]:
    """Unit features after the first, third and fifth block, after Zhang et al., "LPIPS", CVPR 2018."""
    features, found = network.stem((image * 255 - MEAN) / SPREAD), []
    for number, block in enumerate(network.blocks[:5]):
        features = block(features)
        if number % 2 == 0:
            found.append(features / features.norm(dim=1, keepdim=True).clamp(min=1e-3))
    return found


def as_vector(readings: Readings, names: Sequence[str]) -> np.ndarray:
    """float [N], NaN where a reading has no such name."""
    return np.array([readings.get(name, np.nan) for name in names], float)
