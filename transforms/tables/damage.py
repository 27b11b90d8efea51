"""Damage in an output, reported in one line that names what cannot be read."""

from __future__ import annotations

import shlex
import zlib
from collections.abc import Iterator
from contextlib import contextmanager

import pyarrow as pa

from ..failures import UsageError, WorldError, printable
from ..storage.output_store import OutputStore


def damaged(store: OutputStore, name: str, why: object) -> UsageError:
    """The error to raise if `name` is not what we wrote."""
    reason = next((line for line in str(why).splitlines() if line.strip()), type(why).__name__)
    return UsageError(
        f"{name} in {printable(store.root)} is damaged ({printable(reason, 200)}); "
        f"`deephotlink check {shlex.quote(printable(store.root))}` says what else is damaged"
    )


@contextmanager
def intact(store: OutputStore, name: str) -> Iterator[None]:
    """Wraps the reading of `name`.

    Raises:
        UsageError: it is damaged. WorldError: storage failed. FileNotFoundError: it does not exist.
    """
    try:
        yield
    except FileNotFoundError:
        raise
    except (pa.ArrowException, ValueError, KeyError, TypeError, EOFError, zlib.error) as e:
        raise damaged(store, name, e) from e
    except OSError as e:
        if e.errno is None and store.is_local:  # raised by Arrow; remote stores raise such errors too
            raise damaged(store, name, e) from e
        reason = printable(e.strerror or str(e), 200)
        raise WorldError(f"cannot read {name} in {printable(store.root)}: {reason}") from e
