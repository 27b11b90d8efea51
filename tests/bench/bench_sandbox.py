"""What safety costs: the sandbox against `--sandbox=off`, and the checks of the file and of what its child says.

python -m tests.bench.bench_sandbox [--clips N]
"""

from __future__ import annotations

import argparse
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path

from deephotlink.transforms.media.boxes import read_boxes
from deephotlink.transforms.media.containers import probe
from deephotlink.transforms.media.protocol import Limits
from deephotlink.transforms.media.sniff import HEAD_BYTES, sniff
from deephotlink.transforms.probe import probe_from_facts
from tests.bench.bench_pipeline import copies
from tests.bench.measure import cost_of_command, deephotlink, median
from tests.builders import make_face_video, make_media_file

TURNS = 3
FEW = 2
MODES = ("auto", "off")


def cpu_a_clip(one: Path, folder: Path, clips: int, options: Sequence[str]) -> dict[str, float]:
    """By mode, CPU-seconds of one core a clip: what many took above a few, the median of turns that alternate."""
    few, many = copies(one, folder / "few", FEW), copies(one, folder / "many", clips)
    each: dict[str, list[float]] = {mode: [] for mode in MODES}
    for turn in range(TURNS):
        for mode in MODES if turn % 2 else MODES[::-1]:
            spent = [
                cost_of_command(
                    deephotlink(
                        *("audit", source, "--output", folder / f"{source.name}-{mode}-{turn}", "--quiet"),
                        *(f"--sandbox={mode}", *options),
                    ),
                    one_core=True,
                ).cpu_seconds
                for source in (few, many)
            ]
            each[mode].append((spent[1] - spent[0]) / (clips - FEW))
    return {mode: median(found) for mode, found in each.items()}


def milliseconds(work: Callable[[], object], times: int = 50) -> float:
    spent = []
    for _ in range(times):
        start = time.process_time()
        work()
        spent.append(1000 * (time.process_time() - start))
    return median(spent)


def checks(one: Path) -> float:
    """Milliseconds a file of what could be left out where nobody is hostile: the first bytes, the boxes, the answer."""
    head = one.read_bytes()[:HEAD_BYTES]
    facts = probe(str(one), Limits())
    file = make_media_file(one)
    return (
        milliseconds(lambda: sniff(head))
        + milliseconds(lambda: read_boxes(str(one)))
        + milliseconds(lambda: probe_from_facts(file, str(one), facts, None))
    )


def bench(folder: Path, clips: int = 14) -> list[tuple[str, str, str]]:
    folder.mkdir(exist_ok=True)
    one = make_face_video(folder / "one.mp4", 10, 25, (1280, 720), gop=50, options={"preset": "veryfast"})
    of_checks = checks(one)
    rows = [("checks of a ten-second 720p clip and of its child's answer", f"{of_checks:.2f} ms", "-")]
    for name, many, options in (
        ("default audit", clips, ()),
        ("metadata alone, nothing decoded", 10 * clips, ("--detectors", "metadata")),
    ):
        place = folder / name.split()[0]
        place.mkdir()
        spent = cpu_a_clip(one, place, many, options)
        cost = 1000 * (spent["auto"] - spent["off"]) + of_checks
        share = cost / (1000 * spent["auto"])
        rows.append(
            (
                f"sandbox and checks, {name}: of the CPU time of a ten-second 720p clip",
                f"{cost:.1f} of {1000 * spent['auto']:.0f} ms = {share:.1%}",
                "<= 5 %" if not options else "-",
            )
        )
    return rows


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--clips", type=int, default=14)
    args = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="deephotlink-bench-") as name:
        for row in bench(Path(name), args.clips):
            print("| " + " | ".join(row) + " |")


if __name__ == "__main__":
    main()
