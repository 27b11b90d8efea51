"""Retries of requests when a store is at fault, and its errors in words without secrets."""

from __future__ import annotations

import errno
import math
import random
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from typing import TypeVar

from ..failures import MediaError, Refused, UsageError, WorldError, printable
from .requests import SlowRead, interruptible_sleep
from .uris import redact

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Patience:
    """How often and for how long a request is tried."""

    attempts: int
    """Attempts at one object that arrives short, cut or slowly."""
    outage_seconds: float
    """No further attempt begins after this time, which counts pauses and the failed calls themselves."""
    outage_attempts: float = math.inf
    """Attempts at a store that is at fault."""


READING = Patience(10, 600.0)
"""A store may be down for ten minutes at night. One object that keeps failing delays its neighbours by two minutes."""
LISTING = Patience(5, 30.0, outage_attempts=5)
"""Until a source first answers, somebody is watching the screen: a wrong endpoint is reported within seconds. From then
on `READING` applies, because a listing cannot be resumed."""
ONCE = Patience(1, 0.0, outage_attempts=1)
STUBBORN_ATTEMPTS = 2
"""Attempts at an object that arrives too slowly, and at one that is compressed or not what was requested. The first
takes a minute or more each time, the second is seldom an accident: neither may delay the others for longer."""
BACKOFF_SECONDS = 0.5
BACKOFF_CAP_SECONDS = 60.0

_CLIENTS = frozenset(
    {
        "aiohttp",
        "aiobotocore",
        "botocore",
        "azure",
        "google",
        "gcsfs",
        "s3fs",
        "adlfs",
        "urllib3",
        "ssl",
        "http",
        "ftplib",
    }
)
"""Packages whose exceptions mean a fault of the store, not a mistake in this code."""
_PERMANENT_HTTP = frozenset({400, 401, 402, 403, 405, 406, 407, 409, 411, 412, 414, 416, 421, 431, 451})


_CUT = frozenset(
    {"ClientPayloadError", "IncompleteRead", "IncompleteReadError", "ResponseStreamingError", "ConnectionResetError"}
)
"""What clients raise when the connection ends in the middle of a body."""
_BAD_ADDRESS = frozenset({"InvalidURL", "InvalidUrlClientError", "NonHttpUrlClientError", "ParamValidationError"})
_LEADS_NOWHERE = frozenset({"TooManyRedirects", "InvalidUrlRedirectClientError", "NonHttpUrlRedirectClientError"})


_ARCHIVED = frozenset({"InvalidObjectState", "BlobArchived", "BlobBeingRehydrated"})
"""Error codes of S3 (with 403) and Azure (with 409) for objects in their archive tiers."""


class BadAddress(UsageError):
    """The address is not valid, so nothing can be requested."""


class OddRead(OSError):
    """The store reported success but sent other bytes than were requested."""


class ShortRead(OddRead):
    """The store sent fewer bytes than there are."""


