"""The notebooks in docs/ run from their first cell to their last, and give what they show."""

from __future__ import annotations

import csv
from pathlib import Path

import nbformat
import pytest

from deephotlink.pipelines.outputs.query import run_query

from .notebooks import MOST_BYTES, run, told
from .pages import NOTEBOOKS
from .running import Desk, alike


@pytest.mark.parametrize("page", NOTEBOOKS, ids=lambda page: page.name)
def test_a_notebook_gives_what_it_shows(page: Path, desk: Desk) -> None:
    desk.clear()
    stored = nbformat.read(page, as_version=4)
    nbformat.validate(stored)
    ran = run(page, desk)
    for (source, shown, pictures), (_, printed, drawn) in zip(told(stored), told(ran), strict=True):
        assert alike(shown, printed), (
            f"{page.name} shows below\n{source}\n\n{shown}\nand it prints\n{printed}\n"
            "If that is as it should be: python -m tests.docs.refresh"
        )
        assert pictures == drawn, source


def test_it_goes_from_the_table_to_a_list(desk: Desk) -> None:
    [page] = [page for page in NOTEBOOKS if page.name == "from-table-to-decision.ipynb"]
    desk.clear()
    cells = told(run(page, desk))
    assert sum(drawn for _, _, drawn in cells) == 3 and all(text or drawn for _, text, drawn in cells)
    with open(desk.folder / "to-look-at.csv", newline="", encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    suspicious = run_query(str(desk.folder / "scores"), "select media_id from latest where authenticity < 0.45")
    assert {row["media_id"] for row in rows} == set(suspicious["media_id"].to_pylist()) and len(rows) == 20


@pytest.mark.parametrize("page", NOTEBOOKS, ids=lambda page: page.name)
def test_a_notebook_is_stored_with_its_outputs_and_small(page: Path) -> None:
    notebook = nbformat.read(page, as_version=4)
    assert page.stat().st_size <= MOST_BYTES
    code = [cell for cell in notebook.cells if cell.cell_type == "code"]
    assert [cell.execution_count for cell in code] == list(range(1, len(code) + 1))
    assert all(cell.outputs for cell in code)
    text = page.read_text(encoding="utf-8")
    assert "/tmp/" not in text and "/home/" not in text and "Traceback" not in text
