"""How many workers there are, and what each may use of the machine."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

import torch

from ...models.devices import best_device
from ...transforms.staging.spool_space import FREE_SHARE
from ...transforms.tables.unit_sizes import UnitSizes
from .. import machine
from ..audit import decoders_of
from ..options import AuditConfig, Reading, runner_named

WORKER_BYTES = 900 << 20
"""Memory of a worker and its decoder children, without the pages that all workers share and the weights (measured)."""
WEIGHT_COPIES = 2
"""Of the weights' bytes, while a file is read."""
GPU_HOST_BYTES, GPU_BYTES = 2 << 30, 3 << 30
"""What a worker on a GPU takes besides: of the machine's memory (CUDA's libraries, pinned frames, clips that wait for a
full batch), and of the GPU's (CUDA's context, frames and a batch). Estimates; the second includes the 2.4 GiB that the
largest batch of docs/benchmarks.md took on an H200."""
UNKNOWN_GPU_FITS = 4
"""Workers on a GPU whose memory is not known."""
CLIP_SECONDS, GLANCE_SECONDS, WORTH_SECONDS = 2.5, 0.1, 8.0
"""Of a core: what a clip costs with the detectors of a default audit, what a file costs of which no frame is decoded,
and how much work is worth another worker, whose decoder children and Beam job take some three seconds."""


@dataclass(frozen=True, slots=True)
class Share:
    """What one worker may use."""

    threads: int
    """Of torch and BLAS."""
    decoders: int
    ahead_bytes: int
    device: str
    on_device: int
    """Workers that use the same device. On a GPU each may take as large a part of its memory."""
    max_spool_bytes: int

    def of(self, reading: Reading) -> Reading:
        """The reading of an audit as this worker does it."""
        return replace(
            reading,
            decoders=self.decoders,
            ahead_bytes=self.ahead_bytes,
            device=self.device,
            max_spool_bytes=self.max_spool_bytes,
        )


def most_workers(config: AuditConfig, notice: Callable[[str], None]) -> int:
    """The processes that this machine has room for, at most as many as were asked for; 1 where all work is done by a
    runner that was named. `notice` is told in a sentence if memory is short."""
    own_processes = runner_named(config.beam_args) or any("direct_running_mode" in arg for arg in config.beam_args)
    in_this_process = config.output.startswith("memory:") or any(s.startswith("memory:") for s in config.sources)
    if own_processes or in_this_process:
        return 1
    wanted = config.workers or _default(config)
    weights = sum(file.size_bytes or 0 for held in config.weights.values() for file in held.files.values())
    each = bytes_of_worker(config) + WEIGHT_COPIES * weights
    free = machine.available_bytes()
    fit = wanted if free is None else max(1, free // each)
    if config.workers is not None and fit < wanted:
        needed, left = wanted * each >> 20, (free or 0) >> 20
        notice(f"--workers={wanted} would need {needed} MiB of memory, and {left} MiB are free: {fit} of them start")
    return _fit_on_gpus(config, min(wanted, fit), weights, notice)


def bytes_of_worker(config: AuditConfig) -> int:
    """Of the machine's memory, without weights."""
    return WORKER_BYTES + (GPU_HOST_BYTES if gpus_of(config) else 0)


def _fit_on_gpus(config: AuditConfig, wanted: int, weights: int, notice: Callable[[str], None]) -> int:
    """As many of the wanted workers as the GPUs have memory for, at least one for each. Where the memory is not known,
    whoever asks for a number gets it."""
    gpus = gpus_of(config)
    if not gpus or wanted <= gpus:
        return wanted
    each, free = GPU_BYTES + weights, machine.free_gpu_bytes()
    if free is None:
        return wanted if config.workers is not None else min(wanted, gpus * UNKNOWN_GPU_FITS)
    fit = gpus * max(1, free // each)
    if config.workers is not None and fit < wanted:
        notice(
            f"--workers={wanted} would need {each >> 20} MiB of a GPU's memory each, and each GPU has {free >> 20} MiB "
            f"for them: {fit} of them start"
        )
    return min(wanted, fit)


def worth(most: int, sizes: UnitSizes, config: AuditConfig) -> int:
    """How many workers so much work is worth, at most `most` and never more than units that are to be read. Where their
    number was asked for, there is no other reason for fewer."""
    units = int((sizes.media > 0).sum())
    if config.workers is None:
        decoded = any({"frames", "sound"} & spec.needs for spec in config.detectors)
        seconds = CLIP_SECONDS * float(sizes.clips.sum()) if decoded else GLANCE_SECONDS * int(sizes.media.sum())
        most = min(most, int(seconds // WORTH_SECONDS))
    return max(1, min(most, units))


def share_of(reading: Reading, number: int, count: int, spool: Path) -> Share:
    """What the worker of this number, of `count`, may use: cores, decoders and decoded clips are divided, and so is the
    memory of a GPU. Room in the spool is shared (spool_space.py), so each is told of all of it."""
    room = reading.max_spool_bytes
    return Share(
        threads=max(1, machine.usable_cores() // count),
        decoders=max(1, decoders_of(reading) // count),
        ahead_bytes=max(1, reading.ahead_bytes // count),
        device=(device := device_of(reading.device, number)),
        on_device=sum(device_of(reading.device, other) == device for other in range(count)),
        max_spool_bytes=int(FREE_SHARE * shutil.disk_usage(spool).free) if room is None else room,
    )


def device_of(device: str, number: int) -> str:
    """
    >>> device_of("cpu", 3), device_of("cuda:1", 3)
    ('cpu', 'cuda:1')
    """
    if device != "auto":
        return device
    best = best_device(device)
    return best if best == "cpu" else f"cuda:{number % torch.cuda.device_count()}"


def _default(config: AuditConfig) -> int:
    """One for each core. On a GPU too: a single process cannot decode and follow faces as fast as a GPU judges."""
    return max(machine.usable_cores(), gpus_of(config))


def gpus_of(config: AuditConfig) -> int:
    """How many GPUs the workers are spread over."""
    device = config.reading.device
    if best_device(device) == "cpu":
        return 0
    return torch.cuda.device_count() if device == "auto" else 1
