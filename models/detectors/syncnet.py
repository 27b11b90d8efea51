"""Do the lips fit the sound? SyncNet v2, the published audio-visual network, at every shift within 0.6 s.

Five frames of the face and 0.2 s of sound become one vector each, 25 times a second. Their mean distance over the clip
is taken at each shift from -15 to +15 frames. `confidence` is the authors' own figure: the median of the 31 distances
minus the smallest. The logit is 3 minus a similar margin, clipped to +-4: the median minus the smallest distance within
5 frames (0.2 s; ITU-R BT.1359 ends at 185 ms), the shifts that a viewer would still accept. Sound that fits perfectly
at another place therefore counts as out of sync. The logit is NOT calibrated: 3 is the lower end of the thresholds that
others use to clean talking-head data (OmniAvatar keeps 4 and more). The evidence's detail holds distance, offset and
confidence.

Method: Chung and Zisserman, "Out of time: automated lip sync in the wild", ACCV workshops 2016, and the authors'
syncnet_python for crop, sound and distance. Network: models/architectures/syncnet.py; sound: models/signals/mfcc.py.
Weights: syncnet_v2.model from the authors' server, a state dict of 54.6 MB of tensors; no checksum is recorded.
Licence: MIT (the code's; the weights carry no other).

The published file was not available. Tested with random weights: names, shapes and count of the tensors, the cepstrum
against python_speech_features, the crop against the authors' steps (by hand against OpenCV's resize too: at most one
grey level off), the shift search on planted shifts. A known answer to check when the file is available: the authors'
example.avi gives offset 3, distance 5.353, confidence 10.021. It will not match to the last digit here, because their
frames went through XviD and JPEG.

Differences from the original: faces come from our tracker (MTCNN), not S3FD. Frames are scaled to 360 lines first, so
we accept faces of 64 pixels where the authors require 100 in the original. Frames are resampled to 25 a second by the
nearest time stamp.

Blind spots: forgeries trained against SyncNet itself (Wav2Lip and its successors) score better than real footage.
Dubbing, narration, an off-screen speaker, a listener and a still picture are flagged although nothing is forged. Frame
rates other than the 25 Hz of its training, profiles, beards, hands and background music lower its confidence.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from ..base import SOUND_RATE, ClipGeometry, Detector, DetectorSpec, Judgement, TrackItem
from ..batches import MIN_CONFIDENCE, failed, out_of_memory
from ..devices import same_bits_each_time
from ..late import late
from ..signals.mfcc import mfcc
from ..signals.preprocess import to_images
from ..signals.speech import analyse_speech
from ..weights.checkpoints import load_exactly, read_torch
from ..weights.files import NO_WEIGHTS, Weights, WeightsError, WeightsFile
from .lip_sync import LEAST_SURE_SHARE, speech_like

if TYPE_CHECKING:
    import torch
    import torch.nn.functional as F
    from torch import Tensor

    from ..architectures.syncnet import SyncNet, SyncOffset, sync_offset
else:
    torch = late("torch")
    F = late("torch.nn.functional")
    SyncNet = late("..architectures.syncnet:SyncNet", __package__)
    sync_offset = late("..architectures.syncnet:sync_offset", __package__)

FRAMES = 5
"""Frames of a window: as many as the network's first layer spans."""
SIDE = 224
"""Pixels."""
FRAME_RATE = 25
"""Hz, as in the network's training."""
SOUND_PER_FRAME = SOUND_RATE // FRAME_RATE
ROWS_PER_FRAME = 4
"""Rows of the cepstrum for one frame at 25 Hz."""
MOST_SHIFT = 15
"""Frames."""
NEAR_FRAMES = 5
MIDPOINT = 3.0
LARGEST_LOGIT = 4.0
LEAST_FRAMES = 50
"""2 s at 25 Hz. With fewer, a third of the windows has no partner at the largest shift. The authors require 4 s."""
MOST_FRAMES = 250
"""10 s. Only the start of a longer clip is used."""
LEAST_RATE = 20.0
"""Hz. Below it, one frame in five would be shown twice."""
LARGEST_GAP_SECONDS = 0.1
LEAST_FACE_PIXELS = 64.0
"""Mean of the box's longer side."""
CROP_SCALE = 0.4
GREY = 110
SMOOTH_FRAMES = 13
WINDOWS = 16
"""Windows in one forward pass. The first layer's output for 16 takes 73 MB."""

