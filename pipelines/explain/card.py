"""What is on record about one file: the card of the report, read for this file alone."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import duckdb

from ...models.calibration.calibration import DetectorCalibration
from ...transforms.failures import UsageError
from ...transforms.storage.output_store import OutputStore
from ..outputs.plain_words import VERDICTS, verdict_of
from ..outputs.query import connect, readable
from ..outputs.reasons import Item, Reason
from ..outputs.report.cards import card_of, limits_of, line_of, row_reasons, rows_query
from ..outputs.report.chosen import choose_one, evidence_of, rows_of
from ..outputs.report.rules import rules_of
from ..terminal.wording import shell_word
from .files import find_media_id

_PICTURES = """
select kind, round(pts_seconds, 2), detector from evidence_frames where media_id = ? and run_id = ?
order by pts_seconds, kind desc, detector"""


@dataclass(frozen=True, slots=True)
class Explained:
    """One file as the tables know it."""

    row: Mapping[str, Any]
    """Its newest row, with `outcome`; of a scored file also `evidence_run`."""
    items: Sequence[Item]
    """Its evidence."""
    reasons: Sequence[Reason]
    rules: Mapping[str, DetectorCalibration]
    """Of the calibration that made its score, by detector."""
    line: Mapping[str, Any]
    card: Mapping[str, Any]
    pictures: Sequence[tuple[str, float, str]]
    """(kind, seconds, detector) of those in `evidence_frames`."""
    query: str
    """The command that prints all its rows of evidence."""

    @property
    def word(self) -> str:
        """The key of `plain_words.VERDICTS`."""
        return verdict_of(self.row["outcome"], self.row.get("verdict"))

    def as_json(self) -> dict[str, Any]:
        card, row = self.card, self.row
        told = {
            "uri": row["uri"],
            "media_id": row["media_id"],
            "run_id": row["run_id"],
            "outcome": row["outcome"],
            "verdict": row.get("verdict"),
            "authenticity": row.get("authenticity"),
            "title": VERDICTS[self.word].title,
            "sentence": VERDICTS[self.word].sentence,
            "why": self.line["why"],
            "facts": dict(card["facts"]),
        }
        if row["outcome"] != "scored":
            return {**told, "word": card["word"]}
        limits = limits_of(reason.detector for reason in self.reasons)
        return {
            **told,
            **{key: card[key] for key in ("towards", "against", "neither", "notes")},
            "could_not_judge": [{"text": text, "abstained": word} for text, word in card["silent"]],
            "credentials": [{"text": text, "saw": saw} for text, saw in card["credentials"]],
            "declared": [{"text": text, "saw": saw} for text, saw in card["declared"]],
            "detectors": [
                {
                    "detector": reason.detector,
                    "family": reason.family,
                    "log_odds": reason.log_odds,
                    "logits": reason.logits,
                    "calibrated": reason.calibrated,
                    "has_say": reason.has_say,
                    "start_seconds": reason.start,
                    "end_seconds": reason.end,
                    **limits.get(reason.detector, {}),
                }
                for reason in self.reasons
            ],
            "timeline": card["timeline"],
            "pictures": [dict(zip(("kind", "seconds", "detector"), one, strict=True)) for one in self.pictures],
            "reasons": list(card["machine"]),
        }


def explained(out: str, given: str, encoding: str = "utf-8") -> Explained:
    """The one file that `given` names in the output `out`. encoding: of the terminal that the query is printed on.

    Raises:
        UsageError: there is no output, a file in it is damaged, or `given` names no file or several. WorldError: the
            store does not answer.
    """
    with connect(out) as tables, readable(out):
        return _read(tables, OutputStore(out, patience_seconds=15.0), given, encoding)


def _read(tables: duckdb.DuckDBPyConnection, store: OutputStore, given: str, encoding: str) -> Explained:
    media_id = find_media_id(tables, given)
    choose_one(tables, media_id)
    rows = rows_of(tables)
    if not rows:
        raise UsageError(
            f"the row of {media_id} cannot be read: `deephotlink check {shell_word(store.root)}` says more"
        )
    row = rows[0]
    items = next((items for _, items in evidence_of(tables)), [])
    rules = rules_of(store, row["run_id"])
    reasons = row_reasons(row, items)
    card = card_of(row, reasons, items, rules)
    pictures = tables.execute(_PICTURES, [media_id, row.get("evidence_run") or row["run_id"]]).fetchall()
    query = rows_query(shell_word(store.root, encoding), media_id)
    return Explained(row, items, reasons, rules, line_of(row, reasons), card, pictures, query)
