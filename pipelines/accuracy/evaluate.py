"""`deephotlink evaluate`: how accurate the scores of an output are on media whose truth is known."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from ... import __version__
from ...models.calibration.accuracy import (
    LEVEL,
    Resampling,
    auc_within_groups,
    calibrated,
    most_suspicious,
    ranking,
    share,
)
from ...models.calibration.calibration import calibration_to_json, content_sha256
from ...models.extras import lacking
from ...transforms.failures import UsageError, local_fault, printable
from ..terminal.printing import console
from .baselines import Baselines
from .labelled_scores import POOLING, Material, Subject, read_material
from .labels import Labels, read_labels, without_secrets

SCHEMA, SCHEMA_VERSION = "deephotlink.evaluation", 1
FEW_GROUPS = 30
"""If a class has fewer groups than this, a note warns about the intervals."""
VERDICTS = ("manipulated", "inconclusive", "authentic", "not_assessed")
_MOST_LINES = 5


@dataclass(frozen=True, slots=True)
class Request:
    output: str
    labels: str
    run_id: str | None = None
    resamples: int = 1000
    seed: int = 0
    json_file: str | None = None
    markdown_file: str | None = None
    plots: str | None = None


def evaluate_command(request: Request) -> int:
    """Prints the tables and writes what was asked for.

    Raises:
        UsageError: the labels or the output cannot be used, or a file cannot be written.
        NothingFound: no label fits any file of the output.
    """
    from .evaluation_tables import print_evaluation, to_markdown

    if request.resamples < 100:
        raise UsageError(f"expected --resamples of 100 or more (fewer give no interval): got {request.resamples}")
    lack = lacking("`evaluate` needs", "evaluate", "sklearn", "scipy")
    if (lack := lack or (lacking("plots need", "evaluate", "matplotlib") if request.plots else None)) is not None:
        raise UsageError(lack)
    files = [Path(name) for name in (request.json_file, request.markdown_file) if name]
    try:
        for folder in [file.parent for file in files] + ([Path(request.plots)] if request.plots else []):
            folder.mkdir(parents=True, exist_ok=True)
        labels = read_labels(request.labels)
        material = read_material(request.output, labels, request.run_id)
        results = evaluate(material, labels, Resampling(request.resamples, request.seed))
        if request.json_file:
            Path(request.json_file).write_text(json.dumps(results, indent=1, allow_nan=False) + "\n", encoding="utf-8")
        if request.markdown_file:
            Path(request.markdown_file).write_text(to_markdown(results), encoding="utf-8")
        if request.plots:
            from .plots import draw

            draw(material, Path(request.plots))
    except OSError as e:
        raise local_fault(f"{printable(str(e.filename))} cannot be written", e) from e
    print_evaluation(results, console(120))
    return 0


def evaluate(material: Material, labels: Labels, resampling: Resampling) -> dict[str, Any]:
    """All figures, as JSON."""
    baselines = Baselines(material.fake, material.groups, material.baselines, resampling)
    everything = np.ones(len(material.fake), bool)
    subjects = [
        {
            **_figures(subject, everything, material, resampling),
            "baselines": _against(subject, subject.judged, baselines, True),
            "verdicts": _verdicts(subject, material),
            **_accusations(subject, everything, material),
        }
        for subject in material.subjects
    ]
    breakdown = {
        "family": _breakdown(material.families, material, baselines, resampling),
        "generator": _breakdown(material.generators, material, baselines, resampling),
    }
    return {
        "schema": SCHEMA,
        "schema_version": SCHEMA_VERSION,
        "deephotlink": __version__,
        "run_ids": list(material.run_ids),
        "calibration_ids": list(material.calibration_ids),
        "fingerprints": list(material.fingerprints),
        "labels": {"sha256": labels.sha256, "lines": len(labels.rows)},
        "settings": {
            "level": LEVEL,
            "resamples": resampling.resamples,
            "seed": resampling.seed,
            "resampled": "groups",
            "pooling": POOLING,
        },
        "counts": _counts(material),
        "subjects": subjects,
        "baselines": [asdict(b) for b in baselines.against(everything, None)],
        "breakdown": breakdown,
        "warnings": _warnings(subjects, breakdown),
        "notes": [*_undefined(subjects), *_notes(material, labels)],
    }


def _figures(subject: Subject, of: np.ndarray, material: Material, resampling: Resampling) -> dict[str, Any]:
    """The accuracy of a subject's scores on the media `of`, bool [N]."""
    here = of & subject.judged
    fake, score, groups = material.fake[here], subject.score[here], material.groups[here]
    relevant = of & subject.relevant
    silent = relevant & ~subject.judged
    if subject.probability is None:
        none = {"value": None, "low": None, "high": None, "why": "raw logits are not probabilities"}
        probabilities: dict[str, Any] = {"brier": none, "ece": none}
    else:
        probabilities = asdict(calibrated(fake, subject.probability[here], groups, resampling))
    return {
        "name": subject.name,
        "kind": subject.kind,
        "family": subject.family,
        "real": int((~fake).sum()),
        "fake": int(fake.sum()),
        "groups": len(np.unique(groups)),
        "abstained": {
            "all": asdict(share(int(silent.sum()), int(relevant.sum()))),
            "real": asdict(share(int((silent & ~material.fake).sum()), int((relevant & ~material.fake).sum()))),
            "fake": asdict(share(int((silent & material.fake).sum()), int((relevant & material.fake).sum()))),
        },
        **asdict(ranking(fake, score, groups, resampling)),
        "most_suspicious": [asdict(top) for top in most_suspicious(fake, score, groups, resampling)],
        "within_groups": asdict(auc_within_groups(fake, score, groups, resampling)),
        **probabilities,
    }


