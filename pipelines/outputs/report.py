"""What was found, for people: the closing tables on the terminal and `OUT/summary.html`.

Both say the same, from what `summary.py` reads in the tables. Each sentence is literally true, even if no file was
looked at. Everything that came from a file is escaped, because the uploader chose the names.
"""

from __future__ import annotations

import html
from collections.abc import Sequence

from rich.console import Console
from rich.markup import escape

from ... import __version__
from ...transforms.failures import printable
from ...transforms.storage.output_names import PAGE
from ...transforms.storage.output_store import OutputStore
from ..terminal.tables import Column, print_table
from ..terminal.wording import counted, seconds, shell_word, told_apart
from .summary import SUSPICIOUS_BELOW, Leaned, Summary, Suspicious, summarise

__all__ = ["Summary", "Suspicious", "print_lines", "print_summary", "summarise", "summary_html", "write_page"]

WHAT_THE_WORDS_MEAN = {
    "inconclusive": "some evidence, not enough to decide",
    "not_assessed": "no calibrated detector could judge (`reasons` says why)",
}
VERDICTS = ("manipulated", "inconclusive", "authentic", "not_assessed")
WHAT_A_SCORE_IS_NOT = (
    "A score is not proof. It weighs the evidence that these detectors found, by the calibration named below. "
    "`inconclusive` and `not_assessed` mean that deephotlink does not know. Look at the evidence before you act."
)
WHAT_LEANING_MEANS = (
    "In log-odds: above 0 points to manipulation, below 0 away from it; `leaning` counts the files above 0. "
    "Evidence only: does not change authenticity or verdict. Raw: as the detector gives it, not calibrated."
)
MOST_NAMED = 5
"""Most files named on the terminal; the page has more."""


def coverage(summary: Summary) -> list[str]:
    """How much of the film and sound was seen and heard, and what could not be decoded."""
    films, sounds = summary.films, summary.sounds
    lines = []
    if summary.unfinished:
        lines.append(f"{counted(summary.unfinished, 'run')} not finished: unpublished results are not counted here")
    if known := sum(summary.known_real.values()):
        of = ", ".join(f"{number} {name}" for name, number in summary.known_real.items())
        lines.append(f"Not counted here: {counted(known, 'file')} given as real ({of})")
    if not summary.scored:
        return [*lines, "No file was scored: no film and no sound was judged."]
    if films.files:
        decoders = ", ".join(f"{number} by {name}" for name, number in summary.decoders.items())
        lines.append(
            f"{seconds(films.seen_seconds)} of {_total(films.seconds, films.length_unknown)} of film looked at, in "
            f"{counted(films.files, 'file')}: {counted(summary.frames_decoded, 'frame')} decoded"
            f"{f' (files: {decoders})' if decoders else ''}, {counted(summary.faces, 'face track')}"
        )
        lines += _unknown(films.length_unknown)
        if films.brief:
            lines.append(f"{counted(films.brief, 'file')} judged on less than a second of film")
        if other := films.unseen - films.undecodable:
            lines.append(f"{counted(other, 'film')} without a frame looked at: no chosen detector needs one")
        if films.undecodable:
            lines.append(f"{counted(films.undecodable, 'film')} whose picture could not be decoded")
        if films.partly_undecodable:
            lines.append(f"{counted(films.partly_undecodable, 'film')} with clips that could not be decoded")
    if sounds.files:
        lines.append(
            f"{seconds(sounds.heard_seconds)} of {_total(sounds.seconds, sounds.length_unknown)} of sound heard by "
            f"speech detectors, in {sounds.heard} of {counted(sounds.files, 'file')} with sound"
        )
        lines += _unknown(sounds.length_unknown) if not films.length_unknown else []
        if sounds.undecodable:
            lines.append(f"{counted(sounds.undecodable, 'file')} whose sound could not be decoded")
    if not films.files and not sounds.files:
        lines.append("No film and no sound in the files that were scored.")
    return lines


def findings(summary: Summary) -> list[str]:
    """What calibrated detectors found, and which way the others lean."""
    if not summary.scored:
        return []
    of = f"{'the' if summary.scored == 1 else 'any of the'} {counted(summary.scored, 'scored file')}"
    if not summary.judged:
        lines = [f"No calibrated detector could judge {of}: nothing is known about authenticity."]
    else:
        below = f"{summary.below or 'none'} of them {'has' if summary.below < 2 else 'have'} an authenticity below"
        lines = [
            f"Calibrated detectors judged {summary.judged} of {counted(summary.scored, 'scored file')}: "
            f"{below} {SUSPICIOUS_BELOW}."
        ]
    for leaned in summary.detectors:
        if not leaned.has_say and leaned.towards_manipulation:
            lines.append(
                f"Evidence only: {leaned.detector} leans towards manipulation on "
                f"{leaned.towards_manipulation} of {counted(leaned.files, 'file')} "
                f"(highest {_value(leaned.highest, leaned)}, median {_value(leaned.median, leaned)})."
            )
    if summary.untold:
        lines.append(
            f"{counted(summary.untold, 'file')} scored by an earlier version, which did not record what detectors say."
        )
    return lines


