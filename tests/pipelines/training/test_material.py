"""Lists of labelled files: a label means the same wherever it is read, and each bad line gets an error line."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from deephotlink.models.training.split import part
from deephotlink.pipelines import cli
from deephotlink.pipelines.training.material import Source, listed, probed, sources_of
from deephotlink.pipelines.training.material_cache import load_material, save_material
from deephotlink.transforms.failures import UsageError

WORDS = {"a": "real", "b": " Real", "c": "REAL ", "d": "", "e": "fake", "f": " Forged", "g": "unknown"}


@pytest.fixture
def media(tmp_path: Path) -> Path:
    """Seven files, and what a list says of each."""
    for name in WORDS:
        (tmp_path / f"{name}.mp4").write_bytes(b"film")
    lines = ["uri,label,group", *(f"{name}.mp4,{word},{name}" for name, word in WORDS.items())]
    (tmp_path / "list.csv").write_text("\n".join(lines) + "\n")
    return tmp_path


def test_a_label_is_compared_without_case_or_spaces_and_nothing_is_not_real(media: Path) -> None:
    rows = listed(media / "list.csv")
    assert [row.label for row in rows] == ["real", "real", "real", "", "fake", "forged", "unknown"]
    for paths in ([media], [row.path for row in rows]):
        found = sources_of([path for path in paths if path.suffix != ".csv"], media / "list.csv")
        assert [source.group for source in found] == ["a", "b", "c"]
    (media / "bare.csv").write_text("\ufeffPath;Licence\r\na.mp4; CC0 \r\n", encoding="utf-8")
    (one,) = sources_of([media], media / "bare.csv")  # no such column: all that is listed is real
    assert (Path(one.path).name, one.group, one.licence) == ("a.mp4", "a.mp4", "CC0")


def test_training_counts_as_real_what_it_learns_from(media: Path, capsys: pytest.CaptureFixture[str]) -> None:
    sides = {part(name) for name in "abc"}
    assert sides == {"fit", "held"}
    command = ["train", "facial", "--media", str(media / "list.csv"), "--output", str(media / "out"), "--dry-run"]
    assert cli.main(command) == cli.DONE
    said = capsys.readouterr().out
    assert "4 rows are not labelled real and are refused" in said and "facial: 3 videos and sounds" in said


@pytest.mark.parametrize(
    ("body", "says"),
    [
        (None, "cannot read"),
        (b"uri,label\nf\xfc.mp4,real\n", "line 2 is not UTF-8"),
        (b"uri,label\n\na\x00.mp4,real\n", r"line 3: a\x00.mp4 is not a path"),
        (b"uri,label\na.mp4,real,b.mp4,real\n", "line 2: expected 2 fields"),
        (b"file,label\na.mp4,real\n", "expected a column uri or path"),
    ],
)
def test_a_list_that_is_none_ends_in_a_line(
    body: bytes | None, says: str, media: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    listing = media / "other.csv"
    if body is not None:
        listing.write_bytes(body)
    commands = [
        ["forge", str(media), "--labels", str(listing), "--output", str(media / "out")],
        ["train", "facial", "--media", str(media), "--labels", str(listing), "--output", str(media / "out")],
        ["train", "facial", "--media", str(listing), "--output", str(media / "out")],
    ]
    for command in commands:
        assert cli.main(command) == cli.USAGE
        assert says in capsys.readouterr().err
    assert not (media / "out").exists()


def test_records_that_are_something_else_are_no_traceback(media: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (media / "out").mkdir()
    listing = media / "list.csv"
    command = ["train", "facial", "--media", str(listing), "--output", str(media / "out"), "--init", "none"]
    for text in ("[]", "3", "[" * 100_000):
        (media / "out" / "run.json").write_text(text)
        assert cli.main(command) == cli.USAGE
        assert "run.json" in capsys.readouterr().err
    save_material(media / "kept", [np.zeros(3)], {"of": 1})
    for text in (
        "[]",
        '{"made_of": [], "size_bytes": 24, "material": {}}',
        '{"made_of": {"of": 1}, "size_bytes": 24, "material": {"record": "X", "fields": []}}',
        '{"made_of": {"of": 1}, "size_bytes": 24, "material": {"dict": []}}',
        "[" * 100_000,
    ):
        (media / "kept" / "material.json").write_text(text)
        with pytest.raises(UsageError):
            load_material(media / "kept", [], {"of": 1})


def test_a_source_that_is_gone_is_passed_over(tmp_path: Path) -> None:
    told: list[str] = []
    gone = Source(str(tmp_path / "gone.mp4"), "gone", "media")
    assert probed(gone, None, tmp_path, told.append) is None  # type: ignore[arg-type]
    assert "gone.mp4" in told[0]


def test_synthetic_speech_is_taken_only_where_it_is_asked_for_and_called_so(tmp_path: Path) -> None:
    for name in ("said.wav", "spoken.wav", "swapped.mp4"):
        (tmp_path / name).write_bytes(b"x")
    rows = "uri,label,group,family\nsaid.wav,real,a,\nspoken.wav,fake,tts,Speech\nswapped.mp4,fake,b,face_swap\n"
    (tmp_path / "list.csv").write_text(rows)
    (only,) = sources_of([tmp_path], tmp_path / "list.csv")
    assert (only.group, only.fake) == ("a", False)
    said, spoken = sources_of([tmp_path], tmp_path / "list.csv", speech=True)
    assert (said.fake, spoken.fake, spoken.group) == (False, True, "tts")
    with pytest.raises(UsageError, match="expected real media"):
        sources_of([tmp_path / "spoken.wav"], tmp_path / "list.csv", speech=True)
