"""Opens a container and tells which of its streams count. Shared by the probe and everything that decodes with PyAV.

Runs in the sandboxed child. On the media clock, 0 is the container's start time.
"""

from __future__ import annotations

import os
import re
import struct
from fractions import Fraction
from typing import Any

import av
import av.error
import av.logging

from ...failures import MediaError, printable
from ..protocol import Limits
from .fed_file import FedFile, is_fed, open_file

FORMAT_WHITELIST = (
    "mov,mp4,m4a,3gp,3g2,mj2,matroska,webm,avi,flv,mpegts,mpeg,ogg,asf,gif,apng,mxf,dv,rm,aiff,amr,caf,ac3,eac3,wav,"
    "mp3,flac,aac"
)
"""Demuxers that may open a file. Those left out (HLS, concat, SDP, image sequences) can name other files or hosts."""
TICKING = ("mpegts", "mpeg")
"""Containers whose clock runs on by itself, and whose packets can be found from any byte on."""
GENERATE_PTS = 1
"""FFmpeg's AVFMT_FLAG_GENPTS, which PyAV sets."""
OPEN_TIMEOUT_SECONDS = 10.0
SCAN_BYTES = 256 << 20
"""The probe demuxes files up to this size whole. For larger files it trusts the index."""
MAX_ATTACHMENTS = 1_000
"""Most fonts and pictures that a Matroska file may carry: FFmpeg counts each as a stream."""
MAX_CHUNKS, LEAST_TAIL_BYTES = 64, 4_096
"""For WAV files: how many chunks are looked at, and how many bytes behind the samples are worth a look."""
FED_BUFFER_BYTES = 256 << 10
"""How much of a fed file FFmpeg reads at a time. It reads other files as it likes."""


def open_container(path: str, limits: Limits) -> Any:
    """Opens a file with the whitelist, whatever its name looks like. Raises MediaError.

    `file:` keeps names such as `concat:x` or `-x` from having a special meaning. `max_pixels` is FFmpeg's own guard
    against pictures larger than declared, `max_streams` its guard against containers in which more and more streams
    turn up.
    """
    fed = is_fed()
    options = {"ignore_length": "1"} if _wav_goes_on(path) else {}
    # A fed file may wait for its store for any time. The parent's clock stands still meanwhile; FFmpeg's would not.
    timeout = None if fed else (OPEN_TIMEOUT_SECONDS, OPEN_TIMEOUT_SECONDS)
    try:
        container = av.open(
            FedFile(path) if fed else "file:" + os.path.abspath(path),
            options={
                "format_whitelist": FORMAT_WHITELIST,
                "max_pixels": str(limits.max_pixels),
                "max_streams": str(limits.max_streams + MAX_ATTACHMENTS + 1),
                **options,
            },
            metadata_errors="replace",
            timeout=timeout,
            buffer_size=FED_BUFFER_BYTES,
        )
        if container.format.name in TICKING:
            # To find the pts of a packet without one, FFmpeg would read on until the clock has passed it. If the clock
            # starts again, that means the rest of the file, in quadratic time.
            container.flags &= ~GENERATE_PTS
        return container
    except FileNotFoundError as error:
        raise MediaError("unreadable", f"cannot be opened: {error.strerror}") from error
    except PermissionError as error:
        # Some of FFmpeg's demuxers answer this to a header that makes no sense.
        why = words_of(error) if not os.access(path, os.R_OK) else "its header is not valid"
        raise MediaError("unreadable", f"not a readable container: {why}") from error
    except av.error.ArgumentError as error:
        # FFmpeg answers this if the format that it recognises is not on the whitelist.
        raise MediaError("unsupported_format", "not one of the containers that deephotlink reads") from error
    except av.error.MemoryError as error:
        # FFmpeg answers this past `max_streams` too.
        raise MediaError(
            "too_large",
            f"far more than {limits.max_streams} streams, or headers of more than {limits.memory_bytes} bytes",
        ) from error
    except (av.error.FFmpegError, ValueError, IndexError) as error:
        raise MediaError("unreadable", f"not a readable container: {words_of(error)}") from error


