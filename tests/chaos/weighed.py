"""The decoder child, which also records the peak of each worker's resident memory: `weighed.py NOTES ARGUMENTS…`.

One line for each worker that ends normally: `probe` or `decode`, KiB, path. A fork's figure begins with what it shares
with its zygote; the peaks of the parent and of earlier workers are not in it.
"""

from __future__ import annotations

import os
import resource
import sys
from typing import Any

from deephotlink.transforms.media.children import worker


def weigh(kind: str, notes: int) -> None:
    real = getattr(worker, f"_{kind}")

    def weighed(sock: Any, fields: dict[str, Any], limits: Any) -> None:
        try:
            real(sock, fields, limits)
        finally:
            peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
            os.write(notes, f"{kind}\t{peak}\t{fields['path']}\n".encode())

    setattr(worker, f"_{kind}", weighed)


if __name__ == "__main__":
    notes = os.open(sys.argv[1], os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
    weigh("probe", notes)
    weigh("decode", notes)
    worker.main(sys.argv[2:])
