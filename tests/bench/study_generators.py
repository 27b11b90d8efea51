"""Study: which forgeries of others a detector finds, by family and generator, when their repository is left out.

python -m tests.bench.study_generators --labels MANIFEST.csv --audit OUT [--scores NAME.csv]... [--fit MODULE:NAME]...

Judges the detectors of an audit, scores from CSV files (`path`, and one column a detector), and whatever a function
fits in each fold (`Fit` in tests/bench/generators.py). What an audit measured beside (size, length, sharpness, sound)
and the columns of `--values` are the trivial properties that each figure is held against; `trivial` is a classifier on
them alone, fitted and judged as the others are.
"""

from __future__ import annotations

import argparse
import csv
import importlib
import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, replace
from datetime import UTC, datetime
from pathlib import Path

import numpy as np

from deephotlink.models.calibration.accuracy import Figure, Resampling
from deephotlink.pipelines.accuracy.labelled_scores import Material, read_material
from deephotlink.pipelines.accuracy.labels import Label, Labels
from deephotlink.pipelines.outputs.query import run_query
from tests.bench.generators import (
    FOLDS,
    Compared,
    Fold,
    Found,
    Item,
    Table,
    folds_of,
    found_at,
    left_out_scores,
    read_items,
    trivial_classifier,
)
from tests.bench.studies import figure_cell, table

TRIVIAL = "trivial"
LEAST = 2
"""Forgeries of a generator that gets a line."""


def from_audit(out: str, labels: str, items: Sequence[Item]) -> tuple[list[Item], dict[str, np.ndarray]]:
    """The items with what the audit measured of each file, and for each detector its score of each file (see
    `evaluate`)."""
    rows = tuple(
        Label(number, item.path, "", item.fake, item.group, item.family, item.generator)
        for number, item in enumerate(items, 2)
    )
    material = read_material(out, Labels(labels, "", rows))
    places = np.array([label.line - 2 for label, _ in material.joined.pairs])
    measured = _measured(out, material)
    found = list(items)
    for row, place in enumerate(places):
        known = {name: float(values[row]) for name, values in measured.items() if np.isfinite(values[row])}
        found[place] = replace(found[place], values={**found[place].values, **known})
    scores = {}
    for subject in material.subjects:
        if subject.kind == "detector" and subject.judged.any():
            scores[subject.name] = np.full(len(items), np.nan)
            scores[subject.name][places] = subject.score
    return found, scores


def _measured(out: str, material: Material) -> dict[str, np.ndarray]:
    """By name, float [N] in the material's order: `evaluate`'s baselines, sound or none, size and number of faces."""
    faces = run_query(
        out,
        "select media_id, median(box.y2 - box.y1) as size, count(distinct (clip_index, track_id)) as faces "
        "from evidence where box is not null and track_id is not null group by media_id",
    ).to_pylist()
    by_id = {row["media_id"]: row for row in faces}
    ids = [row["media_id"] for _, row in material.joined.pairs]
    size = np.array([float(by_id[one]["size"]) if one in by_id else np.nan for one in ids])
    count = np.array([float(by_id[one]["faces"]) if one in by_id else 0.0 for one in ids])
    sound = np.isfinite(material.baselines["loudness"]).astype(float)
    return {**material.baselines, "sound": sound, "face_size": size, "faces": count}


def from_csv(path: str | Path, items: Sequence[Item]) -> dict[str, np.ndarray]:
    """By column, float [N]: what the CSV holds for each item. Files are matched by the end of their path.

    Raises: SystemExit: it has no column `path` or `uri`, names no item, or one of its lines is not a number.
    """
    with Path(path).open(encoding="utf-8-sig", newline="") as lines:
        rows = list(csv.DictReader(lines))
    place = next((name for name in ("path", "uri") if rows and name in rows[0]), None)
    if place is None:
        raise SystemExit(f"expected a column path or uri, and a line or more, in {path}")
    at = {item.path: number for number, item in enumerate(items)}
    columns = [name for name in rows[0] if name and name != place]
    found = {name: np.full(len(items), np.nan) for name in columns}
    known = 0
    for row in rows:
        number = next((at[end] for end in _ends(row[place]) if end in at), None)
        if number is None:
            continue
        known += 1
        for name in columns:
            try:
                found[name][number] = float(row[name]) if row[name] else np.nan
            except ValueError:
                raise SystemExit(
                    f"expected a number for {row[place]} in column {name} of {path}: {row[name]}"
                ) from None
    if not known:
        raise SystemExit(f"none of the {len(rows)} lines of {path} is about one of the {len(items)} labelled files")
    return found


def _ends(path: str) -> Iterator[str]:
    """The path and all its endings after a slash, longest first."""
    while path:
        yield path
        path = path.partition("/")[2]


def figures(
    name: str, scores: np.ndarray, table_: Table, folds: Sequence[Fold], least: int = LEAST
) -> dict[str, object]:
    """All figures of one score, as JSON."""
    fake = table_.fake
    families = [table_.compare("all", scores, fake), *table_.by("family", scores)]
    at_rate = {"all": found_at(table_.items, folds, scores, fake)}
    for family in sorted({item.family for item in table_.items if item.fake}):
        of = np.array([item.fake and item.family == family for item in table_.items])
        at_rate[family] = found_at(table_.items, folds, scores, of)
    return {
        "name": name,
        "families": families,
        "generators": table_.by("generator", scores, least),
        "moved_by": table_.moved_by(scores),
        "at_rate": at_rate,
    }


