"""Training `lip_sync` on talkers drawn by code: it learns which sound belongs to a mouth, with nothing else to learn
from."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from deephotlink.models.architectures.lip_voice import APART, BANDS, BEFORE, VoiceLines, log_mel, mouth_lines
from deephotlink.models.detectors.lip_sync import Talk, talk_of
from deephotlink.models.faces.mouth import mouth_signals
from deephotlink.models.signals.speech import analyse_speech
from deephotlink.models.training.detectors.lip_sync import (
    FOREIGN,
    FRAMES,
    NEAR_STEPS,
    OWN_OFFSETS,
    LipSyncMaterial,
    LipSyncRecipe,
    Sequence,
    fit_of,
    material_from_films,
    recipe,
    regression,
    sequences_of,
)
from deephotlink.models.training.loop import Plan, TrainingError, train
from deephotlink.models.training.split import part
from tests.models.detectors.test_lip_sync import RATE, heard, syllables, talking_face, voice


def drawn_talk(seed: int, seconds: float = 4.0, rate: float = 15.0) -> Talk:
    """A dark mouth on grey skin, straight as a patch: opens 40 ms ahead of the voice."""
    level = syllables(seconds, seed)
    times = np.arange(round(seconds * rate)) / rate
    ahead = np.clip(((times + 0.04) * RATE).astype(int), 0, len(level) - 1)
    opening = np.convolve(level, np.ones(640) / 640, mode="same")[ahead]
    rng = np.random.default_rng(seed)
    y, x = np.mgrid[:48, :64].astype(np.float32)
    skin = 150 + rng.normal(0, 5, (48, 64))
    patches = np.stack(
        [np.where(((x - 32) / 14) ** 2 + ((y - 26) / (1 + 9 * o)) ** 2 < 1, 30, skin) for o in opening]
    ) + rng.normal(0, 2, (len(times), 48, 64))
    patches = patches.astype(np.float32)
    sound = voice(level)
    speech = analyse_speech(sound)
    assert speech is not None
    return Talk(times, patches, mouth_signals(patches), sound, speech)


@pytest.fixture(scope="module")
def material() -> LipSyncMaterial:
    return LipSyncMaterial(tuple(s for n in range(12) for s in sequences_of(f"talker {n}", drawn_talk(n))))


HELD = frozenset({"talker 9", "talker 10", "talker 11"})


def test_it_learns_which_sound_belongs_to_a_mouth(material, tmp_path: Path):
    made = LipSyncRecipe(material, HELD, rows=6)
    blank = VoiceLines().eval()
    torch.nn.init.zeros_(blank.line.weight)
    assert made.validate(blank)["score"] == 0.5
    trained = train(made, tmp_path, Plan(30, validate_every=30, ema=0.9), lambda _: None)
    assert trained.finished and trained.figures["score"] >= 0.85
    network = made.network()
    network.load_state_dict(trained.weights)
    network.eval()
    one, other = made.held[0], next(s for s in made.held if s.group != made.held[0].group)
    assert fit_of(network, one, one.mel) > fit_of(network, one, np.roll(one.mel, 110, axis=0)) + 0.5
    assert fit_of(network, one, one.mel) > fit_of(network, one, other.mel) + 0.5


def test_a_batch_is_a_function_of_its_seed_and_holds_no_held_source(material):
    made = LipSyncRecipe(material, HELD, rows=6)
    first, again, other = (made.batch(np.random.default_rng([0, n])) for n in (1, 1, 2))
    assert all(torch.equal(first[key], again[key]) for key in first)
    assert any(not torch.equal(first[key], other[key]) for key in first if first[key].shape == other[key].shape)
    assert not HELD & set(made.by_group) and {one.group for one in made.held} == HELD


def test_places_are_true_elsewhere_and_foreign_each_within_its_sound(material):
    made = LipSyncRecipe(material, HELD, rows=6)
    batch = made.batch(np.random.default_rng(0))
    near, own = len(NEAR_STEPS), len(NEAR_STEPS) + OWN_OFFSETS
    assert batch["times"].shape == (6, own + FOREIGN, FRAMES)
    assert batch["valid"][:, :near].all()
    for row in range(6):
        true = batch["times"][row, 0]
        away = (batch["times"][row, near:own, 0] - true[0])[batch["valid"][row, near:own]]
        assert len(away) and (away.abs() >= 0.4 - 1e-6).all()
        assert (batch["source"][row, :own] == row).all()
        foreign = batch["source"][row, own:][batch["valid"][row, own:]]
        assert (foreign != row).all()
        # The picture's own pace stays: a whole stretch of sound, moved.
        spans = batch["times"][row][batch["valid"][row]].diff(dim=1)
        assert torch.allclose(spans, true.diff().expand_as(spans), atol=1e-4)


def test_neither_a_constant_of_the_voice_nor_one_of_the_face_changes_the_loss(material):
    made = LipSyncRecipe(material, HELD, rows=6)
    network = made.network().eval()
    batch = made.batch(np.random.default_rng(0))
    loss = float(made.loss(network, batch).detach())
    with torch.no_grad():
        network.line.weight *= 5
        network.line.bias -= 2
    batch["lines"] = 3 * batch["lines"] + 7
    assert float(made.loss(network, batch).detach()) == pytest.approx(loss, rel=1e-3)


def test_an_undecided_network_loses_what_chance_loses(material):
    """A mouth that stands still correlates with nothing: every place is as likely as the true one."""
    made = LipSyncRecipe(material, HELD, rows=6)
    batch = made.batch(np.random.default_rng(0))
    batch["lines"][:] = 0
    loss = made.loss(made.network().eval(), batch)
    places = batch["valid"][:, len(NEAR_STEPS) :].sum(dim=1) + 1
    assert torch.isfinite(loss) and float(loss) == pytest.approx(float(places.float().log().mean()), abs=0.02)


def test_gradients_are_numbers_though_some_places_are_empty(material):
    made = LipSyncRecipe(material, HELD, rows=6)
    network = made.network()
    batch = made.batch(np.random.default_rng(0))
    batch["valid"][:, -FOREIGN:], batch["times"][:, -FOREIGN:] = False, 0
    made.loss(network, batch).backward()
    assert all(torch.isfinite(p.grad).all() for p in network.parameters() if p.grad is not None)


def test_the_regression_finds_the_line_that_made_the_mouth():
    """A mouth that follows one band of the sound 80 ms earlier, and another one that follows nothing."""
    rng = np.random.default_rng(0)
    sequences = []
    for number in range(6):
        mel = rng.normal(size=(400, BANDS)).astype(np.float32)
        rows = np.arange(20, 380, 7)
        lines = np.stack([mel[rows + 8, 5], rng.normal(size=len(rows))], axis=1).astype(np.float32)
        sequences.append(Sequence(f"s{number}", rows / 100, lines, mel))
    weights = regression(sequences)
    tap = (BEFORE + 8) // APART
    assert np.unravel_index(np.argmax(np.abs(weights[0])), weights[0].shape) == (5, tap)
    assert (
        weights[0, 5, tap] > 5 * np.sort(np.abs(weights[0]).ravel())[-2] and weights[1].max() < 0.3 * weights[0, 5, tap]
    )
    network = VoiceLines().eval()
    with torch.no_grad():
        network.line.weight.copy_(torch.from_numpy(weights))
        network.line.bias.zero_()
        heard_line = network(torch.from_numpy(sequences[0].mel)[None])[0, 20:380:7, 0].numpy()
    assert np.corrcoef(heard_line, sequences[0].lines[:, 0])[0, 1] > 0.95


def test_loudness_says_nothing():
    sound = voice(syllables(3.0))
    assert np.allclose(log_mel(sound), log_mel(0.05 * sound), atol=1e-2)


def test_dense_tracks_are_thinned_to_the_rate_of_the_detector():
    thick = sequences_of("a", drawn_talk(0, rate=30.0))
    assert len(thick) == 2 and all(14 < 1 / one.step < 16 for one in thick)
    assert sequences_of("a", drawn_talk(0, seconds=1.5)) == []


def test_material_is_what_the_detector_would_judge():
    item = talking_face(seconds=2.5)
    found = material_from_films([("a", item), ("b", heard(item, None)), ("c", heard(item, 0 * item.clip.sound))])
    assert found.groups == {"a"}
    one = found.sequences[0]
    assert len(one.times) == len(one.lines) and one.lines.std(axis=0) == pytest.approx([1, 1], abs=0.3)
    talk = talk_of(item)
    assert isinstance(talk, Talk) and np.array_equal(one.lines, mouth_lines(talk.mouth))


def test_without_groups_on_both_sides_it_says_so(material):
    with pytest.raises(TrainingError, match="add films in which a person talks"):
        LipSyncRecipe(material, frozenset())
    with pytest.raises(TrainingError, match="got 1 and 11"):
        LipSyncRecipe(material, material.groups - {"talker 0"})


def test_by_itself_it_keeps_to_the_split(material):
    made = recipe(material, True, 0)
    assert isinstance(made, LipSyncRecipe) and isinstance(made.network(), VoiceLines)
    assert {one.group for one in made.held} == {g for g in material.groups if part(g) == "held"}
