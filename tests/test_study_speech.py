"""The study of other people's synthetic speech: a page is left out as a whole, and trivial properties are reported
beside."""

from __future__ import annotations

import csv
import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from scipy.io import wavfile

from deephotlink.models.architectures.speech_traces import FOREST_WEIGHT, SpeechForest
from deephotlink.models.signals.speech_statistics import NAMES
from deephotlink.models.training.detectors import speech_forest
from deephotlink.models.training.detectors.speech_forest import SpeechRows
from tests.bench import study_speech
from tests.bench.generators import Item
from tests.bench.study_speech import Heard, plain_properties, with_forests, without

RATE = 16_000


def voice(seed: int, seconds: float = 2.2) -> np.ndarray:
    rng = np.random.default_rng(seed)
    times = np.arange(round(seconds * RATE)) / RATE
    level = np.clip(np.sin(2 * np.pi * 2.7 * times + seed) + 0.8 * np.sin(2 * np.pi * 1.1 * times), 0, None)
    turns = np.cumsum((100 + 5 * seed) * (1 + 0.1 * np.sin(2 * np.pi * 0.7 * times + seed))) / RATE
    tone = sum(np.sin(2 * np.pi * k * turns) / k for k in range(1, 20))
    return (0.1 * level * (tone + 0.1 * rng.standard_normal(len(times))) + 1e-4).astype(np.float32)


def rows(count: int, groups: list[str], fake: bool) -> SpeechRows:
    return SpeechRows(np.zeros((count, len(NAMES)), np.float32), np.full(count, fake), groups)


def test_a_page_goes_with_every_voice_that_it_shares() -> None:
    known = {"a": rows(2, ["v1", "v2"], True), "b": rows(2, ["v1", "v3"], False), "c": rows(1, ["v4"], False)}
    left = without(known, "a", {"v1", "v2"})
    assert left.groups == ["v3", "v4"] and not left.fake.any() and len(left.values) == 2


def test_each_file_is_asked_of_the_forest_that_left_its_page_out() -> None:
    def constant(share: float) -> SpeechForest:
        forest = SpeechForest()
        forest.share.fill_(share)
        return forest

    item = Item("x", True, "speech", "", "g", "a")
    files = [Heard(item, voice(1)), Heard(replace(item, repo="b"), voice(2))]
    logits = np.array([1.0, np.nan])
    found = with_forests(files, logits, constant(0.9), {"a": constant(0.2), "b": constant(0.7)})
    assert found["lines and network"][0] == pytest.approx(1 - FOREST_WEIGHT * 0.4)
    assert found["audio, page left out"][0] == pytest.approx(1 - FOREST_WEIGHT * 0.7)
    assert found["forest, page left out"][0] == pytest.approx(-0.3)
    assert all(np.isnan(scores[1]) for scores in found.values())
    assert set(with_forests(files, logits, constant(0.9), {})) == {"lines and network"}


def test_plain_properties_of_known_sounds() -> None:
    rng = np.random.default_rng(0)
    hiss = rng.normal(0, 0.1, 2 * RATE).astype(np.float32)
    low = (0.1 * np.sin(2 * np.pi * 440 * np.arange(RATE) / RATE)).astype(np.float32)
    half = hiss.copy()
    half[RATE:] = 0
    noise, tone, stopped = (plain_properties(sound) for sound in (hiss, low, half))
    assert noise["loudness"] == pytest.approx(-20, abs=0.2) and tone["loudness"] == pytest.approx(-23, abs=0.2)
    assert noise["bandwidth"] > 7500 and tone["bandwidth"] < 600
    assert noise["level at 7-8 kHz"] == pytest.approx(0, abs=1) and tone["level at 7-8 kHz"] < -60
    assert noise["silence"] == 0 and stopped["silence"] == pytest.approx(0.5, abs=0.03)
    assert (noise["length"], tone["length"]) == (2.0, 1.0)


def test_one_command_judges_by_page_with_the_page_left_out(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(speech_forest, "CHAINS", 0)
    lines = []
    for page in range(3):
        for number in range(6):
            fake = number >= 3
            name = f"p{page}-{number}.wav"
            sound = voice(10 * page + number)
            if fake:
                sound = sound + 0.02 * np.sign(sound)
            wavfile.write(tmp_path / name, RATE, (sound * 20_000).astype(np.int16))
            label = "fake" if fake else "real"
            family = "speech" if fake else ""
            lines.append(
                (name, "train", "audio", label, family, f"tool {page}" if fake else "", f"v{name}", f"r{page}")
            )
    labels = tmp_path / "labels.csv"
    with labels.open("w", newline="", encoding="utf-8") as file:
        csv.writer(file).writerows([("path", "split", "kind", "label", "family", "generator", "group", "repo"), *lines])
    cache, out = tmp_path / "cache", tmp_path / "out.json"
    told = study_speech.main(
        ["--labels", str(labels), "--page-left-out", "--cache", str(cache), "--resamples", "20", "--out", str(out)]
    )
    assert "9 forgeries and 9 recordings of 3 repositories" in told
    for line in ("audio, page left out", "forest, page left out", "level at 7-8 kHz", "a classifier on these"):
        assert f"| {line}" in told
    assert told.count("| r1 |") == 1 and told.count("| tool 2 |") == 1
    found = json.loads(out.read_text(encoding="utf-8"))["figures"]
    assert set(found) == {"as it came", "after a chain"}
    assert found["as it came"]["rows"][0]["pooled"]["fakes"] > 0
    assert len(list(cache.glob("*.npz"))) == 3
