"""Sharpness and loudness against values worked out by hand, and against added blur."""

import math

import numpy as np
import pytest
from PIL import Image, ImageFilter

from deephotlink.transforms.decode import DecodeTally
from deephotlink.transforms.media.measures import energy_of, loudness_db, sharpness_of
from deephotlink.transforms.media.protocol import DecodedClip, DecodedWindow
from tests.transforms.test_decode import plan


def test_the_laplacian_of_a_checkerboard():
    # Each pixel of 200 has four neighbours of 100 and the other way round: ±400, so the variance is 400².
    grey = np.where(np.indices((256, 300)).sum(axis=0) % 2, 200, 100).astype(np.uint8)
    assert sharpness_of(grey[..., None].repeat(3, 2)) == pytest.approx(400**2)
    assert sharpness_of(np.full((256, 300, 3), 77, np.uint8)) == 0


@pytest.mark.parametrize("size", [(640, 360), (1280, 720), (160, 120), (360, 640)])
def test_blur_lowers_it_at_any_size(size):
    rng = np.random.default_rng(0)
    picture = Image.fromarray(rng.integers(0, 256, (90, 160, 3), dtype=np.uint8)).resize(size)
    found = [sharpness_of(np.asarray(picture.filter(ImageFilter.GaussianBlur(min(size) / 90 * r)))) for r in (0, 1, 2)]
    assert found[0] > 1.5 * found[1] > 1.5**2 * found[2] > 0


def test_what_is_no_picture_has_none():
    assert sharpness_of(np.zeros((0, 8, 3), np.uint8)) is None
    assert sharpness_of(np.zeros((1, 4000, 3), np.uint8)) is None
    assert sharpness_of(np.zeros((1, 1, 3), np.uint8)) == 0


def test_loudness():
    sine = np.sin(np.arange(16_000) / 10).astype(np.float32)
    assert loudness_db(energy_of(sine), len(sine)) == pytest.approx(10 * math.log10(0.5), abs=0.01)
    assert loudness_db(0.0, 100) == -120 and loudness_db(0.0, 0) is None and loudness_db(math.nan, 9) is None


def test_a_tally_measures_what_was_decoded():
    tally = DecodeTally(plan(clips=3, windows=1, sound=True))
    rng = np.random.default_rng(0)
    frames = [np.full((4, 60, 80, 3), 50, np.uint8) for _ in range(3)]
    frames[1] = rng.integers(0, 256, (4, 60, 80, 3), dtype=np.uint8)
    frames[2][:, ::2] = 90
    for index in range(3):
        tally.add(DecodedClip(index, frames[index], np.arange(4.0), 4, np.full(30, 0.5, np.float32)))
    tally.add(DecodedWindow(0, np.full(10, -0.5, np.float32), "w"))
    outcome = tally.outcome()
    assert outcome.sharpness == sorted(sharpness_of(f[2]) for f in frames)[1] > 0
    assert outcome.loudness_db == pytest.approx(20 * math.log10(0.5))
    assert (outcome.width, outcome.height, outcome.frame_rate) == (640, 360, 25.0)


def test_a_long_film_is_measured_on_eight_pictures():
    tally = DecodeTally(plan(clips=100))
    for index in range(len(tally.plan.clips)):
        tally.add(DecodedClip(index, np.zeros((2, 6, 8, 3), np.uint8), np.arange(2.0), 2))
    assert len(tally.sharpness) == min(8, len(tally.plan.clips))
    assert tally.outcome().loudness_db is None
