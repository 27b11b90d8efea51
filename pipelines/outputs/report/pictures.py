"""The pictures of a report, from the table `evidence_frames`: JPEGs of frames of hostile files.

Nothing here decodes them. A browser that shows one gets it as data; what is no JPEG by its first and last bytes, or
longer than any of ours, is left out.
"""

from __future__ import annotations

import base64
import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from ....transforms.pictures.picture import JPEG_BYTES, KINDS
from ....transforms.storage.output_store import OutputStore
from ....transforms.tables.damage import intact
from ....transforms.tables.evidence_frames import BOX
from ..plain_words import clock

TABLE = "evidence_frames"
MOST_OF_A_FILE = 6
MOST_FILES = 400
PICTURES_BYTES = 8 << 20
"""Of all JPEGs of a report together, before base64."""
_KEYS = ("media_id", "run_id", "kind", "track_id", "logit", "pts_seconds")
_BATCH_ROWS = 128
_Candidate = tuple[float, float, str, int, int, int]
"""Minus the logit, seconds, kind, face, number of the file of the table, row in it."""


@dataclass(frozen=True, slots=True)
class Picture:
    kind: str
    """`frame`: a whole picture of the film. `face`: a face, cut out."""
    seconds: float
    detector: str
    logit: float | None
    box: tuple[float, float, float, float] | None
    """x0, y0, x1, y1 of the face in a `frame`, as shares of its width and height."""
    width: int
    height: int
    jpeg: bytes

    def as_json(self) -> dict[str, Any]:
        marked = ", the face that was judged is marked" if self.box and self.kind == "frame" else ""
        what = "Face" if self.kind == "face" else "Picture"
        return {
            "alt": f"{what} at {clock(self.seconds)}{marked}",
            "at": round(self.seconds, 2),
            "kind": self.kind,
            "detector": self.detector,
            "box": [round(side, 4) for side in self.box] if self.box and self.kind == "frame" else None,
            "w": self.width,
            "h": self.height,
            "src": f"data:image/jpeg;base64,{base64.b64encode(self.jpeg).decode('ascii')}",
        }


def pictures_of(
    store: OutputStore, names: Sequence[str], places: Mapping[tuple[str, str], int], most_bytes: int = PICTURES_BYTES
) -> dict[int, list[Picture]]:
    """By place in the report, the pictures of the most suspicious files; never more than `most_bytes` of them.

    names: the published files of the table. places: (media_id, run of the evidence) of each file to its place; lower
    places are more suspicious.

    Raises:
        UsageError: a file of the table is damaged. WorldError: storage failed.
    """
    wanted = {key: place for key, place in places.items() if place < MOST_FILES}
    best: dict[int, list[_Candidate]] = {}
    for number, name in enumerate(names):
        for at, row in _rows(store, name, _KEYS, wanted):
            place = wanted[row["media_id"], row["run_id"]]
            logit = row["logit"] if row["logit"] is not None and math.isfinite(row["logit"]) else -math.inf
            # Of a whole picture one is enough, whosever face in it was judged.
            face = row["track_id"] or 0 if row["kind"] == "face" else 0
            best.setdefault(place, []).append((-logit, row["pts_seconds"] or 0.0, str(row["kind"]), face, number, at))
    picked: dict[tuple[int, int], int] = {}
    for place, found in best.items():
        picked |= dict.fromkeys(_best(found), place)
    made: dict[int, list[Picture]] = {}
    for number, name in enumerate(names):
        if any(of == number for of, _ in picked):
            for at, row in _rows(store, name, (*_KEYS, *BOX, "detector", "width", "height", "jpeg"), wanted):
                place = picked.get((number, at), -1)
                if place >= 0 and (picture := _picture(row)) is not None:
                    made.setdefault(place, []).append(picture)
    return _within(made, most_bytes)


def _best(found: Iterable[_Candidate]) -> list[tuple[int, int]]:
    """(file, row) of the most suspicious pictures. Two detectors may have kept the same moment: once is enough."""
    moments: dict[tuple[str, float, int], tuple[int, int]] = {}
    for _, seconds, kind, face, number, at in sorted(found):
        moments.setdefault((kind, round(seconds, 1), face), (number, at))
    return list(moments.values())[:MOST_OF_A_FILE]


def _within(made: Mapping[int, list[Picture]], most_bytes: int) -> dict[int, list[Picture]]:
    kept: dict[int, list[Picture]] = {}
    for place in sorted(made):
        most_bytes -= sum(len(picture.jpeg) for picture in made[place])
        if most_bytes < 0:
            break
        kept[place] = sorted(made[place], key=lambda picture: (picture.kind != "frame", picture.seconds))
    return kept


def _rows(
    store: OutputStore, name: str, columns: tuple[str, ...], wanted: Mapping[tuple[str, str], int]
) -> Iterator[tuple[int, dict[str, Any]]]:
    """(number, columns) of the rows of the wanted files."""
    ids = pa.array(sorted({media_id for media_id, _ in wanted}), pa.string())
    start = 0
    with intact(store, name), store.open(name) as file:
        for batch in pq.ParquetFile(file).iter_batches(_BATCH_ROWS, columns=list(columns)):
            ours = pc.is_in(batch["media_id"], value_set=ids)
            numbers = pc.indices_nonzero(ours).to_pylist()
            for at, row in zip(numbers, batch.filter(ours).to_pylist(), strict=True):
                if (row["media_id"], row["run_id"]) in wanted:
                    yield start + at, row
            start += batch.num_rows


def _picture(row: Mapping[str, Any]) -> Picture | None:
    """None where the bytes are no JPEG of ours, or its numbers are no numbers."""
    jpeg, seconds = row["jpeg"], row["pts_seconds"]
    if not isinstance(jpeg, bytes) or len(jpeg) > JPEG_BYTES:
        return None
    if not jpeg.startswith(b"\xff\xd8\xff") or not jpeg.endswith(b"\xff\xd9"):
        return None
    if row["kind"] not in KINDS or seconds is None or not math.isfinite(seconds):
        return None
    sides = [row[side] for side in BOX]
    sound = all(side is not None and 0 <= side <= 1 for side in sides) and sides[0] < sides[2] and sides[1] < sides[3]
    box = (sides[0], sides[1], sides[2], sides[3]) if sound else None
    detector = str(row["detector"] or "")
    return Picture(row["kind"], seconds, detector, row["logit"], box, row["width"] or 0, row["height"] or 0, jpeg)
