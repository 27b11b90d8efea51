"""Where the models run, and how they give the same results there each time."""

from __future__ import annotations

import os
import re
from typing import TYPE_CHECKING

from .late import late

if TYPE_CHECKING:
    import torch
else:
    torch = late("torch")


def best_device(wanted: str = "auto") -> str:
    """`cuda:0` if there is a usable GPU, else `cpu`; a device that the user named is kept.

    Raises:
        ValueError: there is no such kind of device, or a CUDA device was named and there is none.
    """
    if not re.fullmatch(r"auto|cpu|cuda(:\d+)?", wanted):
        raise ValueError(f"expected auto, cpu, cuda or cuda:N for --device, got {wanted!r}")
    # By the driver's library alone: CUDA itself, once it is asked, does not survive a fork of this process.
    os.environ.setdefault("PYTORCH_NVML_BASED_CUDA_CHECK", "1")
    if wanted == "auto":
        return "cuda:0" if torch.cuda.is_available() else "cpu"
    if wanted.startswith("cuda") and not torch.cuda.is_available():
        raise ValueError(f"expected a CUDA device for --device={wanted}: torch finds none; use --device=cpu or auto")
    return wanted


def same_bits_each_time(device: torch.device) -> None:
    """Makes a GPU compute float32 as float32, and give the same results for the same inputs.

    TensorFloat-32 keeps only 10 bits of each factor. Algorithms that sum in a varying order are switched off.
    """
    if device.type == "cuda":
        torch.backends.cudnn.allow_tf32 = False
        torch.backends.cuda.matmul.allow_tf32 = False
        torch.backends.cudnn.deterministic = True
