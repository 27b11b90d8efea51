"""What this process may use of the machine: cores and memory, less what its container was not given."""

from __future__ import annotations

import contextlib
import os
import subprocess
from collections.abc import Iterator
from pathlib import Path

CGROUPS, OWN_CGROUP, MEMORY = Path("/sys/fs/cgroup"), Path("/proc/self/cgroup"), Path("/proc/meminfo")
NVIDIA_SECONDS = 20


def usable_cores() -> int:
    """Cores that this process may run on, at least 1: its affinity, and the CPU quota of its cgroup rounded down."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return max(1, min([cores, *(int(quota) for quota in _quotas())]))


def available_bytes() -> int | None:
    """Memory that can be taken without swapping, of the machine or of the cgroup with the least; None: not known."""
    found = list(_cgroup_memory())
    with contextlib.suppress(OSError, ValueError, IndexError):
        lines = (line.split() for line in MEMORY.read_text().splitlines())
        found += [int(words[1]) << 10 for words in lines if words[0] == "MemAvailable:"]
    return max(0, min(found)) if found else None


def free_gpu_bytes() -> int | None:
    """Free memory of the GPU that has least of it, as the driver's own program says; 0 if one is set to serve a single
    process; None: not known.

    CUDA itself is not asked here, because this process could no longer be forked then.
    """
    command = ("nvidia-smi", "--query-gpu=memory.free,compute_mode", "--format=csv,noheader,nounits")
    try:
        said = subprocess.run(command, capture_output=True, text=True, timeout=NVIDIA_SECONDS, check=True).stdout
    except (OSError, subprocess.SubprocessError):
        return None
    lines = [[word.strip() for word in line.split(",")] for line in said.splitlines()]
    if any(words[-1] == "Exclusive_Process" for words in lines):
        return 0
    return min((int(words[0]) << 20 for words in lines if words[0].isdecimal()), default=None)


def _quotas() -> Iterator[float]:
    """CPU quotas, in cores, of the cgroup and of those above it."""
    for folder in _folders("cpu"):
        with contextlib.suppress(OSError, ValueError):
            words = (folder / "cpu.max").read_text().split()
            yield int(words[0]) / int(words[1])  # ValueError of "max", where there is none
        with contextlib.suppress(OSError, ValueError):
            quota, period = (_number(folder / f"cpu.cfs_{name}_us") for name in ("quota", "period"))
            if quota > 0:
                yield quota / period


def _cgroup_memory() -> Iterator[int]:
    """Bytes left to the cgroup and to those above it. Files that the kernel holds in memory can be dropped."""
    for folder in _folders("memory"):
        for most, used, cached in (
            ("memory.max", "memory.current", "inactive_file"),
            ("memory.limit_in_bytes", "memory.usage_in_bytes", "total_inactive_file"),
        ):
            with contextlib.suppress(OSError, ValueError):  # "max" where there is no limit
                left = _number(folder / most) - _number(folder / used)
                words = (line.split() for line in (folder / "memory.stat").read_text().splitlines())
                yield left + sum(int(number) for name, number in words if name == cached)


def _folders(controller: str) -> Iterator[Path]:
    """Where the cgroup's files may lie, and those of the cgroups above it. In a container its own is the root."""
    try:
        lines = OWN_CGROUP.read_text().splitlines()
    except OSError:
        return
    for line in lines:
        number, controllers, path = line.split(":", 2)
        if number == "0":
            root = CGROUPS
        elif controller in controllers.split(","):
            root = CGROUPS / controller
        else:
            continue
        inner = Path(path.lstrip("/"))
        yield from (root / above for above in (inner, *inner.parents))


def _number(path: Path) -> int:
    return int(path.read_text())
