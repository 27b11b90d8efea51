"""Tables for people. No word is broken to make a column fit. A table too wide for the terminal becomes a list."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import zip_longest

from rich.cells import cell_len
from rich.console import Console
from rich.table import Table
from rich.text import Text

from ...transforms.failures import printable

LONGEST_CELL = 2000
SHORT_BYTES = 64
"""Of a binary value; a longer one is told by its length."""
MOST_WORD = 28
"""Longest word, in terminal columns, that is never broken. Longer ones are paths and hashes, and may be broken."""


@dataclass(frozen=True, slots=True)
class Column:
    name: str
    right: bool = False
    whole: bool = False
    """Whether its cells stay on one line."""
    spare: bool = False
    """Whether it may be left out before the table becomes a list."""


def print_table(
    console: Console, columns: Sequence[Column | str], rows: Sequence[Sequence[object]], title: str | None = None
) -> None:
    """Prints `rows` under `columns`, or as a list of facts, row after row, if the console is too narrow. Cells may hold
    text by others, so control characters and markup in them have no effect."""
    heads = [Column(column) if isinstance(column, str) else column for column in columns]
    cells = [[_cell(value, console.encoding) for value in row] for row in rows]
    kept = _kept(heads, cells, console.width)
    if title:
        console.print(Text(_cell(title, console.encoding), style="italic"))
    if kept is None:
        _print_list(console, heads, cells)
        return
    table = Table(show_edge=False)
    for at in kept:
        column = heads[at]
        table.add_column(
            Text(column.name),
            justify="right" if column.right else "left",
            no_wrap=column.whole,
            overflow="fold",
            min_width=_least(column, [row[at] for row in cells]),
        )
    for row in cells:
        table.add_row(*(Text(row[at]) for at in kept))
    console.print(table)


def _kept(columns: Sequence[Column], cells: Sequence[Sequence[str]], width: int) -> list[int] | None:
    """Indexes of the columns for which there is room; None if the columns that cannot be spared are too wide."""
    needed = [_least(column, [row[at] for row in cells]) + 3 for at, column in enumerate(columns)]
    kept = list(range(len(columns)))
    spare = [at for at in kept if columns[at].spare]
    while sum(needed[at] for at in kept) - 1 > width:
        if not spare:
            return None
        kept.remove(spare.pop())
    return kept


def _least(column: Column, cells: Sequence[str]) -> int:
    """Smallest width, in terminal columns, at which the column breaks no word of up to MOST_WORD columns."""
    if column.whole:
        return max(map(cell_len, [column.name, *cells]))
    words = (word for cell in cells for word in cell.split())
    return max([cell_len(column.name), *(min(cell_len(word), MOST_WORD) for word in words)])


def _print_list(console: Console, columns: Sequence[Column], cells: Sequence[Sequence[str]]) -> None:
    """Prints `name  value`, one line per cell, with a blank line between rows. On a very narrow console the value goes
    below the name."""
    names = max((cell_len(column.name) for column in columns), default=0)
    beside = console.width - names - 2 >= 20
    for row in cells:
        facts = Table.grid(padding=(0, 2) if beside else 0)
        facts.add_column(no_wrap=True, style="bold")
        if beside:
            facts.add_column(overflow="fold")
        for column, value in zip_longest(columns, row, fillvalue=""):
            assert isinstance(column, Column)
            if beside:
                facts.add_row(Text(column.name), Text(value))
            else:
                facts.add_row(Text(column.name))
                facts.add_row(Text(value, overflow="fold", no_wrap=False), style="not bold")
        console.print(facts, no_wrap=False)
        console.print()


def _cell(value: object, encoding: str) -> str:
    """The text as the stream will print it, so that widths are right."""
    if isinstance(value, bytes) and len(value) > SHORT_BYTES:
        value = f"({len(value):,} bytes)"
    text = "" if value is None else printable(str(value), LONGEST_CELL)
    try:
        return text.encode(encoding, "backslashreplace").decode(encoding)
    except LookupError:
        return text
