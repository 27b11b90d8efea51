"""AASIST: with the published weights it gives the logits of the authors' code on every golden input."""

from __future__ import annotations

import json
import pickle
import zipfile
from functools import cache
from pathlib import Path

import numpy as np
import pytest
import torch

from deephotlink.models import registry
from deephotlink.models.architectures.aasist import AASIST, AASIST_L, Aasist, mel_band_passes
from deephotlink.models.base import AudioItem, DetectorSpec
from deephotlink.models.detectors import aasist
from deephotlink.models.detectors.aasist import DETECTORS, WINDOW_SAMPLES, AasistDetector, make, tiled
from deephotlink.models.weights.files import Weights, WeightsError
from deephotlink.transforms.media.decoders.sound import SoundReader
from tests.builders import make_sound
from tests.published import assert_a_gpu_agrees, assert_nothing_is_left_on_the_cpu, local_file

SPECS = {spec.name: spec for spec in DETECTORS}
PUBLISHED = {"aasist": "AASIST", "aasist_l": "AASIST-L"}
CONFIGS = {"aasist": AASIST, "aasist_l": AASIST_L}


def weights_of(path: Path) -> Weights:
    return Weights({"weights": local_file(path)})


def loaded(spec: DetectorSpec, weights: Weights) -> AasistDetector:
    detector = make(spec, weights)
    assert isinstance(detector, AasistDetector)
    detector.load("cpu")
    return detector


