"""Working ahead inside a bundle: later elements are begun while earlier ones are still being consumed downstream.

Beam hands a DoFn one element at a time. A decoder that started only then would leave the detectors waiting, and they
would leave it waiting in turn (1.4-1.5 times slower, measured). So work starts when an element arrives, and its results
come out in order, from a later `process` or from `finish_bundle`. Nothing is held from one bundle to the next.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Generator, Iterator
from typing import Any, Generic, NamedTuple, TypeVar

import apache_beam as beam
from apache_beam.transforms.window import GlobalWindow
from apache_beam.utils.timestamp import Timestamp
from apache_beam.utils.windowed_value import WindowedValue

Started = TypeVar("Started")
Given = TypeVar("Given")


class Place(NamedTuple):
    """Where an element is in time, and so everything that comes of it. Results come out while Beam is at a later
    element or at none, so it cannot know."""

    window: Any
    timestamp: Timestamp


NOWHERE = Place(GlobalWindow(), GlobalWindow().max_timestamp())


class InOrder(Generic[Started, Given]):
    """A window of work in flight. Results come out strictly in the order in which the work was begun, each at the place
    of the element that it came of.

    `give(work, wait)` yields the results that one piece of work has so far and returns whether those were all. With
    `wait=False` it must not block. Only its return value counts, because work may end between two checks.
    """

    def __init__(self, most: int, give: Callable[[Started, bool], Generator[Given, None, bool]]):
        self.most = most
        self.give = give
        self.pending: deque[Started] = deque()
        self._places: deque[Place] = deque()

    def begin(self, work: Started, place: Place = NOWHERE) -> Iterator[Any]:
        """Adds work, then yields the results that are ready. Blocks only if more than `most` pieces are in flight."""
        self.pending.append(work)
        self._places.append(place)
        while self.pending:
            ended = yield from self._give_first(len(self.pending) > self.most)
            if not ended:
                break
            self._end_first()

    def finish(self) -> Iterator[Any]:
        """Yields all remaining results, waiting for them."""
        while self.pending:
            yield from self._give_first(True)
            self._end_first()

    def _give_first(self, wait: bool) -> Generator[Any, None, bool]:
        given, place = self.give(self.pending[0], wait), self._places[0]
        while True:
            try:
                # Nothing here may hold a result: its frames must not outlive their consumers.
                yield in_place(next(given), place)
            except StopIteration as end:
                return bool(end.value)

    def _end_first(self) -> None:
        self.pending.popleft()
        self._places.popleft()


def in_place(value: Any, place: Place) -> Any:
    """What a DoFn gives out, in the form that puts it into a window, whatever element Beam is at."""
    if isinstance(value, beam.pvalue.TaggedOutput):
        return beam.pvalue.TaggedOutput(value.tag, in_place(value.value, place))
    return WindowedValue(value, place.timestamp, (place.window,))
