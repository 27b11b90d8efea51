"""`OUT/report.html`: the parts put together into one file that asks nothing of any network.

The browser is told by a content security policy to run this page's own script and to apply its own style, both known by
their hashes, to show pictures that are written in the page itself, and nothing else. What comes out of files is either
escaped HTML (overview.py) or JSON in blocks that no browser runs. Cards stand in blocks of `BLOCK_FILES`, which the
script parses when one of them is opened.
"""

from __future__ import annotations

import base64
import hashlib
import html
import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from functools import cache
from importlib import resources
from typing import Any

import duckdb

from ....models.base import FAMILIES
from ....models.calibration.calibration import DetectorCalibration
from ....transforms.failures import printable
from ....transforms.storage.output_names import PAGE
from ....transforms.storage.output_store import OutputStore
from ....transforms.tables.runs import Run, list_runs
from ...terminal.wording import shell_word
from ..check import unfinished_runs
from ..plain_words import VERDICTS, WHAT_A_SCORE_IS_NOT, family_title, ranking_sentence
from ..query import connect, published_files, readable
from ..reasons import Item
from ..summary import Summary, summarise
from .cards import WORDS, card_of, limits_of, line_of, row_reasons, rows_query
from .chosen import MOST_FILES, Chosen, bounded, choose, evidence_of, rows_of
from .overview import (
    SYMBOLS,
    audited_folder,
    calibrations_of,
    coverage_html,
    covered,
    header_html,
    method_html,
    ranking_html,
    verdicts_html,
)
from .pictures import TABLE, Picture, pictures_of
from .rules import rules_of

BLOCK_FILES = 20
NO_PICTURE_OF_IT = (
    "No pictures were kept of this file: they are kept of suspicious files only, and not if an audit was told to keep "
    "none."
)
NO_PICTURES = "No pictures were kept: this output holds none."
CARDS_BYTES = 16 << 20
"""Of cards with a timeline, the most suspicious first; the cards of other files have none."""
SCRIPTS = (
    "vendor/d3-array.min.js",
    "vendor/d3-color.min.js",
    "vendor/d3-format.min.js",
    "vendor/d3-interpolate.min.js",
    "vendor/d3-time.min.js",
    "vendor/d3-time-format.min.js",
    "vendor/d3-scale.min.js",
    "vendor/d3-selection.min.js",
    "vendor/d3-axis.min.js",
    "elements.js",
    "timeline.js",
    "card.js",
    "list.js",
)
"""In the order in which one needs the other."""


def report_command(out: str) -> int:
    """Writes the report of `out` anew; returns the exit code.

    Raises:
        UsageError: there is no output, a file in it is damaged, or nothing may be written. WorldError: storage failed.
    """
    store, tables = OutputStore(out), connect(out)
    with readable(out):
        _, chosen = summarise_and_report(store, tables)
    of = "" if chosen.kept == chosen.total else f" of {chosen.total}"
    print(f"{printable(store.path(PAGE), 4096)}: {chosen.kept}{of} file{'' if chosen.total == 1 else 's'}")
    return 0


def summarise_and_report(store: OutputStore, tables: duckdb.DuckDBPyConnection) -> tuple[Summary, Chosen]:
    """Counts what is in `tables` (from `query.connect`), and puts the page in place of the one before, whole or not
    at all.

    Within `DUCKDB_MEMORY`; where that is too little, as for some tens of millions of files, with all that DuckDB may
    have.
    """
    try:
        with bounded(tables):
            return _summarise_and_report(store, tables)
    except duckdb.OutOfMemoryException:
        # A new connection: what the old one has put on disk is gone.
        with connect(store.root) as anew:
            return _summarise_and_report(store, anew)


def _summarise_and_report(store: OutputStore, tables: duckdb.DuckDBPyConnection) -> tuple[Summary, Chosen]:
    summary = summarise(tables, unfinished=len(unfinished_runs(store)))
    runs = list_runs(store)
    made = calibrations_of(runs)
    rankings = (ranking_sentence(made[name]) for name in summary.calibrations if name in made)
    summary = replace(summary, rankings=tuple(dict.fromkeys(filter(None, rankings))))
    chosen, page = report_page(store, tables, summary, runs)
    store.replace(PAGE, page)
    return summary, chosen


