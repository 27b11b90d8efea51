"""Made-up plans and results for the tests of the output, and the process that the kill test kills."""

import hashlib
import os
import random
import signal
import sys
import time
from collections.abc import Callable
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path

from deephotlink.transforms.commit import commit_unit
from deephotlink.transforms.pictures.picture import Picture
from deephotlink.transforms.publish import publish
from deephotlink.transforms.records import (
    AuthenticityScore,
    Box,
    Evidence,
    Failure,
    MediaFile,
    MediaOutcome,
    MediaResult,
)
from deephotlink.transforms.storage.output_store import OutputStore, open_store
from deephotlink.transforms.tables.runs import Run, create_run, next_slot, pending_units, plan_of, unfinished_run

Make = Callable[[MediaFile], MediaResult]
SCORED_AT = datetime(2026, 11, 23, 12, tzinfo=UTC)


def make_file(number: int, unit: int = 0) -> MediaFile:
    uri = f"/archive/{number:05d}.mp4"
    return MediaFile(hashlib.sha256(uri.encode()).hexdigest(), uri, 996 + number, f"{number}-1", unit)


def make_plan(units: int, media_a_unit: int = 4) -> list[tuple[MediaFile, MediaOutcome | None]]:
    return [(make_file(n, n // media_a_unit), None) for n in range(units * media_a_unit)]


def make_result(file: MediaFile) -> MediaResult:
    """The result of a file, by its size: two in three are scored, with evidence; the others failed or were skipped."""
    kind = file.size_bytes % 6
    if kind == 4:
        return MediaResult(MediaOutcome(file, "failed", failure=Failure("probe", "damaged", "no moov atom")), None)
    if kind == 5:
        return MediaResult(MediaOutcome(file, "skipped", skipped_reason="not_media"), None)
    outcome = MediaOutcome(
        file, "read", media_type="video", container="mp4", duration_seconds=10.0, decoder="decord", clips_planned=2
    )
    score = AuthenticityScore(0.9, "authentic", {"facial": 0.9}, ("nothing found",), 2, 1, "default-1")
    evidence = (
        Evidence(file.media_id, "metadata", "metadata", "", abstained="no_evidence", detail='{"a": 1}'),
        Evidence(file.media_id, "face", "facial", "ab", 1, 0, 2.0, 3.0, logit=-1.5, box=Box(1.0, 2.0, 3.0, 4.0)),
        Evidence(file.media_id, "face", "facial", "ab", 0, 0, 0.0, 1.0, logit=-2.5),
    )
    return MediaResult(outcome, score, evidence, frames_with_face=16, frames_sampled_for_faces=32)


def make_suspicious(file: MediaFile) -> MediaResult:
    """The same, but every second one that is scored is called manipulated, and has pictures: one frame and its face."""
    result = make_result(file)
    if result.score is None or file.size_bytes % 2:
        return result
    box = (0.25, 0.25, 0.5, 0.75)
    noise = random.Random(file.media_id).randbytes(576)  # as little to be compressed as a JPEG
    jpeg = b"\xff\xd8\xff" + noise + b"\xff\xd9"
    pictures = (
        Picture(file.media_id, "frame", "face", 2.5, 1, 0, 2.5, box, 320, 180, jpeg),
        Picture(file.media_id, "face", "face", 2.5, 1, 0, 2.5, None, 120, 160, jpeg),
    )
    return replace(result, score=replace(result.score, authenticity=0.05, verdict="manipulated"), pictures=pictures)


def make_run(store: OutputStore, units: int = 3, media_a_unit: int = 4, **fields) -> Run:
    fields = {"resume_key": "key", "fingerprint": "print", "calibration_id": "default-1", **fields}
    return create_run(store, make_plan(units, media_a_unit), **fields)


def commit_all(store: OutputStore, run: Run, units=None, make: Make = make_result) -> None:
    for unit in range(run.units) if units is None else units:
        commit_unit(store, run, unit, [make(file) for file, _ in plan_of(store, run, [unit])])


def finish(store: OutputStore, run: Run, make: Make = make_result) -> Run:
    commit_all(store, run, make=make)
    publish(store, run, complete=True)
    return run


def work(out: str, units: int, key: str) -> None:
    """Does what a command does: continues or creates its run, commits what is pending, publishes and ends."""
    store, _ = open_store(out)
    slot = next_slot(store, key)
    run = unfinished_run(store, key) or make_run(store, units, resume_key=key, slot=slot)
    pending = pending_units(store, run)
    random.shuffle(pending)
    for count, unit in enumerate(pending):
        time.sleep(random.uniform(0, 0.01))
        commit_all(store, run, [unit], make_suspicious)
        if count % 16 == 15:
            publish(store, run)
    publish(store, run, complete=True)


def kill_again_and_again(out: str, units: int, kills: int) -> None:
    """Forks the same command twice at a time and kills both at a random moment, until `kills` processes were killed and
    a run was finished under the last resume key. Prints how many were killed and how many runs were finished."""
    done, rounds, finished = 0, 0, 0
    while done < kills or not finished:
        key = f"key{finished}"
        children = []
        for _ in range(2):
            if not (pid := os.fork()):
                random.seed()
                work(out, units, key)
                os._exit(0)
            children.append(pid)
        # Longer from round to round: on a slow machine, too, the work must end some day.
        time.sleep(random.uniform(0.05, 0.4 * 1.07**rounds))
        for pid in children:
            if os.waitpid(pid, os.WNOHANG) == (0, 0):
                os.kill(pid, signal.SIGKILL)
                os.waitpid(pid, 0)
                done += 1
        rounds += 1
        finished = len(list(Path(out).glob("_runs/*/summary.json")))
    print(done, finished, flush=True)


if __name__ == "__main__":
    kill_again_and_again(sys.argv[1], int(sys.argv[2]), int(sys.argv[3]))
