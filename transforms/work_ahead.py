"""Working ahead inside a bundle: later elements are begun while earlier ones are still being consumed downstream.

Beam hands a DoFn one element at a time. A decoder that started only then would leave the detectors waiting, and they
would leave it waiting in turn (1.4-1.5 times slower, measured). So work starts when an element arrives, and its results
come out in order, from a later `process` or from `finish_bundle`. Nothing is held from one bundle to the next.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Generator, Iterator
from typing import Any, Generic, TypeVar

import apache_beam as beam
from apache_beam.transforms.window import GlobalWindow
from apache_beam.utils.windowed_value import WindowedValue

Started = TypeVar("Started")
Given = TypeVar("Given")


class InOrder(Generic[Started, Given]):
    """A window of work in flight. Results come out strictly in the order in which the work was begun.

    `give(work, wait)` yields the results that one piece of work has so far and returns whether those were all. With
    `wait=False` it must not block. Only its return value counts, because work may end between two checks.
    """

    def __init__(self, most: int, give: Callable[[Started, bool], Generator[Given, None, bool]]):
        self.most = most
        self.give = give
        self.pending: deque[Started] = deque()

    def begin(self, work: Started) -> Iterator[Given]:
        """Adds work, then yields the results that are ready. Blocks only if more than `most` pieces are in flight."""
        self.pending.append(work)
        while self.pending:
            full = len(self.pending) > self.most
            ended = yield from self.give(self.pending[0], full)
            if not ended:
                break
            self.pending.popleft()

    def finish(self) -> Iterator[Given]:
        """Yields all remaining results, waiting for them."""
        while self.pending:
            yield from self.give(self.pending[0], True)
            self.pending.popleft()

    def finish_bundle(self) -> Iterator[Any]:
        """Like `finish`, in the form that Beam wants from a DoFn's `finish_bundle`."""
        for value in self.finish():
            if isinstance(value, beam.pvalue.TaggedOutput):
                yield beam.pvalue.TaggedOutput(value.tag, in_global_window(value.value))
            else:
                yield in_global_window(value)


def in_global_window(value: Any) -> WindowedValue:
    """The form in which Beam wants what a DoFn's `finish_bundle` gives out."""
    return WindowedValue(value, GlobalWindow().max_timestamp(), (GlobalWindow(),))
