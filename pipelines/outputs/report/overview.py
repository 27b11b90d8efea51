"""The first screen of a report, and what stands at its end: HTML that reads and prints without any script."""

from __future__ import annotations

import html
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

import duckdb

from .... import __version__
from ....models import registry
from ....models.base import FAMILIES
from ....transforms.failures import printable
from ....transforms.tables.runs import Run
from ...terminal.wording import common_folder, counted
from ..closing_tables import coverage, value_of
from ..plain_words import FAMILIES as FAMILY_WORDS
from ..plain_words import VERDICTS, WHAT_A_SCORE_IS_NOT, abstention, family_title, outcome_sentence
from ..reasons import family_of
from ..summary import Leaned, Summary
from .chosen import Chosen

SYMBOLS = {
    "manipulated": "▲",
    "inconclusive": "◆",
    "authentic": "●",
    "not_assessed": "○",
    "failed": "✕",
    "skipped": "–",
}
"""A shape beside each colour: nothing is told by colour alone."""
_COVERED = """
select family, judged, why, count(*) from (
    select family, bool_or(logit is not null) as judged, min(abstained) as why
    from weighed group by family, evidence_key
) group by all order by 4 desc, 3"""
_ENDS = """
select min(place), max(place) from (
    select regexp_replace(uri, '^(tar|zip)://.*::', '') as place
    from (select uri from scored union all select uri from failed union all select uri from passed_over)
)"""


@dataclass(frozen=True, slots=True)
class Covered:
    """What became of the files that a family of detectors was asked about."""

    family: str
    judged: int
    silent: tuple[tuple[str, int], ...]
    """(why, files) of the others, the most first."""

    @property
    def files(self) -> int:
        return self.judged + sum(count for _, count in self.silent)


def covered(tables: duckdb.DuckDBPyConnection) -> list[Covered]:
    """By family. Needs the views that `summarise` made."""
    judged: dict[str, int] = {}
    silent: dict[str, list[tuple[str, int]]] = {}
    for family, was_judged, why, count in tables.execute(_COVERED).fetchall():
        judged.setdefault(family, 0)
        if was_judged:
            judged[family] += count
        else:
            silent.setdefault(family, []).append((why or "", count))
    order = [*(f for f in FAMILIES if f in judged), *sorted(set(judged) - set(FAMILIES))]
    return [Covered(family, judged[family], tuple(silent.get(family, ()))) for family in order]


def audited_folder(tables: duckdb.DuckDBPyConnection) -> str:
    """The folder in which all files lie; "" where there is none. Needs the views that `summarise` made."""
    # What the first and the last in order have in common, all have.
    [(first, last)] = tables.execute(_ENDS).fetchall()
    return common_folder([first, last]) if first is not None else ""


def counts_of(summary: Summary) -> dict[str, int]:
    """Files by the keys of `VERDICTS`."""
    verdicts = {name: summary.verdicts.get(name, 0) for name in VERDICTS}
    return {**verdicts, "failed": sum(summary.failures.values()), "skipped": sum(summary.skipped.values())}


def headline(summary: Summary) -> str:
    if not summary.media:
        return "No file has been audited yet"
    found = summary.verdicts.get("manipulated", 0)
    if not summary.scored:
        return "No file could be scored"
    if found:
        return f"{found} of {counted(summary.media, 'file')} {'is' if found == 1 else 'are'} probably manipulated"
    if not summary.judged:
        return "No file could be judged by the detectors that count"
    return f"None of {counted(summary.media, 'file')} is called manipulated"


