"""Thousands of damaged files: each has a row, none kills the job, none delays it, and no other file is affected."""

from __future__ import annotations

import json
import os
import shutil
import tempfile
from pathlib import Path

import pytest

from deephotlink.pipelines.outputs.query import run_query
from tests.builders import make_video
from tests.chaos.launching import Server, evidence, exact, watched
from tests.chaos.mutants import kinds_of, make_seeds, mutate
from tests.chaos.sizes import sized

SEED = 20261124
MUTANTS = sized(1_000, 10_000)
EVERY = 50
"""A healthy neighbour after so many mutants."""
GRACE_SECONDS = 2.0
CONTAINERS = (".mp4", ".mov", ".m4a", ".mkv", ".webm", ".avi", ".ts", ".mpg", ".flv", ".ogv", ".wmv", ".gif", ".mxf")
CONTAINERS += (".wav", ".mp3", ".aiff")
OPTIONS = ("--detectors", "metadata,chaos_look,chaos_listen", "--unit-size", "50", "--wave-size", "5", "--quiet")
KEPT = Path(os.environ.get("CHAOS_KEPT", os.path.join(tempfile.gettempdir(), "deephotlink-chaos-kept")))
"""Where a mutant that failed a test stays for reproduction."""


def audit(server: Server, source: Path, out: Path, deadline: float = 10.0, **more: str) -> dict[str, float]:
    """Runs one watched command to its end; returns what it noted about its children's answers.

    One worker: the notes are of the children of the command itself.
    """
    notes = out.with_suffix(".notes")
    environment = {"CHAOS_NOTES": str(notes), "CHAOS_DEADLINE_SECONDS": str(deadline), **more}
    with watched(out, 2.0):
        job = server.start("audit", source, "--output", out, "--workers", "1", *OPTIONS, **environment)
        code = job.wait(5_000)
    assert code == 0, job.evidence()  # neither a crash of the parent nor a detector that raised
    return json.loads(notes.read_text())


def suspects(out: Path) -> list[str]:
    """The files whose worker was lost."""
    lost = "('deadline', 'worker_killed', 'worker_exited', 'protocol_error', 'out_of_memory')"
    rows = run_query(
        str(out),
        f"select uri from failures where error_class in {lost} union "
        f"select uri from evidence where abstained = 'decode_failed' and"
        f" split_part(detail ->> 'note', ':', 1) in {lost}",
    ).to_pylist()
    return sorted(row["uri"] for row in rows)


def test_mutants(server: Server, tmp_path: Path) -> None:
    seeds = make_seeds(tmp_path / "seeds")
    alone, among = tmp_path / "alone", tmp_path / "among"
    alone.mkdir()
    among.mkdir()
    for number in range(MUTANTS):
        name, data = mutate(seeds, number, SEED)
        (among / name).write_bytes(data)
        if number % EVERY == 0:
            healthy = sorted(seeds)[number // EVERY % len(seeds)]
            for folder in (alone, among):
                # Units are cut in the order of names: each of these stands right after the mutant of its number.
                shutil.copy(tmp_path / "seeds" / healthy, folder / f"{SEED}-{number:05d}-~healthy-{healthy}")
    audit(server, alone, tmp_path / "clean")
    expected = evidence(tmp_path / "clean")
    assert len({name for name, _ in expected}) == len(list(alone.iterdir())), "a film that is not damaged is scored"
    notes = audit(server, among, tmp_path / "out")
    places = exact(tmp_path / "out", {str(path) for path in among.iterdir()})
    lost = suspects(tmp_path / "out")
    keep(lost)
    print(f"{len(places)} rows: {[list(places.values()).count(t) for t in ('scores', 'failures', 'skipped')]}; {notes}")
    print(f"workers lost to {len(lost)}: {lost[:20]}")
    assert notes["slowest_over_seconds"] <= GRACE_SECONDS, f"see {KEPT}"
    assert evidence(tmp_path / "out", "~healthy-") == expected


def test_every_film_is_damaged_in_every_way(tmp_path: Path) -> None:
    """The short form uses the first thousand: they include every container and every way of damaging it."""
    seeds = make_seeds(tmp_path / "seeds")
    missing = {f"{Path(name).stem}{kind.__name__}{Path(name).suffix}" for name in seeds for kind in kinds_of(name)}
    missing = {name.replace("_", "-") for name in missing}
    assert {Path(name).suffix for name in seeds} == set(CONTAINERS) and len(missing) == 6 * len(seeds)
    for number in range(1_000):
        name, data = mutate(seeds, number, SEED)
        assert data == mutate(seeds, number, SEED)[1]
        missing.discard(name.partition("-")[2].partition("-")[2])
    assert missing == set()


@pytest.mark.parametrize("stage", ["probe-", ""])
def test_workers_that_are_lost_are_counted(server: Server, tmp_path: Path, stage: str) -> None:
    """The tests above would notice lost workers: five ways to lose one, in the probe and while decoding."""
    film = make_video(tmp_path / "film.mp4", seconds=25, fps=8, size=(64, 48), audio="tone")
    source = tmp_path / "source"
    source.mkdir()
    deadly = [f"fault-{stage}{kind}.mp4" for kind in ("segv", "abort", "hang", "exit", "sigkill")]
    for name in (*deadly, "healthy-0.mp4", "healthy-1.mp4"):
        shutil.copy(film, source / name)
    notes = audit(server, source, tmp_path / "out", 2.0, DEEPHOTLINK_FAULTS_FOR_TESTS="1")
    places = exact(tmp_path / "out", {str(path) for path in source.iterdir()})
    assert suspects(tmp_path / "out") == sorted(str(source / name) for name in deadly)
    assert {places[str(source / f"healthy-{n}.mp4")] for n in (0, 1)} == {"scores"}
    assert 0 < notes["slowest_over_seconds"] <= GRACE_SECONDS, "the one that hung was waited for, and not for longer"


def keep(paths: list[str]) -> None:
    KEPT.mkdir(parents=True, exist_ok=True)
    for path in paths:
        shutil.copy(path, KEPT)


@pytest.mark.real
def test_every_bad_file(server: Server, shared: Path, tmp_path: Path) -> None:
    if not (shared / "bad").is_dir():
        pytest.skip("there is no shared/bad beside the repository")
    film = make_video(tmp_path / "film.mp4", seconds=1, fps=8, size=(64, 48), audio="tone")
    alone, among = tmp_path / "alone", tmp_path / "among"
    alone.mkdir()
    among.mkdir()
    for number, path in enumerate(sorted((shared / "bad").iterdir())):
        shutil.copy(path, among / f"{number:05d}-{path.name}")
        if number % 10 == 0:
            for folder in (alone, among):
                shutil.copy(film, folder / f"{number:05d}-~healthy.mp4")
    audit(server, alone, tmp_path / "clean")
    expected = evidence(tmp_path / "clean")
    assert len({name for name, _ in expected}) == len(list(alone.iterdir())) > 20
    notes = audit(server, among, tmp_path / "out")
    places = exact(tmp_path / "out", {str(path) for path in among.iterdir()})
    keep(suspects(tmp_path / "out"))
    print(f"{len(places)} rows: {[list(places.values()).count(t) for t in ('scores', 'failures', 'skipped')]}; {notes}")
    assert notes["slowest_over_seconds"] <= GRACE_SECONDS
    assert evidence(tmp_path / "out", "~healthy") == expected