def _wav_goes_on(path: str) -> bool:
    """Whether the samples of a WAV file go on past the end that its header gives, because the recorder never came back
    to write their number. True only if no chunk follows there either."""
    try:
        size = os.path.getsize(path)
        with open_file(path) as file:
            head = file.read(12)
            if head[:4] != b"RIFF" or head[8:] != b"WAVE":
                return False
            at, data_ended = 12, False
            for _ in range(MAX_CHUNKS):
                file.seek(at)
                header = file.read(8)
                if len(header) < 8:
                    return False
                kind, length = struct.unpack("<4sI", header)
                if data_ended and not (kind.isascii() and kind.decode().isprintable() and at + length <= size):
                    return size - at >= LEAST_TAIL_BYTES
                data_ended = data_ended or kind == b"data"
                at += 8 + length + (length & 1)
                if at >= size:
                    return False
    except OSError:
        pass
    return False


def words_of(error: Exception) -> str:
    """What went wrong, without the path that FFmpeg's errors carry. FFmpeg has no message for some of its codes."""
    if not isinstance(error, av.error.FFmpegError):
        return printable(f"{type(error).__name__}: {error}")
    text = str(error.strerror or "")
    return printable(text) if text and "Unknown error" not in text else "FFmpeg gives no reason"


class Refusals:
    """The picture sizes that FFmpeg refused while it opened a container.

    In every container but mp4 and mov, a refused stream ends up with no size at all, and FFmpeg gives the size only in
    its log. Nothing else is read from the log, and only while the container is being opened, by one thread.
    """

    def __init__(self) -> None:
        self._capture = av.logging.Capture(local=False)
        self._logs: list[tuple[int, str, str]] = []

    def __enter__(self) -> Refusals:
        av.logging.set_skip_repeated(False)  # else FFmpeg leaves out a line that the previous file had too
        av.logging.set_level(av.logging.ERROR)
        self._logs = self._capture.__enter__()
        return self

    def __exit__(self, *error: Any) -> None:
        self._capture.__exit__(*error)
        av.logging.set_level(None)
        av.logging.set_skip_repeated(True)

    def check(self, container: Any, limits: Limits) -> None:
        """Raises MediaError if a video stream lost its size because it is over the limit."""
        emptied = [s for s in container.streams if s.type == "video" and not is_attached(s) and not _has_size(s)]
        if emptied:
            for _, _, line in self._logs:
                if found := _REFUSED_SIZE.search(line):
                    check_pixels(int(found[1]), int(found[2]), limits)


_REFUSED_SIZE = re.compile(r"Picture size (\d{1,10})x(\d{1,10}) (?:is invalid|exceeds)")


def _has_size(stream: Any) -> bool:
    return stream.codec_context is not None and stream.codec_context.width > 0 and stream.codec_context.height > 0


def clock_zero(container: Any) -> Fraction:
    """Seconds, as written in the file, at which the media clock starts."""
    return Fraction(container.start_time or 0, 1_000_000)


def primary_streams(container: Any) -> tuple[Any | None, Any | None]:
    """(video, sound) that FFmpeg itself would choose, each None if it is not usable. Cover art is not video."""
    chosen = []
    for kind in ("video", "audio"):
        best = container.streams.best(kind)
        usable = best is not None and best.codec_context is not None
        if usable and kind == "video":
            usable = not is_attached(best) and _has_size(best)
        elif usable:
            usable = best.codec_context.sample_rate > 0
        chosen.append(best if usable else None)
    return chosen[0], chosen[1]


def check_pixels(width: int, height: int, limits: Limits) -> None:
    if width * height > limits.max_pixels:
        raise MediaError("too_large", f"{width}×{height}: at most {limits.max_pixels} pixels are allowed")


def is_attached(stream: Any) -> bool:
    return bool(stream.disposition & type(stream.disposition).attached_pic)
