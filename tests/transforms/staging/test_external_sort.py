"""Sorting on disk, and that a plan's memory does not grow with what is planned."""

from __future__ import annotations

import json
import random
import subprocess
import sys
from pathlib import Path

import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from deephotlink.transforms.staging import external_sort
from deephotlink.transforms.staging.external_sort import SortedRows

SCHEMA = pa.schema([("text", pa.string()), ("number", pa.int64()), ("rest", pa.string())])


def sorted_rows(rows: list[tuple[str, int, str]], batch_rows: int) -> list[tuple[str, int, str]]:
    held = SortedRows(SCHEMA, lambda batch: [batch.column("text"), batch.column("number")])
    for start in range(0, len(rows), batch_rows):
        columns = zip(*rows[start : start + batch_rows], strict=True)
        held.add(
            pa.RecordBatch.from_arrays(
                [pa.array(c, f.type) for c, f in zip(columns, SCHEMA, strict=True)], schema=SCHEMA
            )
        )
    found = [tuple(row.values()) for batch in held.batches() for row in batch.to_pylist()]
    held.close()
    return found  # type: ignore[return-value]


@settings(deadline=None)
@given(
    st.lists(st.tuples(st.text(st.characters(codec="utf-8"), max_size=6), st.integers(-5, 5)), max_size=300),
    st.integers(1, 50),
)
def test_rows_come_back_sorted_as_python_sorts_them(rows: list[tuple[str, int]], batch_rows: int) -> None:
    numbered = [(*row, str(at)) for at, row in enumerate(rows)]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(external_sort, "RUN_BYTES", 400)
        patch.setattr(external_sort, "BLOCK_BYTES", 100)
        found = sorted_rows(numbered, batch_rows)
    assert [row[:2] for row in found] == sorted(rows)
    assert sorted(found) == sorted(numbered)


def test_many_runs_of_many_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(external_sort, "RUN_BYTES", 20_000)
    monkeypatch.setattr(external_sort, "BLOCK_BYTES", 1_000)
    rows = [(f"{number % 97}", number, "x" * (number % 50)) for number in range(20_000)]
    random.Random(0).shuffle(rows)
    assert sorted_rows(rows, 64) == sorted(rows)


PLAN = """
import json, re, sys
from deephotlink.transforms.listing import list_sources
from deephotlink.transforms.plan import plan_media
from deephotlink.transforms.tables.id_sets import SortedIds
from deephotlink.transforms.tables.plan_table import write_plan

# not by getrusage, which begins with what the process had that started this one
peak = lambda: int(re.search(r"VmHWM:\\s*(\\d+)", open("/proc/self/status").read())[1]) >> 10
told = []
for source in sys.argv[1:]:
    with plan_media(list_sources([source]), SortedIds.from_batches([])) as plan, open(source + ".plan", "wb") as f:
        write_plan(plan.batches(), {}, f)
        told.append((plan.rows, peak()))
print(json.dumps(told))
"""


def test_the_memory_of_a_plan_does_not_grow_with_it(tmp_path: Path) -> None:
    """A hundred thousand entries took some 100 MiB when they were records in a list."""
    sources = []
    for count in (20_000, 120_000):
        path = tmp_path / f"{count}.csv"
        path.write_text("uri;n\n" + "".join(f"/no/such/folder/of/films/film {n:08d}.mp4;1\n" for n in range(count)))
        sources.append(str(path))
    done = subprocess.run([sys.executable, "-c", PLAN, *sources], check=True, capture_output=True, text=True)
    (few, before), (many, after) = json.loads(done.stdout)
    assert (few, many) == (20_000, 120_000)
    assert after - before < 40
