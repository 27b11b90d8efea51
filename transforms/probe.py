"""The first look at each file: is it media, can it be read, what does its container say?

Takes (MediaFile, MediaOutcome | None), yields MediaProbe; a file that is skipped or fails comes out as MediaOutcome at
the output `ended`. Runs ahead of its consumers, in order.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Generator, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, NamedTuple, get_args

import apache_beam as beam

from .failures import STUMBLES, MediaError, WorldError, printable, stumbled
from .media.children.pool import WorkerPool
from .media.containers.sniff import sniff
from .media.protocol import ClockKind, Limits, ProbeRequest, SoundSource
from .metrics import inc_counter
from .records import AudioStream, Failure, MediaFile, MediaOutcome, MediaProbe, VideoStream
from .staging.spool_files import Staged, read_head, refuse_partial, refuse_replaced, remove, stage
from .staging.spool_space import ROOM
from .storage.sources import MAX_FILE_BYTES
from .work_ahead import InOrder, Place

Planned = tuple[MediaFile, MediaOutcome | None]
ENDED = "ended"
MAX_KEY_FRAMES = 100_000
MAX_SOURCES, MAX_CHANNELS = 64, 64
MAX_JOINTS = 1_000
MAX_NOTES, MAX_NOTE = 8, 300
"""The most notes, and the most characters of one."""
MAX_FRAME_RATE = 1e6
"""Hz. The probe itself believes at most 1000."""


def probe_media(
    planned: Planned,
    pool: WorkerPool,
    spool: Path,
    credentials: bool,
    max_bytes: int,
    max_seconds: float,
    ticket: int | None = None,
) -> MediaProbe | MediaOutcome:
    """One file's probe, or its outcome if it ends here. The step that decodes it removes the staged file of a probe.
    `ticket`: its place among the files that wait for room in the spool.

    Raises:
        WorldError: storage or disk failed.
    """
    file, known = planned
    staged: Staged | None = None
    try:
        if known is not None:
            return known
        kind = sniff(read_head(file))
        if kind.media_type is None or kind.unsupported:
            refuse_replaced(file)
        if kind.media_type is None:
            return MediaOutcome(file, "skipped", skipped_reason=kind.reason or "not_media")
        if kind.unsupported:
            raise MediaError("unsupported_format", f"deephotlink cannot read {kind.name}")
        staged = stage(file, spool, max_bytes=max_bytes, ticket=ticket)
        reply = pool.probe(ProbeRequest(staged.path, kind.suffix, credentials)).result()
        refuse_partial(file, staged.path)
        facts = reply["facts"]
        if facts.get("still_image"):
            staged.release()
            return MediaOutcome(file, "skipped", skipped_reason="still_image")
        found_credentials = reply.get("credentials")
        if "credentials_error" in reply:
            found_credentials = {"state": "Unreadable", "failures": [printable(str(reply["credentials_error"]), 200)]}
        probe = probe_from_facts(file, staged.path, facts, found_credentials, max_seconds)
        return replace(probe, path_is_ours=staged.owned, sandbox=pool.sandbox_in_force)
    except (MediaError, *STUMBLES) as raised:
        error = raised if isinstance(raised, MediaError) else stumbled(raised, "probe")
        if staged is not None:
            staged.release()
        failure = Failure(error.stage, error.error_class, error.message)
        return MediaOutcome(file, "failed", failure=failure, sandbox=pool.sandbox_in_force if staged else None)
    except BaseException:
        if staged is not None:
            staged.release()
        raise
    finally:
        ROOM.pass_on(ticket)


def probe_from_facts(
    file: MediaFile,
    path: str,
    facts: Mapping[str, Any],
    credentials: Mapping[str, Any] | None,
    max_seconds: float = Limits().max_duration_seconds,
) -> MediaProbe:
    """Checks what the child reported and makes a record of it: a child that parsed hostile bytes is not trusted.

    Raises:
        MediaError: `unreadable`, if the facts do not have the documented shape.
    """

    def seconds(value: Any, most: float = max_seconds) -> float:
        number = float(value)
        if not abs(number) <= most:  # not true of a NaN either
            raise ValueError(f"not a plausible number: {number!r}")
        return number

    try:
        video, audio = facts.get("primary_video"), facts.get("primary_audio")
        media_type = facts["media_type"]
        decoder = facts.get("decoder")
        if media_type not in ("video", "audio", "gif") or decoder not in ("decord", "pyav", None):
            raise ValueError(f"{media_type = }, {decoder = }")
        clock = facts.get("clock", "file")
        if clock not in get_args(ClockKind):
            raise ValueError(f"{clock = }")
        keys = tuple(sorted(seconds(k) for k in facts.get("key_frame_seconds", ())[:MAX_KEY_FRAMES]))
        return MediaProbe(
            file,
            path,
            media_type,
            str(facts["format"])[:100],
            seconds(facts.get("duration_seconds") or 0.0),
            VideoStream(
                codec=str(video["codec"])[:50],
                width=_count(video["width"]),
                height=_count(video["height"]),
                frame_rate=seconds(video.get("frame_rate") or 0.0, MAX_FRAME_RATE),
                rotation=_count(video.get("rotation") or 0) % 360,
                start_seconds=seconds(video.get("start_seconds") or 0.0),
                duration_seconds=seconds(video.get("duration_seconds") or 0.0),
                frame_count=_count(video.get("frame_count") or 0),
                pixel_format=str(video.get("pixel_format") or "")[:50],
                index=_count(video["index"]) if "index" in video else None,
                unreadable=printable(str(video["unreadable"]), 200) if video.get("unreadable") else None,
            )
            if video
            else None,
            AudioStream(
                codec=str(audio["codec"])[:50],
                sample_rate=_count(audio.get("sample_rate") or 0),
                channels=_count(audio.get("channels") or 0),
                start_seconds=seconds(audio.get("start_seconds") or 0.0),
                duration_seconds=seconds(audio.get("duration_seconds") or 0.0),
                sources=tuple(
                    SoundSource(_count(stream), min(MAX_CHANNELS, _count(in_use)), bool(audible))
                    for stream, in_use, audible in audio.get("sources", ())[:MAX_SOURCES]
                ),
            )
            if audio
            else None,
            keys,
            decoder if video else None,
            str(facts.get("decoder_reason") or "")[:200],
            {key: value for key, value in facts.items() if key != "key_frame_seconds"},  # there may be 100,000
            credentials,
            clock=clock,
            joints=tuple(sorted(seconds(joint) for joint in facts.get("joint_seconds", ())[:MAX_JOINTS])),
            notes=tuple(printable(str(note), MAX_NOTE) for note in facts.get("notes", ())[:MAX_NOTES]),
        )
    except (KeyError, TypeError, ValueError, OverflowError) as error:
        raise MediaError(
            "unreadable", f"the facts about the container are not plausible ({type(error).__name__}: {error})"
        ) from error


def _count(value: Any) -> int:
    number = int(value)
    if not 0 <= number < 1 << 48:
        raise ValueError(f"not a plausible count: {number!r}")
    return number


_WINDOW, _TIMESTAMP = beam.DoFn.WindowParam, beam.DoFn.TimestampParam


class _Work(NamedTuple):
    probe: Future[MediaProbe | MediaOutcome]
    ticket: int


class _Probe(beam.DoFn):
    def __init__(self, step: ProbeMedia):
        self.step = step

    def start_bundle(self):
        self.teardown()  # a failed bundle left its work behind
        self.pool = self.step.make_pool()
        # On a cluster the worker is not the machine where the command was given.
        Path(self.step.spool).mkdir(parents=True, exist_ok=True)
        ROOM.bound(self.step.max_spool_bytes, Path(self.step.spool))
        self.threads = ThreadPoolExecutor(self.step.ahead, "deephotlink-probe")
        self.in_order: InOrder[_Work, Any] = InOrder(self.step.ahead, self._give)

    def process(self, planned: Planned, window: Any = _WINDOW, timestamp: Any = _TIMESTAMP):
        step, ticket = self.step, ROOM.ticket()
        given = planned, self.pool, Path(step.spool), step.credentials, step.max_bytes, step.max_seconds, ticket
        work = _Work(self.threads.submit(probe_media, *given), ticket)
        yield from self.in_order.begin(work, Place(window, timestamp))

    def finish_bundle(self):
        yield from self.in_order.finish()
        self.teardown()

    def teardown(self):
        if (threads := getattr(self, "threads", None)) is None:
            return
        for work in self.in_order.pending:
            ROOM.pass_on(work.ticket)
        for work in self.in_order.pending:
            if work.probe.cancel():
                continue
            with contextlib.suppress(WorldError):  # it waited for room, or met the fault that ended the bundle
                if isinstance(probe := work.probe.result(), MediaProbe) and probe.path_is_ours:
                    remove(probe.path)
        threads.shutdown(cancel_futures=True)
        del self.threads

    def _give(self, work: _Work, wait: bool) -> Generator[Any, None, bool]:
        if not (wait or work.probe.done()):
            return False
        result = work.probe.result()
        if isinstance(result, MediaOutcome):
            inc_counter("media_skipped" if result.status == "skipped" else "media_failed")
            yield beam.pvalue.TaggedOutput(ENDED, result)
        else:
            inc_counter("bytes_read", result.file.size_bytes)
            inc_counter("media_probed")
            yield result
        return True


@dataclass
class ProbeMedia(beam.PTransform):
    """Looks at each container in a decoder child. Takes (MediaFile, MediaOutcome | None), yields MediaProbe."""

    make_pool: Callable[[], WorkerPool]
    """Returns the process's pool of children. Called on the worker."""
    spool: str
    """Local folder for files that have to be staged."""
    credentials: bool
    """Whether Content Credentials are read."""
    max_bytes: int = MAX_FILE_BYTES
    max_seconds: float = Limits().max_duration_seconds
    max_spool_bytes: int | None = None
    """Bytes of staged files at a time; None: half of what is free there."""
    ahead: int = 4
    """Files probed ahead of the decoders."""

    def expand(self, pcoll):
        return pcoll | beam.ParDo(_Probe(self)).with_outputs(ENDED, main="probes")
