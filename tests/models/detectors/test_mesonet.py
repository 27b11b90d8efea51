"""MesoNet: with the published weights it gives the outputs of the authors' code, and it crops faces as they did."""

from __future__ import annotations

import dataclasses
import io
import json
import math
from pathlib import Path

import h5py
import numpy as np
import pytest
import torch
from PIL import Image

from deephotlink.models import registry
from deephotlink.models.architectures.mesonet import MesoNet
from deephotlink.models.base import ClipItem, DetectorSpec, TrackItem
from deephotlink.models.detectors import mesonet
from deephotlink.models.detectors.mesonet import DETECTORS, FRAMES, MesoNetDetector, aligned_face, face_squares
from deephotlink.models.signals.preprocess import resize
from deephotlink.models.weights.files import Weights, WeightsError
from tests.builders import make_item
from tests.published import assert_a_gpu_agrees, assert_nothing_is_left_on_the_cpu, local_file

SPECS = {spec.name: spec for spec in DETECTORS}
PUBLISHED = {spec.name: spec.weights[0].file_name.removesuffix(".h5") for spec in DETECTORS}
"""Names of the golden file."""


def weights_of(path: Path) -> Weights:
    return Weights({"weights": local_file(path)})


def made_weights(folder: Path, name: str, seed: int = 0, **others: tuple[int, ...]) -> Weights:
    """A Keras file of random values under the names and shapes of the published one; `others` replace or add."""
    inception = name.startswith("mesoinception4")
    ones = [(1, 1, 3, 1), (1, 1, 3, 4), (3, 3, 4, 4), (1, 1, 3, 4), (3, 3, 4, 4), (1, 1, 3, 2), (3, 3, 2, 2)]
    twos = [(1, 1, 11, 2), (1, 1, 11, 4), (3, 3, 4, 4), (1, 1, 11, 4), (3, 3, 4, 4), (1, 1, 11, 2), (3, 3, 2, 2)]
    convs = [*ones, *twos, (5, 5, 12, 16)] if inception else [(3, 3, 3, 8), (5, 5, 8, 8), (5, 5, 8, 16)]
    shapes: dict[str, tuple[int, ...]] = {}
    for number, shape in enumerate([*convs, (5, 5, 16, 16)], 5):
        shapes |= {f"conv2d_{number}.kernel": shape, f"conv2d_{number}.bias": shape[-1:]}
    for number, width in enumerate((11, 12, 16, 16) if inception else (8, 8, 16, 16), 5):
        for variable in ("gamma", "beta", "moving_mean", "moving_variance"):
            shapes[f"batch_normalization_{number}.{variable}"] = (width,)
    shapes |= {"dense_3.kernel": (1024, 16), "dense_3.bias": (16,), "dense_4.kernel": (16, 1), "dense_4.bias": (1,)}
    rng = np.random.default_rng(seed)
    path = folder / f"{name}-{seed}-{len(others)}.h5"
    with h5py.File(path, "w") as file:
        for key, shape in (shapes | {k.replace("__", "."): v for k, v in others.items()}).items():
            layer, variable = key.split(".")
            values = np.abs(rng.normal(1, 0.1, shape)) if "var" in key else rng.normal(0, 0.3, shape)
            file.create_dataset(f"{layer}/{layer}/{variable}:0", data=values.astype(np.float32))
    return weights_of(path)


def loaded(spec: DetectorSpec, weights: Weights) -> MesoNetDetector:
    detector = mesonet.make(spec, weights)
    assert isinstance(detector, MesoNetDetector)
    detector.load("cpu")
    return detector


def golden_input(name: str, shared: Path) -> np.ndarray:
    """float32 [256, 256, 3] in [0, 1], as the golden file describes it."""
    if name == "zeros":
        return np.zeros((256, 256, 3), np.float32)
    if name == "ramp":
        y, x = np.mgrid[:256, :256].astype(np.float32)
        return np.stack([x / 255, y / 255, 1 - x / 255], axis=-1)
    with Image.open(shared / name) as image:
        resized = image.convert("RGB").resize((256, 256), Image.Resampling.BILINEAR)
    return np.asarray(resized, dtype=np.float32) / 255


