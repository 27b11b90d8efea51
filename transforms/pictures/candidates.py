"""Which moments are worth a picture before anybody knows what becomes of their file.

Whether a file is suspicious is known only when all its evidence has been fused, and by then its frames are gone. So
each detector proposes pictures of its most suspicious moments so far, and only the best of them are passed on.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterator
from typing import Any

import apache_beam as beam

from ..work_ahead import Place, in_place
from .picture import DETECTOR_MOMENTS, Picture

MOST_FILES = 1 << 10
"""Files that one detector keeps in mind. One that was forgotten may propose more moments again, nothing else."""
HELD_BYTES = 16 << 20
"""Of the JPEGs that a bundle holds back, in one window."""
MOST_WINDOWS = 4
"""Windows of which a bundle holds pictures back."""


class Best:
    """The highest logits of each file that one detector has seen so far."""

    def __init__(self) -> None:
        self._logits: OrderedDict[str, list[float]] = OrderedDict()

    def wants(self, media_id: str, logit: float) -> bool:
        """Whether the logit is among the highest of its file so far; it counts from now on."""
        highest = self._logits.setdefault(media_id, [])
        self._logits.move_to_end(media_id)
        if len(self._logits) > MOST_FILES:
            self._logits.popitem(last=False)
        if len(highest) >= DETECTOR_MOMENTS and logit <= min(highest):
            return False
        highest.append(logit)
        highest.sort(reverse=True)
        del highest[DETECTOR_MOMENTS:]
        return True


class Held:
    """Candidate pictures of some files; of each detector and file the best moments."""

    def __init__(self) -> None:
        self._files: OrderedDict[str, dict[str, dict[tuple[Any, ...], list[Picture]]]] = OrderedDict()
        self.size_bytes = 0

    def add(self, picture: Picture) -> Iterator[Picture]:
        """Takes one more, and gives out those of the files that came first if too many are held."""
        moments = self._files.setdefault(picture.media_id, {}).setdefault(picture.detector, {})
        moments.setdefault((picture.clip_index, picture.track_id), []).append(picture)
        self.size_bytes += len(picture.jpeg)
        if len(moments) > DETECTOR_MOMENTS:
            # Of two with the same logit the one that came first stays.
            worst = min(reversed(moments), key=lambda moment: moments[moment][0].logit)
            self.size_bytes -= sum(len(dropped.jpeg) for dropped in moments.pop(worst))
        while self.size_bytes > HELD_BYTES:
            yield from self._first()

    def drain(self) -> Iterator[Picture]:
        while self._files:
            yield from self._first()

    def _first(self) -> Iterator[Picture]:
        _, detectors = self._files.popitem(last=False)
        for moments in detectors.values():
            for pictures in moments.values():
                self.size_bytes -= sum(len(picture.jpeg) for picture in pictures)
                yield from pictures


class KeepBest(beam.DoFn):
    """Passes everything on; candidate pictures only at the end of a bundle, and then only the best of them. A file that
    is scored in two windows has pictures in both."""

    def start_bundle(self) -> None:
        self._held: OrderedDict[Any, Held] = OrderedDict()

    def process(self, said: Any, window: Any = beam.DoFn.WindowParam) -> Iterator[Any]:
        if not isinstance(said, Picture):
            yield said
            return
        if window not in self._held and len(self._held) >= MOST_WINDOWS:
            yield from self._drain(*self._held.popitem(last=False))
        yield from self._held.setdefault(window, Held()).add(said)

    def finish_bundle(self) -> Iterator[Any]:
        while self._held:
            yield from self._drain(*self._held.popitem(last=False))

    def _drain(self, window: Any, held: Held) -> Iterator[Any]:
        place = Place(window, window.max_timestamp())
        return (in_place(picture, place) for picture in held.drain())
