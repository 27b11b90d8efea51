"""Fixed-size batches on a device: padded to their size, halved when the device runs out of memory."""

from __future__ import annotations

from collections.abc import Callable

import torch


def forward_in_batches(
    forward: Callable[[torch.Tensor], torch.Tensor], rows: torch.Tensor, batch_size: int, device: str
) -> torch.Tensor:
    """`forward` over rows [N, ...] in batches of exactly `batch_size`; the answers [N, ...] on the CPU, in order.

    The last batch is padded with zeros: a row's answer then does not depend on how many neighbours it had (kernels are
    chosen by shape, and another kernel rounds another way). After an out-of-memory the size is halved for the rest.

    Raises:
        torch.OutOfMemoryError: one row alone does not fit.
        ValueError: `batch_size` < 1, or no rows.
    """
    if batch_size < 1 or not len(rows):
        raise ValueError(
            f"expected rows [N > 0, ...] and a batch size of 1 or more: got {rows.shape = }, {batch_size = }"
        )
    answers: list[torch.Tensor] = []
    start, size = 0, batch_size
    while start < len(rows):
        chunk = rows[start : start + size]
        given = len(chunk)
        if given < size:
            chunk = torch.cat([chunk, chunk.new_zeros((size - given, *chunk.shape[1:]))])
        try:
            with torch.inference_mode():
                answers.append(forward(chunk.to(device, non_blocking=True))[:given].cpu())
        except torch.OutOfMemoryError:
            if size == 1:
                raise
            size = max(1, size // 2)
            if device.startswith("cuda"):
                torch.cuda.empty_cache()
            continue
        start += given
    return torch.cat(answers)


def best_device(wanted: str = "auto") -> str:
    """`cuda:0` where there is a usable GPU, else `cpu`; what was wanted by name is not second-guessed.

    Raises:
        ValueError: a CUDA device was named and there is none.
    """
    if wanted == "auto":
        return "cuda:0" if torch.cuda.is_available() else "cpu"
    if wanted.startswith("cuda") and not torch.cuda.is_available():
        raise ValueError(f"expected a CUDA device for --device={wanted}: torch sees none; use --device=cpu or auto")
    return wanted
