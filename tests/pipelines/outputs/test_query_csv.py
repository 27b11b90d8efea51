"""`query --csv`: RFC 4180, row by row, whatever the cells hold."""

import csv
import io

import pytest

from deephotlink.pipelines import cli
from deephotlink.pipelines.outputs.query import BATCH_ROWS, run_query, stream_query
from deephotlink.pipelines.terminal.csv_rows import csv_line
from deephotlink.transforms.storage.output_store import OutputStore
from tests.committing import finish, make_run

HOSTILE = ["a,b", 'say "x"', "two\nlines", "cr\rhere", "=1+1", "+1", "-1", "@x", " padded ", "\t", "'", "\u2028", "é"]


@pytest.fixture
def out(tmp_path):
    store = OutputStore(str(tmp_path))
    finish(store, make_run(store, 1, 6))
    return store.root


def asked(out, sql, capsys):
    assert cli.main(["query", out, sql, "--csv"]) == cli.DONE
    return capsys.readouterr().out


@pytest.mark.parametrize("cell", HOSTILE)
def test_a_cell_comes_back_as_it_was(cell):
    line = csv_line([cell, 1])
    assert line.endswith("\r\n") and list(csv.reader(io.StringIO(line, newline=""))) == [[cell, "1"]]


def test_null_and_empty_text_differ():
    assert csv_line([None, ""]) == ',""\r\n' and csv_line([None]) == "\r\n"


def test_every_type_has_one_spelling(out, capsys):
    sql = (
        "select true as t, 1.5::decimal(4,2) as d, date '2026-11-29' as day,"
        " timestamptz '2026-11-29 01:02:03+00' as at, [1, null] as l, {'a': 'x,y', 'n': 'nan'::double} as s,"
        " 'b'::blob as b, 'nan'::double as n, null as none"
    )
    names, values = csv.reader(io.StringIO(asked(out, sql, capsys), newline=""))
    assert names == ["t", "d", "day", "at", "l", "s", "b", "n", "none"]
    row = ["true", "1.5", "2026-11-29", "2026-11-29T01:02:03+00:00", "[1, null]", '{"a": "x,y", "n": null}']
    assert values == [*row, "b", "nan", ""]


def test_the_rows_of_a_table(out, capsys):
    printed = asked(out, "select uri, box, detail, box as uri from evidence order by all", capsys)
    names, *rows = csv.reader(io.StringIO(printed, newline=""))
    assert names == ["uri", "box", "detail", "uri_1"]
    table = run_query(out, "select uri, detail from evidence order by all")
    assert len(rows) == table.num_rows == 12
    assert sorted(row[0] for row in rows) == sorted(table["uri"].to_pylist())
    assert {row[2] for row in rows} == {"", '{"a": 1}'}


def test_no_rows_and_no_query(out, capsys):
    assert asked(out, "select uri from scores where false", capsys) == "uri\r\n"
    assert cli.main(["query", out, "select 1", "--csv", "--json"]) == cli.USAGE
    assert cli.main(["query", out, "select nothing from scores", "--csv"]) == cli.USAGE


def test_rows_come_in_parts(out):
    schema, *batches = stream_query(out, f"select range as n from range({3 * BATCH_ROWS})")
    assert schema.names == ["n"] and len(batches) >= 3
    assert max(batch.num_rows for batch in batches) <= BATCH_ROWS
    assert [n for batch in batches for n in batch["n"].to_pylist()] == list(range(3 * BATCH_ROWS))
