"""One arm of bench_sandbox.py: audits as asked, with everything in force or with the sandbox and the checks taken out.

`unchecked.py serve on|off` reads a line of JSON a command (the arguments of `deephotlink`) and answers each with its
exit code; `unchecked.py child …` is the decoder child without its checks.

Taken out: Landlock, seccomp and RLIMITs; that a file is what was listed (version, length); the first bytes against the
allow-list; ISO boxes before FFmpeg, with all that is read in them; streams, pixels, samples and durations against their
limits; the depth and the strings of what a child says. Left in both arms: a process a file, frames handed over in
sealed memory, FFmpeg's own limits, and the conversion of a child's words into records, which any program has to do.
"""

from __future__ import annotations

import json
import sys
from typing import Any

from deephotlink.transforms.media import probe_file
from deephotlink.transforms.media.children import pool, worker, zygote


def replace(module: Any, name: str, value: Any) -> None:
    """Not setattr alone: what is renamed must not be measured as if it were gone."""
    assert hasattr(module, name), f"{module.__name__} has no {name}: this benchmark has to be brought up to date"
    setattr(module, name, value)


def nothing(*_: Any, **__: Any) -> None:
    return None


def without_checks_in_the_child() -> None:
    from deephotlink.transforms.media.children import handover, sandbox
    from deephotlink.transforms.media.containers import opening

    replace(sandbox, "limit_resources", nothing)
    replace(probe_file, "read_boxes", nothing)
    replace(probe_file, "_check_streams", nothing)
    for module in (probe_file, opening):
        replace(module, "check_pixels", nothing)
    replace(probe_file, "_sane_span", lambda kind, start, length, duration, longest: (start, length))
    replace(handover, "_check_extent", nothing)


def without_checks() -> None:
    from deephotlink.transforms import listing, probe
    from deephotlink.transforms.media.children import handover
    from deephotlink.transforms.media.containers.sniff import Kind
    from deephotlink.transforms.staging import spool_files

    film = lambda head: Kind("video", ".mp4")  # noqa: E731
    for module in (probe, spool_files, listing):
        replace(module, "sniff", film)
    replace(probe, "read_head", lambda file: b"")
    replace(spool_files, "HEAD_BYTES", 0)
    replace(spool_files, "_refuse_replaced", nothing)
    replace(probe, "_count", int)
    replace(handover, "_check_extent", nothing)
    replace(pool, "without_surrogates", lambda value: value)
    replace(zygote, "PROGRAM", (sys.executable, "-P", __file__, "child"))


def serve() -> None:
    from deephotlink.pipelines.cli import main

    for line in sys.stdin:
        print(json.dumps({"code": main(json.loads(line))}), flush=True)


if __name__ == "__main__":
    if sys.argv[1] == "child":
        without_checks_in_the_child()
        worker.main(sys.argv[2:])
    else:
        if sys.argv[2] == "off":
            without_checks()
        serve()
