"""Benchmark: the report of a table of a million made-up scores. Prints seconds, peak memory, size, and how long a
browser takes until the first files can be clicked.

    python -m tests.bench.bench_report [--rows 1000000] [--evidence 4] [--frames 3000] [--keep FOLDER]

`--frames`: pictures of 20 KiB each, in the table `evidence_frames`.
"""

from __future__ import annotations

import argparse
import contextlib
import hashlib
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from statistics import median

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from deephotlink.pipelines.outputs.query import run_query
from deephotlink.transforms.tables.evidence_frames import EVIDENCE_FRAMES
from deephotlink.transforms.tables.public_files import public_name, public_schema
from deephotlink.transforms.tables.runs import Run
from deephotlink.transforms.tables.schema import TABLES
from tests.browser import chromium, missing
from tests.reporting import jpeg, make_media, make_output, make_result

FILE_ROWS = 10_000
FAMILIES = ("facial", "synthetic", "audio", "metadata")


def make_tables(out: Path, rows: int, evidence_rows: int) -> Run:
    """`rows` files: of 100, 96 are scored (2 of them manipulated), 2 failed, 2 are skipped."""
    run = make_output(out, [make_result(make_media(0, "first.mp4"), "inconclusive")])
    rng = np.random.default_rng(0)
    for first in range(0, rows, FILE_ROWS):
        numbers = range(first, min(first + FILE_ROWS, rows))
        keys = [_keys(run, number) for number in numbers]
        of: dict[str, list] = {"scores": [], "failures": [], "skipped": []}
        for number, key in zip(numbers, keys, strict=True):
            of["failures" if number % 100 == 98 else "skipped" if number % 100 == 99 else "scores"].append(
                (number, key)
            )
        failed = {"error_class": "unreadable", "message": "cut off"}
        _put(out, run, "failures", first, [{**key, **failed} for _, key in of["failures"]])
        _put(out, run, "skipped", first, [{**key, "reason": "not_media"} for _, key in of["skipped"]])
        values = rng.uniform(0.3, 0.9, len(of["scores"]))
        scored = [(number, key, float(value)) for (number, key), value in zip(of["scores"], values, strict=True)]
        _put(out, run, "scores", first, [_score(number, key, value) for number, key, value in scored])
        said = [_evidence(key, n, float(rng.normal())) for _, key, _ in scored for n in range(evidence_rows)]
        _put(out, run, "evidence", first, said)
    return run


def _keys(run: Run, number: int) -> dict:
    uri = f"/archive/{number // 5_000:05d}/a film of some length, number {number:08d}.mp4"
    return {"run_id": run.run_id, "media_id": hashlib.sha256(uri.encode()).hexdigest(), "uri": uri}


def _score(number: int, key: dict, value: float) -> dict:
    verdict = "manipulated" if number % 50 == 0 else "not_assessed" if number % 3 == 0 else "inconclusive"
    value = {"manipulated": value / 20, "inconclusive": value}.get(verdict)
    leanings = [
        {"detector": name, "log_odds": 1.0 - n, "logits": 1, "calibrated": True, "has_say": not n}
        for n, name in enumerate(FAMILIES[:3])
    ]
    return {
        **key, "size_bytes": 10**7, "media_type": "video", "duration_seconds": 60.0, "verdict": verdict,
        "authenticity": value, "assessed_seconds": 20.0, "faces": 1, "container": "mov,mp4", "has_video": True,
        "has_audio": True, "frames_kept": 64,
        "reasons": ["facial points to manipulation (log-odds +1.00)", "audio abstained: no_speech"],
        "calibration_id": "embedded-2026-11b", "decoder": "decord", "detectors": leanings, "width": 1280, "height": 720,
    }  # fmt: skip


