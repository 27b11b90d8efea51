"""The closing tables say only what is true, whatever was looked at, and escape all names, which uploaders choose."""

from __future__ import annotations

import io
import json
import re
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from deephotlink.pipelines import cli
from deephotlink.pipelines.outputs.closing_tables import HINTS, coverage, findings, print_summary
from deephotlink.pipelines.outputs.query import run_query
from deephotlink.pipelines.outputs.summary import Films, Leaned, Sounds, Summary, Suspicious
from tests.builders import make_audio, make_face_video, make_video

HOSTILE = "/a/<script>alert(1)</script>\"'&\x1b]0;title\x07\u202egpj.exe.mp4"


def summary(**fields: Any) -> Summary:
    found = {
        "verdicts": {"manipulated": 1, "inconclusive": 2},
        "failures": {"unreadable": 1},
        "skipped": {"not_media": 3},
        "decoders": {"decord": 3},
        "assessed_seconds": 12.0,
        "frames_decoded": 300,
        "faces": 2,
        "suspicious": (
            Suspicious(HOSTILE, "manipulated", 0.02, ("[bold]because[/bold] <b>of</b> it",)),
            Suspicious("/a/dull.mp4", "inconclusive", 0.49, ("hardly",)),
        ),
        "calibrations": ("conservative-2026-11",),
        "failed": ((HOSTILE + "2", "unreadable", "<i>End of file</i>"),),
        "films": Films(3, 40.0, 12.0),
        "detectors": (Leaned("facial", True, True, 2, 1, 0.1, 3.9, HOSTILE),),
        "judged": 2,
        "below": 1,
    }
    return Summary(**{**found, **fields})


NOTHING = summary(
    **{name: {} for name in ("verdicts", "failures", "skipped", "decoders")},
    **dict.fromkeys(("suspicious", "calibrations", "failed", "detectors"), ()),
    **dict.fromkeys(("assessed_seconds", "frames_decoded", "faces", "judged", "below"), 0),
    films=Films(),
)


def printed(told: Summary, width: int = 120) -> str:
    console = Console(width=width, record=True, file=io.StringIO())
    print_summary(told, console, "/out")
    return console.export_text()


def test_the_closing_table_counts_everything_and_takes_no_markup_from_names():
    text = printed(summary())
    assert (
        re.search(r"all\s+│\s+7", text)
        and "failed: unreadable" in text
        and "<i>End of file</i>" in text
        and "[bold]because[/bold]" in text
    )
    assert "\x1b]0" not in text and "\u202e" not in text
    assert "dull.mp4" not in text  # near 0.5 is not worth a name


def test_the_order_of_the_most_suspicious_comes_with_what_it_was_worth():
    text = printed(summary(rankings=("What this order was worth: [b]much[/b].",)))
    assert text.index("Most suspicious") < text.index("What this order was worth: [b]much[/b].")
    assert "worth" not in printed(summary(rankings=("worth",), suspicious=()))


def test_every_outcome_has_its_word_and_a_sentence():
    text = re.sub(r"[\s│]+", " ", printed(summary(), 160))
    for word, meaning in (
        ("manipulated 1", "what was found is above the threshold for calling a file manipulated"),
        ("inconclusive 2", "there is some evidence, not enough to decide"),
        ("failed: unreadable 1", "not a readable container, or no permission to read it"),
        ("skipped: not_media 3", "not video or sound"),
    ):
        assert f"{word} {meaning}" in text


def test_reasons_are_told_in_plain_words_where_the_evidence_is_known():
    plain = "The face at 0:12-0:16 looks blended in or redrawn"
    told = summary(suspicious=(Suspicious("/a/b.mp4", "manipulated", 0.02, ("facial (log-odds +3.9)",), (plain,)),))
    text = re.sub(r"[\s│]+", " ", printed(told, 200))
    assert plain in text and "log-odds" not in text


def test_an_output_without_a_scored_file_claims_nothing():
    for told in (NOTHING, summary(**{**_plain(NOTHING), "failures": {"unreadable": 2}})):
        assert coverage(told) == ["No file was scored: no film and no sound was judged."]
        assert findings(told) == []
        text = printed(told)
        assert "suspicious" not in text and "None" not in text and "authenticity below" not in text
        assert coverage(told)[0] in re.sub(r"\s+", " ", text)


def _plain(told: Summary) -> dict[str, Any]:
    return {name: getattr(told, name) for name in Summary.__dataclass_fields__}


def test_silence_of_calibrated_detectors_acquits_nobody():
    raw = Leaned("synthetic", False, False, 6, 6, 9.1, 10.9, "/a/g6.gif")
    told = summary(verdicts={"not_assessed": 6}, suspicious=(), judged=0, below=0, detectors=(raw,))
    text = re.sub(r"[\s│]+", " ", printed(told))
    assert "No calibrated detector could judge any of the 6 scored files" in text
    assert "synthetic Whole picture hint only 6 6 g6.gif" in text and HINTS in text
    assert "10.9" not in text  # log-odds are for the report's details


@pytest.mark.parametrize(
    ("scored", "judged", "below", "says"),
    [
        (1, 0, 0, "could judge the 1 scored file:"),
        (1, 1, 0, "judged 1 of 1 scored file: none of them has an authenticity below 0.45."),
        (9, 4, 1, "judged 4 of 9 scored files: 1 of them has an authenticity below 0.45."),
        (9, 9, 3, "judged 9 of 9 scored files: 3 of them have an authenticity below 0.45."),
    ],
)
def test_what_calibrated_detectors_found_is_counted(scored, judged, below, says):
    (line,) = findings(summary(verdicts={"inconclusive": scored}, judged=judged, below=below))
    assert says in line


