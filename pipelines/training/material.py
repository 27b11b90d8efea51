"""The user's own media as training material: clips with their faces, sound and stills, with the group of each source.

Media pass through the package's own probe, decoder children and face tracker, so that a network learns from the same
input that it will judge. Only stills are read by Pillow in this process: train on pictures that you trust.
"""

from __future__ import annotations

import hashlib
import tempfile
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
from PIL import Image, UnidentifiedImageError

from ...models.base import SOUND_RATE, AudioGeometry, ClipGeometry, ClipItem, DetectorSpec, TrackItem
from ...transforms.clips import Sampling, plan_decoding
from ...transforms.decode import decode_request
from ...transforms.faces import shared_detector, track_faces
from ...transforms.failures import UsageError, printable
from ...transforms.media.children.pool import WorkerPool
from ...transforms.media.protocol import DecodedClip, DecodedWindow, Limits
from ...transforms.probe import probe_media
from ...transforms.records import Clip, MediaFile, MediaProbe
from ...transforms.sound_windows import plan_windows
from ..accuracy.labels import read_lines, some_of, word_of

Kind = Literal["media", "still"]
REAL, FAKE, SPEECH = "real", "fake", "speech"
STILLS = frozenset({".jpg", ".jpeg", ".png", ".webp", ".bmp", ".tif", ".tiff"})
LARGEST_STILL = 64_000_000
"""Pixels; a picture that declares more is skipped."""
LONGEST_SOUND_SECONDS = 600
"""Most sound used of one file, so that one film does not outweigh all other voices."""


@dataclass(frozen=True, slots=True)
class Source:
    """One file that is known to be real or, if synthetic speech was requested, known to be synthetic."""

    path: str
    group: str
    """Files of one source, person or voice share a group. All of a group is either learned from or held out."""
    kind: Kind
    licence: str = ""
    fake: bool = False


@dataclass(frozen=True, slots=True)
class Film:
    """One clip of a source, with the faces in it."""

    source: Source
    clip: ClipItem
    tracks: tuple[TrackItem, ...]


def sources_of(paths: Sequence[str | Path], labels: str | Path | None = None, speech: bool = False) -> list[Source]:
    """The files under `paths`, in the order of their names. With `labels`, only those labelled real and, with `speech`,
    also those labelled fake with the family `speech`.

    `labels` is a CSV that `listed` can read; files that it does not name are left out. A source without a group is a
    group of its own, named after its file.

    Raises:
        UsageError: a path does not exist, the CSV is not valid, or no real file is left.
    """
    files: list[Path] = []
    for path in map(Path, paths):
        if not path.exists():
            raise UsageError(f"expected a media file or a folder at {printable(str(path))}: nothing is there")
        files += sorted(f for f in path.rglob("*") if f.is_file()) if path.is_dir() else [path]
    known = None if labels is None else {row.path: row for row in listed(labels)}
    sources = []
    for file in dict.fromkeys(file.resolve() for file in files):
        row = Listed(file, REAL) if known is None else known.get(file)
        if row is None or not (row.label == REAL or (speech and row.synthetic_speech)):
            continue
        kind: Kind = "still" if file.suffix.lower() in STILLS else "media"
        sources.append(Source(str(file), row.group or file.name, kind, row.licence, row.label == FAKE))
    if all(source.fake for source in sources):
        raise UsageError(f"expected real media: none of {len(files)} files{' is labelled real' if known else ''}")
    return sources


@dataclass(frozen=True, slots=True)
class Listed:
    """One line of a CSV of media."""

    path: Path
    """Absolute, with links resolved."""
    label: str
    """The label in lower case. Without a label column it is `real`. An empty field stays empty, because that file is
    not known to be real."""
    group: str = ""
    licence: str = ""
    family: str = ""
    """Family of the forgery, in lower case."""

    @property
    def synthetic_speech(self) -> bool:
        """Whether the line names synthetic speech. The label `fake` is not enough: it says nothing about the sound of a
        forged film, so the family must."""
        return self.label == FAKE and self.family == SPEECH


def listed(path: str | Path) -> list[Listed]:
    """The lines of a CSV (see `labels.read_lines`) with a column `uri` or `path`, absolute or relative to the CSV's
    folder, and optional columns `label`, `group`, `licence`, `family`.

    Raises:
        UsageError: the CSV cannot be read, has no such column, or a line is not valid.
    """
    name = printable(str(path))
    lines = read_lines(path, "expected a CSV file with a column uri or path, and optionally label, group and licence")
    column = next((column for column in ("uri", "path") if column in lines.names), None)
    if column is None:
        found = ", ".join(printable(column, 40) for column in lines.names[:12]) or "nothing"
        raise UsageError(f"expected a column uri or path in {name}: found {found}")
    wrong, rows = list(lines.wrong), []
    for line, fields in lines.rows:
        if not fields.get(column):
            continue
        try:
            file = (Path(path).parent / fields[column]).resolve()
        except (ValueError, OSError, RuntimeError) as error:
            wrong.append(f"line {line}: {printable(fields[column], 80)} is not a path ({error})")
            continue
        label = word_of(fields.get("label", "")) if "label" in lines.names else REAL
        more = fields.get("group", ""), fields.get("licence", ""), fields.get("family", "").lower()
        rows.append(Listed(file, label, *more))
    if wrong:
        raise UsageError(f"{name}: {some_of(wrong)}; correct the file and run the command again")
    return rows