def _evidence(key: dict, number: int, logit: float) -> dict:
    family = FAMILIES[number % len(FAMILIES)]
    start = 10.0 * (number // len(FAMILIES))
    where = {} if family == "metadata" else {"clip_index": number, "start_seconds": start, "end_seconds": start + 4}
    silent = family == "metadata"
    said = {"logit": None if silent else logit, "abstained": "no_indication" if silent else None}
    return {**key, "detector": family, "family": family, "weights_sha256": "ab", **where, **said}


def _put(out: Path, run: Run, table: str, first: int, rows: Sequence[dict]) -> None:
    made = pa.Table.from_pylist(
        [{"run_date": run.run_date, **row} for row in rows], schema=public_schema(TABLES[table])
    )
    pq.write_table(made, out / table / f"{run.run_id}-bench-{first:08d}.parquet", compression="zstd")


def make_frames(out: Path, run: Run, count: int) -> None:
    picture = jpeg("frame", (320, 180))
    rest = 20 * 1024 - len(picture)
    picture = picture[:-2] + b"\xff\xfe" + rest.to_bytes(2, "big") + bytes(rest - 2) + picture[-2:]  # a comment
    file = out / public_name(run, "evidence_frames", 0)
    file.parent.mkdir(exist_ok=True)
    worst = f"select run_id, media_id, uri from scores order by authenticity nulls last, uri limit {count // 6}"
    rows = [
        {**key, "run_date": run.run_date, "clip_index": 0, "track_id": 0, "pts_seconds": float(n),
         "kind": "frame", "box_x0": 0.1,
         "box_y0": 0.1, "box_x1": 0.5, "box_y1": 0.6, "detector": "facial", "logit": 1.0, "width": 320, "height": 180,
         "jpeg": picture}
        for key in run_query(str(out), worst).to_pylist()
        for n in range(6)
    ]  # fmt: skip
    pq.write_table(pa.Table.from_pylist(rows, schema=public_schema(EVIDENCE_FRAMES)), file, row_group_size=500)


def build(out: Path) -> tuple[float, float]:
    """Seconds and peak MB of `deephotlink report`, in a process of its own."""
    began = time.perf_counter()
    code = "import sys; from deephotlink.pipelines.cli import main; sys.exit(main(['report', sys.argv[1]]))"
    child = subprocess.Popen([sys.executable, "-c", code, str(out)], stdout=subprocess.DEVNULL)
    _, status, usage = os.wait4(child.pid, 0)
    child.returncode = os.waitstatus_to_exitcode(status)
    assert child.returncode == 0
    return time.perf_counter() - began, usage.ru_maxrss / 1024


def open_times(page: Path, times: int = 5) -> list[tuple[float, float]]:
    """(seconds, seconds of processor that the browser took) from asking for the page until its list can be used."""
    found = []
    with chromium() as browser:
        for _ in range(times):
            context = browser.new_context()
            tab = context.new_page()
            began, used = time.perf_counter(), _browser_seconds()
            tab.goto(page.as_uri(), wait_until="commit")
            tab.locator("#rows .opener").first.wait_for()
            tab.locator("html[data-ready]").wait_for(state="attached")
            found.append((time.perf_counter() - began, _browser_seconds() - used))
            context.close()
    return found


def _browser_seconds() -> float:
    """CPU time of all processes of browsers that this process has started: on a busy machine the clock says little."""
    parents, used = {}, {}
    for stat in Path("/proc").glob("[0-9]*/stat"):
        with contextlib.suppress(OSError):
            fields = stat.read_text().rpartition(")")[2].split()
            parents[int(stat.parent.name)], used[int(stat.parent.name)] = (
                int(fields[1]),
                int(fields[11]) + int(fields[12]),
            )

    def ours(pid: int) -> bool:
        return pid in parents and (parents[pid] == os.getpid() or ours(parents[pid]))

    return sum(ticks for pid, ticks in used.items() if ours(pid)) / os.sysconf("SC_CLK_TCK")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rows", type=int, default=1_000_000)
    parser.add_argument("--evidence", type=int, default=4, help="rows of evidence of each scored file")
    parser.add_argument("--frames", type=int, default=3_000)
    parser.add_argument("--keep", type=Path, help="make the tables here, or take those that are here")
    args = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="deephotlink-bench-") as name:
        out = args.keep or Path(name) / "out"
        if not (out / "_runs").is_dir():
            run = make_tables(out, args.rows, args.evidence)
            make_frames(out, run, args.frames)
        seconds, megabytes = build(out)
        page = out / "report.html"
        print(f"built in {seconds:.1f} s, peak {megabytes:.0f} MB, page of {page.stat().st_size / 1e6:.1f} MB")
        if (why := missing()) is None:
            times = open_times(page)
            wall, cpu = (median(column) for column in zip(*times, strict=True))
            print(f"opened in {wall:.2f} s, {cpu:.2f} s of processor (medians of {len(times)})")
        else:
            print(why)


if __name__ == "__main__":
    main()