def golden(shared: Path, name: str) -> tuple[MesoNetDetector, dict[str, float]]:
    answers = json.loads((shared / "weights" / "reference_outputs_mesonet.json").read_text())["sigmoid"]
    file = shared / "weights" / f"DariusAf__MesoNet__weights__{PUBLISHED[name]}.h5"
    weights = weights_of(file)
    assert (weights.sha256, file.stat().st_size) == (SPECS[name].weights[0].sha256, SPECS[name].weights[0].size_bytes)
    return loaded(SPECS[name], weights), answers[PUBLISHED[name]]


@pytest.mark.real
@pytest.mark.parametrize("name", SPECS)
def test_the_published_weights_answer_as_published(name: str, shared: Path) -> None:
    detector, answers = golden(shared, name)
    assert len(answers) == 6
    for what, probability in answers.items():
        face = torch.from_numpy(golden_input(what, shared)).permute(2, 0, 1)[None]
        with torch.inference_mode():
            logit = float(detector.forward(face))
        assert abs(torch.sigmoid(torch.tensor(-logit)).item() - probability) < 1e-5, what
        # Polarity: what they call fake (near 0) is above 0 here, and nothing is lost on the way through the sigmoid.
        assert (logit > 0) == (probability < 0.5)
        assert logit == pytest.approx(-math.log(probability / (1 - probability)), abs=2e-3)
    # Both classes are among the golden answers, but for the one network that calls all of these real.
    assert {p < 0.5 for p in answers.values()} == ({False} if name == "mesoinception4_f2f" else {True, False})


@pytest.mark.real
def test_our_resizing_is_pillows_on_the_golden_faces(shared: Path) -> None:
    _, answers = golden(shared, "meso4_df")
    for what in (name for name in answers if name.endswith(".jpg")):
        with Image.open(shared / what) as image:
            pixels = torch.from_numpy(np.array(image.convert("RGB"))).permute(2, 0, 1)[None]
        ours = resize(pixels, 256, 256)[0].permute(1, 2, 0).numpy()
        assert np.abs(ours - golden_input(what, shared) * 255).max() <= 1


@pytest.mark.real
def test_a_track_that_shows_a_golden_face_gets_its_logit(shared: Path) -> None:
    """The way through `prepare`: a face so placed that its crop is the golden image itself."""
    detector, answers = golden(shared, "meso4_df")
    for what, probability in answers.items():
        frame = (golden_input(what, shared) * 255).round().astype(np.uint8)
        answer = detector.score([track_of(np.stack([frame] * 6), upright_face(256.0, (128.0, 128.0)))])[0]
        assert answer.logit == pytest.approx(-math.log(probability / (1 - probability)), abs=0.01), what


def upright_face(side: float, centre: tuple[float, float], angle: float = 0.0) -> np.ndarray:
    """Landmarks [5, 2] whose crop is `side` wide around `centre`, turned by `angle` radians."""
    length = side / mesonet.WIDER
    # Eyes at 0, nose .6 and mouth 1 below them: the centre is a quarter from the eyes, three quarters from the nose.
    points = np.array([(-0.4, 0), (0.4, 0), (0, 0.6), (-0.3, 1), (0.3, 1)]) * length - [0, 0.45 * length]
    turn = np.array([[math.cos(angle), -math.sin(angle)], [math.sin(angle), math.cos(angle)]])
    return points @ turn.T + centre


def track_of(frames: np.ndarray, landmarks: np.ndarray, confidences: np.ndarray | None = None) -> TrackItem:
    count = len(frames)
    points = np.tile(landmarks.astype(np.float32), (count, 1, 1))
    boxes = np.concatenate([points.min(axis=1), points.max(axis=1)], axis=1)
    clip = ClipItem(frames, np.arange(count) / 10, None, 0.0)
    sure = np.full(count, 0.99, np.float32) if confidences is None else confidences
    return TrackItem(clip, np.arange(count), boxes, points, sure)


