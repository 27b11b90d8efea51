"""The three kinds of fault, kept apart: what the file did, what the world did, what the user asked for.

What a *file* did wrong is data: a `MediaError` becomes a row in `failures`. What the *world* did wrong (storage, disk)
is a `WorldError`: raised, retried, never a row. What a *user* got wrong is a `UsageError`: one line and exit code 2.
What *we* got wrong has no class of exceptions. A detector that raises abstains with `detector_error`. A file on which
our reading fails is a row with `internal_error`, because otherwise one hostile file could stop its archive every time.
"""

from __future__ import annotations

import errno
import traceback
import unicodedata
import zlib
from pathlib import Path

MAX_MESSAGE = 500
_AS_GIVEN = frozenset(
    (errno.ENOENT, errno.ENOTDIR, errno.EISDIR, errno.EEXIST, errno.ENOTEMPTY, errno.EACCES, errno.EPERM, errno.EROFS)
) | {errno.ENAMETOOLONG, errno.ELOOP, errno.EINVAL}
_OURS = Path(__file__).resolve().parent.parent
ERROR_CLASSES = {
    "changed": "it was replaced after it was listed",
    "damaged_archive": "the tar or zip, or one of its members, does not match its headers",
    "deadline": "decoding took too long and was stopped",
    "decode_failed": "the container can be read, but no frame could be decoded",
    "decoder_error": "a decoder raised an error",
    "detector_error": "a detector raised an error on an item; the row is in `scores`, not in `failures`",
    "encrypted": "it needs a key or a password",
    "internal_error": "a bug in deephotlink: please report the message",
    "missing": "it was listed, but no longer existed when it was read",
    "no_audio": "the sound cannot be decoded",
    "no_frames": "the decoder gave no frame",
    "no_ranges": "the server cannot send part of a file",
    "no_samples": "the decoder gave no sound",
    "no_streams": "it has neither video nor sound",
    "no_video": "the video cannot be decoded",
    "out_of_memory": "decoding needs more memory than a decoder process may use",
    "protocol_error": "the decoder process sent invalid answers: it was taken over or is broken",
    "read_short": "the store did not send what it announced: too few, different or compressed bytes, or far too slowly",
    "refused": "the store refuses this file but lets us read others",
    "sound_failed": "the sound could not be read",
    "too_large": "it is over one of the limits (`deephotlink audit -h`)",
    "truncated": "the archive ends before the member does",
    "unaddressable": "it cannot be requested under its name: rename or copy it, or name it by another URI",
    "unknown": "no reason was recorded",
    "unknown_size": "the server does not say how large it is",
    "unreadable": "not a readable container, or no permission to read it",
    "unsupported_archive": "an archive whose members cannot be read one at a time",
    "unsupported_codec": "no stream has a codec that can be decoded",
    "unsupported_format": "media in a container that deephotlink does not read",
    "worker_exited": "the decoder process ended while reading it",
    "worker_killed": "the decoder process was killed while reading it, or crashed",
}
"""The values of `failures.error_class`, which `--retry-failures=CLASS` takes, and what they mean."""


STUMBLES = (
    ArithmeticError,
    AssertionError,
    AttributeError,
    LookupError,
    RecursionError,
    TypeError,
    ValueError,
    zlib.error,
)
"""What our own mistakes over odd bytes raise. Not what the world's faults raise (OSError, MemoryError, no more
threads)."""


class MediaError(Exception):
    """The file cannot be read: permanent, a row. `error_class` is a short snake_case word that people can group by."""

    def __init__(self, error_class: str, message: str, stage: str = "probe"):
        super().__init__(f"{error_class}: {message}")
        self.error_class = error_class
        self.message = printable(message)
        self.stage = stage

    def __reduce__(self) -> tuple[object, ...]:
        return MediaError, (self.error_class, self.message, self.stage)


class WorldError(Exception):
    """Storage, disk or network failed. Nothing is recorded, and the same command may be run again."""


class Refused(WorldError):
    """The store seems not to know us, or refuses what we requested."""


class UsageError(Exception):
    """The command cannot be carried out as given. The message says what was expected, what came, what to do."""


class NothingFound(UsageError):
    """The sources exist but there is no file in them, or no label is about any file."""


def local_fault(what: str, error: OSError) -> WorldError | UsageError:
    """The fault behind an OSError on this machine's disk: a name that cannot be used as given, or a disk that failed.

    what: what was tried.
    """
    message = f"{what}: {error.strerror or error}"
    return UsageError(message) if error.errno in _AS_GIVEN else WorldError(message)


def stumbled(error: Exception, stage: str) -> MediaError:
    """The MediaError for one of `STUMBLES`. It says where in our code that was raised, but not its message, which may
    hold the file's own words or an address."""
    frames = traceback.extract_tb(error.__traceback__)
    last = next((frame for frame in reversed(frames) if _is_ours(Path(frame.filename))), frames[-1])
    place = f"{Path(last.filename).name}, line {last.lineno}"
    return MediaError("internal_error", f"{type(error).__name__} in {place}", stage)


def _is_ours(file: Path) -> bool:
    return file.is_relative_to(_OURS) and "site-packages" not in file.relative_to(_OURS).parts


def printable(text: str, limit: int = MAX_MESSAGE) -> str:
    """`text` without control, bidirectional and surrogate characters, on one line, at most `limit` characters.

    >>> printable("a\\x1b]0;b\\u202ec\\nd")
    'a\\\\x1b]0;b\\\\u202ec d'
    """
    if len(text) <= limit and text.isprintable():
        return text.strip()  # the common case, and some archives have a million
    out = []
    for char in text[: 4 * limit]:
        if char in "\n\r\t":
            out.append(" ")
        elif unicodedata.category(char) in ("Cc", "Cf", "Cs", "Co", "Zl", "Zp"):
            code = ord(char)
            out.append(f"\\x{code:02x}" if code < 256 else f"\\u{code:04x}" if code < 65536 else f"\\U{code:08x}")
        else:
            out.append(char)
    line = "".join(out).strip()
    return line if len(line) <= limit else line[: limit - 1] + "…"
