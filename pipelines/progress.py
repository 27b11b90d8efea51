"""Live progress of a running audit: drawn on a terminal, a line now and then in a log, nothing when quiet."""

from __future__ import annotations

import contextlib
import os
import shutil
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from ..transforms.metrics import FOLDER_VARIABLE, read_counters

DRAW_EVERY_SECONDS = 0.5
LOG_EVERY_SECONDS = 30.0


@contextmanager
def live_progress(spool: Path, total: int, done: int, quiet: bool) -> Iterator[None]:
    """Shows files, failures, frames a second and time left while the body runs, from the counters of all processes.

    The counters lie in a folder of their own under `spool`.
    """
    folder = tempfile.mkdtemp(prefix="counters-", dir=spool)
    os.environ[FOLDER_VARIABLE] = folder
    stop = threading.Event()
    drawer = threading.Thread(target=_draw, args=(folder, total, done, stop, quiet), daemon=True)
    drawer.start()
    try:
        yield
    finally:
        stop.set()
        drawer.join(5)
        os.environ.pop(FOLDER_VARIABLE, None)
        shutil.rmtree(folder, ignore_errors=True)


def _draw(folder: str, total: int, done: int, stop: threading.Event, quiet: bool) -> None:
    if quiet:
        return
    console = Console(file=sys.stderr)
    started = time.monotonic()

    def look() -> tuple[int, str]:
        with contextlib.suppress(OSError):
            c = read_counters(folder)
            seen = done + c["media_read"] + c["media_failed"] + c["media_skipped"]
            rate = c["frames_decoded"] / max(1e-3, time.monotonic() - started)
            return seen, f"{c['media_failed']} failed · {rate:.0f} frames/s"
        return done, ""

    if not console.is_terminal:
        while not stop.wait(LOG_EVERY_SECONDS):
            seen, text = look()
            console.print(f"{seen} of {total} files read · {text}", highlight=False)
        return
    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TextColumn("{task.fields[text]}"),
        TimeRemainingColumn(elapsed_when_finished=True),
    )
    with Progress(*columns, console=console, transient=True) as progress:
        task = progress.add_task("starting", total=total, completed=done, text="")
        while not stop.wait(DRAW_EVERY_SECONDS):
            seen, text = look()
            word = "files" if seen > done else "starting"
            progress.update(task, description=word, completed=min(seen, total), text=text)
