"""Training `audio`: vocoders, codecs and chains, batches, and a small training that ends in a loaded detector."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from scipy.signal import correlate

from deephotlink.models.base import AudioItem
from deephotlink.models.detectors.audio import DETECTOR, make
from deephotlink.models.signals.speech_statistics import NAMES
from deephotlink.models.training.augmentation import sound as steps
from deephotlink.models.training.augmentation.sound import CODECS, coded, drawn_chain, floor_of, with_floor
from deephotlink.models.training.detectors.audio import (
    AudioRecipe,
    judged_windows,
    material_from_sounds,
    recipe,
    speech_bank,
)
from deephotlink.models.training.forgeries.gan_vocoder import (
    VocoderPlan,
    log_mel,
    neurally_vocoded,
    train_vocoder,
    vocoder,
)
from deephotlink.models.training.forgeries.speech_bank import AudioMaterial, Forged, Piece, speaker
from deephotlink.models.training.forgeries.vocoders import KINDS, at_rate, fitted, softened, vocoded
from deephotlink.models.training.loop import Plan, TrainingError, export, train
from deephotlink.models.training.split import part
from deephotlink.models.weights.files import Weights
from tests.published import local_file

RATE = 16_000


def voice(seconds: float, seed: int = 0) -> np.ndarray:
    """float32 [S]: syllables with pauses, a pitch of the speaker's own, harmonics and breath."""
    rng = np.random.default_rng(seed)
    times = np.arange(round(seconds * RATE)) / RATE
    level = np.clip(np.sin(2 * np.pi * 2.7 * times + seed) + 0.8 * np.sin(2 * np.pi * 1.1 * times), 0, None)
    turns = np.cumsum((100 + 9 * seed) * (1 + 0.1 * np.sin(2 * np.pi * 0.7 * times + seed))) / RATE
    tone = sum(np.sin(2 * np.pi * k * turns) / k for k in range(1, 20))
    return (0.1 * level * (tone + 0.1 * rng.standard_normal(len(times)))).astype(np.float32)


