"""The three kinds of fault, kept apart: what the file did, what the world did, what the user asked for.

What a *file* did wrong is data: a `MediaError` becomes a row in `failures`. What the *world* did wrong (storage, disk)
is a `WorldError`: raised, retried, never a row. What a *user* got wrong is a `UsageError`: one line and exit code 2.
What *we* got wrong has no class here: a detector that raises abstains with `detector_error`.
"""

from __future__ import annotations

import unicodedata

MAX_MESSAGE = 500


class MediaError(Exception):
    """The file cannot be read: permanent, a row. `error_class` is a short snake_case word people can group by."""

    def __init__(self, error_class: str, message: str, stage: str = "probe"):
        super().__init__(f"{error_class}: {message}")
        self.error_class = error_class
        self.message = printable(message)
        self.stage = stage

    def __reduce__(self) -> tuple[object, ...]:
        return MediaError, (self.error_class, self.message, self.stage)


class WorldError(Exception):
    """Storage, disk or network did not do its part: nothing is recorded, the same command may be run again."""


class UsageError(Exception):
    """The command cannot be carried out as it was given: says what was expected, what came, what to do."""


class NothingFound(UsageError):
    """The sources exist, and there is no file in them; or no label is about any media."""


def printable(text: str, limit: int = MAX_MESSAGE) -> str:
    """`text` without control, bidirectional and surrogate characters, on one line, at most `limit` characters.

    >>> printable("a\\x1b]0;b\\u202ec\\nd")
    'a\\\\x1b]0;b\\\\u202ec d'
    """
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