@cache
def made_tensors(name: str) -> dict[str, torch.Tensor]:
    """Random tensors under the names and shapes of the published file."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        network = Aasist(CONFIGS[name])
        for key, tensor in network.state_dict().items():
            if key.startswith(("pos_S", "master")) or "att_weight" in key:
                torch.nn.init.normal_(tensor)
        return network.state_dict()


def saved(tensors: object, path: Path) -> Weights:
    torch.save(tensors, path)
    return weights_of(path)


SHORT = 16_150
"""Samples of a window where the weights are made up: the network takes any length, and this one is faster by four."""


@pytest.fixture
def made(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> AasistDetector:
    monkeypatch.setattr(aasist, "WINDOW_SAMPLES", SHORT)
    return loaded(SPECS["aasist_l"], saved(made_tensors("aasist_l"), tmp_path / "AASIST-L.pth"))


def speech(samples: int, seed: int = 0) -> np.ndarray:
    return make_sound(samples / 16_000 + 0.01, 16_000, "speechlike", seed)[:samples]


def golden_sound(name: str, shared: Path) -> np.ndarray:
    if name.startswith("sine 440 Hz"):
        return (0.5 * np.sin(2 * np.pi * 440 * np.arange(WINDOW_SAMPLES) / 16_000)).astype(np.float32)
    with SoundReader(str(shared / name)) as reader:
        return reader.read(0, WINDOW_SAMPLES)


@pytest.mark.real
@pytest.mark.parametrize("name", SPECS)
def test_the_published_weights_answer_as_published(name: str, shared: Path) -> None:
    golden = json.loads((shared / "weights" / "reference_logits_aasist.json").read_text())[PUBLISHED[name]]
    file = shared / "weights" / f"clovaai__aasist__models__weights__{PUBLISHED[name]}.pth"
    weights = weights_of(file)
    assert (weights.sha256, file.stat().st_size) == (SPECS[name].weights[0].sha256, SPECS[name].weights[0].size_bytes)
    detector = loaded(SPECS[name], weights)
    assert sum(p.numel() for p in detector.network.parameters()) == golden["parameters"]
    lengths, answers = set(), []
    logits: list[np.ndarray] = []
    detector.network.register_forward_hook(lambda *told: logits.append(told[-1][0].numpy()))
    for what, (spoof, bona_fide) in golden["logits"].items():
        sound = golden_sound(what, shared)
        lengths.add(len(sound) < WINDOW_SAMPLES)
        rows = detector.prepare(AudioItem(sound, 0.0))
        assert isinstance(rows, torch.Tensor) and rows.shape == (1, WINDOW_SAMPLES)
        logits.clear()
        with torch.inference_mode():
            difference = float(detector.forward(rows))
        np.testing.assert_allclose(logits[0], [spoof, bona_fide], atol=1e-4, err_msg=what)
        assert difference == pytest.approx(spoof - bona_fide, abs=2e-4)
        # Polarity: what the authors' code calls spoofed is above 0.
        assert (difference > 0) == (spoof > bona_fide)
        answers.append(difference > 0)
    assert lengths == {True, False} and set(answers) == {True, False}


@pytest.mark.real
def test_score_answers_spoof_minus_bona_fide_in_each_ones_place(shared: Path) -> None:
    name = "aasist_l"
    golden = json.loads((shared / "weights" / "reference_logits_aasist.json").read_text())[PUBLISHED[name]]["logits"]
    chosen = [what for what in golden if "0002_gen" in what or "angie" in what]
    items = [AudioItem(golden_sound(what, shared), 0.0) for what in chosen]
    silence = AudioItem(np.zeros(WINDOW_SAMPLES, np.float32), 0.0)
    weights = weights_of(shared / "weights" / f"clovaai__aasist__models__weights__{PUBLISHED[name]}.pth")
    answers = loaded(SPECS[name], weights).score([items[0], silence, items[1]])
    assert answers[1].abstained == "silent"
    for what, answer in zip(chosen, answers[::2], strict=True):
        assert answer.logit == pytest.approx(golden[what][0] - golden[what][1], abs=1e-3)
    assert answers[0].logit > 0 > answers[2].logit  # type: ignore[operator]


@pytest.mark.parametrize("name", SPECS)
def test_made_weights_score_alike_every_time(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(aasist, "WINDOW_SAMPLES", SHORT)
    weights = saved(made_tensors(name), tmp_path / "a.pth")
    item = AudioItem(speech(SHORT), 0.0)
    first, again = loaded(SPECS[name], weights).score([item, item])
    assert first.logit is not None and np.isfinite(first.logit) and first == again


def test_a_window_of_the_published_length_is_taken_as_it_is() -> None:
    sound = speech(WINDOW_SAMPLES)
    assert WINDOW_SAMPLES == 64_600 and np.array_equal(tiled(sound), sound)
    assert np.array_equal(tiled(sound[:30_465]), np.tile(sound[:30_465], 3)[:64_600])


def test_short_sound_is_repeated_from_its_beginning(made: AasistDetector) -> None:
    short = speech(6_456)
    by_hand = np.concatenate([short, short, short])[:SHORT]
    assert tiled(short).dtype == np.float32 and np.array_equal(tiled(short), by_hand)
    assert np.array_equal(tiled(by_hand), by_hand)
    answers = made.score([AudioItem(short, 0.0), AudioItem(by_hand, 0.0), AudioItem(speech(SHORT, 1), 0.0)])
    assert answers[0] == answers[1] and answers[0].logit != answers[2].logit


def test_abstains_where_there_is_nothing_to_hear(made: AasistDetector) -> None:
    damaged = speech(SHORT).copy()
    damaged[1000] = np.nan
    dither = (np.arange(SHORT) % 2).astype(np.float32) / 32_768
    windows = {
        "no_audio": np.zeros(0, np.float32),
        "too_short": speech(1_599),
        "silent": np.zeros(SHORT, np.float32),
        "decode_failed": damaged,
    }
    answers = made.score([AudioItem(samples, 0.0) for samples in windows.values()])
    assert [answer.abstained for answer in answers] == list(windows)
    constant = np.full(SHORT, 0.5, np.float32)
    assert {a.abstained for a in made.score([AudioItem(dither, 0.0), AudioItem(constant, 0.0)])} == {"silent"}
    quiet = made.score([AudioItem(speech(SHORT) / 1000, 0.0), AudioItem(speech(1_600), 0.0)])
    assert all(answer.logit is not None for answer in quiet)


def test_windows_score_the_same_beside_others_on_any_batch(
    made: AasistDetector, monkeypatch: pytest.MonkeyPatch
) -> None:
    items = [AudioItem(speech(SHORT, seed), 0.0) for seed in range(2)]
    alone = made.score(items)
    monkeypatch.setattr(made, "batch_items", 3)
    together = made.score(items)
    for one, other in zip(alone, together, strict=True):
        assert one.logit == pytest.approx(other.logit, abs=1e-4)


def test_the_band_passes_are_the_papers() -> None:
    """Equal widths in mel from 0 to 8 kHz: together they are the low-pass of everything, each peaks within its band."""
    filters = mel_band_passes()
    assert filters.shape == (70, 1, 129) and filters.dtype == torch.float32
    assert torch.allclose(filters, filters.flip(-1), atol=1e-7)
    whole = filters.sum(0)[0]
    assert whole[64] == pytest.approx(1, abs=1e-5) and whole[:64].abs().max() < 1e-5
    mel = np.linspace(0, 2595 * np.log10(1 + 8000 / 700), 71)
    edges = 700 * (10 ** (mel / 2595) - 1)
    response = np.abs(np.fft.rfft(filters[:, 0].numpy(), 16_000, axis=1))
    for band in range(40, 70):  # lower bands are narrower than 129 taps can tell apart
        assert edges[band] - 60 <= response[band].argmax() <= edges[band + 1] + 60


@pytest.mark.parametrize("name", SPECS)
def test_the_record_fits_the_network(name: str) -> None:
    spec = registry.installed()[name]
    with torch.device("meta"):
        network = Aasist(CONFIGS[name])
    assert f"{sum(p.numel() for p in network.parameters()):,}" in spec.architecture
    assert spec.audio is not None and spec.audio.window_samples == spec.audio.hop_samples == 64_600
    assert spec.family == "audio" and spec.needs == {"sound"} and spec.licence == "MIT" and spec.commercial_use
    assert spec.weights_sha256 == spec.weights[0].sha256 and len(network.state_dict()) == 229


class Canary:
    """Unpickled, it would make a file."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple:
        return Path.touch, (self.path,)


