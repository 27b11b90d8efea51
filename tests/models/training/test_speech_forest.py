"""The forest of `audio`: the same rows give the same forest, it answers as its trees do, and a page left out is
unknown to it."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from sklearn.ensemble import ExtraTreesClassifier

from deephotlink.models.architectures.speech_traces import DEPTH, LEAVES, TREES, LearnedSpeech, SpeechForest
from deephotlink.models.detectors.audio import DETECTOR, make
from deephotlink.models.signals.speech_statistics import NAMES, speech_statistics
from deephotlink.models.training.detectors import speech_forest
from deephotlink.models.training.detectors.audio import AudioRecipe
from deephotlink.models.training.detectors.speech_forest import SpeechRows, forest_of, grown, joined, rows_of
from deephotlink.models.training.forgeries.speech_bank import Forged, Piece
from deephotlink.models.training.loop import TrainingError, export
from deephotlink.models.weights.files import Weights, WeightsError
from deephotlink.pipelines.training.beginnings import begun
from tests.published import local_file

RATE = 16_000


def rows(seed: int, count: int = 120, apart: float = 1.0) -> SpeechRows:
    """Synthetic speech is higher in six statistics, and in the product of the first two."""
    rng = np.random.default_rng(seed)
    values = rng.normal(0, 1, (count, len(NAMES))).astype(np.float32)
    fake = np.arange(count) % 3 > 0
    values[:, 2:8] += apart * fake[:, None]
    values[:, 1] = np.where(fake, np.abs(values[:, 1]) * np.sign(values[:, 0]), values[:, 1])
    return SpeechRows(values, fake, [f"g{n // 4}" for n in range(count)])


def answers(forest: SpeechForest, values: np.ndarray) -> np.ndarray:
    with torch.inference_mode():
        return forest(torch.from_numpy(values)).numpy()


def test_it_tells_rows_that_it_never_saw() -> None:
    forest, unseen = forest_of(grown(rows(0))), rows(1)
    said = answers(forest, unseen.values)
    assert np.abs(said).max() <= 0.5
    assert (said[unseen.fake][:, None] > said[~unseen.fake]).mean() > 0.85


def test_it_answers_as_the_trees_that_it_was_made_of(monkeypatch: pytest.MonkeyPatch) -> None:
    kept = []

    class Kept(ExtraTreesClassifier):
        def fit(self, *given: object, **more: object) -> object:
            kept.append(self)
            return super().fit(*given, **more)

    monkeypatch.setattr(speech_forest, "ExtraTreesClassifier", Kept)
    said = answers(forest_of(grown(rows(0))), rows(1).values)
    theirs = kept[0].predict_proba(rows(1).values)[:, 1] - 0.5
    # Thresholds have the precision of a weights file: a row close to one may turn the other way.
    assert np.abs(said - theirs).max() < 0.02 and np.abs(said - theirs).mean() < 1e-3


def test_the_order_of_rows_does_not_count() -> None:
    known = rows(0)
    turn = np.random.default_rng(0).permutation(len(known.fake))
    other = SpeechRows(known.values[turn], known.fake[turn], [known.groups[at] for at in turn])
    first, second = grown(known), grown(other)
    for name in speech_forest.BUFFERS:
        assert np.array_equal(getattr(first, name), getattr(second, name)), name
    assert first.feature.shape == (TREES, 2 * LEAVES - 1)


def test_no_way_is_longer_than_is_asked() -> None:
    tables = grown(rows(0, 400, 0.2))
    place = np.zeros(TREES, np.int64)
    tree = np.arange(TREES)
    rng = np.random.default_rng(0)
    for _ in range(200):
        place[:] = 0
        for _ in range(DEPTH):
            turn = rng.random(TREES) < 0.5
            place = np.where(turn, tables.below[tree, place], tables.above[tree, place])
        assert np.array_equal(tables.below[tree, place], place)


@pytest.mark.parametrize("fake", [True, False])
def test_one_class_alone_is_refused(fake: bool) -> None:
    known = rows(0)
    with pytest.raises(TrainingError, match="expected recordings and synthetic speech"):
        grown(replace(known, fake=np.full(len(known.fake), fake)))


def voice(seed: int, seconds: float = 3.0) -> np.ndarray:
    rng = np.random.default_rng(seed)
    times = np.arange(round(seconds * RATE)) / RATE
    level = np.clip(np.sin(2 * np.pi * 2.7 * times + seed), 0, None) + 0.02
    turns = np.cumsum((100 + 9 * seed) * (1 + 0.1 * np.sin(2 * np.pi * 0.7 * times + seed))) / RATE
    tone = sum(np.sin(2 * np.pi * k * turns) / k for k in range(1, 20))
    return (0.1 * level * (tone + 0.1 * rng.standard_normal(len(times)))).astype(np.float32)


def test_rows_hang_on_the_sound_alone() -> None:
    pieces = [Piece(f"g{n}", voice(n)) for n in range(3)]
    found = rows_of(pieces[:2], pieces[2:], 0, chains=2)
    assert found.values.shape == (9, len(NAMES)) and found.fake.tolist() == [False] * 6 + [True] * 3
    assert found.groups == ["g0"] * 3 + ["g1"] * 3 + ["g2"] * 3
    assert np.array_equal(found.values[0], speech_statistics(pieces[0].sound))
    assert not np.array_equal(found.values[0], found.values[1])
    # Alone, or on the other side, a piece gets the same chains.
    assert np.array_equal(rows_of([], pieces[1:2], 0, chains=2).values, found.values[3:6])
    assert joined([rows_of([pieces[0]], [], 0), rows_of([], [pieces[2]], 0)]).groups == ["g0"] * 3 + ["g2"] * 3


def test_training_judges_one_forest_and_leaves_the_other(tmp_path) -> None:
    piece = Piece("a", voice(1))
    bank = [Forged(piece, {"lpc": (voice(2),)})]
    recipe = AudioRecipe(bank, bank, pairs=1, window_samples=RATE, forest=grown(rows(0)), forest_of_all=grown(rows(1)))
    network = recipe.network()
    assert isinstance(network, LearnedSpeech)
    left = recipe.left(network.state_dict())
    unseen = torch.from_numpy(rows(2).values)
    after = LearnedSpeech()
    after.load_state_dict(dict(left))
    assert torch.equal(network.forest(unseen), forest_of(grown(rows(0)))(unseen))
    assert torch.equal(after.forest(unseen), forest_of(grown(rows(1)))(unseen))
    assert torch.equal(after.traces.answer.weight, network.traces.answer.weight)


def test_a_run_that_begins_with_weights_keeps_the_forest_of_its_material() -> None:
    bank = [Forged(Piece("a", voice(1)), {"lpc": (voice(2),)})]
    recipe = AudioRecipe(bank, bank, pairs=1, window_samples=RATE, forest=grown(rows(0)))
    before = LearnedSpeech()
    network = begun(recipe, before.state_dict()).network()
    assert isinstance(network, LearnedSpeech)
    assert torch.equal(network.traces.answer.weight, before.traces.answer.weight)
    unseen = torch.from_numpy(rows(2).values)
    assert torch.equal(network.forest(unseen), forest_of(grown(rows(0)))(unseen))


@pytest.mark.parametrize(("table", "value"), [("feature", len(NAMES)), ("below", 2 * LEAVES - 1), ("above", -1)])
def test_trees_that_lead_out_of_their_tables_are_refused(tmp_path, table: str, value: int) -> None:
    network = LearnedSpeech()
    getattr(network.forest, table)[3, 5] = value
    export(network.state_dict(), tmp_path / "audio.safetensors", {})
    detector = make(DETECTOR, Weights({"weights": local_file(tmp_path / "audio.safetensors")}))
    with pytest.raises(WeightsError, match="nodes lead to nodes"):
        detector.load("cpu")
