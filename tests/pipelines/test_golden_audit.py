"""A whole audit, from a FLAC file to a row of evidence, gives the logit of the authors' code."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path

import duckdb
import pytest

from deephotlink.models.detectors.aasist import WINDOW_SAMPLES
from deephotlink.pipelines import cli
from deephotlink.transforms.media.decoders.sound import SoundReader

GENERATED = "media/dev/audio_fake/RUB-SysSec__WaveFake__tests__sample_data__generated__LJ001-{}_gen.flac"
RECORDED = "media/train/audio_real/neonbjb__tortoise-tts__tortoise__voices__angie__2.flac"
SHORT, LONG = GENERATED.format("0002"), GENERATED.format("0004")
NAMES = (SHORT, LONG, RECORDED)
"""1.9, 5.1 and 10 s long; spoofed, spoofed and bona fide in the authors' eyes."""


@pytest.mark.real
def test_an_audit_gives_golden_flac_files_their_golden_logits(shared: Path, tmp_path: Path) -> None:
    golden = json.loads((shared / "weights" / "reference_logits_aasist.json").read_text())["AASIST"]["logits"]
    weights = shared / "weights" / "clovaai__aasist__models__weights__AASIST.pth"
    out = tmp_path / "out"
    files = [str(shared / name) for name in NAMES]
    code = cli.main(
        ["audit", *files, "--output", str(out), "--detectors", "aasist", "--weights", f"aasist={weights}", "--quiet"]
    )
    assert code == cli.DONE
    rows = duckdb.execute(
        "select uri, start_seconds, end_seconds, logit, abstained, weights_sha256, detector, family "
        "from read_parquet(?) order by start_seconds",
        [str(out / "evidence" / "**" / "*.parquet")],
    ).fetchall()
    by_file = {name: [row for row in rows if row[0] == str(shared / name)] for name in NAMES}
    sha256 = hashlib.sha256(weights.read_bytes()).hexdigest()
    for name, windows in by_file.items():
        _, start, end, logit, abstained, found_sha256, detector, family = windows[0]
        spoof, bona_fide = golden[name]
        assert start == 0 and abstained is None and (detector, family) == ("aasist", "audio")
        assert logit == pytest.approx(spoof - bona_fide, abs=1e-3), name
        assert (logit > 0) == (spoof > bona_fide)
        assert found_sha256 == sha256
        with SoundReader(files[NAMES.index(name)]) as reader:
            samples = len(reader.read(0, 10**6))
        assert end == pytest.approx(min(samples, WINDOW_SAMPLES) / 16_000)
        # Further windows follow without a gap, the last one ends with the sound.
        assert len(windows) == max(1, -(-samples // WINDOW_SAMPLES))
        assert windows[-1][2] == pytest.approx(samples / 16_000)
    assert len(by_file[SHORT]) == 1 and by_file[SHORT][0][2] < WINDOW_SAMPLES / 16_000
    assert {windows[0][3] > 0 for windows in by_file.values()} == {True, False}
