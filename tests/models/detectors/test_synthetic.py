"""`synthetic`: where its patches lie, when it abstains, that it answers their mean, and still pictures."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch

from deephotlink.models.architectures.synthetic import SyntheticNetwork, small_network, synthetic_network
from deephotlink.models.base import ClipItem
from deephotlink.models.detectors.synthetic import DETECTOR, FRAMES, PIXELS, SyntheticDetector, make, patch_places
from deephotlink.models.weights.files import WeightsError
from tests.published import weights_of


def lively_network() -> SyntheticNetwork:
    """With readings that are not zero."""
    torch.manual_seed(0)
    network = synthetic_network()
    for layer in (network.fine[2], network.motion[2]):
        torch.nn.init.normal_(layer.weight, std=0.3)
    return network.eval()


@pytest.fixture(scope="module")
def detector(tmp_path_factory: pytest.TempPathFactory) -> SyntheticDetector:
    weights = weights_of(tmp_path_factory.mktemp("w"), weights=lively_network().half().state_dict())
    made = make(DETECTOR, weights)
    made.load("cpu")
    assert isinstance(made, SyntheticDetector)
    return made


def clip(frames: np.ndarray) -> ClipItem:
    return ClipItem(frames, np.arange(len(frames)) / 25, None, 3.0)


def noise(frames: int = 16, height: int = 200, width: int = 300) -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, (frames, height, width, 3), dtype=np.uint8)


@pytest.mark.parametrize(
    ("frames", "reason"),
    [
        (noise(frames=FRAMES - 1), "too_short"),
        (noise(height=PIXELS - 2), "low_resolution"),
        (np.zeros((16, 200, 300, 3), np.uint8), "flat"),
    ],
)
def test_abstains_where_it_cannot_know(detector: SyntheticDetector, frames: np.ndarray, reason: str) -> None:
    assert detector.score([clip(frames)])[0].abstained == reason


def test_answers_the_mean_of_its_patches(detector: SyntheticDetector) -> None:
    frames = noise()
    answer = detector.score([clip(frames)])[0]
    expected = []
    with torch.inference_mode():
        for top, left in patch_places(frames[8]):
            patch = frames[5 : 5 + FRAMES, top : top + PIXELS, left : left + PIXELS]
            images = torch.from_numpy(patch).permute(0, 3, 1, 2).float()
            expected.append(float(detector.network(images[None]).sum()))
    assert len(expected) == 4 and np.std(expected) > 0  # six places, four taken, no two alike
    assert answer.logit == pytest.approx(np.mean(expected), abs=1e-3)
    assert json.loads(answer.detail or "")["summary"].startswith("the picture from 3.0 s looks ")


def test_the_same_beside_any_neighbour(detector: SyntheticDetector) -> None:
    alone = detector.score([clip(noise())])[0].logit
    beside = detector.score([clip(np.zeros((16, 200, 300, 3), np.uint8)), clip(noise(frames=8)), clip(noise())])
    assert beside[2].logit == alone


def test_what_stands_still_is_judged_by_its_frames_alone(detector: SyntheticDetector) -> None:
    still = np.repeat(noise(frames=1), 16, axis=0)
    told = json.loads(detector.score([clip(still)])[0].detail or "")
    assert told["motion"] == 0 and told["frames"] != 0 and "nothing moves" in told["summary"]


def test_patches_do_not_overlap_and_leave_out_what_is_flat() -> None:
    frame = np.zeros((360, 640, 3), np.uint8)
    assert patch_places(frame) == []
    frame[:, 320:] = noise(1, 360, 320)[0]
    places = patch_places(frame)
    assert len(places) == 4 and all(left + PIXELS > 320 for _, left in places)
    assert all(abs(a[0] - b[0]) >= PIXELS or abs(a[1] - b[1]) >= PIXELS for a in places for b in places if a != b)


def test_motion_reads_what_trembles_apart_from_what_glides() -> None:
    """Features that go as far from frame to frame, on and on or to and fro: only their second differences differ."""
    network = lively_network()
    films = torch.rand(1, 6, 3, 8, 8, generator=torch.Generator().manual_seed(1)) * 255
    way = torch.randn(112, 6, 6, generator=torch.Generator().manual_seed(2))
    places = {"glides": [0.0, 1, 2, 3, 4, 5], "trembles": [0.0, 1, 0, 1, 0, 1]}
    with torch.inference_mode():
        read = {k: network.read(films, torch.tensor(at)[:, None, None, None] * way) for k, at in places.items()}
    assert abs(float(read["glides"][0, 1] - read["trembles"][0, 1])) > 0.05


def test_weights_of_another_network_are_refused(tmp_path: Path) -> None:
    other = make(DETECTOR, weights_of(tmp_path, weights=small_network().state_dict()))
    with pytest.raises(WeightsError, match="SyntheticNetwork"):
        other.load("cpu")
