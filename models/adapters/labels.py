"""Which of a classifier's labels mean manipulated: read from their words or stated by the user, never guessed.

`{0: "Real", 1: "Deepfake"}` can be read; `{0: "LABEL_0", 1: "LABEL_1"}` cannot. A detector with the wrong sign is worse
than none, so unreadable labels are an error, and its message says what to write into `deephotlink.json`.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from ..weights.files import WeightsError


def _words(text: str) -> frozenset[str]:
    return frozenset(text.split())


FAKE_WORDS = _words(
    "fake fakes faked deepfake deepfakes spoof spoofed spoofing synthetic synthesized synthesis synthesised "
    "generated ai aigc artificial manipulated manipulation tampered tampering swap swapped faceswap forged "
    "forgery altered edited inauthentic unreal unnatural cgi gan diffusion attack"
)
REAL_WORDS = _words(
    "real reals realism reality bonafide authentic human hum genuine natural nature live original pristine "
    "unaltered unmanipulated untampered unedited"
)
NEGATIONS = _words("no not non never isn isnt without un kein nicht pas sans sin")
UNCLEAR = _words("anti or vs unknown maybe possibly likely free detected undetected")
"""A label with one of these words counts as unreadable: `anti_spoof`, `fake_free`, `AI not detected`."""
MOST_LABELS = 50_000


@dataclass(frozen=True, slots=True)
class Classes:
    """Which logits of a classifier mean manipulated and which mean real."""

    fake: tuple[int, ...]
    """Positions; empty for a single logit whose sigmoid is the probability of being real."""
    real: tuple[int, ...]
    """Positions; empty for a single logit whose sigmoid is the probability of being manipulated."""
    names: tuple[str, ...]
    """Labels of all positions."""

    def logit(self, logits: Tensor) -> Tensor:
        """(R, K) → (R,), > 0 = manipulated: logsumexp(fake) - logsumexp(real), the log-odds under softmax."""
        if len(self.names) == 1:
            return logits[:, 0] if self.fake else -logits[:, 0]
        return torch.logsumexp(logits[:, list(self.fake)], 1) - torch.logsumexp(logits[:, list(self.real)], 1)

    def __str__(self) -> str:
        if len(self.names) == 1:
            return f"one logit, sigmoid = {'manipulated' if self.fake else 'real, negated'}"
        fake, real = ([f"{at} {self.names[at]!r}" for at in some] for some in (self.fake, self.real))
        return f"logsumexp of {', '.join(fake)} minus logsumexp of {', '.join(real)}"


def words_of(label: str) -> list[str]:
    """The label's words in lower case. Case, digits and punctuation separate words; `bona fide` is one word.

    >>> words_of("AIGenerated_image-2"), words_of("Bona-Fide"), words_of("DeepFake")
    (['ai', 'generated', 'image'], ['bonafide'], ['deep', 'fake'])
    """
    parted = re.findall(r"[A-Z]+(?![a-z])|[A-Z]?[a-z]+", label)
    return re.sub(r"\bbona fide\b", "bonafide", " ".join(parted).lower()).split()


def meaning_of(label: str) -> bool | None:
    """True for manipulated, False for real, None if the words say neither or both.

    A negation reverses every such word after it. A negation with no such word after it makes the label unreadable. So
    do non-ASCII letters, because they may be a negation.

    >>> [meaning_of(label) for label in ("Fake", "bona_fide", "not fake", "LABEL_1", "real or fake", "AI not detected")]
    [True, False, False, None, None, None]
    """
    found: set[bool] = set()
    negated = dangling = False
    words = words_of(label)
    if not label.isascii() or UNCLEAR.intersection(words):
        return None
    for word in words:
        if word in NEGATIONS:
            negated = dangling = True
        elif word in FAKE_WORDS or word in REAL_WORDS:
            found.add((word in FAKE_WORDS) != negated)
            dangling = False
    return found.pop() if len(found) == 1 and not dangling else None


def tell_classes(
    names: Sequence[str],
    fake: Sequence[str] | None = None,
    real: Sequence[str] | None = None,
    positive: str | None = None,
) -> Classes:
    """The classes that the user states, else those that the labels' words say.

    Args:
        names: the label of each logit.
        fake, real: stated labels. If only one list is stated, all other labels belong to the other class. Labels in
            neither list are left out of the logit.
        positive: `fake` or `real`: what the sigmoid of a single logit is the probability of.

    Raises:
        WeightsError: the labels are unreadable, or the stated ones do not fit.
    """
    names = tuple(names)
    if not names:
        raise WeightsError("expected the labels of a classifier: it has none")
    if len(names) == 1:
        return _single(names, fake, real, positive)
    if positive is not None:
        raise WeightsError(f'"positive" is for a model of one logit: this one has {len(names)}, state "fake" instead')
    if fake is None and real is None:
        return _classes_by_name(names)
    stated_fake, stated_real = _positions(names, fake, "fake"), _positions(names, real, "real")
    everything = range(len(names))
    fakes = stated_fake if fake is not None else tuple(at for at in everything if at not in stated_real)
    reals = stated_real if real is not None else tuple(at for at in everything if at not in stated_fake)
    if not fakes or not reals or set(fakes) & set(reals):
        raise WeightsError(
            f'expected "fake" and "real" to be different labels of {_listed(names)}: {fake = }, {real = }'
        )
    return Classes(fakes, reals, names)


def label_names(id2label: object, count: int | None = None) -> tuple[str, ...]:
    """The labels in the order of the logits, from `{"0": "real", …}` or a list.

    Raises:
        WeightsError: positions are missing or not numbers, or there are not `count` of them.
    """
    entries = id2label if not isinstance(id2label, Sequence) or isinstance(id2label, str) else dict(enumerate(id2label))
    if not isinstance(entries, Mapping) or not 1 <= len(entries) <= MOST_LABELS:
        raise WeightsError(f"expected id2label as an object of labels by position: got {repr(id2label)[:200]}")
    try:
        by_position = {int(at): str(name) for at, name in entries.items()}
    except (TypeError, ValueError) as error:
        raise WeightsError(f"expected positions in id2label: {error}") from error
    if sorted(by_position) != list(range(count or len(entries))):
        raise WeightsError(
            f"expected labels 0 to {(count or len(entries)) - 1} in id2label: got {sorted(by_position)[:20]}"
        )
    return tuple(by_position[at] for at in range(len(by_position)))


def _classes_by_name(names: tuple[str, ...]) -> Classes:
    meanings = [meaning_of(name) for name in names]
    if None in meanings or len(set(meanings)) < 2:
        raise WeightsError(
            f"cannot tell which of the labels {_listed(names)} mean manipulated: write deephotlink.json beside the "
            f'model with {json.dumps({"fake": names[-1][:60]})}, or with lists under "fake" and "real", according to '
            "what its author says about them"
        )
    return Classes(
        tuple(at for at, fake in enumerate(meanings) if fake),
        tuple(at for at, fake in enumerate(meanings) if not fake),
        names,
    )


def _single(
    names: tuple[str, ...], fake: Sequence[str] | None, real: Sequence[str] | None, positive: str | None
) -> Classes:
    if positive is None and (fake is None) == (real is None):
        raise WeightsError(
            f"one logit, {names[0]!r}: cannot tell what its sigmoid is the probability of; write deephotlink.json "
            'beside the model with {"positive": "fake"} or {"positive": "real"}'
        )
    if positive is None:
        _positions(names, fake or real, "fake" if fake else "real")
        positive = "fake" if fake is not None else "real"
    return Classes((0,), (), names) if positive == "fake" else Classes((), (0,), names)


def _positions(names: tuple[str, ...], stated: Sequence[str] | None, which: str) -> tuple[int, ...]:
    unknown = [label for label in stated or () if label not in names]
    if unknown:
        raise WeightsError(f'"{which}" in deephotlink.json names {unknown}, expected labels of {_listed(names)}')
    return tuple(at for at, name in enumerate(names) if name in (stated or ()))


def _listed(names: Sequence[str]) -> str:
    shown = ", ".join(repr(name[:60]) for name in names[:20])
    return f"{shown}, and {len(names) - 20} more" if len(names) > 20 else shown
