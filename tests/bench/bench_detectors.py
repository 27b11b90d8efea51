"""How fast each installed detector answers, and how much memory it needs: `python -m tests.bench.bench_detectors`.

Each runs in a process of its own, from `load` to its answers, on items made by code: a talking portrait tracked through
a clip of the detector's own geometry, speech-like sound, a made file's container. Weights that are not in the cache
(`deephotlink weights pull`) are random: a network of the same shapes takes the same time.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import multiprocessing
import os
import re
import sys
import tempfile
import time
import traceback
from collections.abc import Iterator, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, replace
from pathlib import Path
from types import ModuleType
from typing import Any
from unittest.mock import patch

import numpy as np
import torch

from deephotlink.models import registry
from deephotlink.models.base import SOUND_RATE, AudioItem, ClipGeometry, ClipItem, Detector, DetectorSpec, MediaItem
from deephotlink.models.base import TrackItem as Track
from deephotlink.models.batches import BatchedDetector
from deephotlink.models.embedded.files import embedded_file
from deephotlink.models.weights.clip_l14 import CLIP_L14
from deephotlink.models.weights.files import LocalFile, Weights
from deephotlink.pipelines.samples.synthetic_media import face_frames, make_sound, make_video
from deephotlink.pipelines.weights.cache import at_hand, weights_folder
from deephotlink.transforms.faces import shared_detector, track_faces
from deephotlink.transforms.media import probe_file
from deephotlink.transforms.media.protocol import Limits
from deephotlink.transforms.storage.downloads import local_file
from tests.builders import make_clip

LONG_SECONDS = 4.0
"""What takes longer is asked once, and not in a batch (CPU)."""
ENOUGH_SECONDS = 2.0
MEBI = 1 << 20


@dataclass(frozen=True, slots=True)
class Result:
    detector: str
    unit: str
    batch: int
    items_a_second: float
    memory_mib: float
    """With the weights, at most while it scores: what the process grew by on a CPU, what torch allocated on a GPU."""
    device: str
    weights: str
    """`none`, `embedded`, `published`, `random`."""
    note: str = ""
    """Why there is no figure."""

    def row(self) -> tuple[str, ...]:
        if self.note:
            return self.detector, self.unit, "", self.note, "", self.device, self.weights
        figures = (f"{self.batch}", f"{float(f'{self.items_a_second:.3g}'):g}", f"{self.memory_mib:.0f}")
        return self.detector, self.unit, *figures, self.device, self.weights


HEAD = ("detector", "one item", "batch", "items/s", "memory MiB", "device", "weights")


class BlankWeights(Weights):
    """Stands in for missing files while `unread` lasts."""

    def read(self, role: str = "weights") -> bytes:
        return b""


@contextlib.contextmanager
def unread(module: ModuleType) -> Iterator[None]:
    """In this context the functions with which a detector's module reads checkpoints find nothing, and loading accepts
    that: the network keeps its initial numbers."""
    with contextlib.ExitStack() as stack:
        for name, value in list(vars(module).items()):
            if callable(value) and (name.startswith("read_") or name.endswith("_tensors")):
                stack.enter_context(patch.object(module, name, lambda *args, **more: {}))
            elif callable(value) and name.startswith("load_"):
                stack.enter_context(patch.object(module, name, lambda *args, **more: None))
        yield


def random_clip(folder: Path) -> Weights:
    """CLIP ViT-L/14 as files with random numbers, for `d3`, which builds what its encoder's config describes."""
    from safetensors.torch import save_file
    from transformers import CLIPVisionConfig, CLIPVisionModelWithProjection

    config, encoder = folder / "config.json", folder / "model.safetensors"
    if not encoder.exists():
        config.write_text(json.dumps({"model_type": "clip", "vision_config": dict(CLIP_L14)}))
        save_file(CLIPVisionModelWithProjection(CLIPVisionConfig(**CLIP_L14)).state_dict(), encoder)
    return Weights({role: local_file(path) for role, path in (("config", config), ("encoder", encoder))})


MADE = {"d3": random_clip}


def item_of(spec: DetectorSpec, folder: Path) -> Any:
    """One item of the detector's unit and geometry, on which it does not abstain."""
    if spec.unit == "media":
        path = folder / "tagged.mp4"
        if not path.exists():
            tags = {"aigc_info": '{"aigc_label_type": 1}'}
            make_video(path, seconds=1, tags=tags, options={"movflags": "+use_metadata_tags"})
        return MediaItem(probe_file.probe(str(path), Limits()), None)
    if spec.unit == "audio_window":
        assert spec.audio is not None
        return AudioItem(make_sound(spec.audio.window_samples / SOUND_RATE)[: spec.audio.window_samples], 0.0)
    geometry = spec.clip or ClipGeometry()
    size = (round(geometry.short_side * 16 / 9 / 2) * 2, geometry.short_side)
    # A clip of this rate as a film of 30 Hz would give it.
    rate = min(geometry.frame_rate, 30.0)
    frames = np.stack(list(face_frames(geometry.frames, rate, size, speech=True)))
    clip = make_clip(frames=frames, frame_rate=rate)
    item = ClipItem(clip.frames, clip.pts_seconds, clip.sound, 0.0)
    if spec.unit == "clip":
        return item
    [track, *_] = track_faces(clip, shared_detector("cpu"))[0].tracks or ()
    return Track(item, track.frame_positions, track.boxes, track.landmarks, track.confidences)


