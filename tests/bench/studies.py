"""What the studies of "what it must show" share: real files with their groups, audits of them, intervals, tables.

A study runs `deephotlink audit` itself, prints a Markdown table and writes a JSON file with its seed, counts and
95 % intervals: by Clopper and Pearson (1934) for shares, by bootstrap over groups for all else.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np

from deephotlink.models import registry
from deephotlink.models.base import DetectorSpec
from deephotlink.models.calibration.accuracy import Figure
from deephotlink.models.calibration.bounds import interval
from deephotlink.models.calibration.calibration import Calibration, load_calibration
from deephotlink.models.calibration.pooling import pooled_log_odds
from deephotlink.models.training.split import part
from deephotlink.pipelines.cli import main as deephotlink
from deephotlink.pipelines.outputs.query import run_query
from deephotlink.pipelines.training.material import Source, sources_of
from deephotlink.pipelines.weights.detector_choice import Chosen, choose
from deephotlink.transforms.failures import UsageError
from deephotlink.transforms.fuse import fuse_media
from deephotlink.transforms.records import Evidence, MediaFile, MediaOutcome
from tests.bench.measure import FFMPEG

VERDICTS = ("authentic", "inconclusive", "manipulated", "not_assessed")
Row = Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class Audited:
    """One file of an audit."""

    verdict: str
    duration_seconds: float
    evidence: tuple[Evidence, ...]

    def logits(self, specs: Sequence[DetectorSpec]) -> dict[str, float]:
        """By detector, its logit of the whole file: the mean of its items' odds, as a logit."""
        found: dict[str, float] = {}
        for spec in specs:
            rows = [row for row in self.evidence if row.detector == spec.name and row.logit is not None]
            if spec.one_face_explains:
                least: dict[int | None, float] = {}
                for row in rows:
                    least[row.clip_index] = min(row.logit, least.get(row.clip_index, np.inf))  # type: ignore[type-var]
                items = list(least.values())
            else:
                items = [row.logit for row in rows if row.logit is not None]
            if items:
                found[spec.name] = pooled_log_odds(items)
        return found


def arguments(description: str | None) -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=(description or "").partition("\n")[0])
    add = parser.add_argument
    add("--media", nargs="+", required=True, help="real files or folders")
    add("--labels", help="CSV with uri or path, label, group (a manifest): only real ones are taken")
    add("--part", choices=("held", "fit", "all"), default="held", help="of the groups (default: held from training)")
    add("--limit", type=int, help="so many files at most, evenly spread")
    add("--detectors", help="comma-separated (default: the embedded ones that are ready)")
    add("--calibration", help="default: the built-in one")
    add("--seed", type=int, default=0)
    add("--out", type=Path, help="JSON file to write")
    add("--work", type=Path, help="folder to keep what was made (default: a temporary one)")
    return parser


def reals(args: argparse.Namespace, stills: bool = False) -> list[Source]:
    found = [s for s in sources_of(args.media, args.labels) if stills or s.kind == "media"]
    found = [s for s in found if args.part == "all" or part(s.group) == args.part]
    if args.limit is not None and args.limit < len(found):
        found = [found[at] for at in np.linspace(0, len(found) - 1, args.limit).round().astype(int)]
    if not found:
        raise SystemExit(f"expected real media of the part {args.part!r}, found none")
    return found


def chosen(names: str | None) -> Chosen:
    """The named detectors, or the embedded ones whose weights are there."""
    if names:
        return choose(names.split(","))
    ready = []
    for name, spec in registry.installed().items():
        if spec.origin == "embedded":
            try:
                choose([name])
            except UsageError as error:
                print(f"left out: {error}", file=sys.stderr)
            else:
                ready.append(name)
    return choose(ready)


@contextmanager
def workshop(args: argparse.Namespace) -> Iterator[Path]:
    if args.work is not None:
        args.work.mkdir(parents=True, exist_ok=True)
        yield args.work
        return
    with tempfile.TemporaryDirectory(prefix="deephotlink-study-") as name:
        yield Path(name)


def audit(
    paths: Sequence[str | Path], out: Path, specs: Sequence[DetectorSpec], calibration: str | None = None
) -> dict[str, Audited]:
    """By canonical path, the results of `deephotlink audit` for each file that it could read.

    Raises: RuntimeError: the command failed.
    """
    command = [
        "audit",
        *map(str, paths),
        "--output",
        str(out),
        "--quiet",
        "--detectors",
        ",".join(s.name for s in specs),
    ]
    code = deephotlink([*command, *(["--calibration", calibration] if calibration else [])])
    if code:
        raise RuntimeError(f"deephotlink audit ended with {code}")
    scores = run_query(str(out), "select uri, media_id, verdict, duration_seconds from scores").to_pylist()
    fields = "media_id, detector, family, weights_sha256, clip_index, track_id, start_seconds, end_seconds, logit"
    rows: dict[str, list[Evidence]] = {}
    for row in run_query(str(out), f"select {fields}, abstained from evidence").to_pylist():
        rows.setdefault(row["media_id"], []).append(Evidence(**row))
    return {
        s["uri"]: Audited(s["verdict"], float(s["duration_seconds"] or 0.0), tuple(rows.get(s["media_id"], ())))
        for s in scores
    }


