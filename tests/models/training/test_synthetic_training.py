"""Training `synthetic`: generators change what they copy, both of a pair are otherwise alike, and a small training
works."""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np
import pytest
import torch

from deephotlink.models.base import ClipItem
from deephotlink.models.training.augmentation.film_chains import FilmChain, alike, cut, sharpness, with_spectrum_of
from deephotlink.models.training.detectors.synthetic import (
    FRAMES,
    PIXELS,
    SyntheticMaterial,
    SyntheticRecipe,
    learned_generators,
    material_from_films,
    recipe,
)
from deephotlink.models.training.forgeries import generators
from deephotlink.models.training.loop import Plan, TrainingError, train
from deephotlink.models.training.split import part


def film(seed: int, frames: int = 8, side: int = 160) -> np.ndarray:
    """Blobs and edges that slide: uint8 [T, S, S, 3]."""
    rng = np.random.default_rng(seed)
    ground = cv2.GaussianBlur(rng.integers(0, 256, (side + 40, side + 40, 3), dtype=np.uint8), (0, 0), 2)
    ground = cv2.normalize(ground, None, 0, 255, cv2.NORM_MINMAX)
    cv2.rectangle(ground, (40, 40), (120, 90), (250, 40, 10), 3)
    return np.stack([ground[i : i + side, 2 * i : 2 * i + side] for i in range(frames)])


def group_of(side: str) -> str:
    return next(f"made {i}" for i in range(100) if part(f"made {i}") == side)


@pytest.fixture(scope="module")
def material() -> SyntheticMaterial:
    clips = [
        (group_of(side), ClipItem(film(i), np.arange(8) / 25, None, 0.0)) for i, side in enumerate(("fit", "held"))
    ]
    return material_from_films(clips, [("", film(7)[0])])


@pytest.fixture(scope="module")
def decoders(material: SyntheticMaterial) -> dict[str, generators.Autoencoder]:
    return learned_generators(material, 4, seed=3)


def test_material_keeps_sources_apart_and_leaves_out_what_is_too_small(material: SyntheticMaterial) -> None:
    assert {s.group for s in material.fit} == {group_of("fit")} and {s.group for s in material.held} == {
        group_of("held")
    }
    short = ClipItem(film(1)[: FRAMES - 1], np.arange(FRAMES - 1) / 25, None, 0.0)
    small = ClipItem(film(1)[:, : PIXELS - 1], np.arange(8) / 25, None, 0.0)
    left = material_from_films([("a", short), ("b", small)], [("", film(1)[0, : PIXELS - 1])])
    assert not (left.fit or left.held or left.stills)


@pytest.mark.parametrize("kind", generators.KINDS)
def test_every_generator_changes_the_film_and_keeps_its_form(kind: str, decoders: dict) -> None:
    real = torch.from_numpy(cut(film(2), 96, np.random.default_rng(0))[:FRAMES]).permute(0, 3, 1, 2).float() / 255
    fake = generators.generate(kind, real, decoders, real[:1], np.random.default_rng(5))
    again = generators.generate(kind, real, decoders, real[:1], np.random.default_rng(5))
    assert fake.shape == real.shape and float(fake.min()) >= 0 and float(fake.max()) <= 1
    assert float((fake - real).abs().mean()) > 1e-4
    assert torch.equal(fake, again)
    if kind == "flow":
        assert torch.allclose(fake[0], real[0], atol=1 / 255) and not torch.allclose(fake[2], real[2], atol=1 / 255)


def test_an_unknown_kind_is_refused() -> None:
    with pytest.raises(ValueError, match="expected a kind of"):
        generators.generate("dream", torch.rand(2, 3, 16, 16), {}, torch.rand(1, 3, 16, 16), np.random.default_rng(0))


def test_the_generators_learn_and_are_the_same_for_the_same_seed() -> None:
    crops = torch.from_numpy(film(0)[:2, :64, :64]).permute(0, 3, 1, 2).float() / 255
    few, again, many = (generators.learn(lambda _: crops, n, 3, ["nearest"])["nearest"] for n in (2, 2, 60))
    assert all(torch.equal(a, b) for a, b in zip(few.parameters(), again.parameters(), strict=True))
    with torch.no_grad():
        assert (many(crops) - crops).abs().mean() < 0.8 * (few(crops) - crops).abs().mean()


def test_pairs_are_equally_sharp() -> None:
    real = torch.from_numpy(film(4)).permute(0, 3, 1, 2).float() / 255
    soft = torch.nn.functional.avg_pool2d(real, 5, 1, 2)
    assert sharpness(soft) < 0.6 * sharpness(real)
    for seed in range(8):  # both ways are drawn
        one, two = alike(real, soft, np.random.default_rng(seed))
        assert sharpness(one) == pytest.approx(sharpness(two), rel=0.25)
    assert torch.allclose(with_spectrum_of(real, real), real, atol=1e-5)


@pytest.mark.parametrize("codec", ["h264", "jpeg", "webp", "none"])
def test_the_chain_keeps_form_and_picture(codec: str) -> None:
    real = torch.from_numpy(film(4, side=128)[:3]).permute(0, 3, 1, 2).float() / 255
    chain = FilmChain(1.0, cv2.INTER_AREA, 0.0, codec, 18 if codec == "h264" else 95, (0.5, 0.5))  # type: ignore[arg-type]
    patch = chain(real, 96)
    assert patch.shape == (3, 3, 96, 96) and patch.dtype == torch.uint8
    assert (patch.float() - 255 * real[:, :, 16:112, 16:112]).abs().mean() < (12 if codec != "none" else 0.6)


def test_batches_are_a_function_of_the_draw(material: SyntheticMaterial, decoders: dict) -> None:
    made = SyntheticRecipe(material, decoders, stills=2, films=1)
    one, two, other = (made.batch(np.random.default_rng(seed)) for seed in (1, 1, 2))
    assert all(torch.equal(one[key], two[key]) for key in one) and not torch.equal(one["images"], other["images"])
    assert one["images"].shape == (4, 3, PIXELS, PIXELS) and one["films"].shape == (2, FRAMES, 3, PIXELS, PIXELS)


def test_the_small_recipe_learns(material: SyntheticMaterial, tmp_path: Path) -> None:
    """On what it was shown: the loss falls. Held figures of two made films would say nothing."""
    made = recipe(material, small=True, seed=0)
    trained = train(made, tmp_path, Plan(steps=16, validate_every=8, ema=0.8), lambda _: None)
    assert trained.finished and trained.history[-1]["loss"] < trained.history[0]["loss"]
    assert {"score", "stride4", "real_above_0"} <= set(trained.figures)


def test_it_says_what_is_missing(material: SyntheticMaterial, decoders: dict) -> None:
    with pytest.raises(TrainingError, match="clip or more to learn from"):
        SyntheticRecipe(SyntheticMaterial(held=material.held), decoders)
    with pytest.raises(TrainingError, match="held-out sources"):
        SyntheticRecipe(SyntheticMaterial(fit=material.fit), decoders)
