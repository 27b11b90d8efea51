"""The length of a film and the times of its frames come from its content, whatever its time stamps and header claim."""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest

from deephotlink.models.base import ClipGeometry
from deephotlink.transforms.clips import Sampling, plan_decoding
from deephotlink.transforms.decode import DecodeTally, decode_request
from deephotlink.transforms.media.decoders.decode_file import decode_items
from deephotlink.transforms.media.probe_file import probe
from deephotlink.transforms.media.protocol import Limits
from deephotlink.transforms.probe import probe_from_facts
from deephotlink.transforms.records import Clip, MediaOutcome, MediaProbe, WindowSpec
from tests.builders import make_media_file
from tests.misleading_media import (
    CODECS,
    FRAGMENTS,
    SOUNDS,
    Film,
    asf_duration,
    avi_header,
    box_durations,
    far,
    flac_samples,
    flv_number,
    joined,
    lying,
    matroska_duration,
    number_after,
    restamped,
    sound,
    sound_joined,
    sound_lying,
    whole,
)
from tests.numbered import make_numbered, read_number, read_second

LIMITS = Limits()
EVERY_SECONDS = 3.0
GEOMETRY = ClipGeometry(frames=4, frame_rate=5.0, short_side=128)
HOURS_2, HOURS_44 = 9000.0, 160_000.0
Maker = Callable[[Path], Film]


def middle(seconds: float) -> float:
    return seconds + (HOURS_2 if 6.0 <= seconds < 6.3 else 0)


def leap(seconds: float) -> float:
    return seconds + (HOURS_2 if seconds >= 6 else 0)


def back(seconds: float) -> float:
    return seconds - (4 if seconds >= 8 else 0)


CASES: dict[str, Maker] = {}
for suffix in CODECS:
    CASES[f"honest {suffix}"] = partial(whole, suffix=suffix)
for suffix in (".ts", ".m2ts", ".vob", ".mpg", ".mkv"):
    CASES[f"joined {suffix}"] = partial(lambda folder, s: joined(folder, s, 250, 150), s=suffix)
CASES["joined three .ts"] = lambda folder: joined(folder, ".ts", 100, 60, 140)
CASES["joined with an offset .ts"] = lambda folder: joined(
    folder, ".ts", 150, 150, options=(("-output_ts_offset", "5000"), ())
)
CASES["joined by a leap .ts"] = lambda folder: joined(
    folder, ".ts", 150, 150, options=((), ("-output_ts_offset", "70000"))
)
CASES["joined, the shorter second .vob"] = lambda folder: joined(folder, ".vob", 250, 50)
for suffix in (".mp4", ".mov", ".mkv", ".ts", ".flv", ".wmv"):
    for name, which, dts in (
        ("the last frame far", "gte(N\\,299)", True),
        ("a frame far", "eq(N\\,200)", False),
        ("a leap", "gte(N\\,150)", True),
    ):
        if suffix == ".wmv" and not dts:
            continue  # ASF has one time stamp a frame: FFmpeg writes the dts
        CASES[f"{name} {suffix}"] = partial(
            lambda folder, s, w, d: far(folder, s, w, HOURS_2, d), s=suffix, w=which, d=dts
        )
for suffix in (".mp4", ".mkv", ".ts"):
    CASES[f"the last frame two days off {suffix}"] = partial(
        lambda folder, s: far(folder, s, "gte(N\\,299)", HOURS_44, sound=False), s=suffix
    )
    CASES[f"the last frame ten minutes off, silent {suffix}"] = partial(
        lambda folder, s: far(folder, s, "gte(N\\,299)", 600.0, sound=False), s=suffix
    )
CASES["a frame far, fragments .mp4"] = lambda folder: far(folder, ".mp4", "eq(N\\,200)", HOURS_2, False, "fragments")
for suffix in (".ts", ".vob"):
    for name, move in (("frame far", middle), ("leap", leap), ("step back", back)):
        CASES[f"stamped anew, {name} {suffix}"] = partial(
            lambda folder, s, m: restamped(folder, s, m), s=suffix, m=move
        )