def header_html(summary: Summary, runs: Sequence[Run], folder: str, chosen: Chosen, command: str) -> str:
    when = sorted({run.run_date.isoformat() for run in runs})
    days = when[0] if len(when) == 1 else f"{when[0]} to {when[-1]}" if when else "not yet"
    versions = sorted({run.versions.get("deephotlink", "") for run in runs} - {""}) or [__version__]
    facts = [
        ("Audited", _code(folder) if folder else "files of several places"),
        ("When", f"{_text(days)}, in {_text(counted(len(runs), 'run'))}"),
        ("With", f"deephotlink {_text(', '.join(versions))}"),
        ("Calibration", _code(", ".join(summary.calibrations) or "none")),
        ("Report made", f"{datetime.now(UTC):%Y-%m-%d %H:%M} UTC"),
    ]
    listed = "".join(f"<div><dt>{name}</dt><dd>{value}</dd></div>" for name, value in facts)
    notes = []
    if summary.unfinished:
        notes.append(f"{counted(summary.unfinished, 'run')} not finished: unpublished results are not in this report.")
    if chosen.kept < chosen.total:
        notes.append(
            f"This page shows {chosen.kept:,} of {chosen.total:,} files: the {chosen.worst:,} most suspicious, and a "
            "sample of the others by verdict. All numbers above the list are of all files. The rest is in the tables:"
        )
    told = "".join(f"<p>{_text(note)}</p>" for note in notes)
    if chosen.kept < chosen.total:
        told += f"<pre><code>{_text(command, 2000)}</code></pre>"
    return f"<h1>{_text(headline(summary))}</h1><dl class=facts>{listed}</dl>" + (
        f'<div class="note">{told}</div>' if told else ""
    )


def ranking_html(summary: Summary) -> str:
    """Under the most suspicious files: how far their order may be trusted."""
    return "".join(f"<p class=meaning>{_text(one, 1000)}</p>" for one in summary.rankings)


def verdicts_html(summary: Summary) -> str:
    """The counts as one bar. Six rectangles need no library; the chart over time is drawn with one."""
    counts = {name: count for name, count in counts_of(summary).items() if count}
    total = sum(counts.values())
    if not total:
        return ""
    # A sliver stays visible whatever the archive's size.
    widths = {name: max(6.0, 1000 * count / total) for name, count in counts.items()}
    scale, at, parts = 1000 / sum(widths.values()), 0.0, []
    for name, width in widths.items():
        parts.append(
            f'<rect class="v-{name}" x="{at:.1f}" y="0" width="{max(1.0, width * scale - 2):.1f}" height="32"></rect>'
        )
        at += width * scale
    said = ", ".join(f"{VERDICTS[name].title}: {count}" for name, count in counts.items())
    legend = "".join(
        f'<li class="v-{name}"><button type="button" class="pick" data-verdict="{name}">'
        f'<span class="count"><span class="symbol" aria-hidden="true">{SYMBOLS[name]}</span> {count:,}</span>'
        f"<strong>{_text(VERDICTS[name].title)}</strong></button>"
        f'<span class="meaning">{_text(VERDICTS[name].sentence)} <code>{name}</code></span></li>'
        for name, count in counts.items()
    )
    return (
        f'<svg class="bar" viewBox="0 0 1000 32" preserveAspectRatio="none" role="img" aria-label="{_text(said)}">'
        f'{"".join(parts)}</svg><ul class="legend">{legend}</ul>'
    )


def coverage_html(summary: Summary, families: Sequence[Covered]) -> str:
    lines = "".join(f"<li>{_text(line)}</li>" for line in coverage(summary))
    rows = "".join(_family_html(one, summary.detectors) for one in families)
    table = (
        "<table class=coverage><caption class=sr>What each family of detectors could judge</caption><thead><tr>"
        "<th scope=col>Looked at</th><th scope=col>Judged</th><th scope=col>Could not judge, because</th></tr></thead>"
        f"<tbody>{rows}</tbody></table>"
        if rows
        else ""
    )
    return f"{table}<ul class=plain>{lines}</ul><p class=note>{_text(WHAT_A_SCORE_IS_NOT)}</p>"


def _family_html(one: Covered, detectors: Sequence[Leaned]) -> str:
    word = FAMILY_WORDS.get(one.family)
    says = any(leaned.has_say for leaned in detectors if family_of(leaned.detector) == one.family)
    share = one.judged / max(one.files, 1)
    why = [f"{abstention(reason)} ({count:,})" for reason, count in one.silent[:3]]
    rest = sum(count for _, count in one.silent[3:])
    why += [f"other reasons ({rest:,})"] * bool(rest)
    meaning = f"<span class=meaning>{_text(word.sentence)}</span>" if word else ""
    bar = (
        '<svg class="share" viewBox="0 0 100 8" preserveAspectRatio="none" aria-hidden="true">'
        '<rect class="all" width="100" height="8"></rect>'
        f'<rect class="part" width="{100 * share:.1f}" height="8"></rect></svg>'
    )
    role = "" if says or not one.judged else "<span class=meaning>hints only, no part in the verdict</span>"
    return (
        f"<tr><th scope=row>{_text(family_title(one.family))}{meaning}</th>"
        f"<td>{bar}<span>{one.judged:,} of {counted(one.files, 'file')}</span>{role}</td>"
        f"<td>{_text('; '.join(why)) if why else 'every file was judged'}</td></tr>"
    )


