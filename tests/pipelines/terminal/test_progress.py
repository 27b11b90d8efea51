"""The progress line shows what the job really does."""

import time

import pytest

from deephotlink.pipelines.terminal import progress
from deephotlink.pipelines.terminal.progress import Listing, listing_progress, live_progress, look_of
from deephotlink.transforms.metrics import NAMES, inc_counter


def counters(**given: int) -> dict[str, int]:
    return {**dict.fromkeys(NAMES, 0), **given}


def test_a_listing_says_how_much_it_found():
    listing = Listing()
    assert listing.look().line() == "reading what is already done"
    seen = listing.watch(iter("abc"))
    assert next(seen) == "a" and listing.look().line() == "listing: 1 file found"
    assert list(seen) == ["b", "c"] and listing.look().line() == "planning: 3 files found"


@pytest.mark.parametrize(
    ("given", "line"),
    [
        ({}, "0 of 9 files done: starting"),
        ({"media_probed": 4}, "0 of 9 files done: 4 containers looked into"),
        (
            {"media_probed": 4, "film_milliseconds": 30_000},
            "0 of 9 files done: 30 s of film at 3 s/s, 4 containers looked into",
        ),
        ({"media_probed": 4, "media_read": 4}, "4 of 9 files done: 0.4 files/s"),
        (
            {"media_probed": 5, "media_read": 4, "media_failed": 2, "media_skipped": 1, "sound_milliseconds": 20_000},
            "7 of 9 files done: 0.7 files/s, 20 s of sound at 2 s/s, 2 failed, 8 containers looked into",
        ),
    ],
)
def test_a_run_says_what_is_being_done(given, line):
    """Never that nothing is, while something is: no rate of what a job does not do."""
    assert look_of(counters(**given), 9, 0, 10.0).line() == line


def test_what_an_earlier_command_did_is_counted_as_done():
    look = look_of(counters(media_probed=3, media_read=1), 9, 5, 10.0)
    assert (look.done, look.total) == (6, 9) and "8 containers looked into" in look.line()
    assert look_of(counters(media_read=30), 9, 5, 1.0).done == 9


def test_a_narrow_terminal_gets_the_weightiest(monkeypatch):
    look = look_of(counters(media_read=4, film_milliseconds=4000, media_failed=1, media_probed=9), 20, 0, 10.0)
    assert look.within(10) == "0.5 files/s" and look.within(200) == ", ".join(look.more)


def test_a_log_gets_a_line_now_and_then_and_a_quiet_command_none(monkeypatch, capsys, tmp_path):
    monkeypatch.setattr(progress, "FIRST_LINE_SECONDS", 0.05)
    monkeypatch.setattr(progress, "LOG_EVERY_SECONDS", 0.05)

    def slow():
        for n in range(3):
            time.sleep(0.1)
            yield n

    with listing_progress(quiet=False) as listing:
        list(listing.watch(slow()))
    said = capsys.readouterr().err.splitlines()
    assert "listing: 1 file found" in said and "listing: 2 files found" in said
    with live_progress(tmp_path, 7, 0, quiet=False):
        inc_counter("media_probed", 2)
        time.sleep(0.3)
    assert "0 of 7 files done: 2 containers looked into" in capsys.readouterr().err.splitlines()
    with listing_progress(quiet=True) as listing, live_progress(tmp_path, 7, 0, quiet=True):
        list(listing.watch(slow()))
    assert capsys.readouterr().err == ""