def in_words(told: Mapping[str, object]) -> str:
    """One score's figures as Markdown."""
    head = ("forgeries", "files / groups", "against real", "AUC [95 %]", "own repository", "pairs in order", "trivial")
    parts = [f"## {told['name']}\n"]
    for column in ("families", "generators"):
        rows = [_line(one) for one in told[column]]  # type: ignore[attr-defined]
        if rows:
            parts += [table((column if column == "generators" else head[0], *head[1:]), rows), ""]
    rates: Mapping[str, Found] = told["at_rate"]  # type: ignore[assignment]
    parts.append(
        table(
            ("threshold of other folds", "real accused", "forgeries found", "rate proven", "above 4/5 of real"),
            [
                (name, f"{f.accused}/{f.reals}", f"{f.found}/{f.fakes}", f.proven, f"{f.in_top_fifth:.0%}")
                for name, f in rates.items()
            ],
        )
    )
    moved: Mapping[str, tuple[float, int]] = told["moved_by"]  # type: ignore[assignment]
    parts.append(
        "\nRank correlation over real files: " + (", ".join(f"{n} {r:+.2f}" for n, (r, _) in moved.items()) or "none")
    )
    return "\n".join(parts) + "\n"


def _line(one: Compared) -> tuple[str, ...]:
    best = one.best_baseline
    own = "-" if one.own_repo is None else f"{one.own_repo:.2f} ({one.own_repo_pairs})"
    order = "-" if one.in_order.value is None else f"{figure_cell(one.in_order)} ({one.pairs})"
    told = "-" if best is None else f"{best.name} {figure_cell(Figure(best.auc.value))}"
    return (one.name, f"{one.fakes} / {one.fake_groups}", str(one.reals), figure_cell(one.pooled), own, order, told)


def _function(name: str) -> object:
    module, _, attribute = name.partition(":")
    try:
        return getattr(importlib.import_module(module), attribute)
    except (ImportError, AttributeError) as error:
        raise SystemExit(f"expected MODULE:NAME of a function that fits, got {name}: {error}") from None


def main(arguments: Sequence[str] | None = None) -> str:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    add = parser.add_argument
    add("--labels", required=True, help="CSV with path, split, kind, label, family, generator, group, repo")
    add("--split", default="train")
    add("--kind", default="video")
    add("--audit", help="output of `deephotlink audit` over these files")
    add("--scores", nargs="*", default=[], help="CSV files: path, and a column of scores for each detector")
    add("--values", nargs="*", default=[], help="CSV files: path, and a column for each trivial property")
    add("--fit", nargs="*", default=[], help="MODULE:NAME of functions that fit in each fold")
    add("--folds", type=int, default=FOLDS, help=f"bundles of repositories (default {FOLDS})")
    add("--only", help="comma-separated detectors of the audit (default: all)")
    add("--resamples", type=int, default=1000)
    add("--seed", type=int, default=0)
    add("--out", type=Path, help="JSON file to write")
    args = parser.parse_args(arguments)

    items = read_items(args.labels, args.split, args.kind)
    scores: dict[str, np.ndarray] = {}
    if args.audit:
        items, scores = from_audit(args.audit, args.labels, items)
        scores = {n: s for n, s in scores.items() if not args.only or n in args.only.split(",")}
    for path in args.values:
        for name, values in from_csv(path, items).items():
            items = list(Table(items, Resampling(1)).with_value(name, values).items)
    for path in args.scores:
        for name, values in from_csv(path, items).items():
            scores[name if name not in scores else f"{name} ({Path(path).stem})"] = values
    folds = folds_of(items, args.folds)
    for name in args.fit:
        scores[name] = left_out_scores(items, folds, _function(name))  # type: ignore[arg-type]
    told_of = Table(items, Resampling(args.resamples, args.seed))
    if told_of.values:
        scores[TRIVIAL] = left_out_scores(items, folds, trivial_classifier)
    if not scores:
        raise SystemExit("expected something to judge: --audit, --scores or --fit")
    told = [figures(name, values, told_of, folds) for name, values in scores.items()]
    real = [item for item in items if not item.fake]
    text = (
        f"{len(items) - len(real)} forgeries and {len(real)} real files of {len({i.repo for i in items})} repositories "
        f"({len({i.group for i in real})} groups of real files); {len(folds)} bundles of repositories, each left out "
        "once\n\n" + "\n".join(in_words(one) for one in told)
    )
    print(text)
    if args.out:
        record = {
            "study": "generators",
            "made": datetime.now(UTC).isoformat(timespec="seconds"),
            "arguments": {key: str(value) for key, value in vars(args).items() if value},
            "folds": [list(fold.repos) for fold in folds],
            "subjects": told,
        }
        args.out.parent.mkdir(parents=True, exist_ok=True)
        args.out.write_text(json.dumps(record, indent=1, default=_plain), encoding="utf-8")
    return text


def _plain(value: object) -> object:
    return asdict(value) if hasattr(value, "__dataclass_fields__") else str(value)  # type: ignore[call-overload]


if __name__ == "__main__":
    main()
