"""Pictures and sound of a stretch of an audited file, decoded in the sandboxed children as in an audit.

Nothing here parses the file. It has to be the file that was audited: its place, size and version are compared with the
plan of the run that scored it.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from ...models.base import SOUND_RATE
from ...transforms.archives.secret_addresses import fetch_address, secret_addresses
from ...transforms.decode import decode_request
from ...transforms.failures import MediaError, UsageError, printable
from ...transforms.media.children.pool import WorkerPool
from ...transforms.media.protocol import DecodedClip, DecodedWindow, ItemFailed
from ...transforms.probe import probe_media
from ...transforms.records import ClipSpec, DecodePlan, MediaFile, MediaOutcome, MediaProbe, VideoStream, WindowSpec
from ...transforms.staging.spool_files import refuse_partial, remove
from ...transforms.staging.spool_space import ROOM
from ...transforms.storage.output_store import OutputStore
from ...transforms.tables.damage import intact
from ...transforms.tables.plan_table import PLAN, plan_from_table
from ...transforms.tables.runs import Run
from ..audit import pool_of
from ..limits import recorded_limits
from ..options import Reading, Sandbox
from ..spool import spool_folder
from .card import Explained

PIECE_SECONDS = 1.0
"""Frames are handed over in pieces of this length, so that a clip of any size takes little memory."""


@dataclass(frozen=True, slots=True)
class Frames:
    """Some frames of a film, ascending."""

    pixels: np.ndarray
    """uint8 [T, H, W, 3], RGB, upright. T is 0 if none could be decoded."""
    pts_seconds: np.ndarray
    """float64 [T], on the clock of the file."""
    damage: str | None = None


@dataclass(frozen=True, slots=True)
class Source:
    """An audited file at hand, with the children that decode it."""

    probe: MediaProbe
    pool: WorkerPool
    warning: str | None
    """What of the sandbox is missing on this machine."""

    @property
    def video(self) -> VideoStream | None:
        video = self.probe.video
        return video if video is not None and video.unreadable is None and video.width and video.height else None

    def frames(
        self, start: float, end: float, rate: float, size: tuple[int, int], piece: float = PIECE_SECONDS
    ) -> Iterator[Frames]:
        """The frames on display at `rate` moments a second of [start, end), piece by piece; each frame once in its
        piece.

        size: width and height in pixels, upright.

        Raises:
            WorldError: no child can be started.
        """
        count = max(1, round((end - start) * rate))
        times = [start + number / rate for number in range(count)]
        step = max(1, round(piece * rate))
        specs = tuple(
            ClipSpec(index, part[0], part[-1] + 1 / rate, tuple(part))
            for index, part in enumerate(times[at : at + step] for at in range(0, count, step))
        )
        plan = DecodePlan(self.probe, specs, size[0], size[1], False, ())
        nothing = Frames(np.empty((0, size[1], size[0], 3), np.uint8), np.empty(0))
        answered = 0
        for item in self.pool.decode(decode_request(plan)):
            if isinstance(item, DecodedClip):
                yield Frames(item.frames, item.pts_seconds, item.damage)
            elif isinstance(item, ItemFailed):
                yield replace(nothing, damage=item.message)
            answered += 1
        for _ in range(answered, len(specs)):  # the children gave up on the rest
            yield nothing

    def sound(self, start: float, end: float) -> np.ndarray | None:
        """float32 [S], 16 kHz mono, what the speech detectors hear; None if there is none to be decoded.

        Raises:
            WorldError: no child can be started.
        """
        if self.probe.audio is None:
            return None
        first, samples = round(start * SOUND_RATE), round((end - start) * SOUND_RATE)
        plan = DecodePlan(self.probe, (), 0, 0, False, (WindowSpec(0, first, samples, "explain"),))
        for item in self.pool.decode(decode_request(plan)):
            if isinstance(item, DecodedWindow) and len(item.samples):
                return np.concatenate([item.samples, np.zeros(samples - len(item.samples), np.float32)])
        return None

    def refuse_partial(self) -> None:
        """Call it at the end. Raises UsageError if what was read was not the audited file."""
        try:
            refuse_partial(self.probe.file, self.probe.path)
        except MediaError as error:
            raise _cannot_read(self.probe.file, error.error_class, error.message) from None


@contextmanager
def opened(told: Explained, out: str, given: str, sandbox: Sandbox) -> Iterator[tuple[Source, Path]]:
    """The file behind `told`, and a folder for temporary files.

    given: the name by which the user called it. It may hold a secret that no table holds, such as a signature.

    Raises:
        UsageError: the file is not where it was, is another one now, or cannot be read. WorldError: storage failed.
    """
    file, run = _planned(told, OutputStore(out, patience_seconds=15.0))
    address = fetch_address(file.shard or file.uri, dict(secret_addresses([given])))
    if address:
        file = replace(file, fetch_uri=address)
    limits = recorded_limits(run.settings.get("limits"))
    pool = pool_of(Reading(limits=limits.reading, sandbox=sandbox))
    with spool_folder() as spool:
        ROOM.bound(None, spool)
        seconds = limits.reading.max_duration_seconds
        probe = probe_media((file, None), pool, spool, False, limits.archives.max_bytes, seconds)
        if isinstance(probe, MediaOutcome):
            why = probe.failure
            raise _cannot_read(file, why.error_class if why else "unreadable", why.message if why else "")
        try:
            yield Source(probe, pool, pool.warning), spool
        finally:
            if probe.path_is_ours:
                remove(probe.path)


def _planned(told: Explained, store: OutputStore) -> tuple[MediaFile, Run]:
    """The file as it was listed, with its place in a shard, and the run that read it."""
    row = told.row
    run_id = row["evidence_run"]
    record, plan = f"_runs/{run_id}/run.json", f"_runs/{run_id}/plan.parquet"
    try:
        with intact(store, record):
            run = Run.from_json(store.read(record))
        with intact(store, plan), store.open(plan) as f:
            rows = pq.read_table(f, filters=[("media_id", "=", row["media_id"])], use_threads=False)
    except FileNotFoundError:
        raise UsageError(
            f"the run {run_id} that read this file is no longer in the output: a clip needs its plan"
        ) from None
    whole = pa.concat_tables([PLAN.empty_table(), rows.replace_schema_metadata(None)], promote_options="default")
    if not whole.num_rows:
        raise UsageError(f"{plan} does not name this file: `deephotlink check` says what is wrong with the output")
    [(file, _), *_] = plan_from_table(whole)
    return file, run


def _cannot_read(file: MediaFile, error_class: str, message: str) -> UsageError:
    name = printable(file.uri, 400)
    if error_class == "missing":
        return UsageError(f"{name} is no longer there: a clip is cut from the file at the place where it was audited")
    if error_class == "changed":
        return UsageError(
            f"{name} is not the file that was audited ({message}): audit it again for a card and a clip of what is "
            "there now"
        )
    if error_class == "refused" and not file.uri.startswith("/"):
        return UsageError(f"{name}: {message}; if its address needs a signature, give it whole as FILE")
    return UsageError(f"no clip can be made of {name}: {message} ({error_class})")