def verdict_of(evidence: Sequence[Evidence], specs: Sequence[DetectorSpec], calibration: Calibration) -> str:
    """The verdict on a file with this evidence."""
    clips = len({row.clip_index for row in evidence if row.clip_index is not None})
    file = MediaFile("study", "study", 0, "0")
    outcome = MediaOutcome(
        file, "read", media_type="video", has_video=True, has_audio=True, clips_planned=clips, clips_decoded=clips
    )
    score = fuse_media([outcome, *evidence], specs, calibration).score
    assert score is not None
    return score.verdict


def calibration_of(args: argparse.Namespace) -> Calibration:
    return load_calibration(args.calibration)


@dataclass(frozen=True, slots=True)
class Share:
    count: int
    of: int
    low: float
    high: float
    groups: int
    group_rate: float
    """Mean over groups of the share within the group."""
    group_low: float
    group_high: float
    """With a group as one trial: files of one source are no independent witnesses."""

    def __str__(self) -> str:
        if not self.of:
            return "-"
        return (
            f"{self.count}/{self.of} = {self.count / self.of:.1%} [{self.low:.1%}-{self.high:.1%}]; "
            f"{self.groups} groups {self.group_rate:.1%} [{self.group_low:.1%}-{self.group_high:.1%}]"
        )


def share(hits: Sequence[bool], groups: Sequence[str]) -> Share:
    by_group: dict[str, list[bool]] = {}
    for hit, group in zip(hits, groups, strict=True):
        by_group.setdefault(group, []).append(hit)
    if not by_group:
        return Share(0, 0, 0.0, 1.0, 0, 0.0, 0.0, 1.0)
    summed = sum(float(np.mean(of)) for of in by_group.values())
    count = sum(hits)
    return Share(
        count,
        len(hits),
        *interval(count, len(hits)),
        len(by_group),
        summed / len(by_group),
        *interval(summed, len(by_group)),
    )


def bootstrap(
    values: Sequence[float],
    groups: Sequence[str],
    statistic: Callable[[np.ndarray], float],
    seed: int = 0,
    rounds: int = 1000,
) -> tuple[float, float, float]:
    """The statistic of all values, and its 2.5 and 97.5 percentiles over resampled groups."""
    by_group: dict[str, list[float]] = {}
    for value, group in zip(values, groups, strict=True):
        by_group.setdefault(group, []).append(value)
    rng, names = np.random.default_rng(seed), sorted(by_group)
    drawn = [
        statistic(np.concatenate([by_group[names[at]] for at in rng.integers(len(names), size=len(names))]))
        for _ in range(rounds)
    ]
    low, high = np.percentile(drawn, [2.5, 97.5])
    return statistic(np.asarray(values, float)), float(low), float(high)


def ffmpeg(*options: str | Path) -> bool:
    """Whether it succeeded; if not, its message is printed."""
    command = [FFMPEG, "-v", "error", "-nostdin", "-y", "-threads", "1", *map(str, options)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        print(f"left out: {done.stderr.strip()[-300:]}", file=sys.stderr)
    return done.returncode == 0


def figure_cell(figure: Figure) -> str:
    """A figure and its interval, as a cell of a table."""
    if figure.value is None:
        return "-"
    return f"{figure.value:.2f}" + ("" if figure.low is None else f" [{figure.low:.2f}-{figure.high:.2f}]")


def table(head: Sequence[str], rows: Sequence[Sequence[object]]) -> str:
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join("| " + " | ".join(str(cell) for cell in line) + " |" for line in lines)


def write(args: argparse.Namespace, name: str, specs: Sequence[DetectorSpec], figures: Mapping[str, Any]) -> None:
    """The JSON file of a study: how it was made, and its figures."""
    if args.out is None:
        return
    record = {
        "study": name,
        "made": datetime.now(UTC).isoformat(timespec="seconds"),
        "arguments": {key: str(value) for key, value in vars(args).items() if value is not None},
        "calibration_id": calibration_of(args).calibration_id,
        "detectors": {spec.name: spec.weights_sha256 for spec in specs},
        **figures,
    }
    args.out.parent.mkdir(parents=True, exist_ok=True)
    args.out.write_text(json.dumps(record, indent=1, default=_plain), encoding="utf-8")


def _plain(value: object) -> object:
    return asdict(value) if isinstance(value, Share) else str(value)


class Clock:
    """Seconds since it was made."""

    def __init__(self) -> None:
        self.began = time.perf_counter()

    def __call__(self) -> float:
        return time.perf_counter() - self.began
