"""`deephotlink forge`: files are what their labels say, real ones go through the same chain, and a seed gives the
same bytes."""

from __future__ import annotations

import csv
import json
from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest

from deephotlink.models.training.split import part
from deephotlink.pipelines.cli import main
from deephotlink.pipelines.samples.encoding import (
    EncodingError,
    FilmWriter,
    film_suffix,
    join_sound,
    sound_suffix,
    write_sound,
)
from deephotlink.pipelines.training.forge import write_labels
from deephotlink.pipelines.training.forge_options import FAMILY_OF
from deephotlink.pipelines.training.forging import Made, apart, bits_a_second, speaks
from deephotlink.transforms.media import probe_file
from deephotlink.transforms.media.decoders.decode_file import decode_items
from deephotlink.transforms.media.protocol import ClipRequest, DecodedClip, DecodeRequest, Limits
from tests.builders import make_audio, make_face_video, make_media_file, make_probe, make_sound, make_track, make_video

pytest.importorskip("cv2", reason="forging needs the extra `train`")


def groups() -> tuple[str, str, str]:
    """Two group names that are held and one that is not."""
    names = [f"group-{number}" for number in range(60)]
    held = [name for name in names if part(name) == "held"]
    return held[0], held[1], next(name for name in names if part(name) == "fit")