DETECTOR = DetectorSpec(
    name="syncnet_v2",
    family="lip_sync",
    unit="face_track",
    needs=frozenset({"frames", "faces", "sound"}),
    summary="SyncNet: distance between lips and sound in a learned space, in place and shifted by up to 0.6 s",
    blind_to="lip-sync forgeries trained against it (Wav2Lip); flags dubbing, narrators and listeners",
    method="Chung and Zisserman, Out of time: automated lip sync in the wild, ACCV workshops 2016",
    architecture="SyncNet v2: 3-D CNN on lips, 2-D CNN on MFCC, 1024 features each, 13.6 M parameters",
    input="face box x 1.4 at 224x224, BGR 0-255, 5 frames at 25 Hz; MFCC 13 x 20 of 16-bit sound at 16 kHz",
    output="3 - (median - smallest distance within 5 frames of the true place), uncalibrated",
    licence="MIT",
    origin="published",
    weights=(
        WeightsFile(
            file_name="syncnet_v2.model",
            url="http://www.robots.ox.ac.uk/~vgg/software/lipsync/data/syncnet_v2.model",
        ),
    ),
    # A little longer than lip_sync's 4 s, whose 15 Hz are too few. The longest clip of the chosen detectors counts. 30
    # Hz, because a limit of 25 would thin 30 Hz video to 15.
    clip=ClipGeometry(frames=126, frame_rate=30.0, least_frame_rate=LEAST_RATE),
    batch_size=1,
    device_tolerance=0.01,
    one_face_explains=True,
)


@dataclass(frozen=True, slots=True)
class Talk:
    """A face and its sound, as inputs of the network."""

    faces: Tensor
    """uint8 (M, 3, 224, 224) BGR at 25 Hz, on the device."""
    cepstrum: Tensor
    """float32 (4 M - 1, 13), one row every 10 ms from the first frame on, on the device."""


