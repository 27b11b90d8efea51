"""Whether a store refuses us altogether or only one object. Another object that it has let us read decides.

A refusal of everything (expired credentials, a policy) is the store's fault and stops the job. A refusal of one object
(it is in an archive tier, has another owner, or its signed address expired before the others) must not: it would stop
the job on every try and keep all other objects from being examined.
"""

from __future__ import annotations

import threading
from collections import OrderedDict
from functools import partial
from typing import Literal
from urllib.parse import urlsplit

from .clients import Client
from .requests import LOOK_SECONDS, interruptible_sleep
from .retries import ONCE, store_answers

Way = Literal["read", "look"]
"""What the store let us do. The two differ: S3 looks up objects that it does not send (archive tiers)."""
MOST_STORES = 1024
WAIT_SECONDS = 3.0
"""Wait for a first object that the store lets us read: requests run in parallel, so the refusal may come first."""
_seen: OrderedDict[tuple[str, Way], list[str]] = OrderedDict()
_lock = threading.Lock()


def remember_access(address: str, way: Way) -> None:
    """Notes that the store has just let us do this here. Keeps two addresses in memory, with their secrets."""
    key = _store(address), way
    with _lock:
        known = _seen.pop(key, [])
        _seen[key] = known if address in known else [*known[-1:], address]
        while len(_seen) > MOST_STORES:
            _seen.popitem(last=False)


def still_allows(address: str, way: Way) -> bool:
    """Whether the store, which refused us this object, still lets us do the same with another. Asks the store."""
    waited = 0.0
    while not (others := _others(address, way)) and waited < WAIT_SECONDS:
        interruptible_sleep(LOOK_SECONDS)
        waited += LOOK_SECONDS
    return any(store_answers(partial(_ask, other, way)) for other in others)


def _others(address: str, way: Way) -> list[str]:
    with _lock:
        return [other for other in _seen.get((_store(address), way), ()) if other != address]


def _ask(address: str, way: Way) -> object:
    client = Client(address, ONCE)
    return client.range_of(0, 1) if way == "read" else client.info()


def _store(address: str) -> str:
    """Scheme, and bucket, container or host."""
    parts = urlsplit(address)
    return f"{parts.scheme}://{parts.netloc.rpartition('@')[2]}"
