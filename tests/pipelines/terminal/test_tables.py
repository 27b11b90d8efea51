"""Tables fit the terminal, and no column breaks a word."""

import io
import re

import pytest
from rich.console import Console

from deephotlink.pipelines.terminal.tables import Column, print_table
from deephotlink.pipelines.weights.catalogue import catalogue, show

WHY = "metadata points to manipulation: Valid Content Credentials declare that AI made this (trainedAlgorithmicMedia)"
COLUMNS = [Column("authenticity", right=True, whole=True), Column("verdict", whole=True), Column("file"), Column("why")]
ROWS = [("0.01", "manipulated", "signed-ai.mp4", WHY), ("0.27", "not_assessed", "signed-then-changed.mp4", "[bold]no")]


def printed(width, columns=COLUMNS, rows=ROWS, encoding="utf-8", title=None):
    sink = io.TextIOWrapper(io.BytesIO(), encoding=encoding, errors="backslashreplace")
    print_table(Console(width=width, file=sink), columns, rows, title)
    sink.flush()
    return sink.buffer.getvalue().decode(encoding)


@pytest.mark.parametrize("width", [200, 120, 80, 60, 40])
def test_no_word_is_broken_at_any_width(width):
    text = printed(width)
    words = [
        *WHY.split(),
        *(column.name for column in COLUMNS),
        *(cell for row in ROWS for cell in row[:3]),
        "[bold]no",
    ]
    for word in words:
        assert word in re.split(r"[\s│┃|]+", text), word
    assert max(len(line.rstrip()) for line in text.splitlines()) <= width


def test_a_wide_table_is_a_table_and_a_narrow_one_a_list():
    assert "authenticity ┃ verdict" in printed(120)
    text = printed(40)
    assert "┃" not in text and re.search(r"^verdict +manipulated *$", text, re.M)


def test_spare_columns_go_before_the_table_does():
    columns = [Column("name", whole=True), Column("licence", whole=True, spare=True), Column("status")]
    rows = [("a" * 20, "b" * 30, "ready to be used")]
    assert "licence" in printed(80, columns, rows)
    narrow = printed(50, columns, rows)
    assert "licence" not in narrow and "┃" in narrow and "ready" in narrow


def test_long_paths_may_break_where_nothing_else_helps():
    path = "/" + "x" * 300
    text = printed(80, ["uri", "n"], [(path, 1)])
    assert text.count("x") == 300 and max(map(len, text.splitlines())) <= 80


def test_ascii_has_its_own_lines_and_the_widths_are_right():
    text = printed(80, ["a", "b"], [("é", 1), ("e", 2)], "ascii", title="日")
    assert "\\xe9 | 1" in text and "---+" in text and text.startswith("\\u65e5")


@pytest.mark.parametrize("width", [80, 120])
def test_the_list_of_detectors_breaks_no_name(width, monkeypatch, capsys):
    monkeypatch.setenv("COLUMNS", str(width))
    rows = catalogue()
    show(rows)
    text = capsys.readouterr().out
    assert max(len(line.rstrip()) for line in text.splitlines()) <= width
    for row in rows:
        assert row["name"] in re.split(r"[\s│┃]+", text) and row["family"] in text


def test_a_table_without_rows_has_its_head():
    assert "authenticity" in printed(80, COLUMNS, [])