def method_html(summary: Summary, runs: Sequence[Run], families: Sequence[Covered]) -> str:
    """Behind details: detectors with their limits and licences, calibrations, runs, what could not be read."""
    used = {str(d.get("name")): d for run in runs for d in run.settings.get("detectors", ()) if isinstance(d, Mapping)}
    said = {one.detector: one for one in summary.detectors}
    rows = []
    for name in sorted({*used, *said}):
        spec, record, leaned = registry.installed().get(name), used.get(name, {}), said.get(name)
        numbers = (
            (counted(leaned.files, "file"), leaned.towards_manipulation, value_of(leaned.median, leaned))
            if leaned
            else ("0 files", 0, "")
        )
        counts = "counts" if leaned and leaned.has_say else "hint only"
        licence = (spec.licence if spec else record.get("licence")) or "unknown"
        rows.append(
            f"<tr><th scope=row><code>{_text(name)}</code></th>"
            f"<td>{_text(spec.summary if spec else 'a model of your own')}</td>"
            f"<td>{_text(spec.blind_to if spec else 'not on record here')}</td><td>{counts}</td>"
            f"<td>{_text(licence)}</td><td class=n>{_text(numbers[0])}</td><td class=n>{numbers[1]}</td>"
            f"<td class=n>{_text(numbers[2])}</td></tr>"
        )
    head = (
        "Detector",
        "Looks at",
        "Cannot see",
        "In the verdict",
        "Licence",
        "Judged",
        "Lean to manipulation",
        "Median log-odds",
    )
    parts = [_details("Detectors: what they cannot see, and their licences", _table(head, rows))]
    parts.append(_details("Calibration and runs", _runs_html(summary, runs)))
    for title, by_word in (("Not read", summary.failures), ("Left out", summary.skipped)):
        if by_word:
            lines = [
                f"<tr><th scope=row><code>{_text(word)}</code></th><td>{_text(outcome_sentence(word))}</td>"
                f"<td class=n>{n:,}</td></tr>"
                for word, n in by_word.items()
            ]
            parts.append(_details(f"{title}, by reason", _table(("Word in the tables", "Meaning", "Files"), lines)))
    return "".join(parts)


def _runs_html(summary: Summary, runs: Sequence[Run]) -> str:
    shown = [
        f"<tr><th scope=row><code>{_text(run.run_id)}</code></th><td>{_text(run.kind)}</td>"
        f"<td class=n>{run.planned:,}</td><td><code>{_text(run.calibration_id)}</code></td>"
        f"<td>{_text(run.versions.get('deephotlink', ''))}</td></tr>"
        for run in list(runs)[-20:]
    ]
    made = calibrations_of(runs)
    on = "".join(
        f"<p><code>{_text(name)}</code> was made on: {_text(fields.get('data', ''), 1000)}</p>"
        for name, fields in sorted(made.items())
        if name in summary.calibrations
    )
    return f"{on}{_table(('Run', 'Kind', 'Files', 'Calibration', 'Version'), shown)}"


def calibrations_of(runs: Iterable[Run]) -> dict[str, Mapping[str, Any]]:
    """The fields of the calibrations that runs recorded, by name."""
    return {
        run.calibration_id: run.settings["calibration"]
        for run in runs
        if isinstance(run.settings.get("calibration"), Mapping)
    }


def _details(title: str, body: str) -> str:
    return f"<details><summary>{_text(title)}</summary>{body}</details>"


def _table(head: Iterable[str], rows: Sequence[str]) -> str:
    heads = "".join(f"<th scope=col>{_text(name)}</th>" for name in head)
    body = f"<thead><tr>{heads}</tr></thead><tbody>{''.join(rows)}</tbody>"
    return f"<div class=scroll tabindex=0 role=group aria-label=Table><table>{body}</table></div>"


def _code(text: str) -> str:
    return f"<code>{_text(text, 1000)}</code>"


def _text(text: object, limit: int = 500) -> str:
    """Escaped, without control and direction characters: much of it comes out of files."""
    return html.escape(printable(str(text), limit))
