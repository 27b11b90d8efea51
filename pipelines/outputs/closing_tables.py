"""What was found, on the terminal: the tables that `audit` and `rescore` end with.

They say what `summary.py` reads in the tables. Each sentence is literally true, even if no file was looked at.
Everything that came from a file is escaped, because the uploader chose the names.
"""

from __future__ import annotations

from collections.abc import Sequence

from rich.console import Console
from rich.markup import escape

from ...transforms.failures import printable
from ...transforms.storage.output_names import PAGE
from ..terminal.tables import Column, print_table
from ..terminal.wording import counted, seconds, shell_word, told_apart
from .plain_words import VERDICTS, family_title, outcome_sentence
from .reasons import family_of
from .summary import SUSPICIOUS_BELOW, Leaned, Summary, Suspicious

HINTS = "Detectors that do not count give hints only: they change neither authenticity nor verdict."
MOST_NAMED = 5
"""Most files named on the terminal; the report has all of them."""


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
    """What calibrated detectors found, and whether others gave hints."""
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
    if any(not leaned.has_say for leaned in summary.detectors):
        lines.append(HINTS)
    if summary.untold:
        lines.append(
            f"{counted(summary.untold, 'file')} scored by an earlier version, which did not record what detectors say."
        )
    return lines


def print_summary(summary: Summary, console: Console, output: str) -> None:
    """Prints the closing tables: outcomes, coverage, failures, each detector's findings, the most suspicious files."""
    outcomes = [(name, summary.verdicts[name]) for name in VERDICTS if summary.verdicts.get(name)]
    failures = [(f"failed: {name}", number, outcome_sentence(name)) for name, number in summary.failures.items()]
    skipped = [(f"skipped: {name}", number, outcome_sentence(name)) for name, number in summary.skipped.items()]
    counts = [Column("outcome"), Column("files", right=True, whole=True), Column("meaning", spare=True)]
    told = [(name, number, outcome_sentence(name)) for name, number in outcomes]
    print_table(console, counts, [*told, *failures, *skipped, ("all", summary.media, "")], "What was found")
    console.print()
    _say(console, coverage(summary))
    named = max(24, console.width // 3)
    if summary.failed:
        shown = summary.failed[:MOST_NAMED]
        folder, names = told_apart([uri for uri, _, _ in shown], named)
        rows = [(name, c, printable(m, 200)) for (_, c, m), name in zip(shown, names, strict=True)]
        total = sum(summary.failures.values())
        title = f"Not read{_first(len(shown), total)}{_within(folder)}"
        console.print()
        print_table(console, ["file", Column("class", whole=True), "why"], rows, title)
    if summary.detectors:
        folder, names = told_apart([leaned.highest_uri for leaned in summary.detectors], 28)
        columns = [
            Column("detector", whole=True),
            Column("looks at", spare=True),
            Column("counts", whole=True),
            Column("judged", right=True, whole=True),
            Column("suspicious", right=True, whole=True),
            Column("most in", spare=True),
        ]
        console.print()
        title = "In how many files each detector found something suspicious"
        print_table(console, columns, _said(summary.detectors, names), f"{title}{_within(folder)}")
    if found := findings(summary):
        console.print()
        _say(console, found)
    told_of = _suspicious(summary)[:MOST_NAMED]
    if told_of:
        folder, names = told_apart([s.uri for s in told_of], named)
        columns = [
            Column("file"),
            Column("verdict", whole=True),
            Column("authenticity", right=True, whole=True),
            Column("why"),
        ]
        why = [printable("; ".join((s.why or s.reasons)[:1]), 200) for s in told_of]
        cells = [(name, s.verdict, f"{s.authenticity:.2f}", w) for s, name, w in zip(told_of, names, why, strict=True)]
        title = f"Most suspicious{_first(len(told_of), summary.below)}{_within(folder)}"
        console.print()
        print_table(console, columns, cells, title)
        _say(console, summary.rankings)
    word = shell_word(output, console.encoding)
    those = " where uri not in (select uri from known_real)" if summary.known_real else ""
    sql = f'"select verdict, count(*) from latest{those} group by 1"'
    where = escape(printable(output.rstrip("/"), 4096))
    console.print(
        f"\nSee what was found: {where}/{PAGE} (opens in any browser)\n"
        f"Ask the tables: deephotlink query {escape(word)} {sql}",
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


def value_of(log_odds: float, leaned: Leaned) -> str:
    """For details only: log-odds, or where there is no calibration the raw logit."""
    return f"{log_odds:+.1f}{'' if leaned.calibrated else ' raw'}"


def _said(detectors: Sequence[Leaned], names: Sequence[str]) -> list[tuple[object, ...]]:
    return [
        (
            one.detector,
            family_title(family_of(one.detector)),
            "yes" if one.has_say else "hint only",
            one.files,
            one.towards_manipulation,
            name if one.towards_manipulation else "",
        )
        for one, name in zip(detectors, names, strict=True)
    ]
