"""Every word of the tables has a sentence, and reasons name the moment that carried them."""

from __future__ import annotations

import doctest
from typing import get_args

import pytest

from deephotlink.models import registry
from deephotlink.models.base import FAMILIES
from deephotlink.models.calibration.calibration import Verdict, calibration_to_json, load_calibration
from deephotlink.pipelines.outputs import plain_words
from deephotlink.pipelines.outputs.plain_words import VERDICTS, finding, outcome_sentence, ranking_sentence, verdict_of
from deephotlink.pipelines.outputs.reasons import Item, reasons_of, silences_of
from deephotlink.pipelines.outputs.report import cards, timelines
from deephotlink.transforms.failures import ERROR_CLASSES


@pytest.mark.parametrize("module", [plain_words, cards, timelines], ids=lambda module: module.__name__)
def test_examples(module):
    assert doctest.testmod(module).failed == 0


def test_all_words_are_told():
    assert set(VERDICTS) == {*get_args(Verdict), "failed", "skipped"} and set(plain_words.FAMILIES) == set(FAMILIES)
    assert all(outcome_sentence(word) for word in [*VERDICTS, *ERROR_CLASSES, *plain_words.SKIPPED])
    assert outcome_sentence("their_word") == "" and verdict_of("scored", "odd") == "not_assessed"
    assert verdict_of("failed", None) == "failed" and verdict_of("scored", "manipulated") == "manipulated"


def test_each_detector_has_a_sentence_for_each_leaning():
    for spec in registry.installed().values():
        said = {finding(spec.name, spec.family, log_odds, 12.0, 16.0) for log_odds in (2.0, 0.0, -2.0)}
        assert len(said) == 3 and not any(text.startswith(spec.name) or "{" in text for text in said), spec.name
    assert finding("theirs", "their family", 2.0, 1.0, 2.0) == "theirs points to manipulation at 0:01-0:02"


def test_an_order_is_praised_only_by_figures_that_were_measured():
    tops = [
        {"percent": n, "files": n, "precision": {"value": v, "low": 0.5, "high": 1.0}} for n, v in ((1, 1), (20, 0.876))
    ]
    ranking = {"files": 100, "forged": 40, "families": ["face_swap", "speech"], "most_suspicious": tops}
    assert ranking_sentence({"fusion": {"ranking": ranking}}) == (
        "How far to trust this order: of the most suspicious fifth, 88% were forged among 100 labelled files (40 "
        "forged: face swap, speech). With fewer forgeries these shares are lower."
    )
    other = {**ranking, "data": "9 files of others", "families": [], "forged": 3}
    both = ranking_sentence({"fusion": {"ranking": ranking, "ranking_elsewhere": other}})
    assert "speech), and 88% were forged among 9 files of others (3 forged). With" in both
    unmeasured = ({}, {"fusion": None}, {"fusion": {"ranking": None}}, {"fusion": {"ranking": {"files": "many"}}})
    assert not any(map(ranking_sentence, (*unmeasured, {"fusion": {"ranking": {**ranking, "most_suspicious": []}}})))
    default = ranking_sentence(calibration_to_json(load_calibration()))
    assert "among 407 labelled files" in default and "tools that it does not know" in default


def item(detector: str, start: float, end: float, logit: float | None, clip: int = 0, why: str | None = None) -> Item:
    return Item(detector, "facial" if detector == "facial" else "lip_sync", clip, start, end, logit, why, None)


def leaning(detector: str, log_odds: float, has_say: bool = True) -> dict:
    return {"detector": detector, "log_odds": log_odds, "logits": 1, "calibrated": True, "has_say": has_say}


def test_neighbours_that_say_the_same_are_one_stretch():
    items = [item("facial", n, n + 1.0, logit) for n, logit in enumerate((-1, 2, 3, 2, 0.5, -1, 3))]
    [reason] = reasons_of([leaning("facial", 2.0)], items)
    assert (reason.start, reason.end) == (
        1.0,
        4.0,
    ) and reason.sentence == "The face at 0:01-0:04 looks blended in or redrawn"


def test_a_listener_is_not_the_moment_that_speaks_against_the_voice():
    """In the first clip a second face explains the sound; the second clip has none that does."""
    items = [item("lip_sync", 0, 4, 5.0), item("lip_sync", 0, 4, -3.0), item("lip_sync", 10, 14, 2.0, clip=1)]
    [reason] = reasons_of([leaning("lip_sync", 1.0)], items)
    assert (reason.start, reason.end) == (10, 14)


def test_reasons_that_count_come_first_and_silence_is_told_once():
    items = [item("facial", 0, 4, None, why="no_face"), item("lip_sync", 0, 4, None, why="no_face")]
    [silence] = silences_of(items)
    assert silence.sentence == "Faces, lips and voice: no face was found" and silence.times == 2
    told = reasons_of([leaning("synthetic", 3.0, has_say=False), leaning("facial", -0.5)], [])
    assert [reason.detector for reason in told] == ["facial", "synthetic"]
    assert silences_of([*items, item("facial", 4, 8, 1.0)])[0].families == ("Lips and voice",)
