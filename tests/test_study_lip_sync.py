"""The study of lip-sync on short stretches: it can tell the true voice from others, and what it writes."""

from __future__ import annotations

import csv
from pathlib import Path

import numpy as np
import pytest

from deephotlink.models.architectures.lip_voice import VoiceLines
from deephotlink.models.base import ClipItem, TrackItem
from tests.bench import study_lip_sync
from tests.bench.generators import Item
from tests.bench.study_lip_sync import LAGS, Stretch, by_lag, scored, statistics, stretch_of

TIMES = np.arange(17) / 15


def voice(seed: int) -> np.ndarray:
    """Smooth noise, float32 [150, 2]: what a sound of 1.5 s says of a mouth."""
    noise = np.random.default_rng(seed).normal(size=(150, 2))
    return np.stack([np.convolve(column, np.hanning(15), "same") for column in noise.T], axis=1).astype(np.float32)


def mouth(of: np.ndarray, late: float = 0.0) -> Stretch:
    """A mouth that moves exactly with a voice, `late` seconds before it is heard."""
    rows = np.clip(((TIMES + late) * 100).astype(int), 0, len(of) - 1)
    lines = of[rows]
    sound = np.sin(np.arange(24_000) / 9).astype(np.float32)
    return Stretch("a.mp4", TIMES, lines, lines[:, 0].astype(float), lines[:, 1].astype(float), sound)


def test_a_mouth_fits_its_own_voice_better_than_others() -> None:
    others = [voice(seed) for seed in range(1, 30)]
    fits = statistics(mouth(voice(0)), voice(0), others)
    assert fits["others_beaten"] == 1.0 and fits["correlation"] > 0.99 and abs(fits["lag"]) < 0.05
    strange = [statistics(mouth(voice(seed)), voice(0), others)["others_beaten"] for seed in range(40, 60)]
    assert 0.3 < float(np.mean(strange)) < 0.7, "the voice of somebody else is one of many"


@pytest.mark.parametrize("late", [-0.12, 0.12])
def test_the_lag_is_found_with_its_sign(late: float) -> None:
    found = by_lag(mouth(voice(3), late), voice(3))
    assert LAGS[int(np.argmax(found))] == pytest.approx(late)


def test_loudness_is_compared_at_the_mouths_own_times() -> None:
    opens = np.where(TIMES > 0.6, 1.0, 0.0)
    at = np.arange(24_000) / 16_000
    sound = (np.sin(at * 2_000) * np.where(at > 0.6, 0.5, 0.01)).astype(np.float32)
    told = statistics(Stretch("a", TIMES, np.stack([opens, opens], 1), 1 - opens, opens, sound), voice(0), [voice(1)])
    assert told["opening_with_loudness"] > 0.9 > -0.9 > told["motion_with_loudness"]
    assert told["motion_in_silence"] == pytest.approx(1.0)


def test_other_voices_are_real_and_of_other_repositories(monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[int] = []

    def counting(stretch: Stretch, voice: np.ndarray, others: list[np.ndarray]) -> dict[str, float]:
        seen.append(len(others))
        return dict.fromkeys(study_lip_sync.COLUMNS, float(len(others)))

    monkeypatch.setattr(study_lip_sync, "statistics", counting)
    names = [("r0", False), ("r0", False), ("r1", False), ("r1", True), ("r2", True)]
    items = [Item(f"{n}.mp4", fake, "", "", str(n), repo) for n, (repo, fake) in enumerate(names)]
    stretches = [
        Stretch(item.path, TIMES, voice(0)[:17], TIMES, TIMES, np.random.default_rng(0).normal(size=24_000))
        for item in items
    ]
    found = scored(items, stretches, VoiceLines().eval())
    assert seen == [1, 1, 2, 2, 3] and found["4.mp4"]["others_beaten"] == 3.0


def test_the_detectors_gates_hold_but_for_the_length() -> None:
    frames = np.zeros((32, 64, 64, 3), np.uint8)
    clip = ClipItem(frames, np.arange(32) / 30, np.zeros(17_000, np.float32), 0.0)
    track = TrackItem(clip, np.arange(32), np.zeros((32, 4)), np.zeros((32, 5, 2)), np.ones(32))
    assert stretch_of("a.mp4", track) is None, "silence is no speech"


def test_what_was_gathered_is_read_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A second run tracks no face again, a file without a mouth is remembered as one, and the scores are written."""
    items = [Item(f"{n}.mp4", n == 1, "reenactment" if n == 1 else "", "x", str(n), f"r{n}") for n in range(3)]
    asked: list[list[str]] = []

    def stretches(sources: dict[str, str]) -> list[tuple[str, Stretch | None]]:
        asked.append(sorted(sources.values()))
        one = mouth(voice(0))
        return [(name, None if name == "2.mp4" else Stretch(name, *_arrays(one))) for name in sources.values()]

    monkeypatch.setattr(study_lip_sync, "_stretches", stretches)
    first = study_lip_sync.gathered(items, tmp_path, tmp_path / "kept")
    again = study_lip_sync.gathered(items, tmp_path, tmp_path / "kept")
    assert asked == [["0.mp4", "1.mp4", "2.mp4"], []]
    assert [one.path for one in first] == [one.path for one in again] == ["0.mp4", "1.mp4"]
    assert np.array_equal(first[0].lines, again[0].lines)

    monkeypatch.setattr(study_lip_sync, "read_items", lambda *_: items)
    out = tmp_path / "scores.csv"
    study_lip_sync.main(["--labels", str(tmp_path / "l.csv"), "--cache", str(tmp_path / "kept"), "--out", str(out)])
    rows = list(csv.DictReader(out.open()))
    assert [row["path"] for row in rows] == ["0.mp4", "1.mp4"] and float(rows[1]["correlation"]) <= 1


def _arrays(one: Stretch) -> tuple[np.ndarray, ...]:
    return one.times, one.lines, one.motion, one.opening, one.sound