LIES: dict[str, tuple[str, Callable[[bytearray], None], tuple[str, ...]]] = {
    "no length .mp4": (".mp4", box_durations(0), ()),
    "length of days .mp4": (".mp4", box_durations(0x7FFFFFFF), ()),
    "length of -1 .mov": (".mov", box_durations(0xFFFFFFFF), ()),
    "no length, fragments .mp4": (".mp4", box_durations(0), FRAGMENTS),
    "no length .mkv": (".mkv", matroska_duration(0), ()),
    "length of days .mkv": (".mkv", matroska_duration(1.5e8), ()),
    "length of years .webm": (".webm", matroska_duration(1e12), ()),
    "negative length .mkv": (".mkv", matroska_duration(-5000), ()),
    "length is no number .mkv": (".mkv", matroska_duration(math.nan), ()),
    "no length .flv": (".flv", flv_number(b"duration", 0), ()),
    "length of days .flv": (".flv", flv_number(b"duration", 1e5), ()),
    "negative length .flv": (".flv", flv_number(b"duration", -7), ()),
    "false rate .flv": (".flv", flv_number(b"framerate", 1000), ()),
    "no frames .avi": (".avi", avi_header(0, 40_000), ()),
    "millions of frames .avi": (".avi", avi_header(1 << 31, 1), ()),
    "few frames of a minute .avi": (".avi", avi_header(3, 60_000_000), ()),
    "length of days .wmv": (".wmv", asf_duration(10**12), ()),
    "no length .wmv": (".wmv", asf_duration(0), ()),
}
for name, (suffix, lie, options) in LIES.items():
    CASES[name] = partial(
        lambda folder, n, s, f, o: lying(folder, s, n.split(" .")[0].replace(" ", "-"), f, o),
        n=name,
        s=suffix,
        f=lie,
        o=options,
    )


def moved(folder: Path, suffix: str, *options: str, steady: bool = True) -> Film:
    """12 s of film whose clock starts elsewhere."""
    made = whole(folder, suffix, options)
    return replace(made, steady=steady)


CASES |= {
    "starts at 1 s .mkv": lambda folder: moved(folder, ".mkv", "-output_ts_offset", "1"),
    "starts at an hour .ts": lambda folder: moved(folder, ".ts", "-output_ts_offset", "3600"),
    "starts before 0 .mkv": lambda folder: moved(folder, ".mkv", "-output_ts_offset", "-0.5"),
    # An edit list hides what lies before 0.
    "starts before 0 .mp4": lambda folder: replace(
        moved(folder, ".mp4", "-output_ts_offset", "-0.5", "-avoid_negative_ts", "disabled"),
        seconds=11.5,
        parts=((-0.5, 0, 300),),
        sound=False,
    ),
    "the clock wraps .ts": lambda folder: moved(folder, ".ts", "-output_ts_offset", "95438"),
    "the clock wraps .vob": lambda folder: moved(folder, ".vob", "-output_ts_offset", "95438"),
    "without length or cues .webm": lambda folder: moved(folder, ".webm", "-live", "1"),
    "fragments .mp4": lambda folder: moved(folder, ".mp4", *FRAGMENTS),
}


def slow(folder: Path, suffix: str, seconds: float, frames: int, *options: str) -> Film:
    """`frames` frames of `seconds` each."""
    path = make_numbered(folder / f"slow-{seconds}{suffix}", frames, 1 / seconds, *options)
    return Film(path, frames * seconds, ((0.0, 0, frames),), rate=1 / seconds, sound=False, steady=True)


SILENT = ("-c:v", "libx264", "-preset", "veryfast", "-pix_fmt", "yuv420p", "-bf", "0")
CASES |= {
    "a frame a minute .mp4": lambda folder: slow(folder, ".mp4", 60.0, 30, *SILENT),
    "a frame a minute .mkv": lambda folder: slow(folder, ".mkv", 60.0, 30, *SILENT),
    "a frame each ten seconds .mp4": lambda folder: slow(folder, ".mp4", 10.0, 40, *SILENT),
    "1000 Hz .mp4": lambda folder: slow(folder, ".mp4", 0.001, 3000, *SILENT, "-g", "500"),
    "one key frame .mp4": lambda folder: replace(
        slow(folder, ".mp4", 0.1, 600, *SILENT, "-g", "10000", "-sc_threshold", "0"), steady=True
    ),
}


