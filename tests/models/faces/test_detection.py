"""The face detector against the output of the `mtcnn` package, and on pictures with small faces or none."""

import json
import shutil
from pathlib import Path

import matplotlib.cbook
import numpy as np
import pytest
import torch
from matplotlib.image import imread

from deephotlink.models.faces.detection import FaceDetector, resized_elsewhere
from deephotlink.models.faces.mtcnn import ONet, PNet, RNet, crop, suppress
from deephotlink.models.faces.mtcnn_weights import WEIGHTS_SHA256, FaceWeightsError, load_mtcnn_arrays, weights_folder
from deephotlink.models.faces.tracking import Faces

GOLDEN = json.loads((Path(__file__).parent / "golden_faces.json").read_text())


def portrait() -> np.ndarray:
    """uint8 [600, 512, 3], a public-domain portrait; the face is about 175 × 220 pixels."""
    with matplotlib.cbook.get_sample_data("grace_hopper.jpg") as file:
        return np.ascontiguousarray(imread(file, format="jpg"))


def reduced(picture: np.ndarray, by: int) -> np.ndarray:
    height, width = (n // by * by for n in picture.shape[:2])
    blocks = picture[:height, :width].reshape(height // by, by, width // by, by, 3)
    return blocks.mean(axis=(1, 3)).round().astype(np.uint8)


def canvas(height: int, width: int, *items: tuple[int, int, np.ndarray]) -> np.ndarray:
    out = np.full((height, width, 3), (90, 110, 100), dtype=np.uint8)
    for top, left, picture in items:
        rows, columns = min(picture.shape[0], height - top), min(picture.shape[1], width - left)
        out[top : top + rows, left : left + columns] = picture[:rows, :columns]
    return out


def pictures() -> dict[str, np.ndarray]:
    """What the golden values were made on."""
    full = portrait()
    half, third, fifth = (reduced(full, by) for by in (2, 3, 5))
    return {
        "full": full,
        "mirrored": np.ascontiguousarray(canvas(360, 480, (20, 100, half))[:, ::-1]),
        "small": canvas(240, 320, (60, 150, fifth)),
        "two": canvas(360, 640, (20, 10, half), (100, 380, third[:, ::-1])),
        "dark": (canvas(320, 400, (10, 60, half)) * 0.4).astype(np.uint8),
    }


@pytest.fixture(scope="module")
def detector() -> FaceDetector:
    return FaceDetector()


@pytest.mark.parametrize("name", list(GOLDEN["pictures"]))
def test_agrees_with_the_mtcnn_package(detector, name):
    """Every face of the reference and no other: edges within 8 % of the box's width, landmarks within 0.15 of the
    distance between the eyes (0.09 on average), confidence within 0.03. Closer is not to be had: the package reads its
    crops half a pixel to the right, unsmoothed, from the full frame. The networks themselves agree, see below."""
    faces = detector.detect(pictures()[name][None])[0]
    expected = GOLDEN["pictures"][name]
    assert len(faces) == len(expected)
    for golden in expected:
        box, landmarks = np.array(golden["box"]), np.array(golden["landmarks"])
        row = np.abs(faces.boxes - box).mean(axis=1).argmin()
        assert np.abs(faces.boxes[row] - box).max() < 0.08 * (box[2] - box[0])
        errors = np.linalg.norm(faces.landmarks[row] - landmarks, axis=1) / np.linalg.norm(landmarks[0] - landmarks[1])
        assert errors.max() < 0.15
        assert errors.mean() < 0.09
        assert abs(faces.confidences[row] - golden["confidence"]) < 0.03


@pytest.mark.parametrize(("name", "network", "size"), [("pnet", PNet, 14), ("rnet", RNet, 24), ("onet", ONet, 48)])
def test_networks_agree_with_the_originals(name, network, size):
    """The same numbers in, the same out as TensorFlow's, to 1e-4."""
    values = np.sin(np.arange(2 * size * size * 3, dtype=np.float64) ** 1.3).astype(np.float32)
    pixels = torch.from_numpy(values.reshape(2, size, size, 3)).permute(0, 3, 1, 2)
    with torch.inference_mode():
        got = network(load_mtcnn_arrays()[name])(pixels)
    golden = GOLDEN["networks"][name]
    np.testing.assert_allclose(got[0].numpy(), np.array(golden["offsets"]).reshape(got[0].shape), atol=1e-4)
    np.testing.assert_allclose(got[-1].numpy(), np.array(golden["probability"]).reshape(got[-1].shape), atol=1e-4)
    if name == "onet":
        np.testing.assert_allclose(got[1].numpy(), golden["landmarks"], atol=1e-4)


def test_a_frame_gives_the_same_answer_alone_and_among_others(detector):
    two = pictures()["two"]
    noise = np.random.default_rng(0).integers(0, 256, two.shape, dtype=np.uint8)
    frames = np.stack([two, noise, two[:, ::-1], np.zeros_like(two), two])
    together = detector.detect(frames)
    for frame, faces in zip(frames, together, strict=True):
        alone = detector.detect(frame[None])[0]
        np.testing.assert_allclose(faces.boxes, alone.boxes, atol=0.01)
        np.testing.assert_allclose(faces.landmarks, alone.landmarks, atol=0.01)
        np.testing.assert_allclose(faces.confidences, alone.confidences, atol=1e-4)
    assert [len(f) for f in together] == [2, 0, 2, 0, 2]


def test_large_frames_are_searched_reduced_and_answered_in_their_own_pixels(detector):
    picture = pictures()["two"]
    large = picture.repeat(3, axis=0).repeat(3, axis=1)
    small, big = detector.detect(picture[None])[0], detector.detect(large[None])[0]
    assert len(big) == len(small) == 2
    np.testing.assert_allclose(big.boxes, small.boxes * 3, atol=12)


def test_small_faces_are_found_down_to_the_least_size(detector):
    tiny = canvas(240, 320, (60, 150, reduced(portrait(), 6)))  # the face is 30 pixels wide
    (faces,) = detector.detect(tiny[None])
    assert len(faces) == 1
    assert 20 < faces.boxes[0, 2] - faces.boxes[0, 0] < 42
    assert not len(FaceDetector(min_face_pixels=100).detect(tiny[None])[0])


@pytest.mark.parametrize("shape", [(1, 1), (5, 300), (12, 12), (23, 40), (240, 320)])
def test_nothing_to_find(detector, shape):
    rng = np.random.default_rng(1)
    frames = np.stack(
        [
            np.full((*shape, 3), 128, np.uint8),
            rng.integers(0, 256, (*shape, 3), dtype=np.uint8),
            np.zeros((*shape, 3), np.uint8),
        ]
    )
    assert [len(f) for f in detector.detect(frames)] == [0, 0, 0]


def test_no_frames(detector):
    assert detector.detect(np.zeros((0, 90, 90, 3), np.uint8)) == []


def test_read_only_frames_are_taken(detector):
    frames = pictures()["small"][None]
    frames.flags.writeable = False
    assert len(detector.detect(frames)[0]) == 1


def test_other_arrays_are_refused(detector):
    with pytest.raises(ValueError, match="uint8"):
        detector.detect(np.zeros((1, 90, 90, 3), np.float32))


def test_refine_scores_a_known_place(detector):
    picture = pictures()["two"]
    found = detector.detect(picture[None])[0]
    shifted = found.boxes + np.float32(4)
    places = np.concatenate([shifted, [[250, 250, 330, 340]], [[-500, -500, -400, -400]], [[600, 300, 700, 400]]])
    faces = detector.refine(picture[None], np.zeros(len(places), np.int64), places)
    assert (faces.confidences[:2] > 0.95).all()
    assert (faces.confidences[2:] < 0.5).all()
    width = found.boxes[:, 2] - found.boxes[:, 0]
    assert (np.abs(faces.landmarks[:2] - found.landmarks).max(axis=(1, 2)) < 0.08 * width).all()


def test_refine_of_nothing(detector):
    assert len(detector.refine(pictures()["small"][None], np.zeros(0, np.int64), np.zeros((0, 4), np.float32))) == 0


def test_suppression_equals_the_greedy_loop():
    generator = torch.Generator().manual_seed(2)
    corner = torch.rand((400, 2), generator=generator) * 60
    boxes = torch.cat([corner, corner + 10 + 20 * torch.rand((400, 2), generator=generator)], dim=1)
    scores, groups = torch.rand(400, generator=generator), torch.randint(0, 3, (400,), generator=generator)
    for per_min in (False, True):
        got = set(suppress(boxes, scores, groups, 0.5, per_min, 1000).tolist())
        assert got == greedy(boxes.numpy(), scores.numpy(), groups.numpy(), 0.5, per_min)
    best = suppress(boxes, scores, groups, 1.1, False, 5)  # nothing overlaps that much: the five best of each group
    assert len(best) == 15
    assert scores[best[:5]].min() >= scores[groups == 0].sort(descending=True).values[4]


def greedy(boxes, scores, groups, threshold, per_min):
    kept = []
    areas = (boxes[:, 2:] - boxes[:, :2]).prod(axis=1)
    for i in np.argsort(-scores):
        for j in kept:
            common = np.prod(
                np.maximum(np.minimum(boxes[i, 2:], boxes[j, 2:]) - np.maximum(boxes[i, :2], boxes[j, :2]), 0)
            )
            whole = min(areas[i], areas[j]) if per_min else areas[i] + areas[j] - common
            if groups[i] == groups[j] and common > threshold * whole:
                break
        else:
            kept.append(int(i))
    return set(kept)


def test_crops_of_the_pyramid_show_the_place_asked_for():
    ramp = torch.arange(64.0).expand(1, 3, 64, 64).contiguous()
    pyramid = [ramp, torch.nn.functional.avg_pool2d(ramp, 2)]
    boxes = torch.tensor([[8.0, 8.0, 20.0, 20.0], [0.0, 0.0, 48.0, 48.0]])
    crops = crop(pyramid, torch.zeros(2, dtype=torch.long), boxes, 12)
    # A pixel's value is its column: centres of the crop's columns are half a step from its edge.
    np.testing.assert_allclose(crops[0, 0, 5].numpy(), 8 + np.arange(12), atol=1e-3)
    np.testing.assert_allclose(crops[1, 0, 5, 1:].numpy(), 1.5 + 4 * np.arange(1, 12), atol=1e-3)


def test_a_changed_weight_file_is_refused_before_it_is_unpickled(tmp_path):
    for name in WEIGHTS_SHA256:
        shutil.copy(weights_folder() / f"{name}.lz4", tmp_path)
    assert len(load_mtcnn_arrays(tmp_path)["onet"]) == 21
    # A pickle that would leave a trace if anybody loaded it.
    trace = tmp_path / "ran"
    (tmp_path / "rnet.lz4").write_bytes(b"cos\nsystem\n(S'touch " + str(trace).encode() + b"'\ntR.")
    with pytest.raises(FaceWeightsError, match=r"rnet\.lz4 was changed: expected sha256 cb00e646"):
        load_mtcnn_arrays(tmp_path)
    assert not trace.exists()
    (tmp_path / "rnet.lz4").unlink()
    with pytest.raises(FaceWeightsError, match=r"cannot read rnet\.lz4.*pip install"):
        load_mtcnn_arrays(tmp_path)


def test_frames_reduced_as_on_a_gpu_have_the_same_faces(detector, monkeypatch):
    here = {name: detector.detect(picture[None])[0] for name, picture in pictures().items()}
    sizes = []

    def resized(frames, size):
        sizes.append(size)
        return frames if tuple(frames.shape[2:]) == size else resized_elsewhere(frames, size)

    monkeypatch.setattr(detector, "_resized", resized)
    for name, picture in pictures().items():
        there = detector.detect(picture[None])[0]
        np.testing.assert_allclose(there.boxes, here[name].boxes, atol=0.25)
        np.testing.assert_allclose(there.confidences, here[name].confidences, atol=1e-3)
    assert len(set(sizes)) > 5


@pytest.mark.needs_cuda
def test_cuda_agrees_with_the_cpu(detector):
    if not torch.cuda.is_available():
        pytest.skip("no CUDA device")
    for picture in pictures().values():
        here, there = detector.detect(picture[None])[0], FaceDetector("cuda:0").detect(picture[None])[0]
        assert len(here) == len(there)
        np.testing.assert_allclose(there.boxes, here.boxes, atol=2)
        np.testing.assert_allclose(there.confidences, here.confidences, atol=0.02)


def test_out_of_memory_halves_the_frames_of_a_search(monkeypatch):
    detector, sizes = FaceDetector(), []

    def search(frames):
        sizes.append(len(frames))
        if len(frames) > 2:
            raise torch.OutOfMemoryError("CUDA out of memory")
        none = Faces(np.zeros((0, 4), np.float32), np.zeros((0, 5, 2), np.float32), np.zeros(0, np.float32))
        return [none] * len(frames)

    monkeypatch.setattr(detector, "_search", search)
    assert len(detector.detect(np.zeros((7, 64, 64, 3), np.uint8))) == 7
    assert sizes == [7, 3, 1, 1, 1, 1, 1, 1, 1]
