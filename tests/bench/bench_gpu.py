"""How busy a GPU is: audits on it by more and more workers, the results against the CPU's, and what a full GPU does.

`python -m tests.bench.bench_gpu` takes up to six minutes on a machine with a GPU and prints the tables for
docs/benchmarks.md. `--device cpu --clips 2 --workers 1,2 --no-large` shows on any machine that it works. After
`--seconds` nothing new is begun, and the tables say that something is missing.

NVML (by `nvidia-ml-py`, or else `nvidia-smi`) is asked every half second how busy the GPU is: the share of time in
which a kernel ran. The mean is over the time from the first kernel to the last, without the start and the end of the
command.

Films are made by ffmpeg. For a machine that has none, `--make FOLDER` makes them elsewhere, and `--films FOLDER` takes
them from there.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import duckdb
import numpy as np
import torch

from deephotlink.models import registry
from deephotlink.models.base import ClipGeometry, DetectorSpec
from deephotlink.models.batches import BatchedDetector
from deephotlink.models.weights.clip_l14 import CLIP_L14
from deephotlink.models.weights.files import NO_WEIGHTS
from deephotlink.pipelines.machine import usable_cores
from deephotlink.pipelines.samples.synthetic_media import face_frames
from deephotlink.pipelines.weights.detector_choice import choose
from deephotlink.transforms.detect import judge, questions
from deephotlink.transforms.faces import shared_detector, track_faces
from tests.bench.bench_cores import SECONDS, Watch
from tests.bench.bench_pipeline import copies
from tests.bench.measure import Lookout, deephotlink
from tests.bench.studies import table
from tests.builders import make_clip, make_face_video

LOOK_SECONDS = 0.5
FILMS = {"a.mp4": (1280, 720), "b.mp4": (640, 360), "c.mp4": (480, 848)}
"""Name and size of what is made."""
UNIT_SIZE = 2
"""Files in a unit, so that sixteen workers have enough of them."""
LARGE = "gend_clip_l14"
CROWDED = ("facial", "synthetic")
"""Detectors whose batch is to be halved."""


@dataclass(frozen=True, slots=True)
class Taken:
    """By one audit."""

    wall_seconds: float
    cpu_seconds: float
    peak_bytes: int
    """Of the machine's memory, all processes."""
    busy: float
    """Share of the time, 0 to 1; NaN if it is not known."""
    gpu_bytes: int
    """Most that was taken of the GPU's memory, by whomever."""


class GpuWatch(Lookout):
    """Asks how busy a GPU is and how much of its memory is taken, until its context ends."""

    def __init__(self, ask: Callable[[], tuple[float, int]] | None) -> None:
        super().__init__(LOOK_SECONDS)
        self._ask = ask
        self.samples: list[tuple[float, int]] = []

    def look(self) -> None:
        if self._ask is not None:
            self.samples.append(self._ask())

    def busy(self) -> float:
        """
        >>> watch = GpuWatch(None)
        >>> watch.samples = [(0.0, 9), (0.5, 9), (0.0, 9), (1.0, 9), (0.0, 9)]
        >>> watch.busy()
        0.5
        """
        shares = np.array([share for share, _ in self.samples])
        at_work = np.flatnonzero(shares)
        return float(shares[at_work[0] : at_work[-1] + 1].mean()) if len(at_work) else float("nan")

    def most_bytes(self) -> int:
        return max((taken for _, taken in self.samples), default=0)


def gpu_asker(device: str) -> Callable[[], tuple[float, int]] | None:
    """A function that gives the share of busy time (0 to 1) and the bytes taken; None on a CPU."""
    if not device.startswith("cuda"):
        return None
    number = torch.device(device).index or 0
    try:
        import pynvml
    except ImportError:
        return lambda: _from_nvidia_smi(number)
    pynvml.nvmlInit()
    handle = pynvml.nvmlDeviceGetHandleByIndex(number)
    return lambda: (
        pynvml.nvmlDeviceGetUtilizationRates(handle).gpu / 100,
        int(pynvml.nvmlDeviceGetMemoryInfo(handle).used),
    )


def _from_nvidia_smi(number: int) -> tuple[float, int]:
    query = "--query-gpu=utilization.gpu,memory.used"
    said = subprocess.run(
        ["nvidia-smi", f"--id={number}", query, "--format=csv,noheader,nounits"], capture_output=True, text=True
    ).stdout
    share, mebibytes = said.split(",")
    return int(share) / 100, int(mebibytes) << 20