def _against(subject: Subject, judged: np.ndarray, baselines: Baselines, intervals: bool) -> list[dict[str, Any]]:
    return [{**asdict(b), "beats": b.beats} for b in baselines.against(judged, subject.score, intervals)]


def _verdicts(subject: Subject, material: Material) -> dict[str, dict[str, int]] | None:
    """How often each verdict was given, by label. Files that failed or were skipped have no verdict and are counted as
    `failed` and `skipped`."""
    if subject.verdicts is None:
        return None
    found: dict[str, dict[str, int]] = {}
    for label, is_fake in (("real", False), ("fake", True)):
        counts = Counter(
            subject.verdicts[n] or ("not_assessed" if outcome == "scored" else outcome)
            for n, outcome in enumerate(material.outcomes)
            if material.fake[n] == is_fake and (subject.kind == "fused" or subject.relevant[n])
        )
        found[label] = {name: counts[name] for name in (*VERDICTS, "failed", "skipped")}
    return found


def _accusations(subject: Subject, of: np.ndarray, material: Material) -> dict[str, Any]:
    """The share of each label's readable media that is called `manipulated`.

    For a detector, only the media that it could have judged count. An abstention does not accuse. By group, a group is
    accused if at least one of its media is."""
    if subject.verdicts is None:
        return {"manipulated_of_real": None, "manipulated_of_fake": None, "groups_accused_of_real": None}
    accused = np.array([verdict == "manipulated" for verdict in subject.verdicts])
    readable = np.array([outcome == "scored" for outcome in material.outcomes]) & subject.relevant & of
    real, fake = readable & ~material.fake, readable & material.fake
    groups = material.groups
    return {
        "manipulated_of_real": asdict(share(int((accused & real).sum()), int(real.sum()))),
        "manipulated_of_fake": asdict(share(int((accused & fake).sum()), int(fake.sum()))),
        "groups_accused_of_real": asdict(share(len(np.unique(groups[accused & real])), len(np.unique(groups[real])))),
    }


def _breakdown(
    values: Sequence[str], material: Material, baselines: Baselines, resampling: Resampling
) -> list[dict[str, Any]]:
    """Figures for each kind of fake against all reals of the same media types, for every subject that could judge some
    of those fakes."""
    rows = []
    types = np.array([kind or "" for kind in material.media_types])
    named = np.array(values)
    for value in sorted({value for value, fake in zip(values, material.fake, strict=True) if fake and value}):
        fakes = material.fake & (named == value)
        kinds = sorted(set(types[fakes]) - {""})
        of = fakes | (~material.fake & np.isin(types, kinds))
        for subject in material.subjects:
            if (fakes & subject.relevant).any():
                rows.append(
                    {
                        "value": value,
                        "media_types": kinds,
                        **_figures(subject, of, material, resampling),
                        "baselines": _against(subject, of & subject.judged, baselines, False),
                        **_accusations(subject, of, material),
                    }
                )
    return rows


def _counts(material: Material) -> dict[str, Any]:
    fake, joined = material.fake, material.joined
    return {
        "media": len(fake),
        "real": int((~fake).sum()),
        "fake": int(fake.sum()),
        "groups": len(np.unique(material.groups)),
        "groups_of_real": len(np.unique(material.groups[~fake])),
        "groups_of_fake": len(np.unique(material.groups[fake])),
        "outcomes": {name: material.outcomes.count(name) for name in ("scored", "failed", "skipped")},
        "media_types": dict(sorted(Counter(kind or "unread" for kind in material.media_types).items())),
        "labels_unmatched": len(joined.unmatched),
        "labels_repeated": joined.repeated,
        "media_unlabelled": joined.unlabelled,
    }


