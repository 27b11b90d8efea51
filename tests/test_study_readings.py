"""The study of readings: numbers that tell what they say they tell, and readings that never saw the page they judge."""

from __future__ import annotations

import csv
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch

from deephotlink.models.architectures.efficientnet_lite import EfficientNetLite0
from deephotlink.models.architectures.synthetic import small_network
from deephotlink.models.calibration.accuracy import Resampling
from tests.bench import readings, study_readings, taef2
from tests.bench.generators import Item, folds_of
from tests.bench.measure_synthetic import baselines
from tests.bench.study_readings import Networks, judged, kind_of, left_out, matrix, read_all
from tests.bench.study_synthetic import Alike
from tests.builders import make_video

SIDE = 224


def sliding(shown: bool = True) -> np.ndarray:
    """uint8 [6, 224, 224, 3]: a ground with texture that slides by three pixels a frame, or whose coarse part alone
    slides under texture that stays."""
    rng = np.random.default_rng(0)
    coarse = cv2.GaussianBlur(rng.normal(0, 1, (SIDE, SIDE + 40)), (0, 0), 6) * 250 + 128
    fine = rng.normal(0, 8, (SIDE, SIDE + 40))
    still = fine[:, :SIDE]
    frames = [coarse[:, 3 * n : 3 * n + SIDE] + (fine[:, 3 * n : 3 * n + SIDE] if shown else still) for n in range(6)]
    return np.clip(np.stack(frames)[..., None].repeat(3, 3), 0, 255).astype(np.uint8)


def test_texture_that_sticks_to_the_picture_is_told_from_texture_that_moves_along() -> None:
    moves, sticks = (readings.over_time(sliding(shown)) for shown in (True, False))
    assert sticks["sticks"] > 0.8 > 0.2 > moves["sticks"]
    assert moves["along"] > sticks["along"] + 0.3


def test_flicker_and_trembling_are_told() -> None:
    film = sliding()
    brighter = np.clip(film.astype(int) + np.array([0, 9, 0, 9, 0, 9])[:, None, None, None], 0, 255).astype(np.uint8)
    steady, flickers = readings.over_time(film), readings.over_time(brighter)
    assert flickers["flicker"] > steady["flicker"] + 1
    assert flickers["flicker of places"] > steady["flicker of places"]


def test_a_blurred_frame_has_less_detail_in_the_numbers_that_name_it() -> None:
    film = sliding()
    soft = np.stack([cv2.GaussianBlur(frame, (0, 0), 1.5) for frame in film])
    sharp, blurred = readings.one_frame(film), readings.one_frame(soft)
    assert blurred["detail y0"] < sharp["detail y0"] - 1 and blurred["spectrum 14"] < sharp["spectrum 14"]
    assert blurred["across 1"] > sharp["across 1"]


@pytest.fixture(scope="module")
def read() -> Networks:
    """Networks with weights drawn by lot."""
    torch.manual_seed(0)
    return Networks(EfficientNetLite0().eval(), small_network().eval(), taef2.Taef2().eval())  # type: ignore[arg-type]


def test_all_readings_of_a_clip_are_finite_and_differ_between_clips(read: Networks) -> None:
    one, two = read(sliding()), read(sliding(False))
    assert (
        set(one) == set(two) >= {"one frame", "over time", "trivial", "imagenet early", "d3", "synthetic", "round trip"}
    )
    for name in one:
        rows = matrix([one, two], name)
        assert np.isfinite(rows).all() and rows.shape[1] > 1, name
        assert not np.array_equal(rows[0], rows[1]), name


def test_still_film_has_readings_too(read: Networks) -> None:
    still = sliding()[:1].repeat(6, 0)
    found = read(still)
    assert all(np.isfinite(matrix([found], name)).any() for name in found)
    assert "sticks where it moves" not in readings.over_time(still)


def test_what_was_read_is_not_read_again(tmp_path: Path) -> None:
    made = [Alike("a.mp4", "a", "r", "", "camera", sliding(), 25.0, 2.0)]
    calls = []

    def count(frames: np.ndarray) -> dict[str, np.ndarray]:
        calls.append(frames.shape)
        return {"mean": np.array([frames.mean()])}

    one, two = (read_all(made, "CRF 28", count, tmp_path) for _ in range(2))
    assert len(calls) == 1 and one[0]["mean"] == two[0]["mean"]
    read_all(made, "CRF 35", count, tmp_path)
    assert len(calls) == 2


