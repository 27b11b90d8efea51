"""The command: it audits a sample, leaves nothing behind, and comes near what an audit then takes."""

from __future__ import annotations

import json
import os
import re
import shutil
import tempfile
from pathlib import Path

import fsspec
import pytest

from deephotlink.pipelines import cli
from deephotlink.pipelines.estimating import measuring
from tests.builders import make_video


@pytest.fixture(scope="module")
def archive(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Twelve short films, and one with 24 clips, of which three in four are not looked at."""
    folder = tmp_path_factory.mktemp("estimated") / "archive"
    folder.mkdir()
    one = make_video(folder.parent / "one.mp4", seconds=1, fps=8, size=(64, 48)).read_bytes()
    for number in range(12):
        (folder / f"{number:02d}.mp4").write_bytes(one + b"\0\0\0\x0cfree" + number.to_bytes(4, "big"))
    make_video(folder / "long.mp4", seconds=240, fps=8, size=(64, 48), gop=16)
    (folder / "notes.txt").write_text("no media")
    return folder


def estimate(capfd: pytest.CaptureFixture[str], *arguments: str | Path) -> dict:
    assert cli.main(["estimate", *map(str, arguments), "--json"]) == cli.DONE
    return json.loads(capfd.readouterr().out)


def bytes_of_tables(out: Path) -> int:
    return sum(path.stat().st_size for path in out.rglob("*.parquet"))


@pytest.mark.parametrize("detectors", ["metadata", "metadata,synthetic"])
def test_the_tables_take_what_was_estimated(archive, detectors, tmp_path, capfd, monkeypatch):
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    options = ("--detectors", detectors, "--no-pictures")
    told = estimate(capfd, archive, *options)
    assert list(tmp_path.iterdir()) == [] and sorted(os.listdir(archive)).count("long.mp4") == 1
    assert told["files"] == told["files_film"] == told["sample"]["files"] == 13 and told["files_not_to_read"] == 1
    assert told["sample"]["failed"] == 0
    assert told["sample"]["films_of_which_some_clips_were_looked_at"] == ("synthetic" in detectors)
    assert cli.main(["audit", str(archive), "--output", str(tmp_path / "out"), *options, "--quiet"]) == cli.DONE
    assert 0.8 <= told["table_bytes"]["value"] / bytes_of_tables(tmp_path / "out") <= 1.2
    assert told["picture_bytes"]["value"] == 0
    for name in ("wall_seconds", "cpu_seconds"):
        assert 0 < told[name]["low"] < told[name]["value"] < told[name]["high"]
    # What is there already is not counted, and nothing is written into the output.
    before = bytes_of_tables(tmp_path / "out")
    left = estimate(capfd, archive, *options, "--output", tmp_path / "out")
    assert left["files"] == 0 and left["files_in_the_tables_already"] == 14 and "wall_seconds" not in left
    assert bytes_of_tables(tmp_path / "out") == before


def test_the_clips_that_are_not_looked_at_cost_what_others_do(archive, tmp_path, capfd, monkeypatch):
    """The amounts of the long film are those that it has when all of its clips are looked at."""
    film = tmp_path / "long.mp4"
    shutil.copy(archive / "long.mp4", film)
    taken: list[measuring.Sampled] = []
    real = measuring.measure

    def measure(*arguments):
        taken.append(real(*arguments))
        return taken[-1]

    monkeypatch.setattr("deephotlink.pipelines.estimating.command.measure", measure)
    for most in (measuring.MOST_CLIPS, 1000):
        monkeypatch.setattr(measuring, "MOST_CLIPS", most)
        estimate(capfd, film, "--detectors", "synthetic", "--no-pictures", "--quiet")
    part, whole = (one.groups[0] for one in taken)
    assert taken[0].long == 1 and taken[1].long == 0 and part.clips == whole.clips == (24,)
    assert part.amount.cpu_seconds == pytest.approx(whole.amount.cpu_seconds, rel=0.5)
    assert part.amount.table_bytes == pytest.approx(whole.amount.table_bytes, rel=0.3)


def test_bytes_that_a_store_sends_are_counted_and_have_a_price(archive, capfd):
    store = fsspec.filesystem("memory")
    sizes = []
    for path in sorted(archive.glob("0*.mp4")):
        store.pipe(f"/estimated/{path.name}", path.read_bytes())
        sizes.append(path.stat().st_size)
    try:
        told = estimate(capfd, "memory://estimated/", "--detectors", "metadata", "--price-per-gb", "1000")
    finally:
        store.rm("/estimated", recursive=True)
    assert told["fetched_bytes"]["value"] == pytest.approx(sum(sizes))
    assert told["transfer_cost"]["value"] == told["cost"]["value"] == pytest.approx(sum(sizes) / 1e6)


def test_a_fleet_has_a_price(archive, capfd):
    fleet = ("--machines", "3", "--workers", "4", "--price-per-hour", "10", "--price-per-gb", "0.1")
    told = estimate(capfd, archive, "--detectors", "metadata", "--sample", "4", *fleet)
    assert told["fleet"] == {"machines": 3, "workers": 4, "gpus": 0, "price_per_hour": 10.0, "price_per_gb": 0.1}
    assert told["cost"]["value"] == pytest.approx(3 * told["wall_seconds"]["value"] / 3600 * 10)
    assert told["sample"]["files"] < 13
    assert cli.main(["estimate", str(archive), "--detectors", "metadata", "--sample", "4", *fleet]) == cli.DONE
    said = re.sub(r"[\s│]+", " ", capfd.readouterr().out)  # a long cell has several lines
    assert "3 machines with 4 workers each" in said and "cost of machines" in said and "between" in said


def test_what_is_no_estimate_is_refused(archive, tmp_path, capfd):
    for wrong in (["--runner=FlinkRunner"], ["--dry-run"], ["--price-per-hour", "much"], ["--sample", "0"]):
        assert cli.main(["estimate", str(archive), *wrong]) == cli.USAGE
        assert capfd.readouterr().err.startswith("deephotlink: ")
    assert cli.main(["estimate", str(tmp_path / "nowhere")]) == cli.USAGE
