"""How commands print to any terminal, pipe or disk. Trouble with printing never ends a finished job.

- If a stream's encoding lacks a character, it is printed as `\\xNN`; `rich` then draws its tables in ASCII.
- A reader that has seen enough (`| head -1`) is not a fault. If a disk is full or a descriptor was closed, only the
  output is lost. That is reported once, in one line, and by the exit code if the command only prints.
- JSON has no NaN and no infinity: they become `null`.
"""

from __future__ import annotations

import contextlib
import errno
import io
import json
import math
import os
import select
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import date, time
from decimal import Decimal
from typing import Any, TextIO

from rich.console import Console


class _Descriptor(io.RawIOBase):
    """Writes to a descriptor. After the first fault it accepts everything and discards it."""

    def __init__(self, number: int):
        self.number = number
        self.fault: OSError | None = None

    def writable(self) -> bool:
        return True

    def fileno(self) -> int:
        return self.number

    def isatty(self) -> bool:
        return os.isatty(self.number)

    def write(self, data: Any) -> int:
        while self.fault is None:
            try:
                return os.write(self.number, data)
            except BlockingIOError:  # another process that shares the pipe made it non-blocking
                select.select([], [self.number], [])
            except OSError as error:
                self.fault = error
        return len(data)


@dataclass(frozen=True, slots=True)
class Streams:
    """The state of stdout while `steady` manages it."""

    out: _Descriptor | None
    """None if someone else has replaced stdout by an object of their own."""

    @property
    def lost(self) -> str | None:
        """Why some of the output did not arrive; None if all of it did, or if the reader closed the pipe."""
        sys.stdout.flush()
        fault = self.out.fault if self.out is not None else None
        if fault is None or fault.errno == errno.EPIPE:
            return None
        return fault.strerror or type(fault).__name__


@contextmanager
def steady() -> Iterator[Streams]:
    """Makes stdout and stderr never raise while the body runs. Leaves streams alone that are not the process's own."""
    _hold_descriptors()
    before = sys.stdout, sys.stderr
    ours = [_Descriptor(_number(stream, number)) for number, stream in ((1, sys.stdout), (2, sys.stderr))]
    if out := sys.stdout is None or sys.stdout is sys.__stdout__:
        sys.stdout = _text(ours[0], before[0])
    if sys.stderr is None or sys.stderr is sys.__stderr__:
        sys.stderr = _text(ours[1], before[1])
    try:
        yield Streams(ours[0] if out else None)
    finally:
        for stream in (sys.stdout, sys.stderr):
            with contextlib.suppress(OSError, ValueError):
                stream.flush()
        sys.stdout, sys.stderr = before


def nobody_reads() -> bool:
    """Whether further output would be lost, so that a command that only prints may stop."""
    raw = getattr(getattr(sys.stdout, "buffer", None), "raw", None)
    return isinstance(raw, _Descriptor) and raw.fault is not None


def console(otherwise: int | None = None, *, quiet: bool = False, stderr: bool = False) -> Console:
    """A console as wide as its terminal or as COLUMNS says. `otherwise`: its width in columns if neither is known."""
    stream = sys.stderr if stderr else sys.stdout
    known = os.environ.get("COLUMNS", "").isdigit() or (stream is not None and stream.isatty())
    return Console(width=None if known else otherwise, quiet=quiet, stderr=stderr, highlight=False)


def print_json(value: Any, indent: int | None = None) -> None:
    """Prints `value` as JSON on one line or indented. Non-finite numbers become `null`, so every reader accepts it."""
    print(json.dumps(finite(value), default=plain, allow_nan=False, indent=indent))


def finite(value: Any) -> Any:
    """`value` with None for every number that JSON does not have.

    >>> finite({"a": [1.0, float("nan")], "b": float("-inf")})
    {'a': [1.0, None], 'b': None}
    """
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, Mapping):
        return {str(key): finite(inner) for key, inner in value.items()}
    return [finite(inner) for inner in value] if isinstance(value, (list, tuple)) else value


def plain(value: object) -> object:
    """A JSON value for types that DuckDB returns and JSON lacks: Decimal (of sums), dates, times, bytes."""
    if isinstance(value, Decimal):
        return finite(int(value) if value.is_finite() and value == value.to_integral_value() else float(value))
    if isinstance(value, bytes):
        return "".join(chr(byte) if 32 <= byte < 127 and byte != 92 else f"\\x{byte:02X}" for byte in value)
    return value.isoformat() if isinstance(value, (date, time)) else str(value)


def _number(stream: TextIO | None, otherwise: int) -> int:
    try:
        return otherwise if stream is None else stream.fileno()
    except (OSError, ValueError, AttributeError):
        return otherwise


def _text(raw: _Descriptor, before: TextIO | None) -> TextIO:
    if before is not None:
        with contextlib.suppress(OSError, ValueError):
            before.flush()
    return io.TextIOWrapper(
        io.BufferedWriter(raw),
        encoding=getattr(before, "encoding", None) or "utf-8",
        errors="backslashreplace",
        line_buffering=raw.number == 2 or raw.isatty(),
    )


def _hold_descriptors() -> None:
    """Opens descriptors 0, 1 and 2 on /dev/null if the parent process closed them. Otherwise the next file to be opened
    would get that number, and output would be written into it."""
    for number in (0, 1, 2):
        try:
            os.fstat(number)
        except OSError:
            null = os.open(os.devnull, os.O_RDWR)
            if null != number:
                os.dup2(null, number)
                os.close(null)
            os.set_inheritable(number, True)
