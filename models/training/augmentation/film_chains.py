"""What happens to film on its way to us, alike for real and generated film: cropped, matched, scaled, coded.

Film here means a square stretch: uint8 [T, H, W, 3] as arrays, float32 (T, 3, H, W) in [0, 1] as tensors.
"""

from __future__ import annotations

import io
from dataclasses import dataclass
from typing import Literal

import av
import cv2
import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

INTERPOLATIONS = (cv2.INTER_AREA, cv2.INTER_LINEAR, cv2.INTER_CUBIC, cv2.INTER_LANCZOS4)
RINGS = 24
"""Rings of the spectrum, from its mean to the highest frequency."""
LARGEST_GAIN = 4.0


def cut(frames: np.ndarray, side: int, rng: np.random.Generator) -> np.ndarray:
    """A random square of the frames, scaled to `side` by a random factor, which blurs the traces that a codec left.

    Frames that are too small are scaled up. Half of the results are mirrored.
    """
    height, width = frames.shape[1:3]
    size = int(min(height, width, rng.uniform(side, 2 * side)))
    top, left = int(rng.integers(height - size + 1)), int(rng.integers(width - size + 1))
    square = frames[:, top : top + size, left : left + size]
    how = cv2.INTER_AREA if size > side else cv2.INTER_CUBIC
    found = np.stack([cv2.resize(frame, (side, side), interpolation=how) for frame in square])
    return np.ascontiguousarray(found[:, :, ::-1]) if rng.random() < 0.5 else found


def alike(real: Tensor, fake: Tensor, rng: np.random.Generator) -> tuple[Tensor, Tensor]:
    """Both with the same sharpness. Mostly the fake gets the real one's spectrum; else the sharper one is blurred."""
    if rng.random() < 0.65:
        return real, with_spectrum_of(fake, real)
    if sharpness(real) > sharpness(fake):
        return _blurred_to(real, sharpness(fake)), fake
    return real, _blurred_to(fake, sharpness(real))


def with_spectrum_of(film: Tensor, model: Tensor) -> Tensor:
    """The film with the amplitudes of `model` in each ring of its spectrum, by the same gain in all frames."""
    height, width = film.shape[2:]
    radius = torch.hypot(torch.fft.fftfreq(height)[:, None], torch.fft.rfftfreq(width)[None, :]) * 2
    ring = (radius * RINGS).long().clamp(max=RINGS - 1).flatten()
    own = torch.fft.rfft2(film)
    powers = [x.abs().square().mean((0, 1)).flatten() for x in (own, torch.fft.rfft2(model))]
    sums = [torch.zeros(RINGS).index_add_(0, ring, power) for power in powers]
    gain = ((sums[1] + 1e-6) / (sums[0] + 1e-6)).sqrt().clamp(1 / LARGEST_GAIN, LARGEST_GAIN)
    gain[0] = 1.0
    shaped = torch.fft.irfft2(own * gain[ring].reshape(radius.shape), s=(height, width))
    return shaped.clamp(0, 1)


def sharpness(film: Tensor) -> float:
    """Mean absolute Laplacian of the grey picture, levels in [0, 1]."""
    grey = film.mean(1)
    laplacian = (
        4 * grey[:, 1:-1, 1:-1] - grey[:, :-2, 1:-1] - grey[:, 2:, 1:-1] - grey[:, 1:-1, :-2] - grey[:, 1:-1, 2:]
    )
    return float(laplacian.abs().mean())


def _blurred_to(film: Tensor, wanted: float) -> Tensor:
    """The film blurred until its sharpness is `wanted`. Bisects the blur's width on the first frame."""
    low, high = 0.05, 4.0
    share = sharpness(film[:1]) / max(1e-9, sharpness(film))
    for _ in range(7):
        middle = (low + high) / 2
        low, high = (middle, high) if sharpness(_blurred(film[:1], middle)) > wanted * share else (low, middle)
    return _blurred(film, high)


def _blurred(film: Tensor, sigma: float) -> Tensor:
    half = max(1, round(3 * sigma))
    kernel = torch.exp(-0.5 * (torch.arange(-half, half + 1) / sigma) ** 2)
    kernel = kernel / kernel.sum()
    padded = F.pad(film, (half, half, half, half), mode="reflect").flatten(0, 1)[:, None]
    rows = F.conv2d(padded, kernel[None, None, None, :])
    return F.conv2d(rows, kernel[None, None, :, None])[:, 0].reshape(film.shape)


