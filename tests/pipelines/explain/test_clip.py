"""`deephotlink explain --clip`: what the written film shows, and that only the sandboxed children read the file."""

from __future__ import annotations

import json
import os
import shutil
import tarfile
import tempfile
from dataclasses import replace
from pathlib import Path

import apache_beam as beam
import av
import fsspec
import numpy as np
import pytest

from deephotlink.models.calibration.calibration import Calibration, DetectorCalibration
from deephotlink.pipelines import cli
from deephotlink.pipelines.audit import AssessMedia
from deephotlink.pipelines.explain import reading
from deephotlink.pipelines.explain.card import explained
from deephotlink.pipelines.explain.clip import make_clip
from deephotlink.pipelines.explain.drawing import TOWARDS
from deephotlink.pipelines.explain.stretch import LEAST_SECONDS, MOST_SECONDS, stretch_of
from deephotlink.pipelines.options import Reading
from deephotlink.pipelines.outputs.query import connect
from deephotlink.pipelines.runners import make_pipeline
from deephotlink.pipelines.samples import encoding
from deephotlink.transforms.failures import UsageError
from deephotlink.transforms.listing import ListingOptions, list_sources
from deephotlink.transforms.records import MediaFile, MediaResult
from deephotlink.transforms.storage.sources import look_remote
from tests.builders import (
    FakeDetector,
    make_audio,
    make_face_video,
    make_gif,
    make_media_file,
    make_video,
    read_barcode,
)
from tests.reporting import make_media, make_output, make_result

RULE = DetectorCalibration(1.0, 0.0, -8.0, 8.0, 1.0, "")
CALIBRATION = Calibration("test", "made up", "", {"faces": RULE, "clips": RULE, "speech": RULE}, 0.1, 0.9)
_results: list[MediaResult] = []


def keep(result: MediaResult) -> None:
    _results.append(result)


def score(files: list[MediaFile], *detectors: FakeDetector) -> list[MediaResult]:
    """What an audit finds in these files with these detectors."""
    by_name = {detector.spec.name: detector for detector in detectors}
    transform = AssessMedia(
        [detector.spec for detector in detectors],
        Reading(),
        CALIBRATION,
        lambda spec, weights: by_name[spec.name],
        spool=tempfile.gettempdir(),
    )
    _results.clear()
    with make_pipeline(()) as p:
        _ = p | beam.Create(files) | transform | beam.Map(keep)
    return list(_results)


def faces(logit: float) -> FakeDetector:
    return FakeDetector(logit, "face_track", name="faces", family="facial", version=str(logit))


def audited(out: Path, *files: MediaFile, detectors: tuple[FakeDetector, ...]) -> str:
    make_output(out, score(list(files), *detectors), CALIBRATION)
    return str(out)