@pytest.fixture(scope="module")
def forged(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The forgeries of two talking portraits and a voice."""
    folder = tmp_path_factory.mktemp("forge")
    media = folder / "media"
    first, second, learned = groups()
    make_face_video(media / "a.mp4", 3.4, 10, (256, 192))
    make_face_video(media / "b.mkv", 3.4, 10, (256, 192), seed=3)
    make_face_video(media / "c.mp4", 1, 10, (256, 192))
    make_video(media / "silent.mp4", 1, 10)
    make_audio(media / "voice.mp3", 2)
    rows = [("a.mp4", first), ("b.mkv", second), ("c.mp4", learned), ("silent.mp4", first), ("voice.mp3", first)]
    lines = ["uri,label,group", *(f"{name},real,{group}" for name, group in rows)]
    (media / "known.csv").write_text("\n".join(lines), encoding="utf-8")
    command = ["forge", str(media), "--labels", str(media / "known.csv"), "--output", str(folder / "out")]
    assert main(command) == 0
    return folder / "out"


def labels_of(folder: Path) -> list[dict[str, str]]:
    with (folder / "labels.csv").open(newline="", encoding="utf-8") as rows:
        return list(csv.DictReader(rows))


def pictures(path: Path) -> np.ndarray:
    facts = probe_file.probe(str(path), Limits())
    video = next(s for s in facts["streams"] if s["kind"] == "video")
    width, height = video["width"], video["height"]
    clip = ClipRequest(0, 0.0, 1.0, tuple(n / 10 + 0.01 for n in range(10)))
    (found,) = decode_items(DecodeRequest(str(path), "pyav", width, height, 0, (clip,)), Limits())
    assert isinstance(found, DecodedClip)
    return found.frames


def test_every_kind_comes_with_its_real_file_and_label(forged: Path) -> None:
    rows = labels_of(forged)
    by_group: dict[str, list[dict[str, str]]] = {}
    for row in rows:
        assert (forged / row["uri"]).is_file()
        by_group.setdefault(row["group"], []).append(row)
    first, second, learned = groups()
    assert learned not in by_group  # that group is learned from
    talking = by_group[second]
    assert {row["uri"].split("/")[0] for row in talking} == {"real", *FAMILY_OF}
    assert {row["family"] for row in talking} == {"", *FAMILY_OF.values()}
    assert all(row["uri"].endswith(".mkv") for row in talking)
    assert {Path(row["uri"]).suffix for row in by_group[first]} == {".mp4", ".mp3"}
    silent = [row for row in by_group[first] if "~" in row["uri"] and row["uri"].endswith(".mp4")]
    assert {row["uri"].split("/")[0] for row in silent} == {"real", "resynthesised", "stylised"}  # no face, no speech


def test_pictures_are_forged_where_they_should_be(forged: Path) -> None:
    real = [row for row in labels_of(forged) if row["label"] == "real" and row["uri"].endswith(".mkv")]
    name = Path(real[0]["uri"]).name
    own = pictures(forged / "real" / name).astype(int)
    for kind in ("shifted", "dubbed", "vocoded"):
        assert np.array_equal(pictures(forged / kind / name), own)
    for kind in ("blended", "swapped", "coarse", "resynthesised", "stylised"):
        change = np.abs(pictures(forged / kind / name).astype(int) - own).mean(axis=(0, 3))
        centre, corner = change[60:130, 90:170].mean(), change[:16, :16].mean()
        assert centre > 1.0, kind
        if kind in ("blended", "swapped", "coarse"):
            assert corner < 0.6 * centre, kind


def test_record_says_how_and_what_was_passed_over(forged: Path) -> None:
    record = json.loads((forged / "forged.json").read_text(encoding="utf-8"))
    assert record["asked"]["seed"] == 0 and record["asked"]["part"] == "held"
    assert record["files"]["real"] == 4 and record["groups"] == 2
    assert any("silent.mp4: no" in told for told in record["passed_over"])


def test_the_same_command_gives_the_same_bytes(tmp_path: Path) -> None:
    make_audio(tmp_path / "media" / "voice.wav", 2)
    outs = [tmp_path / "one", tmp_path / "two", tmp_path / "three"]
    for out, seed in zip(outs, ("0", "0", "1"), strict=True):
        where = ["--output", str(out), "--part", "all", "--seed", seed]
        assert main(["forge", str(tmp_path / "media"), *where]) == 0
    real, fakes = ([next((out / kind).iterdir()).read_bytes() for out in outs] for kind in ("real", "vocoded"))
    assert real[0] == real[1] == real[2]
    assert fakes[0] == fakes[1] != fakes[2]


@pytest.mark.parametrize(
    ("more", "told"),
    [(["--kinds", "painted"], "expected kinds from among"), (["--part", "fit"], "of the part 'fit'")],
)
def test_what_cannot_be_is_told_in_a_line(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], more: list[str], told: str
) -> None:
    group = groups()[0]
    make_audio(tmp_path / "media" / f"{group}.wav", 1)
    (tmp_path / "known.csv").write_text(f"uri,label,group\nmedia/{group}.wav,real,{group}\n", encoding="utf-8")
    command = [
        "forge",
        str(tmp_path / "media"),
        "--labels",
        str(tmp_path / "known.csv"),
        "--output",
        str(tmp_path / "o"),
    ]
    assert main([*command, *more]) == 2
    assert told in capsys.readouterr().err


def test_an_output_that_holds_something_is_left_alone(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    make_audio(tmp_path / "voice.wav", 1)
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "mine.txt").write_text("mine")
    assert main(["forge", str(tmp_path / "voice.wav"), "--part", "all", "--output", str(tmp_path / "out")]) == 2
    assert "new or empty folder" in capsys.readouterr().err


def test_one_face_at_a_time() -> None:
    large, small, later = make_track(10, (0, 0, 80, 80)), make_track(10, (90, 0, 110, 20), 1), make_track(4, track_id=2)
    later = type(later)(2, later.frame_positions + 10, later.boxes, later.landmarks, later.confidences)
    assert [track.track_id for track in apart([small, large, later])] == [0, 2]


def test_bits_follow_the_source_and_its_pixels() -> None:
    probe = make_probe(make_media_file())
    whole = make_probe(file=type(probe.file)(**{**_fields(probe.file), "size_bytes": 2_500_000}))
    assert bits_a_second(whole, 640, 360, Fraction(25)) == 2_000_000 - 64_000
    assert bits_a_second(whole, 320, 180, Fraction(25)) == (2_000_000 - 64_000) // 4
    assert bits_a_second(probe, 640, 360, Fraction(25)) == 150_000


def _fields(record: object) -> dict[str, object]:
    return {name: getattr(record, name) for name in record.__slots__}  # type: ignore[attr-defined]


def test_containers_of_a_kind() -> None:
    assert film_suffix("a.MKV", Fraction(25)) == ".mkv" and film_suffix("a.ts", Fraction(25)) == ".mp4"
    assert film_suffix("a.mpg", Fraction(25)) == ".mpg" and film_suffix("a.mpg", Fraction(12)) == ".mp4"
    assert sound_suffix("a.flac") == ".flac" and sound_suffix("a.amr") == ".flac"


@pytest.mark.parametrize("suffix", [".mp4", ".mkv", ".webm", ".avi", ".mpg"])
def test_each_container_holds_what_was_written(tmp_path: Path, suffix: str) -> None:
    with FilmWriter(tmp_path / f"film{suffix}", 64, 48, Fraction(25), 300_000) as writer:
        for number in range(25):
            writer.write(np.full((48, 64, 3), 10 * number, np.uint8))
    join_sound(tmp_path / f"film{suffix}", make_sound(1.0), tmp_path / f"both{suffix}")
    facts = probe_file.probe(str(tmp_path / f"both{suffix}"), Limits())
    assert sorted(stream["kind"] for stream in facts["streams"]) == ["audio", "video"]


def test_a_frame_of_another_size_is_refused(tmp_path: Path) -> None:
    with FilmWriter(tmp_path / "film.mp4", 64, 48, Fraction(25), 300_000) as writer:
        with pytest.raises(ValueError, match="expected uint8"):
            writer.write(np.zeros((48, 66, 3), np.uint8))
        writer.write(np.zeros((48, 64, 3), np.uint8))


def test_what_speaks() -> None:
    assert speaks(make_sound(2.0)) and not speaks(make_sound(2.0, kind="silence")) and not speaks(None)


def test_a_source_that_cannot_be_written_is_passed_over(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    for name in ("first.wav", "second.wav"):
        make_audio(tmp_path / "media" / name, 2)
    calls = []

    def write(path: Path, sound: np.ndarray) -> None:
        calls.append(path)
        if len(calls) == 1:
            raise EncodingError(path, b"Conversion failed!")
        write_sound(path, sound)

    monkeypatch.setattr("deephotlink.pipelines.training.forging.write_sound", write)
    command = ["forge", str(tmp_path / "media"), "--part", "all", "--kinds", "vocoded"]
    assert main([*command, "--output", str(tmp_path / "out")]) == 0
    assert {row["group"] for row in labels_of(tmp_path / "out")} == {"second.wav"}
    record = json.loads((tmp_path / "out" / "forged.json").read_text(encoding="utf-8"))
    assert any("first.wav" in told and "Conversion failed!" in told for told in record["passed_over"])


@pytest.mark.parametrize(
    "error",
    [
        EncodingError(Path("a.flac"), b"x: No space left on device\n" + b"." * 900),
        OSError(28, "No space left on device"),
    ],
)
def test_a_full_disk_ends_in_a_line_and_the_same_command_begins_anew(
    error: Exception, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    for name in ("first.wav", "second.wav"):
        make_audio(tmp_path / "media" / name, 2)

    def full(path: Path, sound: np.ndarray) -> None:
        if list((tmp_path / "out").rglob("*.wav")):  # the first source is done
            raise error
        write_sound(path, sound)

    command = ["forge", str(tmp_path / "media"), "--part", "all", "--kinds", "vocoded"]
    command += ["--output", str(tmp_path / "out")]
    with monkeypatch.context() as patch:
        patch.setattr("deephotlink.pipelines.training.forging.write_sound", full)
        assert main(command) == 75
    assert not (tmp_path / "out").exists() and "space" in capsys.readouterr().err
    assert main(command) == 0


def test_names_that_are_no_text_are_written_so_that_they_can_be_read(tmp_path: Path) -> None:
    group = "caf\udce9.mp4"
    made = [Made(f"{kind}/a.mp4", label, group) for kind, label in (("real", "real"), ("blended", "fake"))]
    write_labels(tmp_path / "labels.csv", tmp_path, made)
    assert {row["group"] for row in labels_of(tmp_path)} == {"caf\\udce9.mp4"}
