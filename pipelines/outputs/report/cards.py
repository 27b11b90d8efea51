"""One file as the report shows it: the line in the list, and the card that opens below it."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from datetime import UTC, datetime
from typing import Any

from ....models import registry
from ....models.base import FAMILIES
from ....models.calibration.calibration import DetectorCalibration
from ....transforms.failures import printable
from ...terminal.wording import counted, named, seconds
from ..plain_words import VERDICTS, clock, outcome_sentence, verdict_of
from ..reasons import Item, Reason, declarations, notes_of, reasons_of, silences_of
from .timelines import timeline_of

KINDS = tuple(VERDICTS)
LONGEST_TEXT = 400
LONGEST_SEEN = 120
"""Of what a tag says: encoders write pages into it."""
LONGEST_NAME = 1_000
WORDS: Mapping[str, str] = {
    "towards": "What speaks for manipulation",
    "against": "What speaks against it",
    "silent": "What could not be judged",
    "nothing": "Nothing was found.",
    "hint": "A hint only.",
    "hints": "A hint comes from a detector that has no part in the verdict.",
    "timeline": "Evidence over its length",
    "noTimeline": "No detector judged a stretch of this file.",
    "above": "above the line: points to manipulation",
    "below": "below: points away from it",
    "couldNot": "could not judge",
    "unseen": "not looked at",
    "facts": "The file",
    "credentials": "Content Credentials",
    "noCredentials": "None were found. Their absence says nothing.",
    "declared": "What else it declares",
    "blind": "What these detectors cannot see",
    "logOdds": "Log-odds: above 0 points to manipulation, below 0 away from it. Raw: as the detector gives it, not "
    "calibrated.",
    "machine": "Reasons as they stand in the tables:",
    "word": "Word in the tables:",
}
"""The words of a card that are the same for every file. The page's scripts and `deephotlink explain` use them."""
_UNITS = (("GB", 1 << 30), ("MB", 1 << 20), ("kB", 1 << 10))


def line_of(row: Mapping[str, Any], reasons: Sequence[Reason]) -> dict[str, Any]:
    """What the list shows of a file and what it is filtered and sorted by."""
    folder, name = named(row["uri"])
    families = {reason.family: reason.leaning for reason in reversed(reasons)}
    return {
        "name": _text(name, LONGEST_NAME),
        "folder": _text(folder, LONGEST_NAME),
        "verdict": KINDS.index(verdict_of(row["outcome"], row.get("verdict"))),
        "authenticity": None if row.get("authenticity") is None else round(row["authenticity"], 4),
        "seconds": None if row.get("duration_seconds") is None else round(row["duration_seconds"], 2),
        "why": _text(why_of(row, reasons)),
        "judged": [FAMILIES.index(f) for f in FAMILIES if f in families],
        "towards": [FAMILIES.index(f) for f in FAMILIES if families.get(f) == 1],
        "kind": row.get("media_type") or "",
    }


def why_of(row: Mapping[str, Any], reasons: Sequence[Reason]) -> str:
    """The one sentence that says most about why the file stands where it does."""
    if row["outcome"] == "failed":
        return row["message"] or outcome_sentence(row["error_class"])
    if row["outcome"] == "skipped":
        return outcome_sentence(row["reason"]) or row["reason"]
    counting = [reason for reason in reasons if reason.has_say]
    if row["verdict"] == "manipulated" or any(reason.leaning > 0 for reason in counting):
        counting = [reason for reason in counting if reason.leaning > 0] or counting
    if counting:
        return counting[0].sentence
    hints = [reason for reason in reasons if reason.leaning > 0]
    return f"{hints[0].sentence} (a hint only)" if hints else outcome_sentence(row["verdict"])


