"""Stores that are down, cut bodies, shorten them, drip, or lose what they listed: every file is scored correctly or
reported, and a partial file is never scored as a whole one."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path

import pytest

from deephotlink.pipelines.outputs.query import run_query
from tests.builders import make_video
from tests.chaos.launching import Job, Server, evidence, exact, failures, watched
from tests.chaos.sizes import LONG, sized
from tests.chaos.web import Manner, Web

OPTIONS = ("--detectors", "metadata,chaos_look,chaos_listen", "--unit-size", "2", "--wave-size", "1", "--quiet")
TEMPORARY = 75
OUTAGE_SECONDS = sized(5, 60)
# The long form naps as long as anybody's job does. A machine that stands still for a moment must not pass for a store
# that drips: an attempt of one second did.
PACE = {"CHAOS_ATTEMPT_SECONDS": "3"} | ({} if LONG else {"CHAOS_NAP_SECONDS": "0.5"})


@pytest.fixture
def listing(web: Web, tmp_path: Path) -> Path:
    """Films of different lengths on the server, and a listing of their addresses."""
    for number in range(8):
        path = make_video(tmp_path / f"{number}.mp4", seconds=1 + number % 3, fps=8, size=(64, 48), audio="tone")
        web.files[f"/{number}.mp4"] = path.read_bytes()
    path = tmp_path / "films.csv"
    path.write_text("uri\n" + "".join(f"{web.url}{name}?sig={name[1:]}\n" for name in web.files))
    return path


@pytest.fixture
def clean(server: Server, web: Web, listing: Path, tmp_path: Path) -> Path:
    """What an audit of them reports while the server works correctly."""
    out = tmp_path / "clean"
    assert audit(server, listing, out).wait() == 0
    assert len(evidence(out)) >= 3 * len(web.files)
    web.gets.clear()
    return out


def audit(server: Server, listing: Path, out: Path, **pace: str) -> Job:
    return server.start("audit", listing, "--output", out, *OPTIONS, **PACE, **pace)


def until_done(server: Server, listing: Path, out: Path, meanwhile: Callable[[Job], None] | None = None) -> int:
    """Runs the same command, watched, as long as it reports that storage failed; returns how many times."""
    with watched(out):
        for number in range(1, 20):
            job = audit(server, listing, out)
            if meanwhile is not None:
                meanwhile(job)
            code = job.wait(1_800)
            assert code in (0, -9) or (code == TEMPORARY and "again" in job.told()), f"{code}: {job.told()}"
            if code == 0:
                return number
    raise AssertionError("it never got done")


def test_an_outage_and_answers_that_are_at_fault_for_a_while(
    server: Server, web: Web, listing: Path, clean: Path, tmp_path: Path
) -> None:
    """Bodies cut or too short at first, then a minute of 503: the scores equal those of a faultless store."""
    web.manners = {
        "/0.mp4": Manner(cut_after=1_000, requests=2),
        "/1.mp4": Manner(missing=7, requests=3),
        "/2.mp4": Manner(cut_after=0, requests=1),
        "/3.mp4": Manner(status=500, requests=2),
        "/4.mp4": Manner(drip_seconds=0.2, requests=1),
    }

    def strike(job: Job) -> None:
        while web.down_until == 0 and job.poll() is None:
            if sum(web.gets.values()) >= 3:
                web.down_until = time.monotonic() + OUTAGE_SECONDS
            time.sleep(0.01)

    commands = until_done(server, listing, tmp_path / "out", strike)
    places = exact(tmp_path / "out", {f"{web.url}{name}" for name in web.files})
    assert web.refused and set(places.values()) == {"scores"}
    assert evidence(tmp_path / "out") == evidence(clean)
    print(f"{web.refused} answers of 503 in {OUTAGE_SECONDS} s, {commands} commands")


def test_objects_that_stay_at_fault_are_told_and_their_neighbours_scored(
    server: Server, web: Web, listing: Path, clean: Path, tmp_path: Path
) -> None:
    web.manners = {
        "/0.mp4": Manner(cut_after=1_000),
        "/1.mp4": Manner(missing=7),
        "/2.mp4": Manner(drip_seconds=1.0),
        "/3.mp4": Manner(status=404, silent_head=False, from_request=1),
        "/5.mp4": Manner(cut_after=len(web.files["/5.mp4"]) - 1),
    }
    assert until_done(server, listing, tmp_path / "out") == 1
    exact(tmp_path / "out", {f"{web.url}{name}" for name in web.files})
    told = {uri.rpartition("/")[2]: kind for uri, kind in failures(tmp_path / "out").items()}
    assert told == {
        "0.mp4": "read_short",
        "1.mp4": "read_short",
        "2.mp4": "read_short",
        "3.mp4": "missing",
        "5.mp4": "read_short",
    }
    assert evidence(tmp_path / "out") == [row for row in evidence(clean) if row[0] not in told]
    # The store comes to its senses: what it could not give is asked for again, what it gave is not.
    web.manners, before = {}, dict(web.gets)
    job = server.start("audit", listing, "--output", tmp_path / "out", "--retry-failures", *OPTIONS, **PACE)
    assert job.wait() == 0, job.told()
    assert {name for name, count in web.gets.items() if count > before[name]} == {f"/{name}" for name in told}
    latest = run_query(str(tmp_path / "out"), "select distinct uri from scores").to_pylist()
    assert len(latest) == len(web.files)
    assert evidence(tmp_path / "out") == evidence(clean)


def test_a_store_that_refuses_one_file_is_asked_for_the_others(
    server: Server, web: Web, listing: Path, clean: Path, tmp_path: Path
) -> None:
    out = tmp_path / "out"
    web.manners = {"/6.mp4": Manner(status=403, silent_head=False, from_request=1)}
    assert until_done(server, listing, out) == 1
    exact(out, {f"{web.url}{name}" for name in web.files})
    assert failures(out) == {f"{web.url}/6.mp4": "refused"}
    assert evidence(out) == [row for row in evidence(clean) if row[0] != "6.mp4"]
    web.manners = {}
    job = server.start("audit", listing, "--output", out, "--retry-failures=refused", *OPTIONS, **PACE)
    assert job.wait() == 0, job.told()
    assert evidence(out) == evidence(clean)


def test_a_store_that_refuses_us_stops_the_job_which_goes_on_later(
    server: Server, web: Web, listing: Path, clean: Path, tmp_path: Path
) -> None:
    """No file is blamed for the store's refusal."""
    out = tmp_path / "out"
    web.manners = {name: Manner(status=403, silent_head=False, from_request=1) for name in web.files}
    job = audit(server, listing, out)
    assert job.wait() == TEMPORARY and "403" in job.told() and "sig=" not in job.told()
    web.manners = {}
    assert until_done(server, listing, out) == 1
    exact(out, {f"{web.url}{name}" for name in web.files})
    assert evidence(out) == evidence(clean)


