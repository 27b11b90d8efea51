"""The plots of `deephotlink evaluate` as PNG and SVG: ROC curves, reliability diagrams and score distributions."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import matplotlib
import numpy as np
from matplotlib.figure import Figure

from ...models.calibration.accuracy import BINS, bin_of
from ...transforms.failures import printable
from .labelled_scores import Material, Subject

REAL, FAKE = "#1f77b4", "#d62728"
_MOST_PANELS = 16
_LONGEST_NAME = 60


def draw(material: Material, folder: Path) -> list[Path]:
    """Writes the plots into `folder`; returns their paths. A plot for which no subject has data is left out.

    Raises:
        OSError: `folder` cannot be written.
    """
    ranked = [subject for subject in material.subjects if _both(subject, material)]
    probable = [s for s in material.subjects if s.probability is not None and s.judged.any()]
    written = []
    if ranked:
        written += _save(_roc(ranked, material), folder / "roc")
        written += _save(_distributions(ranked[:_MOST_PANELS], material), folder / "scores")
    if probable:
        written += _save(_reliability(probable, material), folder / "reliability")
    return written


def _both(subject: Subject, material: Material) -> bool:
    fake = material.fake[subject.judged]
    return bool(fake.any() and not fake.all())


def _roc(subjects: Sequence[Subject], material: Material) -> Figure:
    from sklearn.metrics import roc_auc_score, roc_curve

    figure = Figure(figsize=(6, 6), layout="constrained")
    axes = figure.add_subplot()
    axes.plot([0, 1], [0, 1], color="0.7", linewidth=1, linestyle=":")
    for subject in subjects:
        fake, score = material.fake[subject.judged], subject.score[subject.judged]
        fpr, tpr, _ = roc_curve(fake, score)
        legend = f"{printable(subject.name, _LONGEST_NAME)}: {roc_auc_score(fake, score):.2f} (n = {len(fake)})"
        axes.plot(fpr, tpr, label=legend, linewidth=2 if subject.kind == "fused" else 1)
    axes.set(xlabel="reals flagged (false-positive rate)", ylabel="fakes found (true-positive rate)", title="ROC, AUC")
    axes.set(xlim=(-0.01, 1.01), ylim=(-0.01, 1.01), aspect="equal")
    _legend(axes, loc="lower right")
    return figure


def _reliability(subjects: Sequence[Subject], material: Material) -> Figure:
    figure, panels = _panels(len(subjects))
    for axes, subject in zip(panels, subjects, strict=False):
        assert subject.probability is not None
        fake, probability = material.fake[subject.judged], subject.probability[subject.judged]
        bins = bin_of(probability)
        filled = [n for n in range(BINS) if (bins == n).any()]
        means = [float(probability[bins == n].mean()) for n in filled]
        shares = [float(fake[bins == n].mean()) for n in filled]
        axes.plot([0, 1], [0, 1], color="0.7", linewidth=1, linestyle=":")
        axes.plot(means, shares, marker="o", color="black", linewidth=1)
        for n, x, y in zip(filled, means, shares, strict=True):
            axes.annotate(str(int((bins == n).sum())), (x, y), textcoords="offset points", xytext=(4, 4), fontsize=7)
        axes.set(xlim=(-0.03, 1.03), ylim=(-0.03, 1.08))
        _title(axes, subject)
        axes.set(xlabel="probability of manipulation", ylabel="share of fakes")
    return figure


def _distributions(subjects: Sequence[Subject], material: Material) -> Figure:
    figure, panels = _panels(len(subjects))
    for axes, subject in zip(panels, subjects, strict=False):
        fake, score = material.fake[subject.judged], subject.score[subject.judged]
        low, high = float(score.min()), float(score.max())
        edges = np.linspace(low - 0.5, high + 0.5, 3) if low == high else np.linspace(low, high, 31)
        for is_fake, colour, name in ((False, REAL, "real"), (True, FAKE, "fake")):
            of = score[fake == is_fake]
            axes.hist(
                of, edges, weights=np.full(len(of), 1 / len(of)), color=colour, alpha=0.5, label=f"{name} ({len(of)})"
            )
        axes.set(xlabel="score (higher: manipulated)", ylabel="share")
        _title(axes, subject)
        _legend(axes)
    return figure


def _title(axes: Any, subject: Subject) -> None:
    """Sets the title. A name from a table is not a formula, even if it contains dollar signs."""
    axes.set_title(printable(subject.name, _LONGEST_NAME), parse_math=False)


def _legend(axes: Any, **more: Any) -> None:
    for text in axes.legend(fontsize="small", **more).get_texts():
        text.set_parse_math(False)


def _panels(count: int) -> tuple[Figure, list[Any]]:
    columns = min(3, count)
    rows = -(-count // columns)
    figure = Figure(figsize=(4 * columns, 3.4 * rows), layout="constrained")
    panels = list(np.atleast_1d(figure.subplots(rows, columns)).ravel())
    for axes in panels[count:]:
        axes.remove()
    return figure, panels[:count]


def _save(figure: Figure, stem: Path) -> list[Path]:
    """Writes PNG and SVG. The same figure gives the same bytes: no date, and no random identifiers."""
    files = [stem.with_suffix(".png"), stem.with_suffix(".svg")]
    with matplotlib.rc_context({"svg.hashsalt": "deephotlink", "svg.fonttype": "path"}):
        figure.savefig(files[0], dpi=120, metadata={"Software": None})
        figure.savefig(files[1], metadata={"Date": None})
    return files