def examine(film: Film, every: float = EVERY_SECONDS) -> tuple[MediaProbe, MediaOutcome, list[Clip], list[np.ndarray]]:
    """The way of a file from probe to decoded clips, all in this process."""
    facts = probe(str(film.path), LIMITS)
    found = probe_from_facts(make_media_file(film.path), str(film.path), facts, None)
    starts = list(np.arange(0.25, film.seconds - 0.5, 1.0)) if film.sound else []
    windows = tuple(WindowSpec(n, round(start * 16_000), 8_000, "d") for n, start in enumerate(starts))
    plan = plan_decoding(found, Sampling(every_seconds=every), lambda _: GEOMETRY, False, lambda _: windows)
    tally = DecodeTally(plan)
    records = [tally.add(item) for item in decode_items(decode_request(plan), LIMITS)]
    clips = [record for record in records if isinstance(record, Clip)]
    sounds = [record.samples for record in records if record is not None and not isinstance(record, Clip)]
    return found, tally.outcome(), clips, sounds


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One for all cases, so that the honest films that they are made from are made once."""
    return tmp_path_factory.mktemp("misleading")


@pytest.mark.parametrize("case", CASES)
def test_a_film_is_as_long_as_what_is_in_it(case: str, folder: Path) -> None:
    film = CASES[case](folder)
    began = time.process_time()
    found, outcome, clips, sounds = examine(film)
    cost = time.process_time() - began
    joints = len(film.parts)
    # FFmpeg guesses the time stamps of MPEG-PS that its packets do not hold, by up to two frames wrong; ASF has the
    # picture begin a frame after the sound.
    slack = {".vob": 3.2, ".mpg": 3.2, ".wmv": 2.1}.get(film.path.suffix, 1.1) + 2 * (joints > 1)
    # Priming, padding and a frame more or less at each joint.
    assert found.duration_seconds == pytest.approx(film.seconds, abs=0.12 + 0.06 * joints)
    assert (found.clock == "file") == film.steady, found.notes
    assert bool([note for note in found.notes if "clock jumps" in note]) == (not film.steady)
    assert outcome.clips_decoded == outcome.clips_planned, outcome.clip_failures
    assert math.floor(film.seconds / EVERY_SECONDS * 0.7) <= outcome.clips_planned or film.rate < 4
    assert outcome.clips_planned <= math.ceil(film.seconds / EVERY_SECONDS) + 1
    assert outcome.assessed_seconds <= found.duration_seconds + 1e-6
    assert cost < 10, "a file of a few hundred kilobytes"
    for before, after in pairwise(clips):
        assert before.spec.end_seconds <= after.spec.start_seconds + 1e-6
    seen = set()
    for clip in clips:
        assert clip.spec.end_seconds <= found.duration_seconds + 1e-6
        for frame, seconds in zip(clip.frames, clip.pts_seconds, strict=True):
            number = read_number(frame)
            which = max(n for n, (start, _, _) in enumerate(film.parts) if seconds >= start - 1.5 / film.rate or n == 0)
            start, first, frames = film.parts[which]
            # Moments of the clock at a joint may lie a frame beside.
            expected = first + min(frames - 1, max(0.0, (seconds - start) * film.rate))
            assert abs(number - expected) <= slack, (seconds, number, expected)
            seen.add(next(n for n, (_, one, count) in enumerate(film.parts) if one <= number < one + count))
    assert seen == set(range(joints)), "clips in every part"
    if film.sound:
        heard = [read_second(samples) for samples in sounds]
        wrong = [(n, second) for n, second in enumerate(heard) if second != n]
        assert len(heard) >= math.floor(film.seconds - 0.75) and len(wrong) <= joints, wrong


LARGE = [
    "honest .ts",
    "honest .vob",
    "honest .mkv",
    "honest .avi",
    "honest .flv",
    "joined .ts",
    "joined .m2ts",
    "joined .vob",
    "joined .mpg",
    "joined three .ts",
    "joined by a leap .ts",
    "the last frame far .mp4",
    "a leap .mov",
    "fragments .mp4",
    "the clock wraps .ts",
    "length of days .mkv",
    "negative length .mkv",
    "length of days .mp4",
    "length of days .flv",
    "starts at 1 s .mkv",
]


@pytest.mark.parametrize("case", LARGE)
def test_a_large_film_is_not_read_whole(case: str, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What is too large to be scanned: the length by the index or by a few looks, and the frames at their moments."""
    film = CASES[case](folder)
    for module in ("clock.lengths", "clock.stream_reader", "decoders.pyav_frames", "decoders.sound"):
        monkeypatch.setattr(f"deephotlink.transforms.media.{module}.SCAN_BYTES", 1000)
    # These films have a hundredth of the bytes of real ones.
    monkeypatch.setattr("deephotlink.transforms.media.clock.sampled_clock.LEAST_BYTES", 1 << 10)
    found, outcome, clips, sounds = examine(film)
    joints = len(film.parts)
    assert found.duration_seconds == pytest.approx(film.seconds, abs=0.15 + 0.3 * joints)
    assert outcome.clips_decoded == outcome.clips_planned, outcome.clip_failures
    assert math.floor(film.seconds / EVERY_SECONDS * 0.7) <= outcome.clips_planned
    assert outcome.clips_planned <= math.ceil(film.seconds / EVERY_SECONDS) + joints
    assert outcome.assessed_seconds <= found.duration_seconds + 1e-6
    seen = set()
    for clip in clips:
        for frame, seconds in zip(clip.frames, clip.pts_seconds, strict=True):
            number = read_number(frame)
            assert abs(number - seconds * film.rate) <= 3.2 + 12 * (joints > 1), (number, seconds)
            seen.add(next(n for n, (_, one, count) in enumerate(film.parts) if one <= number < one + count))
    assert seen == set(range(joints)), "clips in every part"
    heard = [read_second(samples) for samples in sounds]
    wrong = [(n, second) for n, second in enumerate(heard) if second != n]
    assert len(heard) >= math.floor(film.seconds - 0.75) and len(wrong) <= 3 * (joints - 1), wrong