def test_a_checkpoint_with_code_in_it_is_refused_and_the_code_never_runs(tmp_path: Path) -> None:
    canary = tmp_path / "canary"
    zipped, bare = tmp_path / "zipped.pth", tmp_path / "bare.pth"
    torch.save({**made_tensors("aasist_l"), "first_bn.weight": Canary(canary)}, zipped)
    bare.write_bytes(pickle.dumps({"state_dict": Canary(canary)}, protocol=2))
    for hostile in (zipped, bare):
        with pytest.raises(WeightsError, match="none of it was run"):
            loaded(SPECS["aasist_l"], weights_of(hostile))
    assert not canary.exists()
    pickle.loads(bare.read_bytes())
    assert canary.exists(), "the canary itself is broken"


def test_other_tensors_and_damaged_files_are_refused(tmp_path: Path) -> None:
    spec, tensors = SPECS["aasist_l"], made_tensors("aasist_l")
    others = {
        "Missing": {key: value for key, value in tensors.items() if key != "master1"},
        "Unexpected": {**tensors, "extra": torch.zeros(1)},
        "size mismatch": {**tensors, "pos_S": torch.zeros(1, 23, 64)},
        "expected the weights": made_tensors("aasist"),
    }
    for number, (said, other) in enumerate(others.items()):
        with pytest.raises(WeightsError, match=said):
            loaded(spec, saved(other, tmp_path / f"{number}.pth"))
    whole = tmp_path / "whole.pth"
    saved(tensors, whole)
    assert zipfile.is_zipfile(whole)
    cut = tmp_path / "cut.pth"
    for part in (b"", whole.read_bytes()[:50_000], whole.read_bytes()[:-100]):
        cut.write_bytes(part)
        with pytest.raises(WeightsError, match="aasist_l"):
            loaded(spec, weights_of(cut))


def test_a_file_that_was_changed_after_it_was_chosen_is_refused(tmp_path: Path) -> None:
    weights = saved(made_tensors("aasist_l"), tmp_path / "a.pth")
    (tmp_path / "a.pth").write_bytes(b"something else")
    with pytest.raises(WeightsError, match="was changed"):
        loaded(SPECS["aasist_l"], weights)


def test_all_of_it_is_on_its_device(made: AasistDetector) -> None:
    assert_nothing_is_left_on_the_cpu(made, AudioItem(speech(SHORT), 0.0))


@pytest.mark.needs_cuda
def test_a_gpu_agrees_with_the_cpu(made: AasistDetector) -> None:
    assert_a_gpu_agrees(made, [AudioItem(speech(SHORT, seed), 0.0) for seed in range(3)])