def _warnings(subjects: Sequence[dict[str, Any]], breakdown: dict[str, list[dict[str, Any]]]) -> list[str]:
    """One warning for each subject and cell in which a trivial baseline ranks the same media better."""
    found = []
    cells = [("all labels", row) for row in subjects]
    cells += [(f"{by} {row['value']}", row) for by, rows in breakdown.items() for row in rows]
    for where, row in cells:
        beating = [b for b in row["baselines"] if b["beats"]]
        if beating:
            best = max(beating, key=lambda b: b["auc"]["value"])
            others = f" (and {len(beating) - 1} more)" if len(beating) > 1 else ""
            found.append(
                f"{where}: {best['name']}{others} beats {row['name']}: AUC {best['auc']['value']:.2f}, higher in "
                f"{best['higher_in']}, against {best['detector_auc']:.2f} on the same {best['real']} real and "
                f"{best['fake']} fake files; the figure of {row['name']} there says little about forgeries"
            )
    return found


def _undefined(subjects: Sequence[dict[str, Any]]) -> list[str]:
    """Which figures are missing, and why."""
    found: dict[tuple[str, str], list[str]] = {}
    for row in subjects:
        figures = {"AUC": row["auc"], "AUC within groups": row["within_groups"]["auc"], "Brier and ECE": row["brier"]}
        if row["auc"]["value"] is not None:
            figures |= {f"TPR at {n} % FPR": row[f"tpr_at_{n}_percent_fpr"] for n in (1, 5)}
        for name, figure in figures.items():
            if figure["value"] is None:
                found.setdefault((name, figure["why"]), []).append(row["name"])
    return [f"no {name} for {', '.join(who)}: {why}" for (name, why), who in found.items()]


def _calibrations(material: Material) -> Sequence[str]:
    """The names of the calibrations that made the rows. If several share a name, each has the start of its sha256."""
    made = {(c.calibration_id, content_sha256(calibration_to_json(c))) for c in material.calibrations.values() if c}
    shared = Counter(name for name, _ in made)
    labelled = {f"{name} ({content[:8]})" if shared[name] > 1 else name for name, content in made}
    return sorted(labelled | {name for name in material.calibration_ids if name not in shared})


def _notes(material: Material, labels: Labels) -> list[str]:
    joined, counts = material.joined, _counts(material)
    notes = []
    if joined.unmatched:
        lines = ", ".join(str(label.line) for label in joined.unmatched[:_MOST_LINES])
        more = ", …" if len(joined.unmatched) > _MOST_LINES else ""
        first = without_secrets(joined.unmatched[0])
        notes.append(
            f"{len(joined.unmatched)} of {len(labels.rows)} labels fit no file of the output and are ignored "
            f"(lines {lines}{more}; the first is {first})"
        )
    if joined.repeated:
        notes.append(f"lines that repeat what another line says about the same file: {joined.repeated}")
    if joined.unlabelled:
        notes.append(f"files of the output without a label, which are ignored: {joined.unlabelled}")
    if labels.ignored:
        notes.append(f"unknown columns are ignored: {', '.join(printable(name, 40) for name in labels.ignored[:8])}")
    few = [f"{counts[f'groups_of_{label}']} of {label}" for label in ("real", "fake")]
    if min(counts["groups_of_real"], counts["groups_of_fake"]) < FEW_GROUPS:
        notes.append(
            f"few groups ({' and '.join(few)}): the intervals are wide, but still too narrow; one without width "
            "(1.00 [1.00-1.00]) does not mean certainty"
        )
    for what, names in (("calibrations", _calibrations(material)), ("fingerprints", material.fingerprints)):
        if len(names) > 1:
            notes.append(f"the rows come from {len(names)} {what} ({', '.join(names[:4])}): choose one with --run")
    if unread := counts["media"] - counts["outcomes"]["scored"]:
        notes.append(
            f"labelled files that could not be read or were skipped, on which the fused score abstains: {unread}"
        )
    empty = [name for name, values in material.baselines.items() if not np.isfinite(values).any()]
    if empty:
        notes.append(f"no baseline from {', '.join(empty)}: no row has it (no sound, or rows of an earlier version)")
    notes.append(
        "Brier, ECE, AP and precision depend on the share of fakes among the labels; in an archive it is unknown"
    )
    return notes
