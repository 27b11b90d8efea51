"""Which label means manipulated is read from words, stated, or an error; never guessed."""

from __future__ import annotations

import pytest
import torch

from deephotlink.models.adapters.labels import Classes, label_names, meaning_of, tell_classes, words_of
from deephotlink.models.weights.files import WeightsError


@pytest.mark.parametrize(
    "label",
    ["Fake", "deepfake", "DeepFake", "SPOOF", "AI", "ai-generated", "AIGenerated", "artificial", "manipulated_face",
     "Tampered", "face swap", "synthetic", "not real", "non-human", "un_natural", "fake (not real)"],
)  # fmt: skip
def test_labels_that_mean_manipulated(label):
    assert meaning_of(label) is True


@pytest.mark.parametrize(
    "label",
    ["Real", "REAL", "bonafide", "bona-fide", "Bona Fide", "authentic", "human", "genuine", "natural", "live",
     "RealArt", "Realism", "not fake", "NotFake", "non_spoofed", "isn't generated", "no swap"],
)  # fmt: skip
def test_labels_that_mean_real(label):
    assert meaning_of(label) is False


@pytest.mark.parametrize(
    "label",
    ["LABEL_0", "0", "", "cat", "real or fake", "human-generated", "AI not detected", "anti_spoof", "fake_free",
     "não fake", "undetected fake", "aisle", "realtor", "fakery"],
)  # fmt: skip
def test_labels_that_cannot_be_read(label):
    assert meaning_of(label) is None


def test_words_are_parted_by_case_digits_and_punctuation():
    assert words_of("AIGenerated_image-2") == ["ai", "generated", "image"]
    assert words_of("BonaFide") == ["bonafide"]


@pytest.mark.parametrize("names", [("Fake", "Real"), ("Real", "Fake")])
def test_two_labels_in_either_order(names):
    classes = tell_classes(names)
    assert names[classes.fake[0]] == "Fake" and names[classes.real[0]] == "Real"
    towards_fake = torch.tensor([[3.0, 0.0] if names[0] == "Fake" else [0.0, 3.0]])
    assert classes.logit(towards_fake).item() == pytest.approx(3.0)


def test_several_labels_of_a_kind_are_added_as_probabilities():
    classes = tell_classes(("ai_sd", "ai_dalle", "real"))
    logits = torch.tensor([[1.0, 2.0, 0.5]])
    p = logits.softmax(1)[0]
    assert classes.logit(logits).item() == pytest.approx(torch.log((p[0] + p[1]) / p[2]).item(), abs=1e-6)


@pytest.mark.parametrize("names", [("LABEL_0", "LABEL_1"), ("fake", "spoof"), ("real", "fake", "other"), ("a", "real")])
def test_what_cannot_be_told_says_how_to_resolve_it(names):
    with pytest.raises(WeightsError, match=r"deephotlink\.json.*\"fake\""):
        tell_classes(names)


def test_the_users_word_counts_before_the_labels_own():
    assert tell_classes(("LABEL_0", "LABEL_1"), fake=["LABEL_1"]) == Classes((1,), (0,), ("LABEL_0", "LABEL_1"))
    assert tell_classes(("LABEL_0", "LABEL_1"), real=["LABEL_1"]) == Classes((0,), (1,), ("LABEL_0", "LABEL_1"))
    assert tell_classes(("real", "fake"), fake=["real"]).fake == (0,)
    some = tell_classes(("a", "b", "c"), fake=["a"], real=["c"])
    assert (some.fake, some.real) == ((0,), (2,))


def test_the_users_word_must_fit():
    with pytest.raises(WeightsError, match="names \\['LABEL_2'\\], expected labels of 'LABEL_0', 'LABEL_1'"):
        tell_classes(("LABEL_0", "LABEL_1"), fake=["LABEL_2"])
    with pytest.raises(WeightsError, match="different labels"):
        tell_classes(("a", "b"), fake=["a"], real=["a"])
    with pytest.raises(WeightsError, match="different labels"):
        tell_classes(("a", "b"), fake=["a", "b"])
    with pytest.raises(WeightsError, match="one logit"):
        tell_classes(("a", "b"), positive="fake")


def test_a_single_logit_needs_a_word():
    with pytest.raises(WeightsError, match='"positive": "real"'):
        tell_classes(("LABEL_0",))
    logits = torch.tensor([[2.0]])
    assert tell_classes(("LABEL_0",), positive="fake").logit(logits).item() == 2.0
    assert tell_classes(("LABEL_0",), fake=["LABEL_0"]).logit(logits).item() == 2.0
    assert tell_classes(("LABEL_0",), positive="real").logit(logits).item() == -2.0


def test_label_names_from_an_object_or_a_list():
    assert label_names({"1": "fake", "0": "real"}) == ("real", "fake") == label_names(["real", "fake"])
    for bad in ({}, {"0": "a", "2": "b"}, {"x": "a"}, "real", None, [], 3):
        with pytest.raises(WeightsError, match="expected"):
            label_names(bad)
