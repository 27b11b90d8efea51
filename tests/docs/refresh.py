"""Updates README and docs/ with what their commands and notebooks print now, and docs/tables.md from the schemas.

python -m tests.docs.refresh [PAGE...]
"""

from __future__ import annotations

import contextlib
import sys
import tempfile
from pathlib import Path

from . import notebooks
from .make_tables import TABLES_MD, tables_md
from .pages import NOTEBOOKS, PAGES, blocks_of, python_of, shown
from .running import Desk


def refresh(page: Path, desk: Desk) -> None:
    if page.suffix == ".ipynb":
        notebooks.refresh(page, desk)
        return
    desk.clear()
    desk.write_files(page)
    text = page.read_text(encoding="utf-8")
    moved = 0
    for block in blocks_of(page):
        if block.kind == "console":
            new = shown(desk.run_block(block))
            start = block.start + moved
            text = text[:start] + new + text[start + len(block.text) :]
            moved += len(new) - len(block.text)
    page.write_text(text, encoding="utf-8")
    for number, (code, _) in enumerate(python_of(page)):
        with contextlib.suppress(ImportError):  # PySpark is too large for our environment
            new = desk.run_python(code.text, page.name) + "\n"
            output = python_of(page)[number][1]
            text = page.read_text(encoding="utf-8")
            page.write_text(text[: output.start] + new + text[output.start + len(output.text) :], encoding="utf-8")


def main() -> None:
    TABLES_MD.write_text(tables_md(), encoding="utf-8")
    wanted = [Path(name).resolve() for name in sys.argv[1:]] or [*PAGES, *NOTEBOOKS]
    with tempfile.TemporaryDirectory() as folder:
        desk = Desk(Path(folder).resolve())
        desk.audit()
        for page in wanted:
            refresh(page, desk)


if __name__ == "__main__":
    main()
