"""A whole audit in which the frames of a clip have a memory of their own, as on a GPU."""

from __future__ import annotations

import gc
from pathlib import Path

import duckdb
import pytest

from deephotlink.models import registry
from deephotlink.pipelines import cli
from tests.builders import make_face_video, make_video
from tests.models.as_on_a_gpu import as_on_a_gpu


def evidence_of(source: Path, out: Path) -> dict[tuple, tuple[float | None, str | None]]:
    """By detector and item: the logit, or why there is none."""
    # In this process: workers would not know what is patched here.
    command = ["audit", str(source), "--output", str(out), "--device", "cpu", "--workers", "1", "--quiet"]
    assert cli.main(command) == cli.DONE
    rows = duckdb.execute(
        "select detector, uri, clip_index, track_id, start_seconds, logit, abstained from read_parquet(?)",
        [str(out / "evidence" / "**" / "*.parquet")],
    ).fetchall()
    return {row[:5]: row[5:] for row in rows}


def test_it_says_the_same_and_copies_each_clip_with_a_face_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    source = tmp_path / "films"
    source.mkdir()
    for number in range(2):
        make_face_video(source / f"face-{number}.mp4", 4, 15, (480, 270))
    make_video(source / "no-face.mp4", seconds=4)
    expected = evidence_of(source, tmp_path / "here")
    kept = as_on_a_gpu(monkeypatch)
    copied, send = [], kept._send
    kept._send = lambda frames, device: (copied.append(id(frames)), send(frames, device))[1]
    found = evidence_of(source, tmp_path / "there")
    assert found.keys() == expected.keys()
    assert {key[0] for key, (logit, _) in found.items() if logit is not None} >= {"facial", "face_swap", "lip_sync"}
    for key, (logit, abstained) in expected.items():
        tolerance = registry.specs([key[0]])[0].device_tolerance
        assert found[key] == (logit if logit is None else pytest.approx(logit, abs=tolerance), abstained), key
    assert len(copied) == 2, "the one without a face is not copied as a whole"
    gc.collect()
    assert kept.held_bytes == 0, "what was judged is given back"
