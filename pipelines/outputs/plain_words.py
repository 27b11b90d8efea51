"""A plain sentence for everything that the tables say in one word: for the closing tables, the report and whoever else
speaks to a person. The words of the tables themselves never change; each is shown beside its sentence.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from ...models.calibration.calibration import LEANS
from ...transforms.failures import ERROR_CLASSES


@dataclass(frozen=True, slots=True)
class Word:
    title: str
    """Two or three words, for a label."""
    sentence: str
    """What it means, without a full stop."""


VERDICTS: Mapping[str, Word] = {
    "manipulated": Word("Probably manipulated", "what was found is above the threshold for calling a file manipulated"),
    "inconclusive": Word("Undecided", "there is some evidence, not enough to decide"),
    "authentic": Word("Probably authentic", "what was found is below the threshold for calling a file authentic"),
    "not_assessed": Word("Not judged", "no detector that counts could judge it"),
    "failed": Word("Not read", "nothing of the file could be read"),
    "skipped": Word("Left out", "not film or sound, or something that is never opened"),
}
"""By verdict, and by outcome for files without one; the gravest first."""
FAMILIES: Mapping[str, Word] = {
    "facial": Word("Faces", "whether a face was swapped or redrawn"),
    "lip_sync": Word("Lips and voice", "whether the mouth moves as the voice does"),
    "synthetic": Word("Whole picture", "whether a generator made the film"),
    "audio": Word("Speech", "whether the voice is synthetic"),
    "metadata": Word("What the file declares", "Content Credentials, labels of AI services, names of tools"),
}
ABSTAINED: Mapping[str, str] = {
    "no_indication": "the file declares nothing about how it was made",
    "no_video": "there is no picture",
    "no_audio": "there is no sound",
    "no_face": "no face was found",
    "no_speech": "nobody speaks",
    "no_motion": "the face or the picture does not move enough",
    "too_much_motion": "the face moves too fast to be followed",
    "face_hidden": "too little of the face is visible",
    "silent": "the sound is too quiet",
    "flat": "the picture shows nearly nothing",
    "too_short": "the clip or the sound is too short",
    "low_resolution": "the face or the picture is too small",
    "low_frame_rate": "there are too few frames per second",
    "decode_failed": "this part of the file could not be decoded",
    "detector_error": "the detector raised an error on this item",
}
"""Why a detector gave no answer, as a sentence."""
SKIPPED: Mapping[str, str] = {
    "not_media": "not video or sound",
    "nested_archive": "an archive inside an archive; it is never opened",
    "still_image": "a picture that does not move",
    "empty": "no bytes",
    "shard": "a tar or zip whose members have rows of their own",
    "empty_archive": "a tar or zip without members",
    "folder_mark": "an object of no bytes that only stands for a folder in a bucket",
    "linked_folder": "a symbolic link to a folder; links to folders are not followed",
    "broken_link": "a symbolic link to nothing",
    "link": "a link inside an archive",
    "not_a_file": "a device, a socket, a pipe, or a loop of links",
}
FIFTH_PERCENT = 20
"""Of the files: the part for which `ranking_sentence` says how many were forged. A hundredth is too few files."""
WHAT_A_SCORE_IS_NOT = (
    "A score is not proof, and a low score is not an accusation. It weighs what these detectors found, by a "
    "calibration that was made on other files. Look at the evidence before you act."
)
_POINTS: Mapping[str, tuple[str, str, str]] = {
    # By detector or family: towards manipulation, away from it, neither way. {at} is where, with its blank, or nothing.
    "facial": (
        "The face{at} looks blended in or redrawn",
        "The face{at} shows no trace of having been blended in or redrawn",
        "The face says neither",
    ),
    "face_swap": (
        "The inner face{at} does not seem to belong to the head around it",
        "The inner face{at} fits the head around it",
        "Whether the inner face belongs to its head cannot be told",
    ),
    "lip_sync": (
        "The mouth{at} does not move as the voice does (dubbing looks the same)",
        "The mouth{at} moves as the voice does",
        "Whether the mouth follows the voice cannot be told",
    ),
    "synthetic": (
        "The picture{at} has traces like those of an AI generator",
        "The picture{at} has no traces of the generators that this detector knows",
        "Whether a generator made the picture cannot be told",
    ),
    "audio": (
        "The voice{at} sounds like synthetic speech",
        "The voice{at} sounds like recorded speech",
        "Whether the voice is synthetic cannot be told",
    ),
    "metadata": (
        "The file declares that AI or a tool for forging had a part in it",
        "The file declares that a camera recorded it",
        "What the file declares speaks neither for nor against it",
    ),
}


def ranking_sentence(calibration: Mapping[str, Any]) -> str:
    """What the order by authenticity was worth on the files behind a calibration (its fields, as in its file), and on
    files of tools that it does not know; "" if nobody measured it: set by hand, made from real files alone, or by an
    earlier version."""
    fusion = calibration.get("fusion")
    rankings = [fusion.get(name) for name in ("ranking", "ranking_elsewhere")] if isinstance(fusion, Mapping) else []
    measured = [text for ranking in rankings if (text := _ranked(ranking))]
    if not measured:
        return ""
    return (
        f"How far to trust this order: of the most suspicious fifth, {', and '.join(measured)}. With fewer forgeries "
        "these shares are lower."
    )


def _ranked(ranking: object) -> str:
    if not isinstance(ranking, Mapping):
        return ""
    try:
        of, forged = int(ranking["files"]), int(ranking["forged"])
        kinds = ", ".join(str(family).replace("_", " ") for family in ranking.get("families", ()))
        [share] = [float(t["precision"]["value"]) for t in ranking["most_suspicious"] if t["percent"] == FIFTH_PERCENT]
    except (KeyError, TypeError, ValueError):
        return ""
    files = str(ranking.get("data", f"{of} labelled files"))
    return f"{share:.0%} were forged among {files} ({forged} forged{kinds and f': {kinds}'})"


def verdict_of(outcome: str, verdict: str | None) -> str:
    """The key of `VERDICTS` for a row of the view `files`: its verdict, or its outcome where it has none."""
    if outcome != "scored":
        return outcome
    return verdict if verdict is not None and verdict in VERDICTS else "not_assessed"


def outcome_sentence(name: str) -> str:
    """What a verdict, an error class or a reason for skipping means; "" for a word that is not ours."""
    word = VERDICTS.get(name)
    return word.sentence if word else ERROR_CLASSES.get(name) or SKIPPED.get(name, "")


def abstention(reason: str) -> str:
    """
    >>> abstention("no_face"), abstention("their_word")
    ('no face was found', 'their word')
    """
    return ABSTAINED.get(reason) or reason.replace("_", " ")


def family_title(family: str) -> str:
    return FAMILIES[family].title if family in FAMILIES else family.replace("_", " ")


def leaning(log_odds: float) -> int:
    """1: points to manipulation; -1: away from it; 0: neither way."""
    return 1 if log_odds > LEANS else -1 if log_odds < -LEANS else 0


def finding(
    detector: str, family: str, log_odds: float, start: float | None = None, end: float | None = None, said: str = ""
) -> str:
    """What one detector found in a file, as a sentence without a full stop.

    start, end: seconds, of the stretch that carried it. said: what a `metadata` rule says, which is a sentence already.

    >>> finding("facial", "facial", 2.4, 12.0, 16.0)
    'The face at 0:12-0:16 looks blended in or redrawn'
    """
    if family == "metadata" and said:
        return said
    to, away, neither = (
        _POINTS.get(detector)
        or _POINTS.get(family)
        or (
            f"{detector} points to manipulation{{at}}",
            f"{detector} points away from manipulation{{at}}",
            f"{detector} points neither way",
        )
    )
    at = "" if start is None or family == "metadata" else f" at {stretch(start, end)}"
    return {1: to, -1: away, 0: neither}[leaning(log_odds)].replace("{at}", at)


def clock(seconds: float) -> str:
    """
    >>> clock(12.4), clock(75), clock(3725)
    ('0:12', '1:15', '1:02:05')
    """
    whole = max(0, int(seconds))
    hours, minutes = whole // 3600, whole // 60 % 60
    return f"{hours}:{minutes:02d}:{whole % 60:02d}" if hours else f"{minutes}:{whole % 60:02d}"


def stretch(start: float, end: float | None) -> str:
    """Half-open, whole seconds; a stretch of less than a second is told by its beginning.

    >>> stretch(12.0, 16.0), stretch(3.2, 3.7)
    ('0:12-0:16', '0:03')
    """
    first, last = clock(start), clock(start if end is None else max(start, end))
    return first if first == last else f"{first}-{last}"
