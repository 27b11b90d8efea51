"""Pictures that would fill the memory: refused for the size they declare, and limited if somebody raises the limits."""

from __future__ import annotations

import struct
from collections.abc import Mapping
from pathlib import Path

import pytest

from deephotlink.transforms.media.protocol import Limits
from tests.builders import make_video
from tests.chaos.launching import Server, evidence, exact, failures, watched

CAP_MIB = Limits().memory_bytes >> 20
HARMLESS_MIB = 64
"""What the probe of a bomb may take above that of a small film."""
OPTIONS = ("--detectors", "metadata,chaos_look,chaos_listen", "--quiet")
GREY = {"pix_fmt": "gray", "compression_level": 1}


@pytest.fixture(scope="module")
def archive(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Bombs, some that are as large as they declare and some that only claim it, and two small films."""
    folder = tmp_path_factory.mktemp("bombs") / "archive"
    common = {"seconds": 0.2, "fps": 10, "pattern": "bars"}
    make_video(folder / "giant.mp4", size=(8192, 8192), codec="libx264", options={"preset": "ultrafast"}, **common)
    make_video(folder / "picture.mov", size=(16_000, 16_000), codec="png", options=GREY, **common | {"seconds": 0.1})
    film = make_video(folder / "healthy.mp4", seconds=1, fps=8, size=(64, 48), audio="tone")
    small = make_video(folder / "healthy.mov", seconds=1, fps=8, size=(64, 48), codec="png", audio="tone")
    for name, source, mark, behind, kind in (
        ("entry.mp4", film, b"avc1", 28, ">HH"),  # of the sample description
        ("entry.mov", small, b"png ", 28, ">HH"),
        ("shown.mp4", film, b"tkhd", 80, ">HxxH"),  # how large a player shows it: nobody makes room for that
    ):
        data = bytearray(source.read_bytes())
        at = data.index(mark, data.index(b"moov")) + behind
        assert struct.unpack_from(kind, data, at) == (64, 48)
        struct.pack_into(kind, data, at, 65_535, 65_535)
        (folder / name).write_bytes(data)
    return folder


def audit(server: Server, archive: Path, out: Path, *options: str) -> Mapping[str, Mapping[str, float]]:
    """`probe` and `decode` → the highest peak of the children's resident memory in MiB, by the file's name."""
    notes = out.with_suffix(".weights")
    with watched(out, 2.0):
        job = server.start("audit", archive, "--output", out, *OPTIONS, *options, CHAOS_WEIGHTS=str(notes))
        assert job.wait() == 0, job.told()
    peaks: dict[str, dict[str, float]] = {"probe": {}, "decode": {}}
    for line in notes.read_text().splitlines():
        kind, peak, path = line.split("\t")
        name = Path(path).name
        peaks[kind][name] = max(peaks[kind].get(name, 0.0), int(peak) / 1024)
    print({kind: {name: round(mib) for name, mib in found.items()} for kind, found in peaks.items()})
    return peaks


@pytest.fixture(scope="module")
def out(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("refused") / "out"


def test_bombs_are_refused_before_anything_is_decoded(server: Server, archive: Path, out: Path) -> None:
    peaks = audit(server, archive, out)
    places = exact(out, {str(path) for path in archive.iterdir()})
    names = {path.name for path in archive.iterdir()}
    healthy = {"healthy.mp4", "healthy.mov", "shown.mp4"}
    assert {Path(uri).name for uri, place in places.items() if place == "scores"} == healthy
    assert set(failures(out).values()) == {"too_large"}
    assert set(peaks["decode"]) == healthy and set(peaks["probe"]) == names
    usual = max(peaks["probe"][name] for name in healthy)
    assert usual > 20 and max(peaks["probe"].values()) <= usual + HARMLESS_MIB


def test_bombs_that_are_let_in_stay_under_the_cap(server: Server, archive: Path, out: Path, tmp_path: Path) -> None:
    """If the limit on pixels is raised, there are frames, or a row that says why not, within the memory of a child."""
    let_in = tmp_path / "out"
    peaks = audit(server, archive, let_in, "--max-pixels=2000000000")
    places = exact(let_in, {str(path) for path in archive.iterdir()})
    for name, least_mib in (("giant.mp4", 192), ("picture.mov", 256)):
        assert places[str(archive / name)] == "scores" and peaks["decode"][name] > least_mib, "it is what it says"
    assert set(failures(let_in)) == {str(archive / "entry.mp4"), str(archive / "entry.mov")}
    assert max(max(found.values()) for found in peaks.values()) <= CAP_MIB
    assert evidence(let_in, "healthy") == evidence(out, "healthy")
