"""Study: what each embedded detector costs, and a default audit of ten seconds of 720p.

python -m tests.bench.study_cost [--detectors NAMES] [--out cost.json] [--clip FILE]

Parameters; milliseconds of one core for one item, the median of some runs, on items that bench_detectors makes; on a
GPU of the clock, where there is one. CPU-seconds by the operating system's account of the command and its children.
"""

from __future__ import annotations

import argparse
import shutil
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

from deephotlink.models import registry
from deephotlink.models.base import Detector
from deephotlink.models.weights.files import NO_WEIGHTS
from deephotlink.pipelines.weights.detector_choice import Chosen
from tests.bench.bench_detectors import item_of
from tests.bench.measure import cost_of_command, deephotlink
from tests.bench.studies import chosen, table, write
from tests.builders import make_face_video

BUDGET_SECONDS = 6.0
"""CPU-seconds of a default audit for a ten-second 720p clip."""
RUNS = 7


def parameters(detector: Detector) -> int:
    network = getattr(detector, "network", None)
    return sum(p.numel() for p in network.parameters()) if isinstance(network, torch.nn.Module) else 0


def milliseconds(detector: Detector, item: Any, device: str, runs: int = RUNS) -> tuple[float, str]:
    """Median time of one item alone, after one that is not counted; and the reason if it abstained."""
    clock = time.process_time if device == "cpu" else time.perf_counter
    spent = []
    answer = detector.score([item])[0]
    for _ in range(runs):
        start = clock()
        answer = detector.score([item])[0]
        spent.append(1000 * (clock() - start))  # an answer is a float on the CPU: the GPU has ended its work
    return float(np.median(spent)), answer.abstained or ""


def detectors_cost(pick: Chosen, folder: Path, runs: int = RUNS) -> dict[str, dict[str, Any]]:
    torch.set_num_threads(1)
    found: dict[str, dict[str, Any]] = {}
    for spec in pick.specs:
        item = item_of(spec, folder)
        for device in ("cpu", *(["cuda:0"] if torch.cuda.is_available() else [])):
            detector = registry.make(spec, pick.weights.get(spec.name, NO_WEIGHTS))
            detector.load(device)
            spent, abstained = milliseconds(detector, item, device, runs)
            one = found.setdefault(spec.name, {"unit": spec.unit, "parameters": parameters(detector)})
            one |= {f"ms_{device.partition(':')[0]}": spent, "abstained": abstained}
    return found


def audit_cost(folder: Path, names: Sequence[str] | None, clip: Path | None = None, many: int = 8) -> dict[str, float]:
    """CPU-seconds a clip: what `many` copies took above two, so that starting is not counted; on one core."""
    few = 2
    if clip is None:
        clip = make_face_video(folder / "one.mp4", 10, 25, (1280, 720), gop=50, options={"preset": "veryfast"})
    spent = {}
    for count in (few, many):
        copies = folder / f"copies-{count}"
        copies.mkdir()
        for number in range(count):
            shutil.copy(clip, copies / f"{number:03d}{clip.suffix}")
        more = ["--detectors", ",".join(names)] if names else []
        command = deephotlink("audit", copies, "--output", folder / f"out-{count}", "--quiet", *more)
        spent[count] = cost_of_command(command, one_core=True).cpu_seconds
    each = (spent[many] - spent[few]) / (many - few)
    return {"cpu_seconds_a_clip": each, "cpu_seconds_to_start": spent[few] - few * each, "budget": BUDGET_SECONDS}


def main(argv: Sequence[str] | None = None) -> str:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--detectors", help="comma-separated (default: the embedded ones that are ready)")
    parser.add_argument("--clip", type=Path, help="ten seconds of 720p (default: a made one)")
    parser.add_argument("--many", type=int, default=8, help="copies of it that are audited")
    parser.add_argument("--runs", type=int, default=RUNS)
    parser.add_argument("--out", type=Path, help="JSON file to write")
    args = parser.parse_args(argv)
    args.calibration = None
    pick = chosen(args.detectors)
    with tempfile.TemporaryDirectory(prefix="deephotlink-study-") as name:
        of_each = detectors_cost(pick, Path(name), args.runs)
        of_audit = audit_cost(Path(name), [s.name for s in pick.specs], args.clip, args.many)
    head = ("detector", "one item", "parameters", "ms, one CPU core", "ms, GPU", "abstained")
    rows = [
        (name, f["unit"], f"{f['parameters']:,}", _ms(f.get("ms_cpu")), _ms(f.get("ms_cuda")), f["abstained"])
        for name, f in of_each.items()
    ]
    text = table(head, rows)
    each = of_audit["cpu_seconds_a_clip"]
    print(f"{text}\n\naudit: {each:.2f} CPU-seconds a ten-second 720p clip (budget {BUDGET_SECONDS:g}), ", end="")
    print(f"{of_audit['cpu_seconds_to_start']:.1f} to start and end")
    write(args, "cost", pick.specs, {"detectors_cost": of_each, "audit": of_audit})
    return text


def _ms(value: float | None) -> str:
    return "-" if value is None else f"{value:.3g}"


if __name__ == "__main__":
    main()
