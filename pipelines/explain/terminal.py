"""The card of one file on a terminal.

What it says comes from the same functions as the report's cards. All text is printed as it is, never as markup: names
and tags come from the files' uploaders.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

from rich.console import Console
from rich.table import Table
from rich.text import Text

from ...transforms.failures import printable
from ..outputs.plain_words import VERDICTS, WHAT_A_SCORE_IS_NOT, clock
from ..outputs.report.cards import WORDS, limits_of
from ..outputs.report.overview import SYMBOLS
from ..terminal.tables import Column, print_table
from ..terminal.wording import counted, named
from .card import Explained
from .timeline import LEAST_COLUMNS, MOST_COLUMNS, STRONG, Glyphs, axis_of, glyphs_for, lanes_of

LOUD = {"manipulated": "bold red", "inconclusive": "bold yellow", "authentic": "bold green"}
"""Colours of verdicts; all others are bold alone."""
_LONGEST_LABEL = 24


def print_card(console: Console, told: Explained, details: bool) -> None:
    """Prints all that is on record about a file. details: also log-odds, the tables' own words and the query."""
    _print_head(console, told)
    card = told.card
    if told.row["outcome"] != "scored":
        _say(console, f"{WORDS['word']} {card['word']}")
        _facts(console, card["facts"])
        return
    hints = [*card["towards"], *card["against"], *card["neither"]]
    towards = sorted(card["towards"], key=lambda reason: reason["hint"])
    _section(console, WORDS["towards"], [_reason(one) for one in towards] or [WORDS["nothing"]])
    _section(console, WORDS["against"], [_reason(one) for one in card["against"]] or [WORDS["nothing"]])
    silent = [f"{text} ({word})" for text, word in card["silent"]]
    _section(console, WORDS["silent"], [*silent, *(_reason(one) for one in card["neither"]), *card["notes"]])
    if any(reason["hint"] for reason in hints):
        _say(console, WORDS["hints"])
    _heading(console, WORDS["timeline"])
    if card["timeline"] is None:
        _say(console, WORDS["noTimeline"])
    else:
        _print_timeline(console, card["timeline"])
    limits = limits_of(reason.detector for reason in told.reasons)
    _section(console, WORDS["blind"], [f"{name}: {limit['blind']}" for name, limit in limits.items()])
    _section(console, WORDS["credentials"], [f"{t} ({s})" for t, s in card["credentials"]] or [WORDS["noCredentials"]])
    _section(console, WORDS["declared"], [f"{text} ({saw})" for text, saw in card["declared"]])
    _facts(console, [*card["facts"], *_kept(told.pictures)])
    if details:
        _print_details(console, told)
    console.print()
    _say(console, WHAT_A_SCORE_IS_NOT)


def _print_head(console: Console, told: Explained) -> None:
    word = VERDICTS[told.word]
    folder, name = named(told.row["uri"])
    console.print(Text(printable(name, 1000), style="bold"))
    if folder:
        console.print(Text(f"in {printable(folder, 1000)}"))
    console.print()
    style = LOUD.get(told.word, "bold")
    head = Text.assemble((f"{_symbol(console, told.word)}{word.title}", style), f": {word.sentence} ({told.word})")
    console.print(head)
    if told.row.get("authenticity") is not None:
        console.print(
            Text(f"Authenticity {told.row['authenticity']:.2f}, on a scale from 0 (manipulated) to 1 (authentic)")
        )
    why = told.line["why"]
    for line in dict.fromkeys([*told.card.get("told", ()), f"{why[:1].upper()}{why[1:]}"]):
        if line and line.lower() != word.sentence.lower():
            _say(console, f"{line.rstrip('.')}.")


def _print_timeline(console: Console, timeline: dict[str, Any]) -> None:
    glyphs = glyphs_for(console.encoding)
    labels = [(lane["title"], _under(lane)) for lane in timeline["lanes"]]
    wide = min(_LONGEST_LABEL, max(len(text) for pair in labels for text in pair))
    columns = min(MOST_COLUMNS, console.width - wide - 3)
    if columns < LEAST_COLUMNS:
        wide, columns = 0, max(1, console.width - 1)
    gap = "  " if wide else ""
    for lane, (title, under) in zip(lanes_of(timeline, columns, glyphs), labels, strict=True):
        if not wide:
            _say(console, f"{title}: {under}")
        for label, line, style in ((title, lane.above, "red"), (under, lane.below, "blue")):
            text = Text(f"{label[:wide]:<{wide}}{gap}", no_wrap=True)
            for char in line:
                text.append(char, None if char in (glyphs.silent, glyphs.unseen, glyphs.level) else style)
            console.print(text, crop=True, overflow="crop", soft_wrap=False)
    console.print(Text(f"{'':<{wide}}{gap}{axis_of(timeline['length'], columns)}"), overflow="crop", no_wrap=True)
    _say(console, _key(glyphs))
    if timeline["unseen_text"]:
        _say(console, timeline["unseen_text"])