def card_of(
    row: Mapping[str, Any],
    reasons: Sequence[Reason],
    items: Sequence[Item],
    rules: Mapping[str, DetectorCalibration],
    with_timeline: bool = True,
) -> dict[str, Any]:
    """All that the card says, but for pictures."""
    card: dict[str, Any] = {
        "uri": _text(row["uri"], LONGEST_NAME),
        "id": row["media_id"],
        "run": row["run_id"],
        "facts": [[name, _text(value)] for name, value in facts_of(row)],
    }
    if row["outcome"] != "scored":
        word = row.get("error_class") or row.get("reason") or ""
        told = outcome_sentence(word)
        return {**card, "word": word, "told": [told[:1].upper() + told[1:]] if told else []}
    silences = silences_of(items)
    metadata = [found for item in items if item.family == "metadata" for found in declarations(item.detail)]
    card |= {
        "towards": [_reason(reason) for reason in reasons if reason.leaning > 0],
        "against": [_reason(reason) for reason in reasons if reason.leaning < 0],
        "neither": [_reason(reason) for reason in reasons if reason.leaning == 0],
        "silent": [[_text(silence.sentence), silence.abstained] for silence in silences],
        "notes": [_text(note[:1].upper() + note[1:]) for note in notes_of(row["reasons"] or ())],
        "credentials": [[_text(t), _text(saw, LONGEST_SEEN)] for t, saw, _ in metadata if "Content Credentials" in t],
        "declared": [[_text(t), _text(saw, LONGEST_SEEN)] for t, saw, _ in metadata if "Content Credentials" not in t],
        "numbers": [[r.detector, r.family, round(r.log_odds, 3), r.logits, r.calibrated, r.has_say] for r in reasons],
        "machine": [_text(reason, 1000) for reason in row["reasons"] or ()],
        "timeline": timeline_of(items, reasons, rules, row["duration_seconds"]) if with_timeline else None,
        "cut": not with_timeline,
    }
    return card


def facts_of(row: Mapping[str, Any]) -> list[tuple[str, str]]:
    """What is known of the file itself, in the words of its owner."""
    facts = []
    if row.get("media_type"):
        # A demuxer names all that it reads: `mov,mp4,m4a,3gp,3g2,mj2`.
        names = "/".join((row.get("container") or "").split(",")[:2])
        facts.append(("Kind", f"{row['media_type']}{', ' + names if names else ''}"))
    if row.get("duration_seconds"):
        facts.append(("Length", f"{clock(row['duration_seconds'])} ({seconds(row['duration_seconds'])} s)"))
    if row.get("width") and row.get("height"):
        rate = f", {row['frame_rate']:.4g} pictures a second" if row.get("frame_rate") else ""
        facts.append(("Picture", f"{row['width']} × {row['height']}{rate}"))
    if row.get("has_audio") is not None:
        facts.append(("Sound", "yes" if row["has_audio"] else "none"))
    if row.get("size_bytes") is not None:
        facts.append(("Size", size(row["size_bytes"])))
    if row["outcome"] == "scored":
        facts.append(("Looked at", _looked(row)))
        if row.get("has_video"):
            facts.append(("Faces", counted(row["faces"] or 0, "face track")))
        facts.append(("Audited", _when(row["scored_at"])))
    if row.get("failed_at"):
        facts.append(("Tried", f"{_when(row['failed_at'])}, {counted(row['attempts'] or 1, 'time')} in all"))
        facts.append(("Failed at", row["stage"]))
    if row.get("member"):
        facts.append(("Member of a shard", row["member"]))
    return facts


def limits_of(detectors: Iterable[str]) -> dict[str, dict[str, str]]:
    """What each of these detectors cannot see (`blind`) and its `licence`, if it is installed here."""
    installed = registry.installed()
    found = {name: installed[name] for name in detectors if name in installed}
    return {name: {"blind": spec.blind_to, "licence": spec.licence} for name, spec in found.items()}


def rows_query(word: str, media_id: str) -> str:
    """The command that prints every row of evidence of a file. word: the output, as a word for a shell."""
    return f"deephotlink query {word} \"select * from timeline where media_id = '{media_id}'\""


def size(number: int) -> str:
    """
    >>> size(999), size(5_067_669)
    ('999 bytes', '4.8 MB')
    """
    for unit, least in _UNITS:
        if number >= least:
            return f"{number / least:.1f} {unit}"
    return f"{number} bytes"


def row_reasons(row: Mapping[str, Any], items: Sequence[Item]) -> list[Reason]:
    return reasons_of(row["detectors"] or (), items) if row["outcome"] == "scored" else []


def _looked(row: Mapping[str, Any]) -> str:
    looked = seconds(row["assessed_seconds"] or 0.0)
    of = f" of {seconds(row['duration_seconds'])}" if row.get("duration_seconds") else ""
    frames = f", {counted(row['frames_kept'], 'picture')}" if row.get("frames_kept") else ""
    return f"{looked}{of} s{frames}"


def _reason(reason: Reason) -> dict[str, Any]:
    return {
        "text": _text(reason.sentence),
        "detector": reason.detector,
        "family": reason.family,
        "hint": not reason.has_say,
    }


def _when(epoch_seconds: float | None) -> str:
    if epoch_seconds is None:
        return "at an unknown time"
    return f"{datetime.fromtimestamp(epoch_seconds, UTC):%Y-%m-%d %H:%M} UTC"


def _text(text: object, limit: int = LONGEST_TEXT) -> str:
    return printable(str(text), limit)
