"""Archives that change during a run, and archives in which no file is good."""

from __future__ import annotations

import os
import random
import time
from pathlib import Path

from deephotlink.pipelines.outputs.check import check_output
from deephotlink.pipelines.outputs.query import run_query
from tests.builders import make_video
from tests.chaos.launching import Server, exact, failures, watched
from tests.chaos.sizes import sized

CHEAP = ("--detectors", "metadata,chaos_look,chaos_listen", "--quiet")
SLOWLY = (*CHEAP, "--unit-size", "1", "--wave-size", "1")
FILMS = sized(24, 200)
DONE, MANY_FAILED = 0, 4


def test_files_that_come_go_and_change_during_a_run(server: Server, tmp_path: Path) -> None:
    """The plan stays as it is: new files wait, lost ones are `missing`, and different ones under an old name are
    `changed`."""
    film = make_video(tmp_path / "one.mp4", seconds=1, fps=8, size=(64, 48), audio="tone").read_bytes()
    other = make_video(tmp_path / "two.mp4", seconds=2, fps=8, size=(64, 48)).read_bytes()
    archive, out = tmp_path / "archive", tmp_path / "out"
    archive.mkdir()
    for number in range(FILMS):
        (archive / f"{number:03d}.mp4").write_bytes(film)
    planned = {str(path) for path in archive.iterdir()}
    with watched(out, 0.2):
        job = server.start("audit", archive, "--output", out, *SLOWLY)
        while not any(out.glob("_runs/*/units/*")) and job.poll() is None:
            time.sleep(0.002)
        assert job.code is None, job.told()
        for number in range(FILMS):
            path = archive / f"{number:03d}.mp4"
            if number % 4 == 0:
                path.unlink()
            elif number % 4 == 1:
                path.write_bytes(other)  # in place
            elif number % 4 == 2:
                (tmp_path / "next").write_bytes(other)
                os.replace(tmp_path / "next", path)
            (archive / f"new-{number:03d}.mp4").write_bytes(other)
        assert job.wait() == DONE, job.told()
        places = exact(out, planned)
        told = failures(out)
        for uri, kind in told.items():
            number = int(Path(uri).stem)
            assert kind == ("missing" if number % 4 == 0 else "changed") and number % 4 != 3, (uri, kind)
        assert {"missing", "changed"} <= set(told.values())
        # Whatever was scored is what was listed: the other film is twice as long.
        lengths = run_query(str(out), "select distinct round(duration_seconds) as s from scores").to_pylist()
        assert lengths == [{"s": 1.0}]
        print(f"{len(told)} of {len(places)} had changed or gone before they were read")

        job = server.start("audit", archive, "--output", out, *CHEAP)
        assert job.wait() == DONE, job.told()
    # An older state of a file has a row of its own.
    rows = run_query(
        str(out), "select uri, round(duration_seconds) as s from latest where outcome = 'scored'"
    ).to_pylist()
    now = {row["uri"]: row["s"] for row in rows}
    for path in archive.iterdir():
        assert now[str(path)] == (1.0 if path.read_bytes() == film else 2.0)
    assert check_output(str(out)) == []


def test_an_archive_of_which_nothing_is_good(server: Server, tmp_path: Path) -> None:
    """Bad files are rows, not errors. `--max-failure-rate` reports when there are too many, after all is published."""
    rng = random.Random(5)
    archive = tmp_path / "archive"
    archive.mkdir()
    head = b"\0\0\0\x20ftypisom\0\0\2\0isomiso2avc1mp41"
    for number in range(FILMS):
        (archive / f"{number:03d}.mp4").write_bytes(head + rng.randbytes(2_000))
    planned = {str(path) for path in archive.iterdir()}
    job = server.start("audit", archive, "--output", tmp_path / "out", *CHEAP)
    assert job.wait() == DONE, job.told()
    assert set(exact(tmp_path / "out", planned).values()) == {"failures"}
    assert len(failures(tmp_path / "out")) == FILMS
    out = tmp_path / "out-limited"
    job = server.start("audit", archive, "--output", out, *CHEAP, "--max-failure-rate", "0.99")
    assert job.wait() == MANY_FAILED, job.told()
    assert set(exact(out, planned).values()) == {"failures"}
    # Asked again they fail again: the attempt is counted, nothing stands twice.
    job = server.start("audit", archive, "--output", tmp_path / "out", *CHEAP, "--retry-failures")
    assert job.wait() == DONE, job.told()
    rows = run_query(str(tmp_path / "out"), "select uri, attempts from to_retry").to_pylist()
    assert len(rows) == FILMS and {row["attempts"] for row in rows} == {2}
    assert check_output(str(tmp_path / "out")) == []
