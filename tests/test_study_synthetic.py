"""The study of generated film: both classes are coded alike, and the intervals resample groups."""

from __future__ import annotations

import csv
import json
from pathlib import Path

import numpy as np
import pytest
import torch

from deephotlink.models.calibration.accuracy import Resampling
from deephotlink.models.training.split import part
from tests.bench import study_synthetic, taef2
from tests.bench.study_synthetic import SIDE, TAKEN, Alike, Judged, figures, gif, reduced, with_round_trips
from tests.builders import make_video


def noise(count: int, height: int, width: int) -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, (count, height, width, 3), dtype=np.uint8)


@pytest.mark.parametrize(("rate", "step"), [(16, 1), (25, 2), (30, 2), (60, 4)])
def test_all_clips_get_one_size_and_about_one_rate(rate: float, step: int) -> None:
    frames = np.zeros((24, 300, 400, 3), np.uint8) + np.arange(24, dtype=np.uint8)[:, None, None, None] * 10
    found = reduced(frames, rate)
    assert found is not None and found.shape == (TAKEN, SIDE, 298, 3)
    assert set(np.diff(found[:, 0, 0, 0].astype(int))) == {10 * step}


def test_small_and_short_films_are_left_out_and_wide_ones_are_cut() -> None:
    assert reduced(noise(24, SIDE - 2, 400), 25) is None
    assert reduced(noise(TAKEN, 240, 400), 25) is None
    wide = reduced(noise(TAKEN, SIDE, 700), 15)
    assert wide is not None and wide.shape == (TAKEN, SIDE, study_synthetic.WIDEST, 3)


def test_a_gif_keeps_the_form_and_few_colours() -> None:
    frames = list(noise(3, 48, 64))
    found = gif(frames)
    assert len(found) == 3 and all(frame.shape == (48, 64, 3) for frame in found)
    assert all(len(np.unique(frame.reshape(-1, 3), axis=0)) <= 256 for frame in found)


@pytest.fixture(scope="module")
def published(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Files of the published names and shapes with weights drawn by lot."""
    folder = tmp_path_factory.mktemp("taef2")
    torch.manual_seed(0)
    made = taef2.Taef2()
    for name, network in ((taef2.ENCODER, made.encoder), (taef2.DECODER, made.decoder)):
        torch.save({key: value.half() for key, value in network.state_dict().items()}, folder / f"a__{name}")
    return folder


def test_a_round_trip_is_a_forgery_of_its_own_group(published: Path) -> None:
    network = taef2.read_taef2(published)
    assert network.encode(torch.rand(1, 3, 32, 24)).shape == (1, taef2.LATENT, 4, 3)
    real = Alike("a.mp4", "a", "r", "", "camera", noise(2, 36, 30), 25.0, 2.0)
    one, two = with_round_trips([real], network)
    assert (one.fake, two.fake) == (False, True) and one.group == two.group == "a"
    assert one.frames.shape == two.frames.shape == (2, 32, 24, 3)
    assert np.array_equal(one.frames, real.frames[:, 2:34, 3:27]) and not np.array_equal(one.frames, two.frames)


def test_weights_that_are_missing_are_named(tmp_path: Path) -> None:
    with pytest.raises(SystemExit, match=taef2.ENCODER):
        taef2.read_taef2(tmp_path)


def test_two_detectors_are_compared_on_the_same_clips() -> None:
    rng = np.random.default_rng(0)
    fake = np.arange(80) % 2 == 1
    good = fake + rng.normal(0, 0.3, 80)
    good[0] = np.nan
    found = Judged(
        fake,
        np.arange(80) // 2,
        np.arange(80) // 20,
        np.where(fake, "dream", ""),
        {"old": rng.normal(size=80), "new": good},
        {"sharpness": rng.normal(size=80), "frame rate": fake * 1.0, "length": np.ones(80)},
    )
    told = figures(found, Resampling(100))["dream"]
    assert isinstance(told, dict) and (told["fakes"], told["reals"]) == (40, 39)
    assert told["new"].value > 0.9 > 0.7 > told["old"].value and told["new less old"].low > 0
    assert told["trivial"]["frame rate"] == 1.0 and told["trivial"]["length"] == 0.5
    assert told["new, pairs"].value > 0.9


def test_the_command_judges_both_classes_under_the_same_codings(
    tmp_path: Path, published: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(study_synthetic, "round_trip", lambda network, frames: frames // 2)
    groups = [f"g{n}" for n in range(100) if part(f"g{n}") == "held"]
    rows = []
    for number in range(4):
        make_video(tmp_path / f"{number}.mp4", seconds=1, fps=15, size=(240, 240))
        fake = number % 2 == 1
        family = "synthetic" if fake else ""
        rows.append(
            (f"{number}.mp4", "train", "video", "fake" if fake else "real", family, "dream", groups[number], "r")
        )
    with (tmp_path / "labels.csv").open("w", newline="") as out:
        lines = csv.writer(out)
        lines.writerow(["path", "split", "kind", "label", "family", "generator", "group", "repo"])
        lines.writerows(rows)
    arguments = ["--labels", str(tmp_path / "labels.csv"), "--cache", str(tmp_path / "kept"), "--resamples", "20"]
    more = ["--codings", "CRF 28,GIF", "--autoencoder", str(published), "--out", str(tmp_path / "told.json")]
    text = study_synthetic.main([*arguments, *more])
    assert "## generated, CRF 28" in text and "## generated, GIF" in text and "CRF 35" not in text
    figures = json.loads((tmp_path / "told.json").read_text())["figures"]
    told = figures["generated, GIF"]["all"]
    assert (told["fakes"], told["reals"]) == (2, 2) and told["trivial"]["frame rate"] == 0.5
    tripped = figures["taef2 round trip, CRF 28"]["all"]
    assert (tripped["fakes"], tripped["reals"]) == (2, 2) and tripped["trivial"]["contrast"] == 0.0
    with pytest.raises(SystemExit, match="expected codings"):
        study_synthetic.main([*arguments, "--codings", "none"])