def weights_of(spec: DetectorSpec, folder: Path) -> tuple[Weights, str]:
    """From the package or the cache; random if some are missing."""
    found: dict[str, LocalFile] = {}
    for file in spec.weights:
        if (own := embedded_file(file)) is not None:
            found[file.role] = local_file(own)
        elif (held := at_hand(weights_folder(), spec.name, file)) is not None:
            found[file.role] = held
    if len(found) == len(spec.weights):
        return Weights(found), spec.origin if found else "none"
    return (MADE[spec.name](folder) if spec.name in MADE else BlankWeights()), "random"


def measure(name: str, device: str, item: Any, weights: Weights, which: str) -> Result:
    """Called in a process of its own."""
    spec = registry.specs([name])[0]
    torch.set_num_threads(1)
    torch.nn.Conv2d(1, 1, 1)(torch.zeros(1, 1, 1, 1))  # what the first network costs is not the detector's
    nothing = Result(name, spec.unit, 0, 0.0, 0.0, _device_name(device, spec), which)
    before = _status_mib("VmRSS")
    try:
        detector = registry.make(spec, weights)
        with unread(sys.modules[type(detector).__module__]) if isinstance(weights, BlankWeights) else nullcontext():
            detector.load(device)
    except Exception as error:
        traceback.print_exc()
        return replace(nothing, note=f"cannot be run without its weights ({type(error).__name__})")
    with contextlib.suppress(OSError):
        Path("/proc/self/clear_refs").write_text("5")  # the peak counts from here, not from reading the file
    batch, warm = detector.batch_items if isinstance(detector, BatchedDetector) else spec.batch_size, 0.0
    if device == "cpu":
        answers, warm = _timed(detector, [item], device)
        if not isinstance(detector, BatchedDetector):
            batch = max(1, min(batch, int(LONG_SECONDS / warm)))
    spent, count = 0.0, 0
    if warm > LONG_SECONDS:  # the first answer of such a one is as slow as any other
        spent, count = warm, 1
    elif warm < ENOUGH_SECONDS / 4:
        _timed(detector, [item] * batch, device)
    while spent < ENOUGH_SECONDS:
        answers, seconds = _timed(detector, [item] * batch, device)
        spent, count = spent + seconds, count + batch
    if silent := {f"{a.abstained} {a.detail or ''}".strip() for a in answers if a.logit is None}:
        return replace(nothing, note=f"abstains: {', '.join(silent)[:200]}")
    used = _status_mib("VmHWM") - before if device == "cpu" else torch.cuda.max_memory_allocated(device) / MEBI
    return replace(nothing, batch=batch, items_a_second=count / spent, memory_mib=used)


def _timed(detector: Detector, items: Sequence[Any], device: str) -> tuple[list[Any], float]:
    """Seconds: on a CPU, of this process's one core, whoever else uses it; on a GPU, of the clock."""
    clock = time.process_time if device == "cpu" else time.perf_counter
    start = clock()
    answers = detector.score(items)
    return answers, clock() - start


def _status_mib(key: str) -> float:
    return int(re.search(rf"{key}:\s+(\d+)", Path("/proc/self/status").read_text())[1]) / 1024  # type: ignore[index]


def _device_name(device: str, spec: DetectorSpec) -> str:
    return "CPU, one core" if device == "cpu" else f"{torch.cuda.get_device_name(device)}, {spec.precision}"


def bench(folder: Path, only: Sequence[str] | None = None, devices: Sequence[str] = ("cpu",)) -> list[Result]:
    # Forks of a server that has imported everything and run nothing: quick to start, and alike.
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["deephotlink.transforms.faces", "tests.builders", "transformers"])
    items: dict[tuple[object, ...], Any] = {}
    results = []
    for device in devices:
        # On CPUs one core each, as many at a time; a GPU's are alone with it.
        at_a_time = len(os.sched_getaffinity(0)) if device == "cpu" else 1
        with context.Pool(at_a_time, maxtasksperchild=1) as pool:
            asked = []
            for spec in registry.specs(only):
                key = (spec.unit, spec.clip, spec.audio)
                if key not in items:
                    items[key] = item_of(spec, folder)
                arguments = (spec.name, device, items[key], *weights_of(spec, folder))
                asked.append(pool.apply_async(measure, arguments))
            for answer in asked:
                results.append(answer.get())
                print("  " + "  ".join(results[-1].row()), file=sys.stderr, flush=True)
    return results


def table(results: Sequence[Result]) -> str:
    rows = [HEAD, ("---",) * len(HEAD), *(result.row() for result in results)]
    return "\n".join("| " + " | ".join(row) + " |" for row in rows)


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--only", help="comma-separated detectors (default: all that are installed)")
    parser.add_argument(
        "--device", action="append", help="cpu, cuda:0 (default: the CPU, and the GPU where there is one)"
    )
    arguments = parser.parse_args()
    only = arguments.only.split(",") if arguments.only else None
    with tempfile.TemporaryDirectory(prefix="deephotlink-bench-") as name:
        print(table(bench(Path(name), only, arguments.device or available())))


def available() -> list[str]:
    return ["cpu", *(["cuda:0"] if torch.cuda.is_available() else [])]


if __name__ == "__main__":
    main()
