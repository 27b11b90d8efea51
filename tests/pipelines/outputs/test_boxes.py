"""With nothing but the tables, a face can be cut out of the original file, and it is the right face."""

from __future__ import annotations

import subprocess
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import imageio_ffmpeg
import numpy as np
import pytest
from PIL import Image

from deephotlink.pipelines import cli
from deephotlink.pipelines.outputs.query import run_query
from deephotlink.pipelines.samples.synthetic_media import encode, portrait

FACE = (176, 112, 356, 332)
"""x1 y1 x2 y2 of the face in the portrait, 512 by 600."""
RATE, SECONDS = 25, 2.4


@dataclass(frozen=True)
class Film:
    """A portrait that crosses an empty room. `size` as displayed, were pixels square."""

    name: str
    size: tuple[int, int]
    rotate: int = 0
    options: dict[str, Any] = field(default_factory=dict)
    decoder: str = "decord"

    def frame(self, number: float) -> tuple[np.ndarray, np.ndarray]:
        """uint8 [H, W, 3], and the face's box in it."""
        width, height = self.size
        scale = 0.75 * min(width, height) / 600
        picture = portrait().resize((round(512 * scale), round(600 * scale)))
        # A third of the way a second: who takes another moment cuts beside the face.
        left = round((width - picture.width) * (0.1 + 0.35 * number / RATE))
        top = round(0.15 * (height - picture.height))
        room = Image.new("RGB", self.size, (90, 110, 100))
        room.paste(picture, (left, top))
        return np.asarray(room), np.array([left, top, left, top]) + scale * np.array(FACE)

    def write(self, folder: Path) -> Path:
        frames = (self.frame(number)[0] for number in range(round(RATE * SECONDS)))
        return encode(
            folder / self.name, frames, SECONDS, RATE, self.size, rotate=self.rotate, options=self.options, gop=12
        )


FILMS = {
    film.name: film
    for film in (
        Film("plain.mp4", (640, 360)),
        Film("large.mp4", (1280, 720)),
        Film("sideways.mp4", (432, 768), rotate=90),
        Film("upside-down.mov", (640, 360), rotate=180),
        # PAL: 720 stored columns are shown as 768. Boxes are of what is stored.
        Film("pal.mkv", (720, 576), options={"vf": "setsar=16/15"}),
        Film("old.avi", (512, 384), decoder="pyav"),
        Film("stream.ts", (960, 540), options={"bf": 0}, decoder="pyav"),
        # Its first frame stands at 7 s in the file, and at 0 on the media's clock.
        Film("late.mkv", (640, 480), options={"output_ts_offset": 7}),
    )
}


@pytest.fixture(scope="module")
def rows(tmp_path_factory: pytest.TempPathFactory) -> list[dict[str, Any]]:
    """The evidence of all films that has a box, with the decoder."""
    archive, out = tmp_path_factory.mktemp("films"), tmp_path_factory.mktemp("out")
    for film in FILMS.values():
        film.write(archive)
    assert cli.main(["audit", str(archive), "--output", str(out), "--detectors", "facial", "--quiet"]) == cli.DONE
    sql = """select e.*, s.decoder from evidence e join scores s using (run_id, media_id)
             where box is not null order by uri, clip_index"""
    return run_query(str(out), sql).to_pylist()


def cut(row: dict[str, Any], path: Path) -> np.ndarray:
    """uint8 [H, W, 3]: by ffmpeg, which turns the picture as a player does."""
    box, width, height = row["box"], row["frame_width"], row["frame_height"]
    across, down = (f"{box['x2'] - box['x1']}/{width}", f"{box['y2'] - box['y1']}/{height}")
    crop = f"format=rgb24,crop=iw*{across}:ih*{down}:iw*{box['x1']}/{width}:ih*{box['y1']}/{height}"
    # A millisecond early: containers round time stamps to as much. After `-i`: in a stream without an index ffmpeg
    # would land where it can.
    seek = ["-i", row["uri"], "-ss", f"{max(0, row['box_seconds'] - 0.001):.6f}"]
    command = [imageio_ffmpeg.get_ffmpeg_exe(), *seek, "-vf", crop, "-frames:v", "1", "-y", str(path)]
    subprocess.run(command, check=True, capture_output=True)
    return np.asarray(Image.open(path).convert("RGB"))


def difference(film: Film, row: dict[str, Any], found: np.ndarray, off_seconds: float = 0.0) -> float:
    """Grey levels in the mean between what was cut and what was drawn there `off_seconds` after that moment."""
    drawn, _ = film.frame(round(RATE * (row["box_seconds"] + off_seconds)))
    box = in_film(film, row)
    there = Image.fromarray(drawn).crop(tuple(round(float(v)) for v in box)).resize(found.shape[1::-1])
    return float(np.abs(np.asarray(there, np.float64) - found).mean())


def in_film(film: Film, row: dict[str, Any]) -> np.ndarray:
    scale = np.tile(np.array(film.size) / (row["frame_width"], row["frame_height"]), 2)
    return np.array([row["box"][side] for side in ("x1", "y1", "x2", "y2")]) * scale


def overlap(a: np.ndarray, b: np.ndarray) -> float:
    """Intersection over union of two boxes."""
    sides = np.minimum(a[2:], b[2:]) - np.maximum(a[:2], b[:2])
    shared = float(np.prod(np.maximum(sides, 0)))
    return shared / float(np.prod(a[2:] - a[:2]) + np.prod(b[2:] - b[:2]) - shared)


def test_every_film_has_a_face_with_a_box(rows):
    assert {Path(row["uri"]).name for row in rows} == set(FILMS)
    for row in rows:
        assert row["decoder"] == FILMS[Path(row["uri"]).name].decoder, row["uri"]
        assert row["start_seconds"] <= row["box_seconds"] < row["end_seconds"]


@pytest.mark.parametrize("name", FILMS)
def test_the_face_is_cut_out_of_the_original(rows, name, tmp_path):
    film = FILMS[name]
    for row in (row for row in rows if Path(row["uri"]).name == name):
        _, face = film.frame(RATE * row["box_seconds"])
        assert overlap(in_film(film, row), face) > 0.5
        found = cut(row, tmp_path / "cut.png")
        frames_off = {off: difference(film, row, found, off / RATE) for off in range(-8, 9)}
        assert frames_off[0] < 20 and abs(min(frames_off, key=frames_off.__getitem__)) <= 1, frames_off


def test_what_has_no_box_has_no_moment(rows, tmp_path):
    folder = tmp_path / "films"
    FILMS["plain.mp4"].write(folder)
    out = str(tmp_path / "out")
    assert cli.main(["audit", str(folder), "--output", out, "--detectors", "metadata", "--quiet"]) == cli.DONE
    found = run_query(out, "select distinct box, box_seconds, frame_width, frame_height from evidence").to_pylist()
    assert found == [{"box": None, "box_seconds": None, "frame_width": None, "frame_height": None}]