def report_page(
    store: OutputStore,
    tables: duckdb.DuckDBPyConnection,
    summary: Summary,
    runs: Sequence[Run],
    most: int = MOST_FILES,
) -> tuple[Chosen, bytes]:
    """Which files are in it, and the page in UTF-8. runs: all of the output, from `list_runs`."""
    chosen = choose(tables, summary, most)
    rows = rows_of(tables)
    keys = {(r["media_id"], r["evidence_run"]): r["place"] for r in rows if r["outcome"] == "scored"}
    picture_files = published_files(store, TABLE)
    pictures = pictures_of(store, picture_files, keys)
    families = covered(tables)
    folder = audited_folder(tables)
    lines, blocks = _files(store, tables, rows, pictures)
    word = shell_word(store.root)
    about = {
        "verdicts": [[name, word_.title, word_.sentence, SYMBOLS[name]] for name, word_ in VERDICTS.items()],
        "families": [[name, family_title(name)] for name in FAMILIES],
        "folder": printable(folder, 4096),
        "detectors": limits_of(one.detector for one in summary.detectors),
        "words": WORDS,
        "blockFiles": BLOCK_FILES,
        "complete": chosen.kept == chosen.total,
        "noPictures": NO_PICTURE_OF_IT if picture_files else NO_PICTURES,
        "query": rows_query(word, "{id}"),
        "notProof": WHAT_A_SCORE_IS_NOT,
    }
    command = f'deephotlink query {word} "select uri, verdict, authenticity, reasons from latest order by authenticity"'
    parts = {
        "title": html.escape(f"deephotlink: {printable(folder, 200) or 'report'}"),
        "header": header_html(summary, runs, folder, chosen, command),
        "verdicts": verdicts_html(summary),
        "ranking": ranking_html(summary),
        "coverage": coverage_html(summary, families),
        "method": method_html(summary, runs, families),
        "data": _json_block("about", about) + _json_block("lines", lines) + "".join(blocks),
        "style": _asset("style.css"),
        "script": _script(),
        "policy": _policy(),
    }
    return chosen, b"".join(_filled(parts))


def _files(
    store: OutputStore,
    tables: duckdb.DuckDBPyConnection,
    rows: list[dict[str, Any]],
    pictures: Mapping[int, list[Picture]],
) -> tuple[list[dict[str, Any]], list[str]]:
    """Lines of the list, and the blocks with the cards; the evidence of one file at a time is in memory."""
    rules: dict[str, Mapping[str, DetectorCalibration]] = {}
    evidence = evidence_of(tables)
    upcoming: tuple[int, list[Item]] | None = next(evidence, None)
    lines: list[dict[str, Any]] = []
    blocks: list[str] = []
    cards: list[dict[str, Any]] = []
    room = CARDS_BYTES
    for row in rows:
        items: list[Item] = []
        if upcoming is not None and upcoming[0] == row["place"]:
            items, upcoming = upcoming[1], next(evidence, None)
        run_id = row["run_id"]
        if run_id not in rules:
            rules[run_id] = rules_of(store, run_id)
        reasons = row_reasons(row, items)
        lines.append(line_of(row, reasons))
        card = card_of(row, reasons, items, rules[run_id], with_timeline=room > 0)
        if card.get("timeline"):
            room -= len(json.dumps(card["timeline"]))
        card["pictures"] = [picture.as_json() for picture in pictures.get(row["place"], ())]
        if card["pictures"]:
            lines[-1]["thumb"] = True
        cards.append(card)
        if len(cards) == BLOCK_FILES:
            blocks.append(_json_block(f"cards-{len(blocks)}", cards))
            cards = []
    if cards:
        blocks.append(_json_block(f"cards-{len(blocks)}", cards))
    return lines, blocks


@cache
def _asset(name: str) -> str:
    return resources.files(__package__).joinpath(name).read_text(encoding="utf-8")


@cache
def _script() -> str:
    return "\n".join(_asset(name) for name in SCRIPTS)


def _policy() -> str:
    style, script = (
        base64.b64encode(hashlib.sha256(t.encode()).digest()).decode() for t in (_asset("style.css"), _script())
    )
    return (
        f"default-src 'none'; style-src 'sha256-{style}'; script-src 'sha256-{script}'; img-src data:; "
        "base-uri 'none'; form-action 'none'"
    )


def _filled(parts: Mapping[str, str]) -> Iterator[bytes]:
    """The template with each `{{name}}` replaced, once: what stands in a part is never looked at again."""
    before, *rest = _asset("page.html").split("{{")
    yield before.encode()
    for piece in rest:
        name, _, after = piece.partition("}}")
        yield parts[name].encode("utf-8", "replace")
        yield after.encode()


def _json_block(name: str, value: object) -> str:
    """JSON that no parser of HTML can leave early: ASCII, and without `<`, `>` and `&`."""
    text = json.dumps(value, ensure_ascii=True, allow_nan=False, separators=(",", ":"))
    for char in "<>&":
        text = text.replace(char, f"\\u{ord(char):04x}")
    return f'<script type="application/json" id="{name}">{text}</script>\n'