def collection() -> tuple[list[Item], np.ndarray]:
    """Repositories in which a number tells forged from real everywhere, one tells the other way in every other, and one
    tells the repository."""
    rng = np.random.default_rng(0)
    items, values = [], []
    for repo in range(8):
        for scene in range(12):
            fake = scene % 2 == 1
            items.append(
                Item(f"{repo}/{scene}", fake, "synthetic" if fake else "", "dream", f"{repo}/{scene}", f"r{repo}")
            )
            habit = (1 if repo % 2 else -1) * (fake - 0.5)
            values.append([fake + rng.normal(0, 0.5), habit + rng.normal(0, 0.1), repo + rng.normal(0, 0.1)])
    return items, np.array(values)


def test_what_carries_over_is_found_and_the_habit_of_a_page_is_not() -> None:
    items, values = collection()
    rows = [{"good": row[:1], "habit": row[1:2], "page": row[2:]} for row in values]
    told = judged(items, rows, Resampling(100), folds=4)
    auc = {name: told[name]["kinds"]["generated"].pooled.value for name in told}  # type: ignore[index]
    assert auc["good"] > 0.85 and auc["habit"] < 0.65 and auc["page"] < 0.65


def test_a_clip_without_a_reading_gets_no_score_and_its_page_is_never_learned_from() -> None:
    items, values = collection()
    values[3] = np.nan
    scores = left_out(items, values, folds_of(items, 4))
    assert np.isnan(scores[3]) and np.isfinite(np.delete(scores, 3)).all()
    changed = values.copy()
    held = np.array([item.repo == "r0" for item in items])
    changed[held, 0] = -changed[held, 0]
    own = np.isin(np.arange(len(items)), next(f for f in folds_of(items, 4) if "r0" in f.repos).held)
    again = left_out(items, changed, folds_of(items, 4))
    assert np.array_equal(scores[own & ~held], again[own & ~held], equal_nan=True)


@pytest.mark.parametrize(
    ("family", "generator", "kind"),
    [
        ("synthetic", "text/image-to-video: Lumiere", "generated"),
        ("reenactment", "lip-sync: KeySync", "lip-sync"),
        ("reenactment", "audio-driven: Hallo", "diffusion head"),
        ("reenactment", "reenactment: FOMM", "other head"),
    ],
)
def test_forgeries_are_sorted_by_what_made_them(family: str, generator: str, kind: str) -> None:
    assert kind_of(Item("a", True, family, generator, "a", "r")) == kind
    assert kind_of(Item("a", False, "", "camera", "a", "r")) == ""


def test_the_command_reads_films_and_shows_what_is_trivial(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def by_hand(frames: np.ndarray) -> dict[str, np.ndarray]:
        numbers = {"trivial": baselines(frames), "one frame": readings.one_frame(frames), "d3": {"none": 0.0}}
        return {name: study_readings.row_of(found) for name, found in numbers.items()}

    monkeypatch.setattr(study_readings, "networks", lambda autoencoder: by_hand)
    rows = []
    for number in range(8):
        make_video(tmp_path / f"{number}.mp4", seconds=1, fps=15, size=(240, 240))
        family = "synthetic" if number % 2 else ""
        label = "fake" if family else "real"
        rows.append((f"{number}.mp4", "train", "video", label, family, "dream", f"g{number}", f"r{number // 2}"))
    with (tmp_path / "labels.csv").open("w", newline="") as out:
        lines = csv.writer(out)
        lines.writerow(["path", "split", "kind", "label", "family", "generator", "group", "repo"])
        lines.writerows(rows)
    arguments = ["--labels", str(tmp_path / "labels.csv"), "--cache", str(tmp_path / "kept"), "--resamples", "20"]
    text = study_readings.main(
        [*arguments, "--folds", "2", "--only", "one frame,trivial", "--out", str(tmp_path / "o")]
    )
    assert "| one frame |" in text and "| best trivial |" in text and "d3" not in text and "(4)" in text
    assert "length" in (tmp_path / "o").read_text()
    with pytest.raises(SystemExit, match="expected codings"):
        study_readings.main([*arguments, "--codings", "none"])
