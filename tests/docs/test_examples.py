"""README and docs/ show what a reader gets: their commands are run, and what they print is compared."""

from __future__ import annotations

import contextlib
import io
import re
from pathlib import Path

import pytest

from deephotlink.pipelines import cli
from deephotlink.pipelines.options import check_beam_args
from deephotlink.pipelines.outputs.query import run_query

from .pages import PAGES, ROOT, Block, blocks_of, commands_of, examples_of, python_of
from .running import MORE, Desk, alike

PYTHON = [pair for page in PAGES for pair in python_of(page)]
WITH_EXAMPLES = [page for page in PAGES if any(block.kind == "console" for block in blocks_of(page))]


@pytest.mark.parametrize("page", WITH_EXAMPLES, ids=lambda page: page.name)
def test_commands_print_what_the_page_shows(page: Path, desk: Desk) -> None:
    desk.clear()
    desk.write_files(page)
    for block in blocks_of(page):
        for example in examples_of(block) if block.kind == "console" else ():
            printed = desk.run(example.command)
            assert alike(example.output, printed), (
                f"{page.name} shows of `{example.command}`\n{example.output}\nand it prints\n{printed}\n"
                "If that is as it should be: python -m tests.docs.refresh"
            )


def test_readme_and_guide_are_among_them() -> None:
    assert {"README.md", "guide.md", "operate.md"} <= {page.name for page in WITH_EXAMPLES}
    [first, *_] = [block for block in blocks_of(ROOT / "README.md") if block.kind == "console"]
    [made] = examples_of(first)
    assert made.command == "make audit" and MORE not in made.output.splitlines()


def test_make_audit_is_what_the_test_runs() -> None:
    recipe = (ROOT / "Makefile").read_text(encoding="utf-8").partition("\naudit:")[2].partition("\n\n")[0]
    assert "-m deephotlink.pipelines.samples.archive archive" in recipe
    assert re.search(r'deephotlink audit "\$\$ARCHIVE" --output "\$\$OUTPUT"', recipe)
    assert re.search(r"^OUTPUT \?= scores$", (ROOT / "Makefile").read_text(encoding="utf-8"), re.M)


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_commands_that_are_not_run_can_be_given(page: Path) -> None:
    for block in blocks_of(page):
        for words in commands_of(block) if block.kind in ("sh", "console") else ():
            args, rest = cli.build_parser().parse_known_args(words)
            if args.command == "audit":
                check_beam_args(rest)
            else:
                assert not rest, words


def test_python_in_the_readme_runs(desk: Desk) -> None:
    desk.clear()
    [code] = [block.text for block in blocks_of(ROOT / "README.md") if block.kind == "python"]
    printed = io.StringIO()
    with desk.at_work(), contextlib.redirect_stdout(printed):
        exec(compile(code, "README.md", "exec"), {"__name__": "__main__"})
        wanted = run_query("scores", "select uri, verdict from latest where uri like '%/archive/declared/%' order by 1")
    assert wanted.num_rows >= 3
    assert sorted(map(str.split, printed.getvalue().splitlines())) == [list(row.values()) for row in wanted.to_pylist()]


@pytest.mark.parametrize(
    ("code", "output"), PYTHON, ids=[f"{code.page.name}-{number}" for number, (code, _) in enumerate(PYTHON)]
)
def test_python_prints_what_the_page_shows(code: Block, output: Block, desk: Desk) -> None:
    if "pyspark" in code.text:
        pytest.importorskip("pyspark", reason="needs Java and `pip install pyspark`, which is large")
    desk.clear()
    printed = desk.run_python(code.text, code.page.name)
    assert alike(output.text.rstrip("\n"), printed), f"{code.page.name} shows\n{output.text}\nand it prints\n{printed}"


def test_the_worked_queries_are_among_them() -> None:
    said = "".join(code.text for code, _ in PYTHON if code.page.name == "queries.md")
    assert all(f"import {name}" in said for name in ("duckdb", "pandas", "polars")) and "pyspark" in said


def test_what_is_alike() -> None:
    shown = "run 20261129T130549Z-a8f67913, 5,067,669 bytes, +1.2 and .34"
    assert alike(shown, "run 20271129T130549Z-b8f67913, 5,067,663 bytes, +1.3 and .35")
    assert not alike(shown, shown.replace("+1.2", "+1.4")) and not alike(shown, shown.replace("5,067", "5,167"))
    assert not alike(shown, shown.replace("and", "or")) and not alike("2 files", "3 files")
    assert alike("one\n...", "one\ntwo\nthree") and not alike("one\n...", "two\none")