@contextmanager
def decoder_pool(sandbox: Literal["auto", "require", "off"] = "auto") -> Iterator[tuple[WorkerPool, Path]]:
    """A pool with one decoder child, and a folder to stage files in, while the body runs."""
    with tempfile.TemporaryDirectory(prefix="deephotlink-train-") as spool:
        pool = WorkerPool(1, 512 << 20, Limits(), sandbox)
        try:
            yield pool, Path(spool)
        finally:
            pool.close()


def films(
    sources: Iterable[Source],
    geometry: ClipGeometry,
    every_seconds: float = 10.0,
    faces: bool = True,
    sound: bool = True,
    tell: Callable[[str], None] = print,
) -> Iterator[Film]:
    """The clips of each film, decoded as in an audit. Files that cannot be read are reported and skipped."""
    with decoder_pool() as (pool, spool):
        for source in sources:
            probe = probed(source, pool, spool, tell) if source.kind == "media" else None
            if probe is None or probe.video is None:
                continue
            plan = plan_decoding(probe, Sampling(every_seconds=every_seconds), lambda _: geometry, sound, lambda _: ())
            for item in pool.decode(decode_request(plan)):
                if not isinstance(item, DecodedClip) or not len(item.frames):
                    continue
                spec = next(c for c in plan.clips if c.clip_index == item.clip_index)
                clip = Clip(probe.file, spec, item.frames, item.pts_seconds, item.sound)
                whole = ClipItem(clip.frames, clip.pts_seconds, clip.sound, spec.start_seconds)
                tracked = track_faces(clip, shared_detector("cpu"))[0].tracks if faces else ()
                yield Film(
                    source,
                    whole,
                    tuple(
                        TrackItem(whole, t.frame_positions, t.boxes, t.landmarks, t.confidences) for t in tracked or ()
                    ),
                )


def sounds(sources: Iterable[Source], tell: Callable[[str], None] = print) -> Iterator[tuple[Source, np.ndarray]]:
    """Each source that has sound, with its first ten minutes: float32 [S], 16 kHz mono."""
    whole = DetectorSpec(
        "whole", "audio", "audio_window", frozenset({"sound"}), "", "", audio=AudioGeometry(*_WHOLE, max_windows=1)
    )
    with decoder_pool() as (pool, spool):
        for source in sources:
            probe = probed(source, pool, spool, tell) if source.kind == "media" else None
            if probe is None or probe.audio is None:
                continue
            plan = plan_decoding(probe, Sampling(), lambda _: None, False, lambda p: plan_windows(p, [whole]))
            for item in pool.decode(decode_request(plan)):
                if isinstance(item, DecodedWindow) and len(item.samples):
                    yield source, item.samples


_WHOLE = (LONGEST_SOUND_SECONDS * SOUND_RATE, LONGEST_SOUND_SECONDS * SOUND_RATE)


def stills(sources: Iterable[Source], tell: Callable[[str], None] = print) -> Iterator[tuple[Source, np.ndarray]]:
    """Each still with its pixels, uint8 [H, W, 3] RGB. Pictures that cannot be read are reported and skipped."""
    for source in sources:
        if source.kind != "still":
            continue
        try:
            with Image.open(source.path) as picture:
                if picture.width * picture.height > LARGEST_STILL:
                    tell(f"skipped {printable(source.path)}: {picture.width}x{picture.height} pixels")
                    continue
                yield source, np.asarray(picture.convert("RGB"))
        except (UnidentifiedImageError, OSError, ValueError, Image.DecompressionBombError) as error:
            tell(f"skipped {printable(source.path)}: {printable(str(error))}")


def probed(source: Source, pool: WorkerPool, spool: Path, tell: Callable[[str], None]) -> MediaProbe | None:
    try:
        stat = Path(source.path).stat()
    except OSError as error:
        tell(f"skipped {printable(source.path)}: {error.strerror}")
        return None
    name = hashlib.sha256(source.path.encode("utf-8", "surrogateescape")).hexdigest()
    file = MediaFile(name, source.path, stat.st_size, f"{stat.st_size}-{stat.st_mtime_ns}")
    limits = Limits()
    found = probe_media((file, None), pool, spool, False, 1 << 34, limits.max_duration_seconds)
    if isinstance(found, MediaProbe):
        return found
    why = found.skipped_reason or (found.failure.message if found.failure else "unreadable")
    tell(f"skipped {printable(source.path)}: {why}")
    return None