RECORDINGS: dict[str, Maker] = {f"honest {suffix}": partial(sound, suffix=suffix) for suffix in SOUNDS}
for suffix, steady in ((".mp3", True), (".aac", True), (".ac3", True), (".eac3", True), (".mp2", True)):
    RECORDINGS[f"joined {suffix}"] = partial(sound_joined, suffix=suffix, steady=steady)
for suffix in (".flac", ".ogg", ".opus", ".mka"):
    RECORDINGS[f"joined {suffix}"] = partial(sound_joined, suffix=suffix, steady=False)
for suffix in (".wav", ".m4a", ".wma", ".aiff", ".caf"):
    RECORDINGS[f"joined and told {suffix}"] = partial(sound_joined, suffix=suffix, steady=True, seen=8.0)
RECORDINGS["without Xing .mp3"] = lambda folder: sound(folder, ".mp3", "-write_xing", "0", "-q:a", "4")
for name, value in (
    ("no samples", 0),
    ("few samples", 1000),
    ("too many samples", 1 << 30),
    ("all ones", (1 << 32) - 1),
):
    RECORDINGS[f"{name} .wav"] = partial(
        sound_lying, suffix=".wav", name=name.replace(" ", "-"), lie=number_after(b"data", 4, value, "<I")
    )
for name, value in (("no frames", 0), ("few frames", 10), ("millions of frames", 90_000_000)):
    RECORDINGS[f"{name} .mp3"] = partial(
        sound_lying, suffix=".mp3", name=name.replace(" ", "-"), lie=number_after(b"Info", 8, value, ">I")
    )
for name, value in (("no samples", 0), ("few samples", 1000), ("all ones", (1 << 36) - 1)):
    RECORDINGS[f"{name} .flac"] = partial(
        sound_lying, suffix=".flac", name=name.replace(" ", "-"), lie=flac_samples(value)
    )


@pytest.mark.parametrize("case", RECORDINGS)
def test_a_recording_is_as_long_as_what_is_in_it(case: str, folder: Path) -> None:
    film = RECORDINGS[case](folder)
    found, outcome, _, sounds = examine(film)
    assert found.media_type == "audio" and outcome.status == "read"
    assert found.duration_seconds == pytest.approx(film.seconds, abs=0.13)
    assert (found.clock == "file") == film.steady
    told = [note for note in found.notes if note.startswith("not looked at: a second recording after the first")]
    assert bool(told) == ("told" in case)
    heard = [read_second(samples) for samples in sounds]
    assert heard == list(range(len(heard))) and len(heard) >= math.floor(film.seconds - 0.75)
    assert film.seconds / 2 - 1 <= outcome.assessed_seconds <= film.seconds + 0.2