def audit(source: Path, out: Path, device: str, workers: int, more: Sequence[str | Path] = ()) -> Taken:
    command = deephotlink("audit", source, "--output", out, "--quiet", "--device", device, "--workers", str(workers))
    command += ["--unit-size", str(UNIT_SIZE), *more]
    begun = time.perf_counter()
    child = subprocess.Popen([str(part) for part in command], stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL)
    with Watch(child.pid) as watch, GpuWatch(gpu_asker(device)) as gpu:
        _, status, usage = os.wait4(child.pid, 0)
    child.returncode = os.waitstatus_to_exitcode(status)
    if child.returncode:
        raise RuntimeError(f"{command} ended with {child.returncode}")
    cpu = usage.ru_utime + usage.ru_stime
    return Taken(time.perf_counter() - begun, cpu, watch.peak_bytes, gpu.busy(), gpu.most_bytes())


HEAD = ("audit", "workers", "clips", "clips/s", "GPU busy", "CPU-seconds a clip", "memory GiB", "GPU memory GiB")


def row(what: str, workers: int, clips: int, taken: Taken) -> tuple[str, ...]:
    gpu = taken.gpu_bytes / 2**30
    return (
        *(what, str(workers), str(clips), f"{clips / taken.wall_seconds:.2f}"),
        "-" if np.isnan(taken.busy) else f"{100 * taken.busy:.0f} %",
        *(f"{taken.cpu_seconds / clips:.2f}", f"{taken.peak_bytes / 2**30:.1f}", f"{gpu:.1f}" if gpu else "-"),
    )


def make_films(folder: Path) -> None:
    """Ten seconds with a face each. The first is audited many times over, all are compared."""
    for name, size in FILMS.items():
        make_face_video(folder / name, SECONDS, 25, size, gop=50, options={"preset": "veryfast"})


def throughput(
    folder: Path,
    films: Path,
    device: str,
    clips: int,
    workers: Sequence[int],
    what: str,
    more: Sequence[str | Path] = (),
) -> Iterator[tuple[str, ...]]:
    """Yields a row for each number of workers; each worker gets `clips` clips of ten seconds of 720p with a face."""
    one = films / next(iter(FILMS))
    for count in workers:
        source = folder / f"clips-{count}"
        if not source.exists():
            copies(one, source, clips * count)
        name = what.replace(" ", "-")
        yield row(what, count, clips * count, audit(source, folder / f"out-{name}-{count}", device, count, more))


def large_weights(folder: Path) -> list[str | Path]:
    """Options of an audit by `gend_clip_l14` alone, with random numbers for weights: they take the same time."""
    from safetensors.torch import save_file

    from deephotlink.models.architectures.clip_vision import GendNetwork

    torch.manual_seed(0)
    network = GendNetwork(CLIP_L14)
    tensors = {f"feature_extractor.{key}": value for key, value in network.clip.tower.state_dict().items()}
    tensors |= {f"model.linear.{key}": value for key, value in network.linear.state_dict().items()}
    path = folder / "large.safetensors"
    save_file({key: value.contiguous() for key, value in tensors.items()}, path)
    return ["--detectors", LARGE, "--weights", f"{LARGE}={path}", "--allow-unpinned", LARGE]


def agreement(folder: Path, films: Path, device: str) -> Iterator[tuple[str, ...]]:
    """By detector: items that both devices judged, items that only one did, and the largest difference of logits."""
    for name, where in (("there", device), ("here", "cpu")):
        audit(films, folder / f"agreement-{name}", where, 1)
    tables = [f"read_parquet('{folder}/agreement-{name}/evidence/**/*.parquet')" for name in ("there", "here")]
    keys = "uri, detector, clip_index, track_id, start_seconds"
    on = " and ".join(f"a.{key} is not distinct from b.{key}" for key in keys.split(", "))
    found = duckdb.sql(
        f"select coalesce(a.detector, b.detector) as name, count(a.logit + b.logit), "
        f"count(*) filter ((a.logit is null) <> (b.logit is null)), max(abs(a.logit - b.logit)) "
        f"from {tables[0]} a full join {tables[1]} b on {on} group by 1 order by 1"
    ).fetchall()
    for name, both, one, largest in found:
        tolerance = registry.specs([name])[0].device_tolerance
        within = "-" if largest is None else "yes" if largest <= tolerance and not one else "NO"
        yield name, str(both), str(one), "-" if largest is None else f"{largest:.2g}", f"{tolerance:g}", within


