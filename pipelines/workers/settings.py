"""What a process asks of the libraries that it computes with: how many threads, and how memory is given back."""

from __future__ import annotations

import ctypes
import os

import pyarrow as pa
import torch
from threadpoolctl import threadpool_limits

_TRIM_THRESHOLD, _TOP_PAD, _MMAP_THRESHOLD, _ARENA_MAX = -1, -2, -3, -8
"""Names of options of mallopt(3), from malloc.h."""
MALLOC = {_MMAP_THRESHOLD: 32 << 20, _TRIM_THRESHOLD: 256 << 20, _TOP_PAD: 64 << 20, _ARENA_MAX: 1}
"""glibc's defaults give the tensors of a forward pass back to the kernel and take them again for the next one: 1.3
million page faults in an audit of 12 clips, a third of the CPU time of `audio`. With these there were 0.3 million, the
system time fell from 4.8 s to 1.6, and the peak of memory stayed where it was. 32 MiB is the most that is allowed."""


def spare_work() -> None:
    """Has glibc keep what was freed for the next allocation (other C libraries are left as they are), and Python look
    for no translations: Beam parses its options forty times a wave, which asked the disk each time for those of
    argparse, a quarter of what a wave costs by itself."""
    os.environ.setdefault("LANGUAGE", "C")
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is not None:
        for option, value in MALLOC.items():
            mallopt(option, value)


def use_threads(count: int) -> None:
    """Has torch, BLAS and Arrow compute with at most so many threads each, in all threads of this process."""
    torch.set_num_threads(count)
    threadpool_limits(count, user_api="blas")
    pa.set_cpu_count(count)