def test_coverage_is_told_as_seen_of_all():
    films = Films(28, 227.0, 58.4, length_unknown=2, brief=17, unseen=5, undecodable=1, partly_undecodable=3)
    sounds = Sounds(12, 120.0, 40.0, length_unknown=0, heard=11, undecodable=1)
    lines = coverage(summary(films=films, sounds=sounds))
    assert lines[0].startswith("58 of at least 227 s of film looked at, in 28 files: 300 frames decoded (files: 3 by")
    assert lines[1:] == [
        "2 files do not say how long they are",
        "17 files judged on less than a second of film",
        "4 films without a frame looked at: no chosen detector needs one",
        "1 film whose picture could not be decoded",
        "3 films with clips that could not be decoded",
        "40 of 120 s of sound heard by speech detectors, in 11 of 12 files with sound",
        "1 file whose sound could not be decoded",
    ]


def test_names_can_be_told_apart_and_their_folder_is_told_once():
    names = [f"/films/2019/a_long_name_that_two_films_of_an_evening_share__interview_take{n}.mp4" for n in (1, 2)]
    told = summary(
        failed=tuple((name, "unreadable", "why") for name in names),
        suspicious=tuple(Suspicious(name, "manipulated", 0.1, ("why",)) for name in names),
        detectors=(),
        below=9,
    )
    for width in (120, 80, 40):
        text = re.sub(r"[\s│]+", "", printed(told, width))
        assert text.count("take1.mp4") == text.count("take2.mp4") == 2
    text = printed(told)
    assert text.count("/films/2019") == 2 and "Most suspicious (the first 2 of 9), in /films/2019" in text


@pytest.fixture(scope="module")
def mixed(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """An audit of a film that is whole, one of which only the sound can be decoded, one of ten seconds, and a sound."""
    folder, out = tmp_path_factory.mktemp("films"), tmp_path_factory.mktemp("out")
    make_face_video(folder / "whole.mp4", seconds=2)
    make_video(folder / "long.mp4", seconds=10, size=(320, 240))
    make_audio(folder / "voice.flac", seconds=6)
    _spoil_the_picture(make_video(folder / "heard.mkv", seconds=4, size=(320, 240), audio=True))
    command = ["audit", str(folder), "--output", str(out), "--quiet"]
    assert cli.main(command) == cli.DONE
    return {"out": str(out), "command": command}


def _spoil_the_picture(path: Path) -> None:
    """Every NAL unit of H.264 in this Matroska file becomes one that no decoder knows; the sound stays whole."""
    import av

    data = bytearray(path.read_bytes())
    with av.open(str(path)) as container:
        packets = [bytes(packet) for packet in container.demux(video=0) if packet.size]
    for packet in packets:
        at = data.index(packet)
        data[at + 4 : at + len(packet)] = b"\xff" * (len(packet) - 4)
    path.write_bytes(data)


def test_a_film_of_which_only_the_sound_was_heard_is_counted(mixed, capsys):
    assert cli.main([*mixed["command"][:-1], "--json"]) == cli.DONE
    told = json.loads(capsys.readouterr().out)
    films, sounds = told["films"], told["sounds"]
    assert films["files"] == 3 and films["undecodable"] == films["unseen"] == 1
    assert films["seconds"] == pytest.approx(16, abs=0.3) and 0 < films["seen_seconds"] < films["seconds"]
    assert sounds["files"] == 3 and sounds["heard"] == 3 and sounds["undecodable"] == 0
    assert sounds["heard_seconds"] <= sounds["seconds"] == pytest.approx(12, abs=0.3)
    rows = run_query(
        mixed["out"], "select verdict, has_video, frames_kept from scores where uri like '%heard%'"
    ).to_pylist()
    assert rows == [{"verdict": "inconclusive", "has_video": True, "frames_kept": 0}]
    page = (Path(mixed["out"]) / "report.html").read_text()
    assert "<li>1 film whose picture could not be decoded</li>" in page


def test_what_each_detector_leans_to_is_what_its_rows_say(mixed, capsys):
    assert cli.main([*mixed["command"][:-1], "--json"]) == cli.DONE
    told = {one["detector"]: one for one in json.loads(capsys.readouterr().out)["detectors"]}
    sql = "select detector, count(distinct media_id) as n from evidence where logit is not null group by 1"
    judged = {row["detector"]: row["n"] for row in run_query(mixed["out"], sql).to_pylist()}
    assert {name: one["files"] for name, one in told.items()} == judged and {"audio", "synthetic"} <= set(told)
    assert not told["synthetic"]["has_say"] and not told["synthetic"]["calibrated"]
    assert told["audio"]["has_say"] and told["audio"]["calibrated"]
    sql = """select unnest(detectors, recursive := true) from scores"""
    for row in run_query(mixed["out"], sql).to_pylist():
        assert row["log_odds"] <= told[row["detector"]]["highest"]
    # What stands in `reasons` of a detector with a rule is this number.
    sql = "select reasons, detectors from scores where len(detectors) > 0"
    for row in run_query(mixed["out"], sql).to_pylist():
        for one in (one for one in row["detectors"] if one["calibrated"]):
            assert any(f"{one['detector']} " in r and f"(log-odds {one['log_odds']:+.2f}" in r for r in row["reasons"])