@dataclass(frozen=True, slots=True)
class FilmChain:
    """One random draw of all that happens to film between a camera or a generator and us."""

    scale: float
    interpolation: int
    sharpen: float
    """> 0: strength of an unsharp mask; < 0: a blur of that deviation, pixels; 0: neither."""
    codec: Literal["h264", "jpeg", "webp", "none"]
    quality: int
    """CRF of H.264, or quality of the image codecs."""
    at: tuple[float, float]
    """Where the patch is cut, down and across, in shares of the possible range."""

    @classmethod
    def draw(cls, rng: np.random.Generator) -> FilmChain:
        codec = ("h264", "h264", "h264", "h264", "h264", "jpeg", "webp", "none")[int(rng.integers(8))]
        quality = int(rng.integers(18, 36)) if codec == "h264" else int(rng.integers(50, 97))
        sharpen = float(rng.uniform(-0.9, 0.8)) if rng.random() < 0.4 else 0.0
        scale = float(rng.uniform(0.8, 1.4)) if rng.random() < 0.7 else 1.0
        interpolation = INTERPOLATIONS[int(rng.integers(len(INTERPOLATIONS)))]
        return cls(scale, interpolation, sharpen, codec, quality, (float(rng.random()), float(rng.random())))  # type: ignore[arg-type]

    def whole(self, film: Tensor, least: int) -> Tensor:
        """(T, 3, H, W) in [0, 1] → uint8 (T, 3, H', W'), no side below `least`."""
        levels = (film * 255).round().clamp(0, 255).byte().permute(0, 2, 3, 1).contiguous().numpy()
        height, width = film.shape[2:]
        scale = max(self.scale, least / min(height, width))
        size = (round(width * scale) // 2 * 2, round(height * scale) // 2 * 2)
        frames = [self._shaped(cv2.resize(level, size, interpolation=self.interpolation)) for level in levels]
        return torch.from_numpy(np.stack(self._coded(frames))).permute(0, 3, 1, 2).contiguous()

    def __call__(self, film: Tensor, pixels: int) -> Tensor:
        """(T, 3, H, W) in [0, 1] → uint8 (T, 3, `pixels`, `pixels`), a patch of the whole."""
        whole = self.whole(film, pixels)
        top, left = (int(share * (side - pixels)) for share, side in zip(self.at, whole.shape[2:], strict=True))
        return whole[:, :, top : top + pixels, left : left + pixels].contiguous()

    def _shaped(self, frame: np.ndarray) -> np.ndarray:
        if self.sharpen == 0:
            return frame
        soft = cv2.GaussianBlur(frame, (0, 0), max(0.2, -self.sharpen) if self.sharpen < 0 else 1.0)
        return soft if self.sharpen < 0 else cv2.addWeighted(frame, 1 + self.sharpen, soft, -self.sharpen, 0)

    def _coded(self, frames: list[np.ndarray]) -> list[np.ndarray]:
        if self.codec == "h264":
            return coded_h264(frames, self.quality)
        if self.codec == "none":
            return frames
        flag = cv2.IMWRITE_JPEG_QUALITY if self.codec == "jpeg" else cv2.IMWRITE_WEBP_QUALITY
        found = []
        for frame in frames:
            data = cv2.imencode(f".{self.codec}", frame[..., ::-1], [flag, self.quality])[1]
            found.append(np.asarray(cv2.imdecode(data, cv2.IMREAD_COLOR))[..., ::-1])
        return found


def coded_h264(frames: list[np.ndarray], crf: int, preset: str = "veryfast") -> list[np.ndarray]:
    """RGB frames with even sides, coded by x264 and decoded, the same bits each time.

    x264's macroblock tree is off: in core 165, with AVX-512, it reads uninitialised memory (the same six frames were
    coded in six ways).
    """
    stored = io.BytesIO()
    options = {"crf": str(crf), "preset": preset, "threads": "1", "x264-params": "mbtree=0"}
    with av.open(stored, "w", format="mp4") as container:
        stream = container.add_stream("libx264", rate=25, options=options)
        stream.height, stream.width = frames[0].shape[:2]
        stream.pix_fmt = "yuv420p"
        for frame in frames:
            container.mux(stream.encode(av.VideoFrame.from_ndarray(frame, format="rgb24")))
        container.mux(stream.encode())
    stored.seek(0)
    with av.open(stored, "r") as coded:
        return [frame.to_ndarray(format="rgb24") for frame in coded.decode(video=0)]