def test_a_store_that_stays_down_stops_the_job_which_goes_on_later(
    server: Server, web: Web, listing: Path, clean: Path, tmp_path: Path
) -> None:
    """The job does not wait for ever, and no file is blamed."""
    out = tmp_path / "out"
    with watched(out):
        job = audit(server, listing, out, CHAOS_OUTAGE_SECONDS="3")
        while sum(web.gets.values()) < 2 and job.poll() is None:
            time.sleep(0.005)
        web.down_until = time.monotonic() + 3_600
        assert job.wait() == TEMPORARY and "503" in job.told() and "sig=" not in job.told()
        assert failures(out) == {}
    web.down_until = 0.0
    assert until_done(server, listing, out) == 1
    exact(out, {f"{web.url}{name}" for name in web.files})
    assert evidence(out) == evidence(clean)


def test_killed_while_the_store_is_down(server: Server, web: Web, listing: Path, clean: Path, tmp_path: Path) -> None:
    strikes = iter(range(sized(2, 10)))

    def strike(job: Job) -> None:
        if next(strikes, None) is None:
            return
        before = sum(web.gets.values())
        while job.poll() is None and sum(web.gets.values()) < before + 2:
            time.sleep(0.01)
        web.down_until = time.monotonic() + 2
        time.sleep(1)
        job.kill()

    commands = until_done(server, listing, tmp_path / "out", strike)
    assert commands > sized(2, 10) // 2
    exact(tmp_path / "out", {f"{web.url}{name}" for name in web.files})
    assert evidence(tmp_path / "out") == evidence(clean)


def test_what_changes_between_the_listing_and_the_reading(
    server: Server, web: Web, listing: Path, clean: Path, tmp_path: Path
) -> None:
    """Replaced objects are `changed`: a different film is never scored under the listed one's name."""
    out = tmp_path / "out"
    with watched(out):
        job = audit(server, listing, out)
        while not any(web.gets.values()) and job.poll() is None:
            time.sleep(0.005)
        gone, replaced = [name for name in web.files if not web.gets[name]][-2:]
        web.files[replaced] = next(body for name, body in web.files.items() if name != replaced)
        del web.files[gone]
        assert job.wait() == 0, job.told()
    exact(out, {f"{web.url}/{number}.mp4" for number in range(8)})
    told = {uri.rpartition("/")[2]: kind for uri, kind in failures(out).items()}
    assert told == {gone[1:]: "missing", replaced[1:]: "changed"}
    assert evidence(out) == [row for row in evidence(clean) if row[0] not in told]