def envelope(sound: np.ndarray) -> np.ndarray:
    """[T] loudness every 20 ms."""
    return np.log(np.square(sound[: len(sound) // 320 * 320]).reshape(-1, 320).mean(1) + 1e-5)


@pytest.mark.parametrize("kind", KINDS)
def test_a_vocoder_says_the_same_in_the_same_time_with_another_wave(kind: str) -> None:
    sound = voice(2.0)
    made = vocoded(kind, sound, np.random.default_rng(1))
    assert made.dtype == np.float32 and made.shape == sound.shape
    assert np.array_equal(made, vocoded(kind, sound, np.random.default_rng(1)))
    assert np.std(made) == pytest.approx(np.std(sound), rel=0.1)
    assert np.corrcoef(envelope(sound), envelope(made))[0, 1] > 0.8
    assert np.corrcoef(sound, made)[0, 1] < 0.99


def test_an_unknown_vocoder_is_named() -> None:
    with pytest.raises(ValueError, match="'radio'"):
        vocoded("radio", voice(1.0), np.random.default_rng(0))


@pytest.mark.parametrize("kind", ["transposed", "nearest", "istft"])
def test_a_neural_vocoder_learns_and_keeps_length(kind: str) -> None:
    plan = VocoderPlan(kind, RATE, width=8, steps=12, rows=2)
    told: list[str] = []
    young, *_, old = train_vocoder(plan, [voice(2.0)], 0, told.append)
    wave = torch.from_numpy(voice(1.0))[None]
    assert vocoder(plan)(log_mel(wave, RATE)).shape == (1, len(wave[0]) // 256 * 256)
    made = neurally_vocoded(old, RATE, voice(1.0), np.random.default_rng(0))
    assert made.shape == (RATE,) and np.std(made) > 1e-3
    assert not torch.equal(next(iter(young.state_dict().values())), next(iter(old.state_dict().values())))
    assert told and "12/12" in told[-1]


def test_a_neural_vocoder_comes_nearer_to_the_recording() -> None:
    def apart(steps: int) -> float:
        network = train_vocoder(VocoderPlan("istft", RATE, 8, steps, 2), [voice(2.0)], 0, lambda _: None)[-1]
        wave = torch.from_numpy(voice(1.0))[None] * 5
        mel = log_mel(wave, RATE)
        with torch.inference_mode():
            return float((log_mel(network(mel), RATE) - mel[..., : wave.shape[1] // 256]).abs().mean())

    assert apart(25) < 0.9 * apart(1)


def test_softened_spectrograms_stay_near() -> None:
    mel = np.random.default_rng(0).normal(0, 1, (80, 60)).cumsum(axis=1)
    found = [softened(mel, np.random.default_rng(seed)) for seed in range(8)]
    assert all(one.shape == mel.shape and np.corrcoef(one.ravel(), mel.ravel())[0, 1] > 0.5 for one in found)
    assert any(not np.array_equal(one, mel) for one in found)


def test_fitted_is_as_long_and_as_loud() -> None:
    sound = voice(1.0)
    for other in (np.full(100, 0.5), np.random.default_rng(0).normal(0, 3, 20_000)):
        made = fitted(other, sound)
        assert made.shape == sound.shape and np.abs(made).max() <= 1
    assert np.std(fitted(sound * 7, sound)) == pytest.approx(np.std(sound), rel=1e-3)
    assert at_rate(sound, RATE, RATE) is sound


@pytest.mark.parametrize(("container", "encoder", "rates", "samplings"), CODECS)
def test_codecs_change_little_and_keep_length(
    container: str, encoder: str, rates: tuple[int, ...], samplings: tuple[int, ...]
) -> None:
    sound = voice(1.5).astype(np.float64)
    made = coded(sound, container, encoder, rates[-1] * 1000, samplings[0])
    assert made.shape == sound.shape
    # Whatever the encoder's delay.
    assert correlate(made, sound).max() / np.sum(sound**2) > 0.9


def test_a_chain_does_the_same_to_both_and_is_a_function_of_its_seed() -> None:
    sound = voice(1.0)
    for seed in range(25):
        chain = drawn_chain(np.random.default_rng(seed))
        made = chain(sound)
        assert made.shape == sound.shape and made.dtype == np.float32 and np.abs(made).max() <= 1
        assert np.array_equal(made, chain(sound))
        assert np.array_equal(made, drawn_chain(np.random.default_rng(seed))(sound))


@pytest.mark.parametrize("step", ["_speed", "_room", "_noise", "_tone", "_other_rate", "_band", "_clipping", "_words"])
def test_every_step_does_something(step: str) -> None:
    sound = voice(1.0).astype(np.float64)
    made = getattr(steps, step)(np.random.default_rng(3))(sound)
    assert made.shape == sound.shape and np.isfinite(made).all() and not np.allclose(made, sound)


def names(side: str, count: int) -> list[str]:
    return [name for name in (f"speaker{n}" for n in range(40)) if part(name) == side][:count]


def test_material_stands_on_its_side_and_digits_are_joined_by_speaker() -> None:
    (fit,), (held,) = names("fit", 1), names("held", 1)
    digit = "Jakobovski__free-spoken-digit-dataset__recordings__{}_theo_{}.flac"
    sounds = [(fit, voice(20.0)), (held, voice(5.0)), (held, np.zeros(5 * RATE, np.float32)), (fit, voice(0.5))]
    sounds += [(digit.format(n, 7), voice(0.6, n)) for n in range(10)]
    material = material_from_sounds(sounds)
    assert {piece.group for piece in material.fit} | {piece.group for piece in material.held} == {
        fit,
        held,
        "fsdd:theo",
    }
    assert sum(len(p.sound) for p in material.fit if p.group == fit) == 20 * RATE
    assert [len(p.sound) for p in material.held if p.group == held] == [5 * RATE]
    assert all(2 * RATE <= len(p.sound) <= 12 * RATE for p in (*material.fit, *material.held))
    assert speaker("voice:lj") == "voice:lj" and speaker(digit.format(3, 1)) == "fsdd:theo"


def test_noise_is_no_material() -> None:
    noise = np.random.default_rng(0).normal(0, 0.1, 5 * RATE).astype(np.float32)
    material = material_from_sounds([(name, noise) for name in names("fit", 2)])
    assert material == AudioMaterial()


def test_a_batch_is_a_function_of_its_numbers_and_holds_pairs() -> None:
    piece = Piece("a", voice(3.0))
    silent = Forged(piece, {"lpc": (piece.sound,)})
    same = AudioRecipe([silent], [silent], pairs=3, window_samples=RATE)
    batch = same.batch(np.random.default_rng(5))
    again = same.batch(np.random.default_rng(5))
    assert batch["sound"].shape == (6, RATE) and batch["label"].tolist() == [0, 0, 0, 1, 1, 1]
    assert torch.equal(batch["sound"], again["sound"])
    # A forgery that is the recording itself comes out as the recording: the chain knows no label.
    assert torch.equal(batch["sound"][:3], batch["sound"][3:])


def test_judged_windows_are_alike_for_all_kinds() -> None:
    pieces = [Piece(f"g{n}", voice(3.0, n)) for n in range(3)]
    found = judged_windows([Forged(p, {"lpc": (p.sound,), "world": (p.sound * 0.5,)}) for p in pieces])
    assert set(found) == {"real", "lpc", "world"}
    assert all(sounds.shape == (3, 4 * RATE) for sounds in found.values())
    assert np.array_equal(found["real"], found["lpc"])


def test_one_side_alone_is_refused() -> None:
    for material in (AudioMaterial(), AudioMaterial(fit=[Piece("a", voice(3.0))])):
        with pytest.raises(TrainingError, match="speech on both sides"):
            speech_bank(material, small=True, seed=0)


def test_the_small_recipe_ends_in_a_detector_that_scores(tmp_path: Path) -> None:
    sounds = [(name, voice(3.0, n)) for n, name in enumerate(names("fit", 3) + names("held", 2))]
    made = recipe(speech_bank(material_from_sounds(sounds), small=True, seed=0), small=True)
    trained = train(made, tmp_path / "run", Plan(steps=6, validate_every=6, ema=0.5), lambda _: None)
    assert trained.finished
    assert {"auc_griffin_lim", "auc_lpc", "auc_istft"} <= set(trained.figures)
    export(trained.weights, tmp_path / "audio.safetensors", {})
    detector = make(DETECTOR, Weights({"weights": local_file(tmp_path / "audio.safetensors")}))
    detector.load("cpu")
    (judgement,) = detector.score([AudioItem(voice(4.0), 0.0)])
    assert judgement.logit is not None and np.isfinite(judgement.logit)
    shutil.rmtree(tmp_path / "run")


def test_the_small_recipe_learns_what_a_vocoder_left(tmp_path: Path) -> None:
    """Phases drawn anew are plain to see: some steps must be enough for voices that were never heard."""
    pieces = [Piece(f"g{n}", voice(3.0, n)) for n in range(8)]
    bank = [
        Forged(p, {"phase": (vocoded("phase", p.sound, np.random.default_rng(n * 3)),)}) for n, p in enumerate(pieces)
    ]
    learning = AudioRecipe(bank[:5], bank[5:], pairs=2, window_samples=RATE)
    trained = train(learning, tmp_path, Plan(steps=60, validate_every=30, ema=0.9), lambda _: None)
    assert trained.history[-1]["loss"] < 0.85  # cross entropy .69 and .3 of a pair's .69 say nothing: .90


def test_synthetic_speech_stands_for_the_forgery_with_the_recordings_noise_under_it() -> None:
    groups = [f"voice {n}" for n in range(60)]
    fit, held = ([g for g in groups if part(g) == side] for side in ("fit", "held"))
    recorded = [(group, voice(4.0, n)) for n, group in enumerate([fit[0], held[0]])]
    material = material_from_sounds(
        recorded, [(fit[1], voice(3.0, 5)), (held[1], voice(3.0, 6)), (held[1], np.zeros(9))]
    )
    assert [piece.group for piece in material.spoken_fit] == [fit[1]]
    assert [piece.group for piece in material.spoken_held] == [held[1]]
    bank = [Forged(material.fit[0], {"lpc": (material.fit[0].sound,)})]
    made = AudioRecipe(
        bank,
        [Forged(material.held[0], {"lpc": (material.held[0].sound,)})],
        spoken=material.spoken_fit,
        spoken_held=material.spoken_held,
        pairs=40,
        window_samples=RATE,
    )
    assert made.judged["spoken"].shape == (1, 4 * RATE + len(NAMES))
    sound = made.batch(np.random.default_rng(0))["sound"].numpy()
    # The bank's forgery is the recording itself: whatever differs after one chain is synthetic speech.
    apart = [not np.array_equal(real, fake) for real, fake in zip(sound[:40], sound[40:], strict=True)]
    assert 4 <= sum(apart) <= 20


def test_a_recordings_noise_can_be_laid_under_another_sound() -> None:
    rng = np.random.default_rng(3)
    quiet = voice(4.0, 1)
    noisy = quiet + 0.01 * np.convolve(rng.standard_normal(len(quiet)), np.ones(8) / 8, "same").astype(np.float32)
    laid = with_floor(voice(4.0, 2), floor_of(noisy), np.random.default_rng(0))
    assert laid.dtype == np.float32 and laid.shape == quiet.shape
    inner = slice(8, 60)  # below 2 kHz, where that noise is
    wanted, got, before = (np.log(floor_of(sound)[inner] + 1e-9).mean() for sound in (noisy, laid, voice(4.0, 2)))
    assert abs(got - wanted) < 0.5 * abs(before - wanted)


def test_a_denoiser_turns_the_floor_down_and_keeps_the_voice() -> None:
    noisy = voice(3.0, 1) + 0.004 * np.random.default_rng(0).standard_normal(3 * RATE).astype(np.float32)
    cleaned = steps._cleaned(np.random.default_rng(1))(noisy.astype(np.float64))
    assert len(cleaned) == len(noisy) and np.corrcoef(cleaned, noisy)[0, 1] > 0.9
    assert floor_of(cleaned).mean() < 0.7 * floor_of(noisy).mean()