def items_of(spec: DetectorSpec, count: int) -> list[Any]:
    geometry = spec.clip or ClipGeometry()
    size = (round(geometry.short_side * 16 / 9 / 2) * 2, geometry.short_side)
    clip = make_clip(frames=np.stack(list(face_frames(16, 15.0, size, speech=True))), frame_rate=15.0)
    clip, _ = track_faces(clip, shared_detector("cpu"))
    return [question.item for question in questions(clip, spec)][:1] * count


def crowded(device: str) -> Iterator[tuple[str, ...]]:
    """By detector: its batch before and after it met a GPU with room for a part of it, and whether logits stayed."""
    for spec in choose(list(CROWDED)).specs:
        weights = choose([spec.name]).weights.get(spec.name, NO_WEIGHTS)
        items = items_of(spec, 2 * spec.batch_size)
        detector = registry.make(spec, weights)
        detector.load(device)
        assert isinstance(detector, BatchedDetector)
        before, expected = detector.batch_items, [a.logit for a in judge(detector, items)]
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats(device)
        held = torch.cuda.memory_allocated(device)
        judge(detector, items)
        peak, total = torch.cuda.max_memory_allocated(device), torch.cuda.get_device_properties(device).total_memory
        torch.cuda.empty_cache()
        torch.cuda.set_per_process_memory_fraction((held + 0.6 * (peak - held)) / total, device)
        answers = judge(detector, items)
        torch.cuda.set_per_process_memory_fraction(1.0, device)
        lost = sum(answer.logit is None for answer in answers)
        pairs = [(a.logit, b) for a, b in zip(answers, expected, strict=True) if a.logit is not None and b is not None]
        moved = max((abs(a - b) for a, b in pairs), default=0.0)
        yield spec.name, str(before), str(detector.batch_items), str(lost), f"{moved:.2g}", f"{spec.device_tolerance:g}"


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    cores = usable_cores()
    counts = sorted({count for count in (1, 2, 4, 8, 16) if count < cores} | {cores})
    parser.add_argument("--device", default="cuda:0")
    parser.add_argument("--clips", type=int, default=8, help="ten-second clips for each worker (default 8)")
    parser.add_argument("--workers", default=",".join(map(str, counts)), help="comma-separated numbers of workers")
    parser.add_argument("--no-large", action="store_true", help=f"without the audit by {LARGE}")
    parser.add_argument("--seconds", type=float, default=330.0, help="begin nothing new after so long (default 330)")
    parser.add_argument("--make", type=Path, metavar="FOLDER", help="make the films there, and end")
    parser.add_argument("--films", type=Path, metavar="FOLDER", help="take them from there")
    args = parser.parse_args()
    if args.make is not None:
        args.make.mkdir(parents=True, exist_ok=True)
        make_films(args.make)
        return
    workers, until = [int(count) for count in args.workers.split(",")], time.monotonic() + args.seconds
    on_gpu = args.device.startswith("cuda")
    if on_gpu and not torch.cuda.is_available():
        parser.error(f"expected a CUDA device for --device={args.device}, torch finds none: use --device=cpu")
    name = torch.cuda.get_device_name(args.device) if on_gpu else "CPU"
    print(f"{name}, {cores} cores, torch {torch.__version__}; {SECONDS} s of 720p a clip, start and end included")

    def within_time(head: Sequence[str], rows: Iterator[tuple[str, ...]], together: bool = False) -> None:
        """Prints the rows as they come. `together`: the first one takes all the time."""
        late = time.monotonic() >= until
        print(f"\n{table(head, [])}", flush=True)
        for one in () if late else rows:
            print(table(one, []).partition("\n")[0], flush=True)
            late = not together and time.monotonic() >= until
            if late:
                break
        if late:
            print("No time was left for the rest, if there is any.", flush=True)

    with tempfile.TemporaryDirectory(prefix="deephotlink-bench-") as folder_name:
        folder = Path(folder_name)
        films = args.films or folder / "films"
        if args.films is None:
            films.mkdir()
            make_films(films)
        # The last number of workers first: if time runs out, that is the one that counts.
        within_time(HEAD, throughput(folder, films, args.device, args.clips, workers[::-1], "default"))
        agrees = ("detector", "judged by both", "by one only", "largest difference", "tolerance", "within it")
        within_time(agrees, agreement(folder, films, args.device), together=True)
        if not args.no_large and time.monotonic() < until:
            large = large_weights(folder)
            within_time(HEAD, throughput(folder, films, args.device, args.clips, workers[-1:], LARGE, large))
        if on_gpu:
            halved = ("detector", "batch", "batch after", "items lost", "largest difference", "tolerance")
            within_time(halved, crowded(args.device))


if __name__ == "__main__":
    main()
