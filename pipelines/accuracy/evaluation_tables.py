"""The figures of `deephotlink evaluate` as tables for the terminal and as Markdown. Reads the JSON that it writes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from rich.console import Console
from rich.markup import escape

from ...transforms.failures import printable
from ..terminal.tables import Column, print_table

Json = Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class Sheet:
    title: str
    columns: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]


def print_evaluation(figures: Json, console: Console) -> None:
    console.print(escape(_heading(figures)), highlight=False, soft_wrap=False)
    for sheet in sheets(figures):
        columns = [
            Column(name, right=not (place == 0 or name in _OF_WORDS), whole=not (place == 0 or name in _OF_WORDS))
            for place, name in enumerate(sheet.columns)
        ]
        console.print()
        print_table(console, columns, sheet.rows, sheet.title)
    for kind, style in (("warnings", "bold red"), ("notes", "")):
        for line in figures[kind]:
            told_as = "WARNING" if kind == "warnings" else "note"
            console.print(f"{told_as}: {escape(line)}", style=style, highlight=False)


BASELINE = "best baseline v score"
"""The best trivial baseline's AUC, and the score's AUC on the same files (those of which the baseline is known)."""
_OF_WORDS = ("forgery", "judged by", BASELINE, "higher in")


def to_markdown(figures: Json) -> str:
    parts = [_heading(figures)]
    for sheet in sheets(figures):
        lines = ["| " + " | ".join(sheet.columns) + " |", "|" + "---|" * len(sheet.columns)]
        lines += ["| " + " | ".join(cell.replace("|", "\\|") for cell in row) + " |" for row in sheet.rows]
        parts.append(f"**{sheet.title}**\n\n" + "\n".join(lines))
    for kind, word in (("warnings", "**Warning:** "), ("notes", "")):
        if figures[kind]:
            parts.append("\n".join(f"- {word}{line}" for line in figures[kind]))
    return "\n\n".join(parts) + "\n"


def sheets(figures: Json) -> list[Sheet]:
    subjects = figures["subjects"]
    ranked = ("judged by", "real", "fake", "groups", "abstains", "AUC [95 %]", "within groups", BASELINE)
    found = [
        Sheet("How well the scores rank", ranked, tuple((row["name"], *_ranked(row)) for row in subjects)),
        _most_suspicious(subjects),
        Sheet(
            "At thresholds, and how good the probabilities are",
            ("judged by", "EER", "AP", "TPR at 1 % FPR", "TPR at 5 % FPR", "Brier", "ECE"),
            tuple(
                (
                    row["name"],
                    *(_figure(row[f"tpr_at_{n}_percent_fpr" if isinstance(n, int) else n]) for n in _AT_THRESHOLDS),
                )
                for row in subjects
            ),
        ),
        Sheet(
            "Called manipulated",
            ("judged by", "of real", "groups of real", "of fake"),
            tuple(
                (
                    row["name"],
                    _share(row["manipulated_of_real"]),
                    _share(row["groups_accused_of_real"]),
                    _share(row["manipulated_of_fake"]),
                )
                for row in subjects
                if row["verdicts"] is not None
            ),
        ),
        _verdicts(subjects),
        Sheet(
            "Trivial baselines on all labelled files",
            ("baseline", "real", "fake", "AUC [95 %]", "higher in"),
            tuple(
                (b["name"], str(b["real"]), str(b["fake"]), _figure(b["auc"]), b["higher_in"] or "-")
                for b in figures["baselines"]
            ),
        ),
    ]
    for by, rows in figures["breakdown"].items():
        if rows:
            told_of = [row for row in rows if row["kind"] != "family" or row["real"] or row["fake"]]
            lines = tuple((printable(row["value"], 30), row["name"], *_ranked(row)) for row in told_of)
            title = f"By {by} of the forgery, against all real files of the same media types"
            found.append(Sheet(title, ("forgery", *ranked), lines))
    return found


_AT_THRESHOLDS = ("eer", "ap", 1, 5, "brier", "ece")


def _most_suspicious(subjects: Sequence[Json]) -> Sheet:
    """What a person finds who looks at the most suspicious files alone, beside what a look at random files finds."""
    percents = [top["percent"] for top in subjects[0]["most_suspicious"]]
    rows = []
    for row in subjects:
        files = row["real"] + row["fake"]
        cells = [f"{_figure(top['precision'])}" for top in row["most_suspicious"]]
        found = row["most_suspicious"][-1]["found"]
        rows.append((row["name"], _number(row["fake"] / files) if files else "-", *cells, _figure(found)))
    columns = ("judged by", "of all", *(f"of the top {p} %" for p in percents), f"fakes in the top {percents[-1]} %")
    return Sheet("Share of fakes among the most suspicious files", columns, tuple(rows))


def _verdicts(subjects: Sequence[Json]) -> Sheet:
    fused = next(row for row in subjects if row["kind"] == "fused")["verdicts"]
    names = tuple(name for name in fused["real"] if fused["real"][name] or fused["fake"][name])
    rows = tuple((label, *(str(fused[label][name]) for name in names)) for label in ("real", "fake"))
    return Sheet("Verdicts (fused)", ("label", *names), rows)


def _heading(figures: Json) -> str:
    counts, settings = figures["counts"], figures["settings"]
    return (
        f"{counts['media']} labelled files, {counts['real']} real and {counts['fake']} fake, in {counts['groups']} "
        f"groups. "
        f"Calibration {', '.join(figures['calibration_ids']) or 'none'}. In brackets: 95 % intervals, "
        f"{settings['resamples']} resamples of the groups; for shares, exact (Clopper-Pearson). "
        "`v`: a trivial baseline's AUC against the score's on the same files; `!` where the baseline ranks better."
    )


def _ranked(row: Json) -> tuple[str, ...]:
    known = [b for b in row["baselines"] if b["auc"]["value"] is not None]
    best = max(known, key=lambda b: b["auc"]["value"], default=None)
    best_text = "-" if best is None else f"{best['name']} {_number(best['auc']['value'])}"
    if best is not None and best["detector_auc"] is not None:
        best_text += f" v {_number(best['detector_auc'])}{' !' if best['beats'] else ''}"
    silent = row["abstained"]["all"]
    return (
        str(row["real"]),
        str(row["fake"]),
        str(row["groups"]),
        "-" if silent["value"] is None else f"{100 * silent['value']:.0f} %",
        _figure(row["auc"]),
        _figure(row["within_groups"]["auc"]),
        best_text,
    )


def _figure(figure: Json) -> str:
    if figure["value"] is None:
        return "-"
    bounds = "" if figure["low"] is None else f" [{_number(figure['low'])}-{_number(figure['high'])}]"
    return f"{_number(figure['value'])}{bounds}"


def _share(part: Json) -> str:
    if part["value"] is None:
        return "-"
    return (
        f"{part['count']}/{part['of']} = {100 * part['value']:.1f} % [{100 * part['low']:.1f}-{100 * part['high']:.1f}]"
    )


def _number(value: float) -> str:
    """
    >>> _number(0.834), _number(1.0)
    ('.83', '1.00')
    """
    text = f"{value:.2f}"
    return text.removeprefix("0") if text != "0.00" else text
