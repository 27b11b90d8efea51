"""Whether a store refuses us, or one object only: told by another object of the same store, that it let us read.

A refusal of everything (credentials that ran out, a policy) is the store's, and stops the job. A refusal of one object
(it lies in an archive tier, has an owner of its own, or its signed address ran out before the others) would stop it at
every try, and keep all others from being looked at.
"""

from __future__ import annotations

import threading
from collections import OrderedDict
from functools import partial
from typing import Literal
from urllib.parse import urlsplit

from .clients import Client
from .requests import LOOK_SECONDS, nap
from .retries import ONCE, gets_through

Way = Literal["read", "look"]
"""What we were let do: S3 looks up what it does not give (archive tiers)."""
MOST_STORES = 1024
WAIT_SECONDS = 3.0
"""For a first object that a store lets us read: several are asked for at a time, and the refusal may come first."""
_seen: OrderedDict[tuple[str, Way], list[str]] = OrderedDict()
_lock = threading.Lock()


def saw(address: str, way: Way) -> None:
    """The store has just let us do this with what is there. Keeps the addresses of two, secrets and all, in memory."""
    key = _store(address), way
    with _lock:
        known = _seen.pop(key, [])
        _seen[key] = known if address in known else [*known[-1:], address]
        while len(_seen) > MOST_STORES:
            _seen.popitem(last=False)


def lets_us(address: str, way: Way) -> bool:
    """Whether the store, which has refused us this one, still lets us do so with another one: it is asked."""
    waited = 0.0
    while not (others := _others(address, way)) and waited < WAIT_SECONDS:
        nap(LOOK_SECONDS)
        waited += LOOK_SECONDS
    return any(gets_through(partial(_ask, other, way)) for other in others)


def _others(address: str, way: Way) -> list[str]:
    with _lock:
        return [other for other in _seen.get((_store(address), way), ()) if other != address]


def _ask(address: str, way: Way) -> object:
    client = Client(address, ONCE)
    return client.range_of(0, 1) if way == "read" else client.info()


def _store(address: str) -> str:
    """Bucket, container or host."""
    parts = urlsplit(address)
    return f"{parts.scheme}://{parts.netloc.rpartition('@')[2]}"