class SyncNetDetector(Detector):
    """Runs each item through the network alone, in passes of one size, so that no item can affect another."""

    def load(self, device: str) -> None:
        self.device = torch.device(device)
        same_bits_each_time(self.device)
        self.network = self._network().to(self.device).eval().requires_grad_(False)
        self.windows = WINDOWS
        """Windows in one forward pass; fewer after the device ran out of memory."""

    def _network(self) -> SyncNet:
        network, name = SyncNet(), DETECTOR.weights[0].file_name
        try:
            tensors = read_torch(self.weights.read(), name)
        except WeightsError as error:
            raise WeightsError(
                f"{error}; if it holds a whole pickled module, its owner can save what is needed with "
                "torch.save(module.state_dict(), FILE)"
            ) from error
        load_exactly(network, tensors, name)
        return network

    def score(self, items: Sequence[TrackItem]) -> list[Judgement]:
        with torch.inference_mode():
            return [self._judged(item) for item in items]

    def _judged(self, item: TrackItem) -> Judgement:
        before = self.windows
        while True:
            windows = self.windows  # another thread of the worker may halve it at any time
            try:
                talk = prepare(item, self.device)
                return talk if isinstance(talk, Judgement) else conclude(self.offset(talk, windows))
            except Exception as error:  # an item's failure is that item's own answer, and is counted
                if not out_of_memory(error):
                    return failed(error)
                if windows == 1:
                    self.windows = before
                    raise
                self.windows = min(self.windows, windows // 2)
            # Outside the handler: as long as the exception lives, it keeps the tensors in its stack frames alive.
            if self.device.type == "cuda":
                torch.cuda.empty_cache()

    def offset(self, talk: Talk, windows: int) -> SyncOffset:
        """The distances at all shifts, from forward passes of `windows` windows each."""
        count = len(talk.faces) - FRAMES
        lips, sounds = [], []
        for at in range(0, count, windows):
            lips.append(self.network.lip(lip_windows(talk.faces, at, windows)))
            sounds.append(self.network.sound(sound_windows(talk.cepstrum, at, windows)))
        lip, sound = (torch.cat(parts)[:count].float().cpu() for parts in (lips, sounds))
        return sync_offset(lip, sound, MOST_SHIFT)


def make(spec: DetectorSpec = DETECTOR, weights: Weights = NO_WEIGHTS) -> Detector:
    return SyncNetDetector(spec, weights)


def lip_windows(faces: Tensor, first: int, count: int) -> Tensor:
    """(M, 3, H, W) → float32 (count, 3, 5, H, W), from window `first` on; black beyond the end."""
    part = faces[first : first + count + FRAMES - 1].float()
    part = F.pad(part, (0, 0, 0, 0, 0, 0, 0, count + FRAMES - 1 - len(part)))
    return part.unfold(0, FRAMES, 1).permute(0, 1, 4, 2, 3).contiguous()


def sound_windows(cepstrum: Tensor, first: int, count: int) -> Tensor:
    """(N, 13) → (count, 1, 13, 20), from window `first` on; zeros beyond the end."""
    rows = ROWS_PER_FRAME * (count + FRAMES - 1)
    part = cepstrum[ROWS_PER_FRAME * first :][:rows]
    part = F.pad(part, (0, 0, 0, rows - len(part)))
    return part.unfold(0, ROWS_PER_FRAME * FRAMES, ROWS_PER_FRAME)[:, None].contiguous()


def prepare(item: TrackItem, device: torch.device) -> Talk | Judgement:
    """One face in one clip → the network's inputs, or an abstention.

    Abstains with `no_audio`, `too_short`, `low_frame_rate`, `no_speech`, `face_hidden`, `low_resolution`.
    """
    clip = item.clip
    if clip.sound is None or not len(clip.sound):
        return Judgement(abstained="no_audio")
    times = clip.pts_seconds[item.frame_positions] - clip.start_seconds
    order = np.argsort(times, kind="stable")
    order = order[np.isfinite(times[order])]
    times = times[order]
    if not len(times):
        return Judgement(abstained="too_short")
    start = max(float(times[0]), 0.0)
    first = round(start * SOUND_RATE)
    seen, sound_frames = float(times[-1]) - start, (len(clip.sound) - first) // SOUND_PER_FRAME
    count = min(int(min(seen, 1e4) * FRAME_RATE + 0.01) + 1, sound_frames, MOST_FRAMES)
    if count < LEAST_FRAMES:
        return Judgement(abstained="too_short")
    grid = start + np.arange(count) / FRAME_RATE
    rows = nearest(times, grid)
    rate = (len(times) - 1) / (float(times[-1]) - float(times[0]))
    if rate < LEAST_RATE or np.abs(times[rows] - grid).max() > LARGEST_GAP_SECONDS:
        return Judgement(abstained="low_frame_rate")
    sound = clip.sound[first : first + count * SOUND_PER_FRAME]
    speech = analyse_speech(sound)
    if speech is None or not speech_like(speech):
        return Judgement(abstained="no_speech")
    rows = order[rows]
    boxes = item.boxes[rows].astype(np.float64)
    sure = np.isfinite(boxes).all(axis=1) & (item.confidences[rows] >= MIN_CONFIDENCE)
    if sure.mean() < LEAST_SURE_SHARE:
        return Judgement(abstained="face_hidden")
    # Frames without a confident face get a box interpolated from their neighbours.
    at = np.arange(count)
    boxes = np.stack([np.interp(at, at[sure], column[sure]) for column in boxes.T], axis=1)
    if float((boxes[:, 2:] - boxes[:, :2]).max(axis=1).mean()) < LEAST_FACE_PIXELS:
        return Judgement(abstained="low_resolution")
    faces = face_crops(clip.frames, item.frame_positions[rows], boxes, device)
    return Talk(faces, torch.from_numpy(mfcc(as_sixteen_bit(sound))).float().to(device))


def nearest(times: np.ndarray, wanted: np.ndarray) -> np.ndarray:
    """Times [N], ascending, N >= 1, and wanted times [M] → int64 [M], the position of the nearest time."""
    after = np.searchsorted(times, wanted).clip(1, max(len(times) - 1, 1))
    after = np.minimum(after, len(times) - 1)
    before = np.maximum(after - 1, 0)
    return np.where(wanted - times[before] <= times[after] - wanted, before, after)


def as_sixteen_bit(sound: np.ndarray) -> np.ndarray:
    """float32 [S] in [-1, 1] → float64 [S], whole numbers as in a 16-bit file: the scale used in the network's
    training."""
    return np.clip(np.rint(np.nan_to_num(sound.astype(np.float64), posinf=1, neginf=-1) * 32768), -32768, 32767)


def face_crops(frames: np.ndarray, positions: np.ndarray, boxes: np.ndarray, device: torch.device) -> Tensor:
    """uint8 [T, H, W, 3] RGB, [M] positions, float64 [M, 4] boxes → uint8 (M, 3, 224, 224) BGR on the device.

    Each crop is a square of 1.4 boxes that starts at the box's upper edge. Its place and size are smoothed over 13
    frames. It is grey beyond the frame, and resized without antialiasing as OpenCV does by default.
    """
    height, width = frames.shape[1:3]
    half = smoothed((boxes[:, 2:] - boxes[:, :2]).max(axis=1) / 2).clip(1, max(height, width))
    x = smoothed((boxes[:, 0] + boxes[:, 2]) / 2).clip(0, width)
    y = smoothed((boxes[:, 1] + boxes[:, 3]) / 2).clip(0, height)
    crops = torch.empty((len(positions), 3, SIDE, SIDE), dtype=torch.uint8)
    for row, position in enumerate(positions):
        face = face_crop(frames[position], float(x[row]), float(y[row]), float(half[row]))
        # Resized on the CPU: a GPU rounds some grey levels the other way, and many small copies to it cost more than
        # one.
        image = to_images(face[None, ..., ::-1], "cpu").float()
        resized = F.interpolate(image, size=(SIDE, SIDE), mode="bilinear", align_corners=False)
        crops[row] = resized[0].round().clamp(0, 255).to(torch.uint8)
    return crops.to(device)


def face_crop(frame: np.ndarray, x: float, y: float, half: float) -> np.ndarray:
    """uint8 [H, W, 3], the box's centre inside the frame, half its side >= 1 → uint8 [h, w, 3], h = w up to rounding.

    Corners are truncated to whole pixels at the same point as in the authors' code: in the frame with its grey border.
    """
    border = int(half * (1 + 2 * CROP_SCALE))
    top, bottom = int(y + border - half) - border, int(y + border + half * (1 + 2 * CROP_SCALE)) - border
    left, right = (int(x + border + side * half * (1 + CROP_SCALE)) - border for side in (-1, 1))
    inside = frame[max(top, 0) : bottom, max(left, 0) : right]
    above, before = max(-top, 0), max(-left, 0)
    below, behind = bottom - top - above - len(inside), right - left - before - inside.shape[1]
    return np.pad(inside, ((above, below), (before, behind), (0, 0)), constant_values=GREY)


def smoothed(values: np.ndarray) -> np.ndarray:
    """float64 [M] → [M], the median of 13. Values beyond the ends are zeros, as in the authors' filter."""
    padded = np.pad(values, SMOOTH_FRAMES // 2)
    return np.median(np.lib.stride_tricks.sliding_window_view(padded, SMOOTH_FRAMES), axis=1)


def conclude(found: SyncOffset) -> Judgement:
    margin = found.margin(NEAR_FRAMES)
    logit = float(np.clip(MIDPOINT - margin, -LARGEST_LOGIT, LARGEST_LOGIT))
    apart = f"{abs(found.offset_frames) / FRAME_RATE:.2f} s {'before' if found.offset_frames > 0 else 'after'} the lips"
    if margin >= MIDPOINT:
        summary = "The lips fit the sound."
    elif found.confidence >= MIDPOINT:
        summary = f"The lips fit the sound better at a shift: the sound comes {apart}."
    else:
        summary = "The lips fit the sound at no shift (dubbing or another speaker looks the same)."
    detail = {
        "summary": summary,
        "distance": round(found.distance, 3),
        "offset_frames": found.offset_frames,
        "confidence": round(found.confidence, 3),
        "confidence_near": round(margin, 3),
    }
    return Judgement(logit=logit, detail=json.dumps(detail))