def print_summary(summary: Summary, console: Console, output: str) -> None:
    """Prints the closing tables: outcomes, coverage, failures, each detector's findings, the most suspicious files."""
    outcomes = [(name, summary.verdicts[name]) for name in VERDICTS if summary.verdicts.get(name)]
    outcomes += [(f"failed: {name}", number) for name, number in summary.failures.items()]
    outcomes += [(f"skipped: {name}", number) for name, number in summary.skipped.items()]
    counts = [Column("outcome"), Column("files", right=True, whole=True)]
    print_table(console, counts, [*outcomes, ("all", summary.media)], "What was found")
    console.print()
    _say(console, coverage(summary))
    said = [f"{word}: {meaning}" for word, meaning in WHAT_THE_WORDS_MEAN.items() if summary.verdicts.get(word)]
    _say(console, ["; ".join(said)] if said else [])
    named = max(24, console.width // 3)
    if summary.failed:
        shown = summary.failed[:MOST_NAMED]
        folder, names = told_apart([uri for uri, _, _ in shown], named)
        rows = [(c, name, printable(m, 200)) for (_, c, m), name in zip(shown, names, strict=True)]
        total = sum(summary.failures.values())
        title = f"Not read{_first(len(shown), total)}{_within(folder)}"
        console.print()
        print_table(console, [Column("class", whole=True), "file", "why"], rows, title)
    if summary.detectors:
        title = "What each detector says about the files that it judged"
        folder, names = told_apart([leaned.highest_uri for leaned in summary.detectors], 28)
        columns = [
            Column("detector", whole=True),
            Column("role", whole=True),
            Column("files", right=True, whole=True),
            Column("leaning", right=True, whole=True),
            Column("highest", right=True, whole=True),
            Column("in", spare=True),
            Column("median", right=True, whole=True, spare=True),
        ]
        console.print()
        print_table(console, columns, _said(summary.detectors, names), f"{title}{_within(folder)}")
        _say(console, [WHAT_LEANING_MEANS])
    if found := findings(summary):
        console.print()
        _say(console, found)
    told = _suspicious(summary)[:MOST_NAMED]
    if told:
        folder, names = told_apart([s.uri for s in told], named)
        columns = [
            Column("authenticity", right=True, whole=True),
            Column("verdict", whole=True),
            Column("file"),
            Column("why"),
        ]
        why = [printable("; ".join(s.reasons[:1]), 200) for s in told]
        cells = [(f"{s.authenticity:.2f}", s.verdict, name, w) for s, name, w in zip(told, names, why, strict=True)]
        title = f"Most suspicious{_first(len(told), summary.below)}{_within(folder)}"
        console.print()
        print_table(console, columns, cells, title)
    word = shell_word(output, console.encoding)
    those = " where uri not in (select uri from known_real)" if summary.known_real else ""
    sql = f'"select verdict, count(*) from latest{those} group by 1"'
    console.print(
        f"\nTables and {PAGE}: {escape(printable(output, 4096))}   Ask: deephotlink query {escape(word)} {sql}",
        highlight=False,
        soft_wrap=True,
    )


def print_lines(console: Console, lines: Sequence[str]) -> None:
    """Prints lines below the closing tables."""
    if lines:
        console.print()
    _say(console, lines)


def _suspicious(summary: Summary) -> list[Suspicious]:
    return [s for s in summary.suspicious if s.authenticity < SUSPICIOUS_BELOW]


def _say(console: Console, lines: Sequence[str]) -> None:
    for line in lines:
        console.print(escape(printable(line, 1000)), highlight=False)


def _first(shown: int, total: int) -> str:
    return f" (the first {shown} of {total})" if shown < total else ""


def _within(folder: str) -> str:
    return f", in {folder}" if folder else ""


def _total(known: float, unknown: int) -> str:
    return f"{'at least ' if unknown else ''}{seconds(known)} s"


def _unknown(files: int) -> list[str]:
    return [f"{counted(files, 'file')} {'does' if files == 1 else 'do'} not say how long they are"] if files else []


def _value(log_odds: float, leaned: Leaned) -> str:
    return f"{log_odds:+.1f}{'' if leaned.calibrated else ' raw'}"


def _said(detectors: Sequence[Leaned], names: Sequence[str]) -> list[tuple[object, ...]]:
    return [
        (
            one.detector,
            "calibrated" if one.has_say else "evidence only",
            one.files,
            one.towards_manipulation,
            _value(one.highest, one),
            name,
            _value(one.median, one),
        )
        for one, name in zip(detectors, names, strict=True)
    ]


_STYLE = (
    "body{font:15px/1.5 system-ui,sans-serif;max-width:60rem;margin:2rem auto;padding:0 1rem;color:#222}"
    "table{border-collapse:collapse;margin:1rem 0}td,th{padding:.25rem .8rem;text-align:left;"
    "border-bottom:1px solid #ddd;vertical-align:top;overflow-wrap:anywhere}"
    "td.n{text-align:right;font-variant-numeric:tabular-nums}"
    "p.note{background:#fff6df;padding:.6rem 1rem}ul{margin:0;padding-left:1.1rem}"
    "@media(prefers-color-scheme:dark){body{background:#181818;color:#ddd}td,th{border-color:#444}"
    "p.note{background:#3a3320}}"
)


def summary_html(summary: Summary) -> str:
    """A self-contained page: no script, no request, everything escaped, and a content security policy that enforces
    it."""

    def cell(text: object) -> str:
        return html.escape(printable(str(text), 1000))

    def table(title: str, head: Sequence[str], rows: Sequence[Sequence[object]]) -> str:
        if not rows:
            return ""
        top = f"<tr>{''.join(f'<th>{cell(name)}</th>' for name in head)}</tr>" if head else ""
        body = "".join(
            f"<tr>{''.join(f'<td{_number(value)}>{cell(value)}</td>' for value in row)}</tr>" for row in rows
        )
        return f"<h2>{cell(title)}</h2><table>{top}{body}</table>"

    def items(lines: Sequence[str]) -> str:
        return f"<ul>{''.join(f'<li>{cell(line)}</li>' for line in lines)}</ul>" if lines else ""

    worst = "".join(
        f"<tr><td class=n>{s.authenticity:.3f}</td><td>{cell(s.verdict)}</td><td>{cell(s.uri)}</td>"
        f"<td>{items(s.reasons)}</td></tr>"
        for s in _suspicious(summary)
    )
    heads = "<tr><th>authenticity</th><th>verdict</th><th>file</th><th>reasons</th></tr>"
    shown = _first(len(_suspicious(summary)), summary.below)
    said = _said(summary.detectors, [one.highest_uri for one in summary.detectors])
    failed = f"Not read{_first(len(summary.failed), sum(summary.failures.values()))}"
    return (
        '<!doctype html><html lang=en><meta charset=utf-8><meta http-equiv="Content-Security-Policy" '
        "content=\"default-src 'none'; style-src 'unsafe-inline'\"><meta name=viewport content='width=device-width'>"
        f"<title>deephotlink summary</title><style>{_STYLE}</style><h1>What was found</h1>"
        f"<p>{cell(counted(summary.media, 'file'))}.</p>{items(coverage(summary))}"
        f"<p class=note>{cell(WHAT_A_SCORE_IS_NOT)}</p>"
        + table("Verdicts", (), [(v, summary.verdicts[v]) for v in VERDICTS if summary.verdicts.get(v)])
        + (f"<h2>What calibrated detectors found, and what the others lean to</h2>{items(findings(summary))}")
        * bool(summary.scored)
        + (f"<h2>Most suspicious{cell(shown)}</h2><table>{heads}{worst}</table>" if worst else "")
        + table("What each detector says about the files that it judged", _HEAD, said)
        + (f"<p>{cell(WHAT_LEANING_MEANS)}</p>" if said else "")
        + table("Failures by class", (), list(summary.failures.items()))
        + table(failed, (), summary.failed)
        + table("Skipped, by reason", (), list(summary.skipped.items()))
        + f"<p>Calibration: {cell(', '.join(summary.calibrations) or 'none')}. Authenticity: 1 = authentic, 0 = "
        f"manipulated. deephotlink {cell(__version__)}.</p></html>\n"
    )


_HEAD = ("detector", "role", "files", "leaning", "highest", "in", "median")


def _number(value: object) -> str:
    return " class=n" if isinstance(value, (int, float)) else ""


def write_page(store: OutputStore, name: str, page: str) -> None:
    """Writes a page that may change from run to run, whole or not at all. The last writer wins.

    Raises:
        UsageError: the store refuses to write it. WorldError: storage or disk failed.
    """
    store.replace(name, page.encode("utf-8", "replace"))
