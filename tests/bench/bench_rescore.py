"""Benchmark: `rescore` of synthetic evidence. Prints seconds, rows a second and peak memory.

python -m tests.bench.bench_rescore [--rows 1000000] [--media-rows 16] [--profile]

The evidence is made in the tables' own form: clips of ten seconds, three detectors, details as long as real ones.
"""

from __future__ import annotations

import argparse
import json
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import pyarrow as pa

from deephotlink.models.calibration.calibration import parse_calibration
from deephotlink.pipelines.accuracy.rescore import rescore_output
from deephotlink.pipelines.outputs.check import check_output
from deephotlink.transforms.commit import commit_unit
from deephotlink.transforms.publish import publish
from deephotlink.transforms.records import AuthenticityScore, Evidence, MediaFile, MediaOutcome, MediaResult
from deephotlink.transforms.storage.output_store import OutputStore
from deephotlink.transforms.tables.runs import create_run, plan_of

DETECTORS = (("audio", "audio"), ("facial", "facial"), ("lip_sync", "lip_sync"))
DETAIL = json.dumps({"summary": "what such a detector says in a sentence or so", "frames": 16, "logits": [0.1] * 12})


def calibration_text() -> str:
    rule = {
        "slope": 1.0,
        "intercept": -0.5,
        "lowest": -6,
        "highest": 6,
        "weight": 1,
        "method": "platt",
        "exponent": 1.5,
    }
    fields = {
        "format": 2,
        "calibration_id": "bench",
        "data": "made up",
        "detectors": {name: rule for name, _ in DETECTORS},
        "fusion": {"kind": "mean_odds", "exponent": 1.5, "stretch_seconds": 10, "lowest": -4, "highest": 4},
        "thresholds": {"manipulated_at_most": 0.1, "authentic_at_least": None},
    }
    return json.dumps(fields)


def make_output(out: str, rows: int, media_rows: int) -> int:
    """An output of one finished run; returns its evidence rows."""
    store, rng = OutputStore(out), np.random.default_rng(0)
    count = rows // media_rows
    files = [MediaFile(f"{n:064x}", f"/archive/{n:07d}.mp4", 1000, "1", n // 16) for n in range(count)]
    run = create_run(store, [(file, None) for file in files], resume_key="bench", fingerprint="bench")
    score = AuthenticityScore(0.5, "inconclusive", {}, ("made up",), 1, 1, "none")
    for unit in range(run.units):
        results = []
        for file, _ in plan_of(store, run, [unit]):
            said = []
            for n, logit in enumerate(rng.normal(size=media_rows)):
                clip, (name, family) = n // len(DETECTORS), DETECTORS[n % len(DETECTORS)]
                where = {
                    "clip_index": clip,
                    "track_id": 0,
                    "start_seconds": 10.0 * clip,
                    "end_seconds": 10.0 * clip + 4,
                }
                said.append(Evidence(file.media_id, name, family, "ab", logit=float(logit), detail=DETAIL, **where))
            outcome = MediaOutcome(file, "read", media_type="video", has_video=True)
            results.append(MediaResult(outcome, score, tuple(said)))
        commit_unit(store, run, unit, results)
    publish(store, run, complete=True)
    return count * media_rows


def rescore(out: str, profile: bool) -> None:
    calibration = parse_calibration(calibration_text(), "bench")
    begun, processor = time.monotonic(), time.process_time()
    if profile:
        import cProfile
        import pstats

        with cProfile.Profile() as taken:
            runs = rescore_output(out, calibration)
        pstats.Stats(taken).sort_stats("tottime").print_stats(15)
    else:
        runs = rescore_output(out, calibration)
    seconds, processor = time.monotonic() - begun, time.process_time() - processor
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    media = sum(run.planned for run in runs)
    print(f"rescore: {media} media, {seconds:.1f} s ({processor:.1f} CPU-seconds), peak {peak:.0f} MiB", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--rows", type=int, default=1_000_000)
    parser.add_argument("--media-rows", type=int, default=16)
    parser.add_argument("--profile", action="store_true")
    parser.add_argument("--of", help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.of:
        rescore(args.of, args.profile)
        return
    pa.set_cpu_count(1)
    with tempfile.TemporaryDirectory() as folder:
        out = str(Path(folder) / "out")
        print(f"{make_output(out, args.rows, args.media_rows)} evidence rows", flush=True)
        # In a process of its own: the peak is not to be that of making the evidence.
        command = [sys.executable, "-m", "tests.bench.bench_rescore", "--of", out]
        subprocess.run(command + ["--profile"] * args.profile, check=True)
        print("check:", check_output(out) or "sound")


if __name__ == "__main__":
    main()