def scene(height: int = 300, width: int = 420) -> np.ndarray:
    """uint8 [H, W, 3], smooth and nowhere alike."""
    y, x = np.mgrid[:height, :width].astype(np.float32)
    waves = [np.sin(x / 23 + y / 61), np.cos(x / 41 - y / 17), np.sin(x / 13) * np.cos(y / 29)]
    return np.stack([127 + 100 * wave for wave in waves], axis=-1).astype(np.uint8)


def crop(frame: np.ndarray, landmarks: np.ndarray) -> np.ndarray:
    return aligned_face(torch.from_numpy(frame.copy()).permute(2, 0, 1), landmarks)[0].permute(1, 2, 0).numpy()


def test_an_upright_face_is_cut_out_as_pillow_would() -> None:
    frame = scene()
    for side in (100, 180, 256):
        found = crop(frame, upright_face(side, (200.0, 150.0)))
        box = (200 - side // 2, 150 - side // 2, 200 + side // 2, 150 + side // 2)
        expected = Image.fromarray(frame).crop(box).resize((256, 256), Image.Resampling.BILINEAR)
        assert np.abs(found - np.asarray(expected, np.float32)).max() <= 1


def test_a_face_larger_than_the_crop_is_antialiased() -> None:
    rng = np.random.default_rng(0)
    frame = rng.integers(0, 256, (600, 600, 3), dtype=np.uint8)
    found = crop(frame, upright_face(512, (300.0, 300.0)))
    expected = Image.fromarray(frame).crop((44, 44, 556, 556)).resize((256, 256), Image.Resampling.BILINEAR)
    assert np.abs(found - np.asarray(expected, np.float32)).max() <= 1
    assert found.std() < 0.6 * frame.std()


@pytest.mark.parametrize("degrees", [-140, -30, 20, 90, 180])
def test_a_turned_face_comes_out_upright(degrees: int) -> None:
    """Turning the picture and the landmarks together leaves the crop as it was."""
    frame = scene(400, 400)
    upright = crop(frame, upright_face(200, (200.0, 200.0)))
    # Pillow turns counter-clockwise as seen, about the middle of the picture; y points down.
    turned = np.asarray(Image.fromarray(frame).rotate(-degrees, Image.Resampling.BICUBIC))
    found = crop(turned, upright_face(200, (200.0, 200.0), math.radians(degrees)))
    assert np.abs(found - upright).mean() < 1.5


def test_past_the_edge_the_picture_is_mirrored() -> None:
    frame = scene()
    found = crop(frame, upright_face(200, (0.0, 150.0)))
    np.testing.assert_allclose(found[:, :128], found[:, :127:-1], atol=1)
    assert found.std() > 20


def test_the_square_is_the_authors() -> None:
    centres, downs, sides = face_squares(np.array([[(100, 100), (150, 100), (125, 140), (105, 160), (145, 160)]]))
    assert centres[0] == pytest.approx((125, 130)) and downs[0] == pytest.approx((0, 1))
    assert sides[0] == pytest.approx(1.3 * 2.2 * 60)
    _, downs, sides = face_squares(np.zeros((1, 5, 2)))
    assert downs[0] == pytest.approx((0, 1)) and sides[0] == 0


NETWORKS = ("meso4_df", "mesoinception4_df")
"""One of each kind."""


@pytest.mark.parametrize("name", NETWORKS)
def test_made_weights_score_alike_every_time(name: str, tmp_path: Path) -> None:
    weights = made_weights(tmp_path, name)
    items = [make_item("face_track", seed=seed) for seed in range(3)]
    together, again = loaded(SPECS[name], weights).score(items), loaded(SPECS[name], weights)
    alone = [again.score([item])[0] for item in items]
    assert together == alone and len({answer.logit for answer in together}) == 3
    assert all(answer.logit is not None and math.isfinite(answer.logit) for answer in together)
    other = loaded(SPECS[name], made_weights(tmp_path, name, seed=1)).score(items[:1])[0]
    assert other.logit != together[0].logit


def test_the_logit_is_the_mean_over_sure_frames_spread_over_the_track(tmp_path: Path) -> None:
    detector = loaded(SPECS["meso4_df"], made_weights(tmp_path, "meso4_df"))
    frames = np.stack([np.roll(scene(), 9 * i, axis=1) for i in range(10)])
    confidences = np.full(10, 0.99, np.float32)
    confidences[[0, 3, 9]] = 0.3
    face = upright_face(120, (200.0, 150.0))
    item = track_of(frames, face, confidences)
    rows = detector.prepare(item)
    assert isinstance(rows, torch.Tensor) and rows.shape == (FRAMES, 3, 256, 256)
    sure = [1, 2, 4, 5, 6, 7, 8]
    chosen = [sure[i] for i in (0, 2, 4, 6)]
    each = [detector.score([track_of(frames[[i]], face)])[0].logit for i in chosen]
    assert detector.score([item])[0].logit == pytest.approx(np.mean(each), abs=1e-5)  # type: ignore[arg-type]
    assert torch.equal(rows[1], torch.from_numpy(crop(frames[chosen[1]], face) / 255).permute(2, 0, 1))


def test_abstains_on_small_and_unsure_faces(tmp_path: Path) -> None:
    detector = loaded(SPECS["meso4_df"], made_weights(tmp_path, "meso4_df"))
    frames = np.stack([scene()] * 4)
    small = track_of(frames, upright_face(39, (200.0, 150.0)))
    unsure = track_of(frames, upright_face(120, (200.0, 150.0)), np.full(4, 0.5, np.float32))
    nowhere = track_of(frames, np.full((5, 2), np.nan))
    fine = track_of(frames, upright_face(41, (200.0, 150.0)))
    answers = detector.score([small, unsure, nowhere, fine])
    assert [a.abstained for a in answers] == ["low_resolution", "face_hidden", "face_hidden", None]
    assert answers[3] == detector.score([fine])[0]


def test_other_shapes_and_other_files_are_refused(tmp_path: Path) -> None:
    spec = SPECS["meso4_df"]
    for other in ({"dense_3__kernel": (1024, 8)}, {"conv2d_6__kernel": (5, 5, 8, 9)}, {"dense_9__bias": (1,)}):
        with pytest.raises(WeightsError, match="meso4_df"):
            loaded(spec, made_weights(tmp_path, "meso4_df", **other))
    with pytest.raises(WeightsError, match="expected 4 conv2d layers in meso4_df: got 16"):
        loaded(spec, made_weights(tmp_path, "mesoinception4_df"))
    linked = io.BytesIO()
    with h5py.File(linked, "w") as file:
        file["conv2d_5"] = h5py.ExternalLink(str(tmp_path / "meso4_df-0-0.h5"), "/conv2d_5")
    hostile = tmp_path / "hostile.h5"
    hostile.write_bytes(linked.getvalue())
    with pytest.raises(WeightsError, match="ExternalLink"):
        loaded(spec, weights_of(hostile))


def test_the_record_is_whole() -> None:
    assert list(PUBLISHED) == ["meso4_df", "meso4_f2f", "mesoinception4_df", "mesoinception4_f2f"]
    for spec in DETECTORS:
        network: MesoNet = mesonet.MesoInception4() if "inception" in spec.name else mesonet.Meso4()
        assert f"{sum(p.numel() for p in network.parameters()):,}" in spec.architecture
        assert spec.unit == "face_track" and spec.needs == {"frames", "faces"} and spec.family == "facial"
        assert spec.licence == "Apache-2.0" and spec.commercial_use and spec.origin == "published"
        assert dataclasses.asdict(spec)["weights"][0]["url"].endswith(spec.weights[0].file_name)
        assert registry.installed()[spec.name].weights_sha256 == spec.weights[0].sha256


@pytest.mark.parametrize("name", NETWORKS)
def test_all_of_it_is_on_its_device(name: str, tmp_path: Path) -> None:
    detector = loaded(SPECS[name], made_weights(tmp_path, name))
    assert_nothing_is_left_on_the_cpu(detector, make_item("face_track"))


@pytest.mark.needs_cuda
@pytest.mark.parametrize("name", NETWORKS)
def test_a_gpu_agrees_with_the_cpu(name: str, tmp_path: Path) -> None:
    detector = loaded(SPECS[name], made_weights(tmp_path, name))
    assert_a_gpu_agrees(detector, [make_item("face_track", seed=seed) for seed in range(3)])
