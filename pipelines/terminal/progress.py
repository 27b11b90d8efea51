"""Live progress of an audit: drawn on a terminal, a line now and then in a log, nothing with --quiet.

It shows the work as it happens. A listing counts the files that it finds. A run counts opened containers, decoded film
and sound, and finished files. So a long film, or a job that decodes nothing, does not seem to stand still.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import chain, repeat
from pathlib import Path
from typing import TypeVar

from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    ProgressColumn,
    TextColumn,
    TimeRemainingColumn,
)

from ...transforms.metrics import FOLDER_VARIABLE, read_counters
from .wording import counted, seconds

T = TypeVar("T")
DRAW_EVERY_SECONDS = 0.5
FIRST_LINE_SECONDS, LOG_EVERY_SECONDS = 10.0, 30.0
BAR_COLUMNS = 20
_NARROW = 70
"""On a terminal with fewer columns there is no room for a bar."""


@dataclass(frozen=True, slots=True)
class Look:
    """The progress of something at one moment."""

    stage: str
    done: int = 0
    total: int | None = None
    more: tuple[str, ...] = ()
    """Further facts, the most important first."""

    def line(self) -> str:
        """
        >>> Look("listing", more=("12 files found",)).line(), Look("files", 3, 9, ("1/s", "1 failed")).line()
        ('listing: 12 files found', '3 of 9 files done: 1/s, 1 failed')
        """
        stage = self.stage if self.total is None else f"{self.done} of {counted(self.total, 'file')} done"
        return f"{stage}: {', '.join(self.more)}" if self.more else stage

    def within(self, columns: int) -> str:
        """As much of `more` as fits into `columns`, but always the first part.

        >>> Look("files", 3, 9, ("0.5 files/s", "1 failed", "9 opened")).within(24)
        '0.5 files/s, 1 failed'
        """
        text = "".join(self.more[:1])
        for part in self.more[1:]:
            if len(text) + len(part) + 2 > columns:
                break
            text += f", {part}"
        return text


class Listing:
    """Counts what a listing finds."""

    def __init__(self) -> None:
        self.found = 0
        self.stage = "reading what is already done"

    def watch(self, listed: Iterable[T], stage: str = "listing") -> Iterator[T]:
        self.stage = stage
        for self.found, one in enumerate(listed, 1):
            yield one
        self.stage = "planning"

    def look(self) -> Look:
        return Look(
            self.stage, more=() if self.stage.startswith("reading") else (f"{counted(self.found, 'file')} found",)
        )


@contextmanager
def listing_progress(quiet: bool) -> Iterator[Listing]:
    """Shows how much was found while the body lists. Pass the listing through `watch`."""
    listing = Listing()
    with _shown(listing.look, quiet):
        yield listing


@contextmanager
def live_progress(spool: Path, total: int, done: int, quiet: bool) -> Iterator[None]:
    """Shows the progress of a run of `total` files, of which `done` were done before, while the body works on it. It
    reads the counters of all processes, which are in a folder of their own under `spool`.
    """
    folder = tempfile.mkdtemp(prefix="counters-", dir=spool)
    os.environ[FOLDER_VARIABLE] = folder
    started = time.monotonic()

    def look() -> Look:
        with contextlib.suppress(OSError):
            return look_of(read_counters(folder), total, done, time.monotonic() - started)
        return Look("starting", done, total)

    try:
        with _shown(look, quiet):
            yield
    finally:
        os.environ.pop(FOLDER_VARIABLE, None)
        shutil.rmtree(folder, ignore_errors=True)


def look_of(counters: dict[str, int], total: int, done: int, elapsed_seconds: float) -> Look:
    """The progress that the counters show after `elapsed_seconds` of work."""
    c, elapsed = counters, max(1e-3, elapsed_seconds)
    ended = c["media_read"] + c["media_failed"] + c["media_skipped"]
    # The counter `media_probed` leaves out files that fail or are skipped while they are probed.
    opened = max(c["media_probed"] + c["media_failed"] + c["media_skipped"], ended)
    film, sound = c["film_milliseconds"] / 1000, c["sound_milliseconds"] / 1000
    parts = []
    if ended:
        parts.append(f"{ended / elapsed:.2g} files/s")
    if film:
        parts.append(f"{seconds(film)} s of film at {film / elapsed:.2g} s/s")
    elif sound:
        parts.append(f"{seconds(sound)} s of sound at {sound / elapsed:.2g} s/s")
    if c["media_failed"]:
        parts.append(f"{c['media_failed']} failed")
    if opened > ended:
        parts.append(f"{min(done + opened, total)} containers looked into")
    if film and sound:
        parts.append(f"{seconds(sound)} s of sound")
    stage = "files" if ended else "decoding" if film or sound else "containers" if opened else "starting"
    return Look(stage, min(done + ended, total), total, tuple(parts or ["starting"]))


@contextmanager
def _shown(look: Callable[[], Look], quiet: bool) -> Iterator[None]:
    stop = threading.Event()
    drawer = threading.Thread(target=_draw, args=(look, stop), daemon=True)
    if not quiet:
        drawer.start()
    try:
        yield
    finally:
        stop.set()
        if not quiet:
            drawer.join(5)


def _draw(look: Callable[[], Look], stop: threading.Event) -> None:
    console = Console(file=sys.stderr, highlight=False)
    if not console.is_terminal:
        for wait in chain([FIRST_LINE_SECONDS], repeat(LOG_EVERY_SECONDS)):
            if stop.wait(wait):
                return
            console.print(look().line(), soft_wrap=True, markup=False)
    now, room = look(), console.width
    columns: list[ProgressColumn] = [TextColumn("{task.description}")]
    room -= 12
    if room > _NARROW:
        columns.append(BarColumn(BAR_COLUMNS))
        room -= BAR_COLUMNS + 1
    if now.total is not None:
        columns.append(MofNCompleteColumn())
        room -= 2 * len(str(now.total)) + 2
    columns.append(TextColumn("{task.fields[more]}"))
    if now.total is not None and room > 30:
        columns.append(TimeRemainingColumn(elapsed_when_finished=True))
        room -= 9
    with Progress(*columns, console=console, transient=True) as progress:
        task = progress.add_task(now.stage, total=now.total, completed=now.done, more=now.within(room))
        while not stop.wait(DRAW_EVERY_SECONDS):
            now = look()
            progress.update(task, description=now.stage, completed=now.done, more=now.within(room))