def retried(
    what: str,
    call: Callable[[], T],
    patience: Patience = READING,
    answers: Callable[[], object] | None = None,
    say: Callable[[BaseException], str] | None = None,
    renew: Callable[[], bool] | None = None,
) -> T:
    """Result of `call()`, which is retried with growing random pauses while the store is at fault.

    Faults of the one object (a body that arrived short, too slowly or cut in the middle) and faults of the store
    (everything else) are counted separately: an outage uses up none of an object's attempts.

    `answers` asks the store for something small about the same object, or raises. If it succeeds although the body was
    cut in the middle or too slow even on the last attempt, that one object is to blame and not the store.

    `renew` is called once if the store refuses us. If it returns True, there is another attempt.

    `say` words the store's error; the default is `describe_error`.

    Nothing is raised with its cause: a traceback would print the address, and with it its signature.

    Raises:
        FileNotFoundError: there is no such object.
        MediaError: `read_short`; the object arrived short or slowly more often than the store failed.
        BadAddress: the address is not valid.
        WorldError: any other fault of the store; `Refused` if it refuses us. Mistakes of this code are raised
            unchanged.
    """
    stubborn = attempt = 0
    renewed = False
    faults: Counter[bool] = Counter()  # True: of this object, False: of the store
    most = {True: patience.attempts, False: patience.outage_attempts}
    spent = 0.0
    while True:
        asked = time.monotonic()
        try:
            return call()
        except (MediaError, WorldError, UsageError):
            raise
        except Exception as raised:
            error = root_error(raised)
            kind = type(error).__name__
            status = getattr(error, "status", None)
            if isinstance(error, FileNotFoundError) or status in (404, 410) or kind in _LEADS_NOWHERE:
                raise FileNotFoundError(what) from None
            if kind in _BAD_ADDRESS:
                raise BadAddress(f"cannot {what}: that is not a valid address") from None
            if not is_storage_fault(error):
                raise
            if renew is not None and not renewed and is_refusal(error) and not _is_archived(error):
                renewed = True
                if renew():
                    continue
            hopeless = (
                isinstance(error, PermissionError)
                or status in _PERMANENT_HTTP
                or "Credential" in repr(type(error))
                or _is_archived(error)
                or any(getattr(error, name, None) in (401, 403) for name in ("status_code", "code"))
                or kind == "error_perm"  # from ftplib: a wrong password stays wrong
            )
            cut = kind in _CUT
            of_object = cut or isinstance(error, (OddRead, SlowRead))
            faults[of_object] += 1
            stubborn += isinstance(error, (SlowRead, OddRead)) and not isinstance(error, ShortRead)
            hopeless = hopeless or stubborn >= STUBBORN_ATTEMPTS or faults[of_object] >= most[of_object]
            spent += time.monotonic() - asked
            if not hopeless and spent < patience.outage_seconds:
                # The pause grows with every attempt, whichever is to blame: two counts must not mean more requests.
                pause = random.uniform(0, min(BACKOFF_CAP_SECONDS, BACKOFF_SECONDS * 2 ** min(attempt, 16)))  # noqa: S311
                interruptible_sleep(pause)
                spent += pause
                attempt += 1
                continue
            if of_object and faults[True] > faults[False]:
                message = "the connection was cut in the middle" if cut else str(error)
                if isinstance(error, OddRead) or (answers is not None and store_answers(answers)):
                    raise MediaError("read_short", f"{message}, {faults[True]} times", stage="read") from None
            kind_of_fault = Refused if is_refusal(error) else WorldError
            raise kind_of_fault(f"cannot {what}: {(say or describe_error)(error)}{_way_out(error)}") from None


def _way_out(error: Exception) -> str:
    """Advice for a refusal by S3, which says the same whatever its reason is."""
    is_s3 = type(error.__cause__).__module__.startswith("botocore") and isinstance(error, PermissionError)
    return "; if this bucket is requester-pays, set FSSPEC_S3_REQUESTER_PAYS=true" if is_s3 else ""


def root_error(error: Exception) -> Exception:
    """The error that really happened. fsspec's HTTP client reports a server that is down or refuses us as a missing
    file, and aiohttp reports our own exceptions about an answer as faults of the connection."""
    cause: BaseException | None = error
    while cause is not None:
        if isinstance(cause, (OddRead, SlowRead)):
            return cause
        cause = cause.__cause__
    cause = error.__cause__ if isinstance(error, FileNotFoundError) else None
    if isinstance(cause, (TimeoutError, ConnectionError)):
        return cause
    return cause if isinstance(cause, Exception) and type(cause).__module__.startswith("aiohttp") else error


def is_refusal(error: Exception) -> bool:
    """Whether the store seems not to know us, or to know us no longer: temporary credentials expire.

    S3 says `ExpiredToken`, `InvalidToken`, `InvalidAccessKeyId` or 403. To a HEAD it says 400, because that has no body
    to say more. s3fs turns these into PermissionError and "invalid argument". Objects in an archive tier are refused
    in the same way.
    """
    if isinstance(error, PermissionError) or (isinstance(error, OSError) and error.errno == errno.EINVAL):
        return True
    if _is_archived(error):
        return True
    return any(getattr(error, name, None) in (401, 403) for name in ("status", "status_code", "code"))


def _is_archived(error: Exception) -> bool:
    """Whether the object is in an archive tier. Azure's errors hold the code; s3fs keeps botocore's answer."""
    answer = getattr(error.__cause__, "response", None)
    code = answer.get("Error", {}).get("Code") if isinstance(answer, dict) else getattr(error, "error_code", None)
    return code in _ARCHIVED


def store_answers(call: Callable[[], object]) -> bool:
    """Whether the store answers, however slowly."""
    try:
        call()
    except SlowRead:
        return True  # the store is there, and as slow with this answer
    except Exception:
        return False
    return True


def is_storage_fault(error: Exception) -> bool:
    root = type(error).__module__.partition(".")[0]
    return isinstance(error, (OSError, EOFError, TimeoutError)) or root in _CLIENTS


def describe_error(error: BaseException) -> str:
    """An exception in one line, without secrets and without this machine's paths."""
    text = error.strerror if isinstance(error, OSError) and error.strerror else str(error)
    return printable(redact(f"{type(error).__name__}: {text}" if text else type(error).__name__))
