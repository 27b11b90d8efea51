"""Where the models run, and that they say the same there each time."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

from .late import late

if TYPE_CHECKING:
    import torch
else:
    torch = late("torch")


def best_device(wanted: str = "auto") -> str:
    """`cuda:0` where there is a usable GPU, else `cpu`; what was wanted by name is not second-guessed.

    Raises:
        ValueError: no such kind of device, or a CUDA device was named and there is none.
    """
    if not re.fullmatch(r"auto|cpu|cuda(:\d+)?", wanted):
        raise ValueError(f"expected auto, cpu, cuda or cuda:N for --device, got {wanted!r}")
    if wanted == "auto":
        return "cuda:0" if torch.cuda.is_available() else "cpu"
    if wanted.startswith("cuda") and not torch.cuda.is_available():
        raise ValueError(f"expected a CUDA device for --device={wanted}: torch finds none; use --device=cpu or auto")
    return wanted


def same_bits_each_time(device: torch.device) -> None:
    """Has a GPU compute float32 as float32, and the same from the same.

    TensorFloat-32 keeps 10 bits of what is multiplied. Algorithms that add up in whatever order it comes are left out.
    """
    if device.type == "cuda":
        torch.backends.cudnn.allow_tf32 = False
        torch.backends.cuda.matmul.allow_tf32 = False
        torch.backends.cudnn.deterministic = True