@pytest.fixture(scope="module")
def films(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("films")
    make_face_video(folder / "talk.mp4", seconds=3)
    make_video(folder / "numbers.mp4", seconds=14, fps=10, pattern="barcode", audio="tone", size=(256, 144))
    make_audio(folder / "speech.flac", seconds=5)
    return folder


@pytest.fixture(scope="module")
def talk(films, tmp_path_factory) -> str:
    out = tmp_path_factory.mktemp("scores") / "out"
    return audited(out, make_media_file(films / "talk.mp4"), detectors=(faces(4.0),))


def pictures_of(path: Path) -> tuple[list[np.ndarray], float]:
    """Frames, uint8 [H, W, 3], and frames a second."""
    with av.open(str(path)) as container:
        return [frame.to_ndarray(format="rgb24") for frame in container.decode(video=0)], float(
            container.streams.video[0].average_rate
        )


def sound_of(path: Path) -> np.ndarray | None:
    """float32 [S], mono."""
    with av.open(str(path)) as container:
        if not container.streams.audio:
            return None
        return np.concatenate([frame.to_ndarray()[0] for frame in container.decode(audio=0)])


def like(frame: np.ndarray, colour: tuple[int, int, int]) -> np.ndarray:
    """[H, W]: where a frame, after lossy coding, has this colour."""
    return np.abs(frame.astype(int) - colour).sum(axis=2) < 110


def film_of(frame: np.ndarray, shown: tuple[int, int]) -> np.ndarray:
    """The film's picture in a frame of the clip, without the evidence below it. shown: its width and height there."""
    left = (frame.shape[1] - shown[0]) // 2
    return frame[: shown[1], left : left + shown[0]]


def along_box(found: np.ndarray, box: np.ndarray) -> list[float]:
    """How much of the left, right and lower side of a box is in `found`, bool [H, W]. (Words may stand on the upper
    side.) The box, x1 y1 x2 y2 in pixels, may be off by 12 pixels."""
    x1, y1, x2, y2 = (round(float(side)) for side in box)
    tall, wide, off = (y2 - y1) // 4, (x2 - x1) // 4, 12
    upright = slice(y1 + tall, y2 - tall)
    sides = [found[upright, max(0, x - off) : x + off].any(axis=1) for x in (x1, x2)]
    return [float(side.mean()) for side in (*sides, found[y2 - off : y2 + off, x1 + wide : x2 - wide].any(axis=0))]


def shown_box(out: str) -> tuple[np.ndarray, float]:
    """The box on record, in pixels of the clip, and when it is shown. The film has 320 x 240, the clip 480 x 360."""
    with connect(out) as tables:
        sql = "select box, box_seconds, frame_width, frame_height from evidence where box is not null"
        box, at, width, height = tables.execute(sql).fetchone()
    assert (width, height) == (320, 240)
    return np.array([box["x1"], box["y1"], box["x2"], box["y2"]]) * 480 / width, at


def test_a_suspicious_face_has_a_box_and_a_score_and_the_sound_is_kept(talk, tmp_path, capsys):
    clip = tmp_path / "clip.mp4"
    assert cli.main(["explain", talk, "talk.mp4", "--clip", str(clip), "--json"]) == cli.DONE
    told = json.loads(capsys.readouterr().out)
    made = told["clip"]
    assert made["scored_faces"] == made["faces"] == 1 and made["has_sound"] and made["has_picture"]
    assert made["why"] == told["towards"][0]["text"] and made["path"] == str(clip)
    frames, rate = pictures_of(clip)
    seconds = made["end_seconds"] - made["start_seconds"]
    assert len(frames) == pytest.approx(seconds * rate, abs=1) and seconds == pytest.approx(3, abs=0.2)
    shown, at = shown_box(talk)
    film = film_of(frames[round((at - made["start_seconds"]) * rate)], (480, 360))
    assert min(along_box(like(film, TOWARDS), shown)) > 0.9
    sound = sound_of(clip)
    assert sound is not None and len(sound) > 0 and float(np.sqrt((sound**2).mean())) > 0.01


def test_the_colour_of_a_box_follows_the_evidence(talk, films, tmp_path):
    """Two clips of one film: they differ along the box, where one is red and the other blue, and not inside it."""
    other = audited(tmp_path / "out", make_media_file(films / "talk.mp4"), detectors=(faces(-4.0),))
    box, at = shown_box(talk)
    shown = []
    for out in (talk, other):
        made = make_clip(explained(out, "talk.mp4"), out, "talk.mp4", str(tmp_path / "a.mp4"))
        frames, rate = pictures_of(tmp_path / "a.mp4")
        shown.append(film_of(frames[round((at - made.start) * rate)], (480, 360)).astype(int))
    red, blue = shown
    changed = np.abs(red - blue).sum(axis=2) > 120
    x1, y1, x2, y2 = (round(float(side)) for side in box)
    assert min(along_box(changed, box)) > 0.9 and changed[y1 + 30 : y2 - 30, x1 + 30 : x2 - 30].mean() < 0.02
    warm = (red[..., 0] - red[..., 2]) - (blue[..., 0] - blue[..., 2])
    assert warm[changed].mean() > 150


def test_a_face_that_nobody_judged_has_a_box_without_a_score(films, tmp_path):
    clips = FakeDetector(1.0, name="clips")
    out = audited(tmp_path / "out", make_media_file(films / "talk.mp4"), detectors=(clips,))
    made = make_clip(explained(out, "talk.mp4"), out, "talk.mp4", str(tmp_path / "a.mkv"))
    assert (made.faces, made.scored_faces) == (1, 0)


@pytest.mark.parametrize("at", ["2", "0:10.5"])
def test_the_moment_that_was_asked_for_is_shown_in_step(films, tmp_path, at, capsys):
    """The film counts its frames in its pictures, 10 a second."""
    out = audited(
        tmp_path / "out", make_media_file(films / "numbers.mp4"), detectors=(FakeDetector(-1.0, name="clips"),)
    )
    clip = tmp_path / "clip.mp4"
    assert cli.main(["explain", out, "numbers.mp4", "--clip", str(clip), "--at", at, "--json"]) == cli.DONE
    made = json.loads(capsys.readouterr().out)["clip"]
    assert made["start_seconds"] <= float(at.rpartition(":")[2]) <= made["end_seconds"] and made["faces"] == 0
    frames, rate = pictures_of(clip)
    read = [read_barcode(film_of(frame, (640, 360))) for frame in frames]
    expected = [int((made["start_seconds"] + number / rate) * 10 + 0.01) for number in range(len(frames))]
    assert rate == 10 and read == expected
    assert sound_of(clip) is not None


def test_sound_alone_gives_its_wave_with_the_scores(films, tmp_path):
    speech = FakeDetector(3.0, "audio_window", name="speech", family="audio")
    out = audited(tmp_path / "out", make_media_file(films / "speech.flac"), detectors=(speech,))
    made = make_clip(explained(out, "speech.flac"), out, "speech.flac", str(tmp_path / "a.mp4"))
    assert made.has_sound and not made.has_picture and made.faces == 0
    frames, rate = pictures_of(tmp_path / "a.mp4")
    assert len(frames) == pytest.approx(rate * (made.end - made.start), abs=1)
    red = [like(frame[300:], TOWARDS).mean() for frame in (frames[0], frames[len(frames) // 2])]
    assert min(red) > 0.002
    bright = [like(frame[:280], (235, 235, 235)).mean() for frame in (frames[1], frames[-2])]
    assert bright[1] > bright[0]  # what was played is lighter
    with av.open(str(films / "speech.flac")) as original:
        first = np.concatenate([frame.to_ndarray()[0] for frame in original.decode(audio=0)]).astype(np.float64)
    kept = sound_of(tmp_path / "a.mp4").astype(np.float64)
    both = min(len(first), len(kept))
    loud = [np.abs(sound[: both // 400 * 400]).reshape(-1, 400).mean(axis=1) for sound in (first, kept)]
    assert np.corrcoef(*loud)[0, 1] > 0.9


def test_a_film_whose_picture_cannot_be_decoded_is_shown_by_its_sound(talk, tmp_path, monkeypatch):
    def no_frames(source, start, end, rate, size, piece=1.0):
        for _ in range(-(-round((end - start) * rate) // round(piece * rate))):
            yield reading.Frames(np.empty((0, size[1], size[0], 3), np.uint8), np.empty(0), "broken")

    monkeypatch.setattr(reading.Source, "frames", no_frames)
    made = make_clip(explained(talk, "talk.mp4"), talk, "talk.mp4", str(tmp_path / "a.mp4"))
    assert (made.has_picture, made.has_sound, made.faces) == (False, True, 0) and "broken" in made.notes[0]
    monkeypatch.setattr(reading.Source, "sound", lambda *given: None)
    with pytest.raises(UsageError, match="broken"):
        make_clip(explained(talk, "talk.mp4"), talk, "talk.mp4", str(tmp_path / "b.mp4"))
    assert not (tmp_path / "b.mp4").exists()


def test_ffmpeg_gets_pixels_and_samples_and_never_the_file(talk, films, tmp_path, monkeypatch):
    started: list[str] = []
    popen = encoding.subprocess.Popen

    def watched(command, *arguments, **options):
        started.append(" ".join(map(str, command)))
        return popen(command, *arguments, **options)

    monkeypatch.setattr(encoding.subprocess, "Popen", watched)
    opened_here: list[object] = []
    monkeypatch.setattr(av, "open", lambda *given, **more: opened_here.append(given))  # children import their own
    made = make_clip(explained(talk, "talk.mp4"), talk, "talk.mp4", str(tmp_path / "a.mp4"), sandbox="require")
    monkeypatch.undo()
    assert made.scored_faces == 1 and opened_here == []
    encoders = [line for line in started if "ffmpeg" in line]
    assert len(encoders) >= 2 and "pipe:" in encoders[0] and "rawvideo" in encoders[0]
    assert not [line for line in started if str(films) in line]


def test_a_film_in_a_store_and_a_member_of_a_shard(films, tmp_path):
    store = fsspec.filesystem("memory")
    store.pipe("/films/numbers.mp4", (films / "numbers.mp4").read_bytes())
    remote = look_remote("memory://films/numbers.mp4").to_file()
    with tarfile.open(tmp_path / "all.tar", "w") as shard:
        shard.add(films / "numbers.mp4", "day/numbers.mp4")
    [member] = [
        planned.file for planned in list_sources([str(tmp_path / "all.tar")], ListingOptions()) if planned.file.member
    ]
    out = audited(tmp_path / "out", remote, member, detectors=(FakeDetector(2.0, name="clips"),))
    for name in ("memory://films/numbers.mp4", "numbers.mp4 in all.tar"):
        made = make_clip(explained(out, name), out, name, str(tmp_path / "a.mp4"))
        frames, _ = pictures_of(tmp_path / "a.mp4")
        assert read_barcode(film_of(frames[10], (640, 360))) == int(made.start * 10 + 10)
    store.pipe("/films/numbers.mp4", (films / "numbers.mp4").read_bytes()[:-1])
    with pytest.raises(UsageError, match="not the file that was audited"):
        make_clip(explained(out, "memory://films/numbers.mp4"), out, "x", str(tmp_path / "b.mp4"))
    assert not (tmp_path / "b.mp4").exists()


def test_another_file_in_its_place_is_never_shown(films, tmp_path, capsys):
    film = tmp_path / "films" / "it's.mp4"
    film.parent.mkdir()
    shutil.copy(films / "talk.mp4", film)
    out = audited(tmp_path / "out", make_media_file(film), detectors=(faces(4.0),))
    clip = str(tmp_path / "clip.mp4")
    status = film.stat()
    os.utime(film, ns=(status.st_atime_ns, status.st_mtime_ns + 1))
    assert cli.main(["explain", out, "it's.mp4", "--clip", clip]) == cli.USAGE
    film.unlink()
    assert cli.main(["explain", out, "it's.mp4", "--clip", clip]) == cli.USAGE
    film.mkdir()
    assert cli.main(["explain", out, "it's.mp4", "--clip", clip]) == cli.USAGE
    assert cli.main(["explain", out, "it's.mp4"]) == cli.DONE  # the card needs no file
    lines = [line for line in capsys.readouterr().err.splitlines() if line.startswith("deephotlink: ")]
    assert "is not the file that was audited (it was replaced" in lines[0] and "no longer there" in lines[1]
    assert len(lines) == 3 and not Path(clip).exists()


def test_a_name_that_is_not_utf8(films, tmp_path):
    odd = os.fsencode(tmp_path) + b"/latin-\xff.mp4"
    shutil.copy(os.fsencode(films / "talk.mp4"), odd)
    [planned] = list_sources([os.fsdecode(odd)], ListingOptions())
    out = audited(tmp_path / "out", planned.file, detectors=(faces(4.0),))
    given = "latin-\\xff.mp4"
    assert make_clip(explained(out, given), out, given, str(tmp_path / "a.mp4")).scored_faces == 1


def test_damaged_and_silent_films(tmp_path):
    make_face_video(tmp_path / "cut.ts", seconds=3)
    data = bytearray((tmp_path / "cut.ts").read_bytes())
    data[len(data) // 3 : len(data) // 2] = os.urandom(len(data) // 2 - len(data) // 3)
    (tmp_path / "cut.ts").write_bytes(bytes(data))
    make_gif(tmp_path / "moves.gif")
    make_video(tmp_path / "tall.mp4", seconds=2, size=(32, 480))
    files = [make_media_file(tmp_path / name) for name in ("cut.ts", "moves.gif", "tall.mp4")]
    out = audited(tmp_path / "out", *files, detectors=(FakeDetector(1.0, name="clips"),))
    for name, sound in (("cut.ts", True), ("moves.gif", False), ("tall.mp4", False)):
        made = make_clip(explained(out, name), out, name, str(tmp_path / "a.mp4"))
        frames, rate = pictures_of(tmp_path / "a.mp4")
        assert len(frames) == pytest.approx(rate * (made.end - made.start), abs=1)
        assert made.has_picture and made.has_sound == sound == (sound_of(tmp_path / "a.mp4") is not None)


def test_what_cannot_be_written_is_one_line(talk, films, tmp_path, capsys):
    film = str(films / "talk.mp4")
    before = Path(film).read_bytes()
    for clip in ("a.avi", str(tmp_path), str(tmp_path / "none" / "a.mp4"), film):
        assert cli.main(["explain", talk, "talk.mp4", "--clip", clip]) == cli.USAGE
    assert cli.main(["explain", talk, "talk.mp4", "--clip", str(tmp_path / "a.mp4"), "--at", "99"]) == cli.USAGE
    os.link(film, tmp_path / "link.mp4")
    assert cli.main(["explain", talk, "talk.mp4", "--clip", str(tmp_path / "link.mp4")]) == cli.USAGE
    lines = capsys.readouterr().err.splitlines()
    said = (
        ".mp4, .mov, .mkv, .webm",
        "ends in",
        "no folder",
        "is the audited file",
        "3.0 s long",
        "is the audited file",
    )
    assert len(lines) == len(said) and all(words in line for words, line in zip(said, lines, strict=True))
    assert Path(film).read_bytes() == before and os.listdir(tmp_path) == ["link.mp4"]


def test_the_audited_file_is_known_by_any_of_its_names(films, tmp_path, capsys):
    odd = tmp_path / "a::b \\x41.mp4"
    shutil.copy(films / "numbers.mp4", odd)
    [planned] = list_sources([str(odd)], ListingOptions())
    with tarfile.open(tmp_path / "all.mp4", "w") as shard:
        shard.add(odd, "day/numbers.mp4")
    [member] = [one.file for one in list_sources([str(tmp_path / "all.mp4")], ListingOptions()) if one.file.member]
    out = audited(tmp_path / "out", planned.file, member, detectors=(FakeDetector(2.0, name="clips"),))
    for name, clip in ((planned.file.media_id, odd), (member.media_id, tmp_path / "all.mp4")):
        assert cli.main(["explain", out, name, "--clip", str(clip)]) == cli.USAGE
        assert "is the audited file" in capsys.readouterr().err


def test_a_clip_takes_the_place_of_the_one_before_whole_or_not_at_all(talk, tmp_path, monkeypatch):
    (tmp_path / "a.mp4").write_bytes(b"the one before")

    def fails(*given):
        raise encoding.EncodingError(Path("a.mp4"), b"No space left on device")

    monkeypatch.setattr("deephotlink.pipelines.explain.clip.join_sound", fails)
    assert cli.main(["explain", talk, "talk.mp4", "--clip", str(tmp_path / "a.mp4")]) == cli.AGAIN
    assert (tmp_path / "a.mp4").read_bytes() == b"the one before" and os.listdir(tmp_path) == ["a.mp4"]


def test_which_stretch_is_the_most_suspicious(tmp_path):
    """A film of ten minutes, judged every ten seconds. The clip at 0:10-0:14 is the most suspicious one."""
    file = make_media(0, "long.mp4")
    for kind, start, end in (("manipulated", 9.0, 15.0), ("not_assessed", 0.0, 5.0)):
        make_output(tmp_path / kind, [make_result(file, kind, 600.0)])
        found = stretch_of(explained(str(tmp_path / kind), "long.mp4"))
        assert (found.start, found.end) == (start, end)
        assert ("The face" in found.why) == (kind == "manipulated")
    told = explained(str(tmp_path / "manipulated"), "long.mp4")
    near_end = stretch_of(told, 599.5)
    assert near_end.end == 600 and near_end.seconds >= LEAST_SECONDS
    assert stretch_of(told, 0.0).start == 0
    nothing = stretch_of(replace(told, reasons=[]))
    assert (nothing.start, nothing.end, nothing.why) == (9.0, 15.0, "Nothing points to manipulation")
    without = stretch_of(replace(told, reasons=[], card={**told.card, "timeline": None}))
    assert (without.start, without.seconds) == (0.0, LEAST_SECONDS)
    whole = replace(told, reasons=[replace(reason, start=0.0, end=600.0) for reason in told.reasons])
    long = stretch_of(whole)
    assert long.seconds <= MOST_SECONDS and long.start <= 10 <= 14 <= long.end  # around the strongest item


def test_the_plan_of_the_run_is_needed(talk, tmp_path):
    shutil.copytree(talk, tmp_path / "out")
    out = str(tmp_path / "out")
    told = explained(out, "talk.mp4")
    [plan] = (tmp_path / "out" / "_runs").glob("*/plan.parquet")
    plan.write_bytes(plan.read_bytes()[:100])
    with pytest.raises(UsageError, match=r"plan\.parquet"), reading.opened(told, out, "talk.mp4", "auto"):
        pass
