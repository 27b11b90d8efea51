"""docs/tables.md, which is the text that `deephotlink schema --markdown` prints.

    python -m tests.docs.make_tables

A test compares the file with what is made here.
"""

from __future__ import annotations

from deephotlink.pipelines.outputs.schema.dictionary import dictionary

from .pages import ROOT

TABLES_MD = ROOT / "docs" / "tables.md"
_MADE = "<!-- Made by `python -m tests.docs.make_tables` from the code. Change the code, then run that again. -->"


def tables_md() -> str:
    title, rest = dictionary().split("\n", 1)
    return f"{title}\n\n{_MADE}\n{rest}"


def main() -> None:
    TABLES_MD.write_text(tables_md(), encoding="utf-8")


if __name__ == "__main__":
    main()
