"""Asking a store again when it is at fault, and telling what it said without its secrets."""

from __future__ import annotations

import random
import time
from collections.abc import Callable
from typing import TypeVar

from .failures import MediaError, UsageError, WorldError, printable
from .uris import redact

T = TypeVar("T")

READ_ATTEMPTS = 10
"""With full jitter this rides out about two minutes of a store that answers with errors."""
LISTING_ATTEMPTS = 5
"""Somebody sits in front of the screen: a wrong endpoint is told within seconds."""
BACKOFF_SECONDS = 0.5
BACKOFF_CAP_SECONDS = 60.0

_CLIENTS = frozenset(
    {"aiohttp", "aiobotocore", "botocore", "azure", "google", "gcsfs", "s3fs", "adlfs", "urllib3", "ssl"}
)
"""Packages whose exceptions tell of the store, not of a mistake in this code."""
_PERMANENT_HTTP = frozenset({400, 401, 402, 403, 405, 406, 407, 409, 411, 412, 414, 416, 421, 431, 451})


def retried(what: str, call: Callable[[], T], attempts: int = READ_ATTEMPTS) -> T:
    """`call()`, again and again with growing random pauses while the store is at fault.

    Raises:
        FileNotFoundError: it is not there.
        MediaError: `read_short`, where it kept coming shorter than it should.
        WorldError: everything else that the store did wrong. Mistakes of this code pass through as they are.
    """
    for attempt in range(attempts):
        try:
            return call()
        except (MediaError, WorldError, UsageError, FileNotFoundError):
            raise
        except Exception as error:
            status = getattr(error, "status", None)
            if status in (404, 410):
                raise FileNotFoundError(what) from error
            if not is_storage_fault(error):
                raise
            hopeless = (
                isinstance(error, PermissionError) or status in _PERMANENT_HTTP or "Credential" in repr(type(error))
            )
            if not hopeless and attempt + 1 < attempts:
                time.sleep(random.uniform(0, min(BACKOFF_CAP_SECONDS, BACKOFF_SECONDS * 2**attempt)))  # noqa: S311
                continue
            if isinstance(error, ShortRead):
                raise MediaError("read_short", f"{error}, {attempt + 1} times over", stage="read") from error
            raise WorldError(f"cannot {what}: {tell(error)}") from error
    raise AssertionError("unreachable: attempts >= 1")


def is_storage_fault(error: Exception) -> bool:
    root = type(error).__module__.partition(".")[0]
    return isinstance(error, (OSError, EOFError, TimeoutError)) or root in _CLIENTS


def tell(error: BaseException) -> str:
    """An exception in one line, without secrets and without paths of this machine."""
    said = error.strerror if isinstance(error, OSError) and error.strerror else str(error)
    return printable(redact(f"{type(error).__name__}: {said}" if said else type(error).__name__))


class ShortRead(OSError):
    """The store called it a success and gave fewer bytes than there are."""