def _under(lane: dict[str, Any]) -> str:
    """What stands below the title of a lane."""
    return f" {lane['detector']}{', a hint' if lane['counts'] is False else ''}"


def _key(glyphs: Glyphs) -> str:
    pairs = (
        (glyphs.above[-1], WORDS["above"]),
        (glyphs.below[1], WORDS["below"]),
        (glyphs.silent, WORDS["couldNot"]),
        (glyphs.unseen, WORDS["unseen"]),
    )
    return "   ".join(f"{glyph} {word}" for glyph, word in pairs)


def _print_details(console: Console, told: Explained) -> None:
    rows = [
        (
            reason.detector,
            reason.family,
            f"{reason.log_odds:+.2f}{'' if reason.calibrated else ' raw'}",
            reason.logits,
            "yes" if reason.has_say else "no",
        )
        for reason in told.reasons
    ]
    if rows:
        columns = [
            Column("detector", whole=True),
            Column("family", spare=True),
            Column("log-odds", right=True, whole=True),
            Column("items judged", right=True),
            Column("counts", whole=True),
        ]
        console.print()
        print_table(console, columns, rows, "Numbers")
        _say(console, f"{WORDS['logOdds']} A bar of the timeline has its full height at {STRONG:g} or more.")
    timeline = told.card["timeline"]
    spans = (
        [(start, end, lane, value) for lane in timeline["lanes"] for start, end, value in lane["spans"]]
        if timeline
        else []
    )
    if spans:
        worst = sorted(spans, key=lambda span: -span[3])[:12]
        cells = [
            (f"{clock(a)}-{clock(b)}", lane["detector"], f"{value:+.2f}{'' if lane['calibrated'] else ' raw'}")
            for a, b, lane, value in worst
        ]
        console.print()
        title = "The strongest items" if len(spans) > len(worst) else "All items"
        print_table(
            console, [Column("when", whole=True), Column("detector"), Column("log-odds", right=True)], cells, title
        )
    _section(console, WORDS["machine"].rstrip(":"), told.card["machine"])
    _heading(console, "Every row of its evidence")
    console.print(Text(told.query), soft_wrap=True)


def _facts(console: Console, facts: Iterable[Sequence[str]]) -> None:
    _heading(console, WORDS["facts"])
    grid = Table.grid(padding=(0, 2))
    grid.add_column(no_wrap=True)
    grid.add_column(overflow="fold")
    for name, value in facts:
        grid.add_row(Text(f"  {name}"), Text(str(value)))
    console.print(grid)


def _kept(pictures: Sequence[tuple[str, float, str]]) -> list[tuple[str, str]]:
    if not pictures:
        return []
    moments = ", ".join(dict.fromkeys(clock(seconds) for _, seconds, _ in pictures))
    return [("Pictures", f"{counted(len(pictures), 'picture')} in the report, of {moments}")]


def _section(console: Console, title: str, lines: Sequence[str]) -> None:
    if not lines:
        return
    _heading(console, title)
    grid = Table.grid(padding=(0, 1))
    grid.add_column(no_wrap=True)
    grid.add_column(overflow="fold")
    for line in lines:
        grid.add_row(Text("  -"), Text(printable(line, 1000)))
    console.print(grid)


def _heading(console: Console, title: str) -> None:
    console.print()
    console.print(Text(title, style="bold"))


def _say(console: Console, line: str) -> None:
    console.print(Text(printable(line, 2000)))


def _reason(reason: dict[str, Any]) -> str:
    return f"{reason['text']} ({reason['detector']}{', a hint' if reason['hint'] else ''})"


def _symbol(console: Console, word: str) -> str:
    try:
        SYMBOLS[word].encode(console.encoding)
    except (UnicodeEncodeError, LookupError):
        return ""
    return f"{SYMBOLS[word]} "
